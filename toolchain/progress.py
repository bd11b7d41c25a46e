"""Progress of long work: a live display on a terminal, plain lines everywhere else."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

HEARTBEAT_SECONDS = 60
# Seconds that `_work` took on one of the two cores on which each step's expected seconds were measured.
REFERENCE_SECONDS = 0.0215
ROUNDS = 5
# Expected seconds by which a measured piece of work counts beside finished steps, which say more the longer they took.
PRIOR_SECONDS = 20
# A busy moment is no slow machine, and a download has little to do with the processor: what is beyond that the finished
# steps have to say.
MOST_SLOWNESS = 4.0


def _work() -> int:
    return sum(number * number % 7 for number in range(400_000))


def measured_slowness() -> float:
    """Times that this machine takes of what steps were measured to take, as it is now: with whatever else it does.

    By a fixed piece of work, a tenth of a second of it. A single core makes two steps one after the other.
    """
    took = []
    for _ in range(ROUNDS):
        started = time.monotonic()
        _work()
        took.append(time.monotonic() - started)
    cores = len(os.sched_getaffinity(0))
    return min(MOST_SLOWNESS, statistics.median(took) / REFERENCE_SECONDS * max(1.0, 2 / cores))


def duration(seconds: float) -> str:
    """Text of a duration: `8.3s`, `45s` or `3m05s`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


@dataclass
class Progress:
    """Display of the steps that run: since when, what was expected, how many are done.

    What is expected is what was measured elsewhere, by the slowness of this machine: first that of a small piece of
    work, then more and more that of the steps that are done.
    """

    console: Console
    slowness: Callable[[], float] = measured_slowness
    _expected: dict[str, int] = field(default_factory=dict)
    _running: dict[str, float] = field(default_factory=dict)
    _notes: dict[str, str] = field(default_factory=dict)
    _finished: list[str] = field(default_factory=list)
    _began: float = 0
    _last_line: float = 0
    _live: Live | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _prior: float = 1
    _took: dict[str, float] = field(default_factory=dict)

    def begin(self, steps: list[tuple[str, int]]) -> None:
        """Begin with steps, each a name and its expected seconds."""
        self._expected = dict(steps)
        self._finished.clear()
        self._took.clear()
        self._prior = self.slowness()
        self._began = self._last_line = time.monotonic()
        self.console.print(
            f"{len(steps)} steps to do; by this machine's speed, one after the other, they take about "
            f"{duration(sum(self._expected.values()) * self._prior)} "
            f"(measured on 2 cores: {duration(sum(self._expected.values()))})"
        )
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, get_renderable=self._table)
            self._live.start()

    def start(self, name: str) -> None:
        """Show that a step begins."""
        with self._lock:
            self._running[name] = time.monotonic()
        if not self._live:
            self.console.print(f"  start  {name} (expected {duration(self.expected(name))})")

    def note(self, name: str, text: str) -> None:
        """Show beside a step that runs how far it is, such as bytes and speed of a download."""
        with self._lock:
            self._notes[name] = text

    def line(self, text: str) -> None:
        """Print a line of its own, such as a download's size and speed once it is there."""
        self.console.print(f"         {text}")

    def expected(self, name: str) -> float:
        """Seconds that a step is expected to take on this machine."""
        took = sum(self._took.values())
        measured = sum(self._expected.get(one, 1) for one in self._took)
        slowness = (PRIOR_SECONDS * self._prior + took) / (PRIOR_SECONDS + measured)
        return self._expected.get(name, 1) * slowness

    def done(self, name: str, seconds: float, cpu_seconds: float | None = None) -> None:
        """Show that a step is done, how long it took, and of how much of the processor's time its programs had."""
        with self._lock:
            self._took[name] = seconds
            self._running.pop(name, None)
            self._notes.pop(name, None)
            self._finished.append(name)
        elapsed = duration(time.monotonic() - self._began)
        cpu = f", {duration(cpu_seconds)} of CPU time" if cpu_seconds else ""
        count = f"{len(self._finished)}/{len(self._expected)}"
        self.console.print(f"  done   {name} in {duration(seconds)}{cpu} ({count}, {elapsed} elapsed)")

    def tick(self) -> None:
        """Say once a minute on a plain output that work goes on; to be called about every second."""
        now = time.monotonic()
        if self._live or now - self._last_line < HEARTBEAT_SECONDS or not self._running:
            return
        self._last_line = now
        with self._lock:
            what = ", ".join(
                f"{name} {duration(now - since)} of {duration(self.expected(name))}{self._noted(name)}"
                for name, since in self._running.items()
            )
        self.console.print(f"  running {what}; {duration(now - self._began)} elapsed")

    def end(self) -> None:
        """End the live display."""
        if self._live:
            self._live.stop()
            self._live = None

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now = time.monotonic()
        with self._lock:
            for name, since in self._running.items():
                expected = duration(self.expected(name))
                table.add_row(Spinner("dots"), name, f"{duration(now - since)} of about {expected}{self._noted(name)}")
        return table

    def _noted(self, name: str) -> str:
        return f", {self._notes[name]}" if name in self._notes else ""
