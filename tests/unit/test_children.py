"""Programs that end with the one that started them: one that a signal comes in between of is not left alone."""

import subprocess
import sys
from pathlib import Path

from toolchain.paths import CHECKOUT

# A signal that comes while functions run that are called at each fork, as those of Python's logging are, and once the
# child runs. Its 60 seconds are more than the test has.
SIGNALLED = """
import os, signal, sys, time
from pathlib import Path
from machine import children

number = Path(sys.argv[1])

def end(number, frame):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, end)

def signal_once_it_runs():
    while not (number.exists() and number.read_text()):
        time.sleep(0.01)  # between two looks, which the test's own limit bounds
    os.kill(os.getpid(), signal.SIGTERM)

os.register_at_fork(after_in_parent=signal_once_it_runs)
children.start(["sh", "-c", f"echo $$ >{number}; exec sleep 60"])
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
    number = tmp_path / "number"
    done = run(SIGNALLED, str(number))
    assert (done.returncode, done.stdout, done.stderr) == (128 + 15, "", "")
    assert not Path("/proc", number.read_text().strip()).exists()


def test_a_program_gets_the_signals_that_its_starter_gets():
    assert run(SHOWS_SIGNALS).stdout.split() == ["SigBlk:", "0000000000000001"]
