"""FP32 throughput of pods, alone and together, as gpu-probe measures it, and the chip's peak."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from checks.live import LiveStack
from checks.measured import REPEATS
from checks.mps import Client
from machine.gpus import driver_root

# One client: half a second to warm up, then the repeats.
ALONE = ("flops", "2", "--warmup", "0.5", "--repeats", str(len(REPEATS)))
# Several start one after another, so they warm up until the last one is there, and repeat until the first has enough.
WARMUP_TOGETHER = 4
TOGETHER = ("flops", "1.5", "--warmup", str(WARMUP_TOGETHER), "--repeats", "6")
# A small client, and a neighbour that runs for longer than the client takes to start and to end.
LATENCY = ("latency", "1", "--warmup", "0.5", "--repeats", str(len(REPEATS)))
LOAD = ("load", "1", "--repeats", "20")
END_SECONDS = 90
LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "lib64")
# FP32 lanes of a multiprocessor by compute capability: results per clock cycle of 32-bit add, multiply and FMA.
# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#throughput-of-native-arithmetic-instructions
FP32_LANES = {
    "7.0": 64,
    "7.5": 64,
    "8.0": 64,
    "8.6": 128,
    "8.9": 128,
    "9.0": 128,
    "10.0": 128,
    "12.0": 128,
}


def skip_unless_real(stack: LiveStack) -> None:
    if stack.settings.gpu.source == "simulated":
        pytest.skip("needs a real GPU")


@dataclass(frozen=True)
class Burn:
    """One repeat: the SMs that the client was granted, its FP32 TFLOPS, and when, by the node's clock."""

    sms: int
    tflops: float
    begin: float
    end: float


def burns(lines: Sequence[tuple[float, dict[str, Any]]]) -> list[Burn]:
    """The repeats in what a client printed, each line at its repeat's end."""
    return [Burn(line["sms"], line["tflops"], at - line["seconds"], at) for at, line in lines if "tflops" in line]


def wait_repeats(client: Client) -> list[Burn]:
    """The repeats of a client once it has ended; removes it. AssertionError for one that failed."""
    state = client.wait_end(END_SECONDS)
    lines = client.timed_lines()
    client.remove()
    assert state["exitCode"] == 0, f"{client.name} ended with {state['exitCode']}: {lines[-1:]}"
    return burns(lines)


def common_repeats(clients: Sequence[list[Burn]], warmup: float = WARMUP_TOGETHER) -> list[list[Burn]]:
    """Repeats of each client from the time in which every one of them ran, as many as count.

    AssertionError where they did not run together for so long.
    """
    begin = max(client[0].begin - warmup for client in clients)
    end = min(client[-1].end for client in clients)
    kept = [[burn for burn in client if begin <= burn.begin and burn.end <= end] for client in clients]
    least = min(len(client) for client in kept)
    assert least >= len(REPEATS), f"only {least} repeats of a client were while all of them ran; {len(REPEATS)} count"
    return [client[: len(REPEATS)] for client in kept]


def row(burning: Sequence[Burn]) -> tuple[int | float, ...]:
    """SMs and TFLOPS of the repeats: the last columns of a table. All repeats have the same SMs."""
    (sms,) = {burn.sms for burn in burning}
    assert len(burning) == len(REPEATS), f"{len(burning)} repeats, and {len(REPEATS)} were asked for"
    return sms, *(burn.tflops for burn in burning)


def mean(burning: Sequence[Burn]) -> float:
    return sum(burn.tflops for burn in burning) / len(burning)


@dataclass(frozen=True)
class Chip:
    """GPU with the figures that its FP32 peak follows from; clock in MHz."""

    name: str
    compute_capability: str
    multiprocessors: int
    lanes: int
    clock: int

    @property
    def peak(self) -> float:
        """TFLOPS of every lane with an FMA, which is two operations, in every cycle."""
        return self.multiprocessors * self.lanes * 2 * self.clock * 1e6 / 1e12


def chip(stack: LiveStack, uuid: str, multiprocessors: int) -> Chip:
    """The GPU of a UUID, by the driver's slices and nvidia-smi. Skips where its lanes are not known."""
    ((node, _), values), *_ = [entry for entry in stack.devices().items() if entry[1]["uuid"] == uuid]
    capability = ".".join(str(values["cudaComputeCapability"]).split(".")[:2])
    if capability not in FP32_LANES:
        pytest.skip(f"FP32 lanes of compute capability {capability} are not known; add them to FP32_LANES")
    (clock,) = query(stack, node, uuid, "clocks.max.sm")
    return Chip(values["productName"], capability, multiprocessors, FP32_LANES[capability], int(clock))


def query(stack: LiveStack, node: str, uuid: str, *fields: str) -> list[str]:
    """Fields of a GPU by nvidia-smi on a node of Kind, without units."""
    output = nvidia_smi(stack, node, f"--id={uuid}", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    # A warning about the board's infoROM may stand before or after it.
    (line,) = [line for line in output.splitlines() if line.count(",") == len(fields) - 1 and "WARNING" not in line]
    return [value.strip() for value in line.split(",")]


def nvidia_smi(stack: LiveStack, node: str, *words: str) -> str:
    """NVIDIA's program in a node of Kind, with the libraries that lie beside it."""
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: nvidia-smi is run in nodes of Kind only")
    root = driver_root(stack.settings).rstrip("/")
    folders = ":".join(f"{root}/usr/{folder}" for folder in LIBRARY_FOLDERS)
    # 14 says that the infoROM is damaged, which is no matter to what is asked here.
    script = 'export LD_LIBRARY_PATH="$1"; shift; "$@" || [ $? = 14 ]'
    return stack.in_node(node, "sh", "-c", script, "sh", folders, f"{root}/usr/bin/nvidia-smi", *words)
