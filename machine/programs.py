"""Run of another program that only looks."""

import subprocess
from dataclasses import dataclass

SECONDS = 20


@dataclass(frozen=True)
class Answer:
    """What a program said: its exit status, 127 where it could not be run, and all of its output."""

    status: int
    out: str
    error: str

    @property
    def ok(self) -> bool:
        return self.status == 0

    @property
    def complaint(self) -> str:
        """Last line of its error, or its exit status."""
        return (self.error.strip().splitlines() or [f"exit {self.status}"])[-1]


def run(*argv: str, stdin: str = "") -> Answer:
    """Answer of a program. Never raises: one that is not there, or hangs, has an answer that says so."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Answer(127, "", str(error))
    return Answer(done.returncode, done.stdout, done.stderr)
