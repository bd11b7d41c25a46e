"""vLLM server as a process beside this one, with limits of MPS of its own."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

PERCENTAGE, MEMORY = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PIPE = "CUDA_MPS_PIPE_DIRECTORY"
LOOK_SECONDS = 0.5
STOP_SECONDS = 60
EXTENSION = ("--worker-extension-cls=loadgen.granted.Granted", "--host=127.0.0.1", "--no-enable-prefix-caching")
# How vLLM 0.26 ends a start that failed; the first of them is the nearest to the cause.
CAUSE = re.compile(r"^.*?((?:\w+\.)*\w*(?:Error|Exception): .+|CUDA out of memory.+)$", re.M)
# A line that it logs as less than an error. Some speak of errors that could come, or that it has dealt with.
NO_ERROR = re.compile(r"^(?:\(\w+ pid=\d+\) )?(?:DEBUG|INFO|WARNING) \d\d-\d\d ")


class ServerFailed(Exception):
    """The server did not start, or ended; the message has its cause."""


def cause(log: str) -> str:
    """Why a server says that it could not start; the end of what it said where it names no error.

    The first error is the engine's own; what follows is that the engine has failed.
    """
    lines = [line for line in log.strip().splitlines() if not NO_ERROR.match(line)]
    found = CAUSE.search("\n".join(lines))
    return found[1].strip()[:500] if found else " / ".join(lines[-3:])[:500]


@dataclass(frozen=True)
class Limits:
    """What a client of MPS asks for: a percentage of the threads, and memory as MPS writes it."""

    percentage: int
    memory: str


class Server:
    """Owns the process group of one server, and its log. Without limits it is no client of MPS."""

    def __init__(self, command: Sequence[str], limits: Limits | None, port: int, folder: Path) -> None:
        self.command, self.limits, self.port, self.folder = command, limits, port, folder
        self.log = folder / f"server-{limits.percentage if limits else 'time-sliced'}-{port}.log"
        self.process: subprocess.Popen | None = None
        self.multiprocessors = 0
        self.start_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, own: Mapping[str, str]) -> dict[str, str]:
        """`own` with this server's limits, and vLLM's questions to its workers allowed: it listens here only."""
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parent.parent), own.get("PYTHONPATH"))))
        kept = {name: value for name, value in own.items() if name not in (PERCENTAGE, MEMORY)}
        if self.limits:
            mps = {PERCENTAGE: str(self.limits.percentage), MEMORY: f"0={self.limits.memory}"}
        else:
            # CUDA looks for a daemon's pipe there, and in a folder of its own choice where the variable is not set.
            mps = {PIPE: str(self.folder / "no-mps")}
        return {**kept, **mps, "PYTHONPATH": path, "VLLM_SERVER_DEV_MODE": "1"}

    async def start(self, seconds: float) -> None:
        """Start it and wait until it answers. Raises `ServerFailed` with the cause."""
        began = time.perf_counter()
        # The last --port counts.
        command = [*self.command, *EXTENSION, f"--port={self.port}"]
        with open(self.log, "wb") as log:
            environment = self.environment(os.environ)
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while not await self._healthy(session):
                if self.process.poll() is not None:
                    raise ServerFailed(f"ended with {self.process.returncode}: {cause(self._said())}")
                if time.perf_counter() - began > seconds:
                    raise ServerFailed(f"did not answer within {seconds:g} s: {cause(self._said())}")
                await asyncio.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
            self.start_seconds = round(time.perf_counter() - began, 1)
            (granted,) = await self._ask(session, "granted_multiprocessors")
            self.multiprocessors = int(granted)  # vLLM answers with text, but for lists and mappings

    async def _healthy(self, session: aiohttp.ClientSession) -> bool:
        try:
            async with session.get(f"{self.url}/health") as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False  # not yet, or no longer: the caller looks at the process

    async def _ask(self, session: aiohttp.ClientSession, method: str) -> list[Any]:
        async with session.post(f"{self.url}/collective_rpc", json={"method": method}) as response:
            if response.status != 200:
                raise ServerFailed(f"/collective_rpc answered {response.status}: {(await response.text())[:200]}")
            return (await response.json())["results"]

    def _said(self) -> str:
        return self.log.read_text(errors="replace")

    async def stop(self) -> None:
        """End it with all of its processes: the next one needs what they hold of the GPU."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break  # nobody of the group is left
            began = time.perf_counter()
            while self._alive() and time.perf_counter() - began < STOP_SECONDS:
                await asyncio.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
        self.process.wait()

    def _alive(self) -> bool:
        """Whether anybody of the group runs; whoever has ended is a member until it is waited for."""
        if self.process is None:
            return False
        if self.process.poll() is not None:
            self._reap(self.process.pid)
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    @staticmethod
    def _reap(group: int) -> None:
        """Wait for those of the group whose parent went before them: a container's first process is their parent."""
        try:
            while os.waitpid(-group, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return  # nobody of the group is a child of this process
