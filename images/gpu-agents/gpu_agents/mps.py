"""What the node's MPS daemon says through its pipe (CUDA_MPS_PIPE_DIRECTORY), asked as any user may."""

import re
import subprocess
import time
from dataclasses import dataclass

CONTROL = "nvidia-cuda-mps-control"
SECONDS = 2

_SERVER = re.compile(r"^(\d+)$", re.MULTILINE)
# device_query: number, PCI address, UUID, name.
_DEVICE = re.compile(r"^(\d+)\s+\S+\s+((?:GPU|MIG)-\S+)", re.MULTILINE)


class MpsError(Exception):
    """The daemon does not answer; the message says why."""


@dataclass(frozen=True)
class Mps:
    """How many servers run, and how many contexts they serve on each of the daemon's devices (by UUID)."""

    servers: int
    contexts: dict[str, int]


def look() -> Mps:
    """Asks the daemon. Raises MpsError after SECONDS at the latest."""
    deadline = time.monotonic() + SECONDS
    answer = _ask(["get_server_list", "device_query"], deadline)
    servers, devices = _SERVER.findall(answer), dict(_DEVICE.findall(answer))
    contexts = dict.fromkeys(devices.values(), 0)
    if servers:
        clients = _ask([f"get_device_client_list {server}" for server in servers], deadline)
        # A device without a row in device_query has no UUID to tell; its number is all there is.
        contexts |= {devices.get(number, number): count for number, count in contexts_by_number(clients).items()}
    return Mps(len(servers), contexts)


def contexts_by_number(answer: str) -> dict[str, int]:
    """Reads get_device_client_list: a heading for each device, then a line `PID.CONTEXT` for each context."""
    counts: dict[str, int] = {}
    number = ""
    for line in answer.splitlines():
        if heading := re.match(r"\[(\d+)\] ", line):
            number = heading[1]
        elif re.fullmatch(r"\d+\.\d+", line.strip()):
            counts[number] = counts.get(number, 0) + 1
    return counts


def _ask(commands: list[str], deadline: float) -> str:
    text = "".join(f"{command}\n" for command in commands)
    seconds = max(deadline - time.monotonic(), 0)
    try:
        done = subprocess.run([CONTROL], input=text, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise MpsError(f"the MPS daemon did not answer within {SECONDS} s") from error
    except OSError as error:
        raise MpsError(f"{CONTROL} cannot be run: {error}") from error
    if done.returncode:
        raise MpsError(f"{CONTROL} ended with {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout
