"""Steps whose results are kept by the content of their inputs, and the runner that makes what is missing.

A step's key is a hash of its recipe, its files and the keys of what it needs. The result is a
folder `<store>/<name>-<key>`, made in a temporary folder and renamed when complete, so an
interrupted or failed step leaves nothing that looks finished.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

from toolchain.progress import Progress, duration

# Compilers overlap with downloads, linkers and unpacking; more than two starve each other on two cores.
PARALLEL_STEPS = 2
FREE_GIB_FOR_COMPILING = 12


class StepError(Exception):
    """Error of a step; the message names the step, the cause and the remedy."""


class Interrupted(Exception):
    """End of a run by Ctrl-C or SIGTERM."""


@dataclass(frozen=True, eq=False)
class Step:
    """Thing to make, once for each content of its inputs.

    `build` fills the folder of its `Work`; `present` can ask the outside world too. `without` are folders inside
    `files` that are no input of this step.
    """

    name: str
    build: Callable[["Work"], None]
    recipe: str = ""
    files: tuple[Path, ...] = ()
    needs: tuple["Step", ...] = ()
    expected_seconds: int = 1
    compiles: bool = False
    present: Callable[[Path], bool] = Path.is_dir
    without: tuple[Path, ...] = ()

    # Two images may need the same program, each with a Step of its own for it.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Step) and (self.name, self.key) == (other.name, other.key)

    def __hash__(self) -> int:
        return hash((self.name, self.key))

    @cached_property
    def key(self) -> str:
        """Hash of recipe, files and needs; where the files are in the file system does not matter."""
        digest = hashlib.sha256(self.recipe.encode())
        for path, name in sorted(_walk(self.files, self.without)):
            digest.update(f"\0{name}\0{path.stat().st_mode & 0o111:o}\0".encode())
            digest.update(path.read_bytes())
        for needed in self.needs:
            digest.update(f"\0{needed.name}-{needed.key}".encode())
        return digest.hexdigest()[:12]


def _walk(files: Iterable[Path], without: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """Files that are below none of `without`, each with its name as seen from what was given."""
    left_out = set(without)
    for path in files:
        if path.is_dir():
            for inner in path.rglob("*"):
                if inner.is_file() and "__pycache__" not in inner.parts and left_out.isdisjoint(inner.parents):
                    yield inner, str(inner.relative_to(path))
        else:
            yield path, path.name


@dataclass
class Store:
    """Folder of finished results."""

    root: Path

    def path(self, step: Step) -> Path:
        """Folder of a step's result, whether it is there or not."""
        return self.root / f"{step.name}-{step.key}"

    def has(self, step: Step) -> bool:
        """True if a step needs not be made."""
        return step.present(self.path(step))

    @property
    def logs(self) -> Path:
        """Folder of the steps' logs, by name."""
        return self.root / "logs"


@dataclass
class Work:
    """Workplace that a step's `build` gets: the folder to fill, a log, its needs' folders and a way to run commands."""

    step: Step
    store: Store
    out: Path
    scratch: Path
    log: IO[bytes]
    runner: "Runner"
    cpu_seconds: float = 0
    """Time that the processor spent on the commands that have ended, user and system together. What Docker's engine
    does for a command is its own, and not in it."""

    def need(self, name: str) -> Path:
        """Finished folder of a step that this one needs."""
        return self.store.path(next(s for s in self.step.needs if s.name == name))

    @property
    def interrupted(self) -> bool:
        """True once Ctrl-C or SIGTERM asked the run to end; work that is no process of its own has to look."""
        return self.runner.stopping

    def run(
        self, *argv: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: bytes = b""
    ) -> bytes:
        """Run a command with its output in the log; its standard output is returned too."""
        words = [str(word) for word in argv]
        self.log.write(f"\n$ {' '.join(words)}\n".encode())
        self.log.flush()
        with tempfile.TemporaryFile() as written, tempfile.TemporaryFile() as given:
            given.write(stdin)
            given.seek(0)
            process = subprocess.Popen(
                words,
                cwd=cwd or self.scratch,
                env={**os.environ, **(env or {})},
                stdin=given,
                # A file, so that the wait can be one that tells what the command took of the processor.
                stdout=written,
                stderr=self.log,
                # A group of its own, so that ending it ends the compilers below it as well.
                start_new_session=True,
            )
            with self.runner.watching(process):
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_seconds += usage.ru_utime + usage.ru_stime
            written.seek(0)
            output = written.read()
        self.log.write(output)
        self.log.flush()  # an explanation of the failure reads the file
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, words)
        return output


@dataclass
class Runner:
    """Maker of the steps that are missing: needs first, two at a time, with progress."""

    store: Store
    progress: Progress
    _processes: set[subprocess.Popen] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: bool = False

    @property
    def stopping(self) -> bool:
        """True from an interruption on."""
        return self._stopping

    def run(self, steps: Sequence[Step]) -> list[Step]:
        """Make the missing ones of `steps` and of what they need; returns those that were made."""
        todo = self.missing(steps)
        if not todo:
            return []
        self.store.logs.mkdir(parents=True, exist_ok=True)
        self._require_space(todo)
        self.progress.begin([(s.name, s.expected_seconds) for s in todo])
        old = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._run_all(todo)
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            self.progress.end()
        return todo

    def missing(self, steps: Sequence[Step]) -> list[Step]:
        """Steps to make, in an order in which each can be made; a finished step's own needs are not looked at."""
        ordered: dict[Step, None] = {}

        def visit(step: Step) -> None:
            if step in ordered or self.store.has(step):
                return
            for needed in step.needs:
                visit(needed)
            ordered[step] = None

        for step in steps:
            visit(step)
        return list(ordered)

    def _run_all(self, todo: list[Step]) -> None:
        waiting, running, done = list(todo), dict[Future[None], Step](), set[Step]()
        with ThreadPoolExecutor(PARALLEL_STEPS) as pool:
            try:
                while waiting or running:
                    for step in [s for s in waiting if not (set(s.needs) & set(todo)) - done]:
                        if len(running) < PARALLEL_STEPS:
                            waiting.remove(step)
                            running[pool.submit(self._make, step)] = step
                    finished, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
                    self.progress.tick()
                    for future in finished:
                        step = running.pop(future)
                        future.result()
                        done.add(step)
                    if self._stopping:
                        raise Interrupted
            except BaseException:
                self._stop_processes()
                raise

    def _make(self, step: Step) -> None:
        final, log_path = self.store.path(step), self.store.logs / f"{step.name}.log"
        with open(self.store.root / f".{step.name}.lock", "w") as lock, open(log_path, "wb") as log:
            # Another checkout may be making the same thing: wait for it instead of doing it twice.
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.progress.start(step.name)
            started, cpu_seconds = time.monotonic(), 0.0
            if not self.store.has(step):
                temporary = self.store.root / f".making-{step.name}"
                _remove(temporary)
                out, scratch = temporary / "out", temporary / "scratch"
                try:
                    out.mkdir(parents=True)
                    scratch.mkdir()
                    work = Work(step, self.store, out, scratch, log, self)
                    step.build(work)
                    cpu_seconds = work.cpu_seconds
                    _remove(final)
                    out.rename(final)
                except (subprocess.CalledProcessError, OSError) as error:
                    if self._stopping:
                        raise Interrupted from error
                    raise StepError(self._explain(step, error, log_path)) from error
                finally:
                    _remove(temporary)
            self.progress.done(step.name, time.monotonic() - started, cpu_seconds)

    def _explain(self, step: Step, error: Exception, log_path: Path) -> str:
        text = log_path.read_bytes().decode(errors="replace")
        if "no space left on device" in (text + str(error)).lower():
            free = shutil.disk_usage(self.store.root).free / 2**30
            return (
                f"{step.name}: the disk is full ({free:.1f} GiB free at {self.store.root}); free about "
                f"{FREE_GIB_FOR_COMPILING} GiB or set DRA_WORKSHOP_CACHE to a folder on a larger disk, then run this "
                "again: finished steps are kept"
            )
        tail = "\n".join("    " + line for line in text.strip().splitlines()[-15:])
        return f"{step.name}: {error}\n{tail}\n    (all of it: {log_path}); finished steps are kept"

    def _require_space(self, todo: list[Step]) -> None:
        if not any(step.compiles for step in todo):
            return
        free = shutil.disk_usage(self.store.root).free / 2**30
        seconds = sum(s.expected_seconds for s in todo if s.compiles)
        needed = FREE_GIB_FOR_COMPILING if seconds > 300 else 3
        if free < needed:
            raise StepError(
                f"disk: {free:.1f} GiB free at {self.store.root}, but compiling takes about {needed} GiB; "
                "free some or set DRA_WORKSHOP_CACHE to a folder on a larger disk"
            )

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True
        self._stop_processes()

    def _stop_processes(self) -> None:
        with self._lock:
            for process in self._processes:
                with contextlib.suppress(ProcessLookupError):  # it ended just now
                    os.killpg(process.pid, signal.SIGTERM)

    @contextlib.contextmanager
    def watching(self, process: subprocess.Popen) -> Iterator[None]:
        """Context in which an interruption ends `process` too."""
        with self._lock:
            self._processes.add(process)
        if self._stopping:
            self._stop_processes()
        try:
            yield
        finally:
            with self._lock:
                self._processes.discard(process)


def _remove(path: Path) -> None:
    if path.exists():
        # Go's module cache and root filesystems hold folders without write permission.
        for folder in [path, *(p for p in path.rglob("*") if p.is_dir() and not p.is_symlink())]:
            folder.chmod(folder.stat().st_mode | 0o700)
        shutil.rmtree(path)


__all__ = ["Interrupted", "Runner", "Step", "StepError", "Store", "Work", "duration"]
