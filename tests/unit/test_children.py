"""Programs that end with the one that started them: one that a signal comes in between of is not left alone."""

import subprocess
import sys
import time
from pathlib import Path

from toolchain.paths import CHECKOUT

# A signal that comes while functions run that are called at each fork, as those of Python's logging are: the child has
# written its number by then, or is about to.
SIGNALLED = """
import os, signal, sys
from machine import children

def end(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, end)
os.register_at_fork(after_in_parent=lambda: os.kill(os.getpid(), signal.SIGTERM))
children.start(["sh", "-c", f"echo $$ >{sys.argv[1]}; exec sleep 60"])
print("went on")
"""
SHOWS_SIGNALS = """
import signal
from machine import children
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
children.start(["grep", "SigBlk", "/proc/self/status"]).wait()
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=50)


def test_signal_that_comes_while_a_program_is_started_is_heeded_and_ends_it_too(tmp_path: Path):
    number, started = tmp_path / "number", time.monotonic()
    done = run(SIGNALLED, str(number))
    assert (done.returncode, done.stdout, done.stderr) == (128 + 15, "", "")
    assert time.monotonic() - started < 50, "it waited for the child's own end"
    if number.exists() and number.read_text():
        assert not Path("/proc", number.read_text().strip()).exists()


def test_a_program_gets_the_signals_that_its_starter_gets():
    assert run(SHOWS_SIGNALS).stdout.split() == ["SigBlk:", "0000000000000001"]
