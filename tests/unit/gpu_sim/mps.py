"""An MPS daemon in a driver root, CUDA programs beside it, and waiting with a limit and a reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest

from tests.unit.gpu_sim.driver_root import LIBRARIES, Root

CLIENT = Path(__file__).with_name("mps_client.py")
MIB = 2**20
# Of the simulation's own processes, none of which works for longer than milliseconds; machines may be busy.
PATIENCE = 60


def close_to(measured: int) -> Any:
    """Memory that was measured, in bytes; what MPS itself takes is known to about a MiB."""
    return pytest.approx(measured, abs=2 * MIB)


def wait_until(condition: Callable[[], Any], reason: str, seconds: float = PATIENCE) -> Any:
    """The condition's first true value; fails with the reason if there is none in time."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {reason}"
        time.sleep(0.01)  # between two looks at a condition that is bounded above
    return value


def is_running(pid: int) -> bool:
    """False for a zombie too: whether one is left depends on the machine's process 1."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


class Client:
    """A running mps_client.py: call it with an expression, get the result."""

    def __init__(self, command: list[str | Path], env: dict[str, str], errors: IO[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def __call__(self, expression: str) -> Any:
        self.ask(expression)
        return self.answer()

    def ask(self, expression: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "the client ended"
        return json.loads(line)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=PATIENCE)

    def end(self) -> None:
        """Lets it end by itself; kills it if it hangs."""
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise


@dataclass
class Mps:
    """One pipe directory with what runs on it. The folder is short, because socket addresses have 107 bytes."""

    root: Root
    folder: Path
    processes: list[subprocess.Popen] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)
    background: list[int] = field(default_factory=list)

    @property
    def pipe(self) -> Path:
        return self.folder / "p"

    @property
    def log(self) -> Path:
        return self.folder / "l"

    def environment(self, **more: str) -> dict[str, str]:
        reports = self.folder / "sanitizer"
        return {
            **self.root.build.environment(),
            "CUDA_MPS_PIPE_DIRECTORY": str(self.pipe),
            "CUDA_MPS_LOG_DIRECTORY": str(self.log),
            "ASAN_OPTIONS": f"detect_leaks=0:log_path={reports}/asan",
            "UBSAN_OPTIONS": f"log_path={reports}/ubsan",
            **more,
        }

    def program(
        self, *arguments: str, text: str | None = None, user: int | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """nvidia-cuda-mps-control, ended if it takes longer than a daemon's answer may."""
        env = {key: value for key, value in self.environment(**more).items() if key != "LD_PRELOAD"}
        return subprocess.run(
            [self.root.path / "usr/bin/nvidia-cuda-mps-control", *arguments],
            input=text if text is not None else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=env,
            user=user,
            timeout=PATIENCE,
        )

    def control(self, *commands: str, user: int | None = None) -> str:
        done = self.program(text="".join(f"{command}\n" for command in commands), user=user)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def start(
        self, *arguments: str, user: int | None = None, before: tuple[str, ...] = (), **more: str
    ) -> subprocess.Popen:
        """A daemon in the foreground, so that its end can be waited for; its log is foreground.log."""
        env = {key: value for key, value in self.environment(**more).items() if key != "LD_PRELOAD"}
        with open(self.folder / "foreground.log", "a") as log:
            process = subprocess.Popen(
                [*before, self.root.path / "usr/bin/nvidia-cuda-mps-control", "-f", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=env,
                user=user,
                group=user,
            )
        self.processes.append(process)
        wait_until(
            lambda: process.poll() is not None or self.program(text="get_server_list\n").returncode == 0,
            "the daemon answers",
        )
        assert process.poll() is None, (self.folder / "foreground.log").read_text()
        return process

    def client(self, *, user: int | None = None, before: tuple[str, ...] = (), **more: str) -> Client:
        client = self.start_client(before, more)
        if user is not None:
            client(f"become({user})")
        return client

    def start_client(self, before: tuple[str, ...], more: Mapping[str, str]) -> Client:
        env = self.environment(LD_LIBRARY_PATH=str(self.root.path / LIBRARIES), **more)
        with open(self.folder / "clients.log", "a") as errors:
            client = Client([*before, sys.executable, CLIENT], env, errors)
        self.clients.append(client)
        return client

    def once(self, expression: str, **more: str) -> Any:
        """The expression's value in a new client, which then ends."""
        client = self.start_client((), more)
        result = client(expression)
        client.end()
        return result

    def client_errors(self) -> str:
        """What clients have printed on standard error."""
        return (self.folder / "clients.log").read_text()

    @property
    def server(self) -> int:
        return int(self.control("get_server_list"))

    def server_log(self) -> str:
        return (self.log / "server.log").read_text()

    def stop(self) -> None:
        """Ends what this object started, and fails if a sanitizer found anything."""
        for client in self.clients:
            if client.process.poll() is None:
                client.kill()
            for stream in (client.process.stdin, client.process.stdout):
                if stream:
                    stream.close()
        for process in self.processes:
            process.terminate()
            try:
                process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=PATIENCE)
        for pid in self.background:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        reports = [path.read_text() for path in (self.folder / "sanitizer").iterdir()]
        assert not reports, "\n".join(reports)
