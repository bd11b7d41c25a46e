"""Figures that benchmarks compute: percentiles, stages of a pod's start, the driver's metrics, processes."""

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import Any

import rich.table
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from checks.live import DRIVER
from checks.timeline import STAGES, Moments
from toolchain.paths import CHECKOUT

RESULTS = CHECKOUT / "results" / "bench"
PLAIN_WIDTH = 140  # of a log, which has no width of its own
MIB = 1024 * 1024
DURATION = "nvidia_dra_request_duration_seconds"
ERRORS = "nvidia_dra_node_prepare_errors"


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank: the smallest value that `percent` % of the values do not exceed. Of no value a ValueError."""
    if not values:
        raise ValueError(f"p{percent:g} of no values; measure at least one")
    return sorted(values)[max(math.ceil(percent / 100 * len(values)), 1) - 1]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Summary of values: their number, mean, p50, p99, greatest."""
    p50, p99 = percentile(values, 50), percentile(values, 99)
    return {"count": len(values), "mean": statistics.fmean(values), "p50": p50, "p99": p99, "max": max(values)}


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | float | None]], caption: str = "") -> None:
    """Print a table; numbers have two decimals, what is not known is a dash."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    table = rich.table.Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    console.print()
    console.print(table)


def _cell(value: str | float | None) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)


def save(name: str, figures: Mapping[str, Any]) -> Path:
    """Keep figures in results/bench/NAME.json, with the machine that they are of."""
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    machine = {"cores": os.cpu_count(), "memoryMib": pages * page // MIB, "kernel": os.uname().release}
    RESULTS.mkdir(parents=True, exist_ok=True)
    file = RESULTS / f"{name}.json"
    file.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")
    print(f"{file}")
    return file


def breakdown(claim: Sequence[Moments], plain: Sequence[Moments]) -> dict[str, tuple[float, float, float]]:
    """Stage -> mean seconds with a claim, mean seconds without one, their difference.

    Means and not medians, since only means of stages add up to the mean of the whole.
    """
    with_claim, without = (_mean_stages(pods) for pods in (claim, plain))
    return {stage: (one, other, one - other) for stage, one, other in zip(STAGES, with_claim, without, strict=True)}


def _mean_stages(pods: Sequence[Moments]) -> list[float]:
    return [statistics.fmean(column) for column in zip(*(at.stages for at in pods), strict=True)]


@dataclass(frozen=True)
class Prepared:
    """Counts of claims that a driver's plugins prepared, since they started or between two looks.

    The seconds of a request include its wait for the plugin's lock: a node's claims are prepared one by one. A request
    that failed is among the errors only; the kubelet asks again.
    """

    requests: int = 0
    seconds: float = 0.0
    errors: int = 0

    @classmethod
    def parse(cls, text: str) -> "Prepared":
        """Counts in one plugin's metrics. Raises ValueError where they are not those of NVIDIA's driver."""
        totals: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.labels.get("driver") == DRIVER and sample.labels.get("operation", "prepare") == "prepare":
                    totals[sample.name] = totals.get(sample.name, 0) + sample.value
        if f"{DURATION}_count" not in totals:
            raise ValueError(f"no {DURATION}_count of {DRIVER} for prepare; look what the driver's version calls it")
        return cls(int(totals[f"{DURATION}_count"]), totals[f"{DURATION}_sum"], int(totals.get(f"{ERRORS}_total", 0)))

    def __add__(self, other: "Prepared") -> "Prepared":
        return Prepared(self.requests + other.requests, self.seconds + other.seconds, self.errors + other.errors)

    def since(self, before: "Prepared") -> "Prepared":
        """Counts since `before`. AssertionError if a plugin has started again in between."""
        later = Prepared(self.requests - before.requests, self.seconds - before.seconds, self.errors - before.errors)
        assert min(later.requests, later.errors) >= 0, f"a plugin started again: {before} became {self}"
        return later

    @property
    def mean(self) -> float:
        """Seconds of a request."""
        return self.seconds / self.requests if self.requests else 0.0


@dataclass(frozen=True)
class Process:
    """A process as /proc shows it: CPU ticks of itself and of its children that ended; memory in MiB."""

    program: str
    pid: int
    started: int
    ticks: int
    rss_mib: float
    pss_mib: float | None

    @property
    def key(self) -> tuple[int, int]:
        """A number may be used again, but not with the same start."""
        return self.pid, self.started


def program(arguments: Sequence[str]) -> str:
    """The name of what runs: of the script where an interpreter runs one. The kernel cuts its own after 15 letters."""
    name = PurePath(arguments[0]).name if arguments else ""
    return PurePath(arguments[1]).name if name.startswith("python") and len(arguments) > 1 else name


def processes(text: str, programs: Iterable[str]) -> list[Process]:
    """Processes of `programs` in the output of `test_at_rest.READ`; without those that ended while it was read."""
    wanted, running = set(programs), []
    for block in re.split(r"^process\t", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.splitlines()
        pid, *arguments = head.split("\t")
        name = program(arguments)
        sizes = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS:", "Pss:"))}
        stat = next((line for line in lines if line.startswith(f"{pid} (")), None)
        if name not in wanted or stat is None or "VmRSS:" not in sizes:
            continue
        # The second field is in parentheses, and may hold any letter; man 5 proc counts the state as the third.
        fields = stat.rpartition(")")[2].split()
        ticks = sum(int(field) for field in fields[11:15])
        running.append(Process(name, int(pid), int(fields[19]), ticks, sizes["VmRSS:"], sizes.get("Pss:")))
    return running


@dataclass(frozen=True)
class Container:
    """A container as the kubelet's summary has it, with all that runs in it, probes as well."""

    at: datetime
    cpu_seconds: float
    working_set_mib: float


def containers(summary: Mapping[str, Any]) -> dict[tuple[str, str, str], Container]:
    """(namespace, pod, container) -> what a node's summary says of it; without those that it has no figures of."""
    by_key = {}
    for pod in summary["pods"]:
        for container in pod.get("containers", []):
            cpu, memory = container.get("cpu", {}), container.get("memory", {})
            if "usageCoreNanoSeconds" in cpu and "workingSetBytes" in memory:
                key = (pod["podRef"]["namespace"], pod["podRef"]["name"], container["name"])
                at = datetime.fromisoformat(cpu["time"])
                by_key[key] = Container(at, cpu["usageCoreNanoSeconds"] / 1e9, memory["workingSetBytes"] / MIB)
    return by_key
