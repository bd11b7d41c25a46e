"""Programs that end with the one that started them, and the start of one that no signal can come in between of."""

import ctypes
import signal
import subprocess
from collections.abc import Sequence
from typing import Any

PR_SET_PDEATHSIG = 1  # https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html
LIBC = ctypes.CDLL(None)
ENDING = {signal.SIGINT, signal.SIGTERM}


def start(argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a program that the kernel ends when this one is killed, so that it does not go on alone.

    Signals that end this one wait until it has started: Python ignores what a handler raises while functions run that a
    library asked for at each fork, and such a signal would be lost. `options` are those of `subprocess.Popen`.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)

    def prepare() -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    process = None
    try:
        process = subprocess.Popen(argv, preexec_fn=prepare, **options)
        return process
    finally:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        except BaseException:  # of a handler: nobody has the program yet who could end it
            if process:
                process.terminate()
                process.wait()
            raise
