"""Measurement of a real GPU: results/<gpu>-<date>.json, and the tables that checks record for it.

A file has every stack that `make measure` brought up, each with the runs of its checks as `make verify` wrote them.
docs/measured/results.md is made of the newest one. Nothing here computes what was not measured.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import ConfigDict, Field

from checks.results import (
    Check,
    CheckName,
    ModuleTitle,
    Plot,
    Record,
    ReportError,
    Results,
    Table,
    Text,
    Words,
    read,
)
from gpus import models as gpu_models
from gpus.models import GpuModel

SCHEMA = 1
REPEATS = ("1st TFLOPS", "2nd TFLOPS", "3rd TFLOPS")
# Of two checks with one name, the result that a reader has to see.
WORST = ("failed", "passed", "skipped")


class Sheet(NamedTuple):
    """A table that a check records and docs/measured/results.md reads: its title and its columns."""

    title: str
    columns: tuple[str, ...]


CHIP = Sheet(
    "The GPU and its FP32 peak",
    ("GPU", "compute capability", "SMs", "FP32 lanes of an SM", "greatest SM clock in MHz", "peak in TFLOPS"),
)
TOGETHER = Sheet("FP32 throughput, alone and together", ("who", "client", "SMs", *REPEATS))
EXCLUSIVE, WHOLE, HALVES, FIFTHS = "exclusive, without MPS", "MPS, 100 %", "MPS, two at 50 %", "MPS, three at 20 %"
THROTTLE = Sheet("FP32 throughput by thread percentage", ("percentage", "SMs", "SMs by the rule", *REPEATS))
GRANTS = Sheet(
    "What a client is granted by thread percentage",
    ("percentage", "SMs", "SMs by the rule", "context in MiB", "context by the rule in MiB"),
)
WINS_PERCENTAGE = Sheet(
    "Who wins: thread percentage", ("case", "percentage that holds by the rule", "SMs by the rule", "SMs")
)
WINS_MEMORY = Sheet("Who wins: memory limit", ("case", "MiB that hold by the rule", "MiB that hold"))
NO_LIMIT = "no limit"
MEMORY = Sheet("Memory under a limit", ("limit in MiB", "asked for in MiB", "result"))
NEIGHBOUR = Sheet(
    "A neighbour of a client that is refused memory",
    ("when", "repeats", "least TFLOPS", "mean TFLOPS", "most TFLOPS"),
)
LATENCY = Sheet(
    "A small client beside a neighbour that fills the GPU",
    ("neighbour's percentage", "own percentage", "SMs", "repeat", "p50 us", "p99 us", "neighbour's TFLOPS"),
)
NOBODY = "nobody"
LIVE = Sheet("A limit changed under running clients", ("what", "value"))
LIVE_SECONDS = "seconds from the change to a new client that has it"
LIVE_SERVERS = "servers that started again"
USERS = Sheet("Clients of different users", ("user", "percentage", "SMs", *REPEATS))
CAPACITY = Sheet(
    "Claims of one GPU while another takes more than it requested",
    ("pod", "requested in MiB", "SMs", "least TFLOPS before", "least TFLOPS meanwhile and after"),
)
BESIDE_SMI = Sheet(
    "The exporter beside nvidia-smi",
    ("metric", "load", "nvidia-smi before", "exporter", "nvidia-smi after", "may differ by"),
)
START = Sheet("Start of a pod with a claim", ("pod", "claim made", "scheduled", "started", "seconds in all"))
# A load is a closed loop of so many requests under way, or an open loop of so many a second.
_LOAD = ("SMs", "loop", "level", "repeats", "tokens/s", "least", "most")
_WAITS = ("TTFT p50 ms", "TTFT p99 ms", "TPOT p50 ms", "TPOT p99 ms", "ITL p99 ms", "unfinished")
VLLM_SERVER = Sheet("What vLLM served", ("what", "value"))
VLLM = Sheet("vLLM by thread percentage", ("percentage", *_LOAD, *_WAITS))
VLLM_TENANTS = Sheet(
    "vLLM beside a busy neighbour",
    ("own/neighbour's percentage", *_LOAD, *_WAITS, "of the throughput alone", "TPOT to that alone"),
)
VLLM_CHAT = Sheet(
    "A chat beside a busy neighbour",
    (
        *("own limit", "neighbour's limit", "SMs", "repeats", "TTFT p50 ms", "TTFT p99 ms", "TTFT least", "TTFT most"),
        *("TPOT p50 ms", "ITL p99 ms", "ITL least", "ITL most", "neighbour's tokens/s"),
    ),
)
NO_MPS = "no MPS"
VLLM_MODULE = "06.5"

Seconds = Annotated[float, Field(ge=0)]


class _Part(Record):
    """Record that can also be made by the names of its fields."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)


class Machine(_Part):
    """A machine that a stack ran on."""

    cores: int
    memory_mib: int
    kernel: Words
    processor: Text


class Gpu(_Part):
    """A GPU as NVIDIA's driver published it; memory in MiB."""

    node: Words
    device: Words
    product_name: Words
    compute_capability: Words
    memory_mib: int
    driver_version: Words
    cuda_driver_version: Words


class StackTimes(_Part):
    """Seconds that a stack took; None for what was not done or not from nothing."""

    up: Seconds | None = None
    first_gpu_pod: Seconds | None = None
    """From `pulumi up` without a cluster to the first container with a claim that runs."""
    down: Seconds | None = None


class Run(_Part):
    """One stack: where it ran, how long it took, its GPUs, and the runs of its checks, of all modules or some each."""

    stack: Words
    machine: Machine
    timeline: StackTimes
    gpus: tuple[Gpu, ...]
    results: Annotated[tuple[Results, ...], Field(min_length=1)]

    @property
    def missing(self) -> tuple[CheckName, ...]:
        """Checks that a run which did not end was asked for, and that no other run of the stack has made."""
        return missing(self.results)


class Measurement(_Part):
    """One results/<gpu>-<date>.json."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = SCHEMA
    runs: Annotated[tuple[Run, ...], Field(min_length=1)]

    @property
    def parts(self) -> Iterator[tuple[Run, Results]]:
        """Runs of checks, each with its stack."""
        return ((run, results) for run in self.runs for results in run.results)

    @property
    def simulated(self) -> bool:
        return any(results.simulated for _, results in self.parts)

    @property
    def finished(self) -> str:
        return max(results.finished for _, results in self.parts)

    @property
    def gpu(self) -> Gpu:
        """The first one, which the file is named for."""
        first = next((gpu for run in self.runs for gpu in run.gpus), None)
        if first is None:
            raise ReportError("no stack of the measurement published a GPU; look at the checks of module 02")
        return first

    @property
    def machines(self) -> dict[Machine, list[str]]:
        """The machines that it was measured on, each with the stacks that ran there: often one."""
        stacks_by_machine: dict[Machine, list[str]] = {}
        for run in self.runs:
            stacks_by_machine.setdefault(run.machine, []).append(run.stack)
        return stacks_by_machine

    @property
    def model(self) -> GpuModel | None:
        """The rules for that GPU; None for one that images/gpu-sim/models does not know."""
        return gpu_models.model_of(self.gpu.product_name)

    @property
    def name(self) -> str:
        """`<gpu>-<date>`: what the files are called."""
        slug = self.model.key if self.model else re.sub(r"[^a-z0-9]+", "-", self.gpu.product_name.lower()).strip("-")
        return f"{'simulated-' if self.simulated else ''}{slug}-{self.finished[:10]}"

    def rows(self, sheet: Sheet) -> list[tuple[str | int | float, ...]]:
        """The rows of every such table; of one check that ran twice, those of the last time.

        Raises `ReportError` for a table of that title with other columns, which an older check recorded.
        """
        tables: dict[tuple[str, str], Table] = {}
        for _, results in self.parts:
            tables |= {(t.module, t.check): t for t in results.tables if t.title == sheet.title}
        for table in tables.values():
            if table.columns != sheet.columns:
                raise ReportError(
                    f'{table.check}: table "{sheet.title}" has the columns {", ".join(table.columns)}, and '
                    f"{', '.join(sheet.columns)} are needed; run `make measure` again"
                )
        return [row for table in tables.values() for row in table.rows]

    def plots(self, module: str) -> list[Plot]:
        """Plots that checks of a module recorded; of one check that ran twice, those of the last time."""
        recorded: dict[tuple[str, str], Plot] = {}
        for _, results in self.parts:
            recorded |= {(plot.check, plot.title): plot for plot in results.plots if plot.module == module}
        return list(recorded.values())

    def merged(self) -> Results:
        """All runs as one, for the page: of a check that several stacks ran the worst result, said by its stack."""
        parts = list(self.parts)
        first = parts[0][1]
        checks: dict[tuple[str, str], list[tuple[str, Check]]] = {}
        for run, results in parts:
            for check in results.checks:
                checks.setdefault((check.module, check.name), []).append((run.stack, check))
        titles = {module.number: module for _, results in parts for module in results.modules}
        return Results(
            stack=", ".join(run.stack for run in self.runs),
            cluster=", ".join(dict.fromkeys(results.cluster for _, results in parts)),
            simulated=self.simulated,
            finished=self.finished,
            seconds=sum(results.seconds for _, results in parts),
            complete=all(results.whole or results.not_run is not None for _, results in parts)
            and not any(run.missing for run in self.runs),
            kubernetes=", ".join(dict.fromkeys(results.kubernetes for _, results in parts)),
            containerRuntimes=_once(name for _, results in parts for name in results.container_runtimes),
            driverVersion=first.driver_version,
            substitutions=_once(words for _, results in parts for words in results.substitutions),
            gpus=_once(gpu for _, results in parts for gpu in results.gpus),
            modules=tuple(ModuleTitle(number=number, title=module.title) for number, module in sorted(titles.items())),
            notChecked=tuple(sorted({n for _, results in parts for n in results.not_checked} - titles.keys())),
            checks=tuple(_worst(outcomes) for _, outcomes in sorted(checks.items(), key=lambda entry: entry[0][0])),
            tables=tuple(table for _, results in parts for table in results.tables),
            plots=tuple(plot for _, results in parts for plot in results.plots),
            faults=tuple(fault for _, results in parts for fault in results.faults),
        )

    def write(self, folder: Path) -> Path:
        """Write the file of that name into the folder."""
        file = folder / f"{self.name}.json"
        file.write_text(self.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
        return file

    @classmethod
    def read(cls, file: Path) -> "Measurement":
        """Raises `ReportError` if there is no such file, or it is of another version."""
        remedy = "name one that `make measure` wrote"
        return read(
            cls, file, SCHEMA, writer="make measure", missing="", needed=f"schema {SCHEMA} is needed", remedy=remedy
        )


def missing(runs: Iterable[Results]) -> tuple[CheckName, ...]:
    """Checks that have not run in some of these runs, and have ended in none."""
    runs = list(runs)
    ended = {(check.module, check.name) for results in runs for check in results.checks}
    names = dict.fromkeys((name.module, name.name) for results in runs for name in results.not_run or ())
    return tuple(CheckName(module=module, name=name) for module, name in names if (module, name) not in ended)


def newest(folder: Path) -> Path | None:
    """The file of the last measurement on real GPUs; None if there is none."""
    files = [file for file in folder.glob("*-????-??-??.json") if not file.name.startswith("simulated-")]
    return max(files, key=lambda file: (file.stem[-10:], file.stem), default=None)


def _once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _worst(outcomes: list[tuple[str, Check]]) -> Check:
    stack, check = min(outcomes, key=lambda entry: WORST.index(entry[1].result))
    if len({name for name, _ in outcomes}) == 1:
        # One stack, run again: the last time counts.
        return outcomes[-1][1]
    others = ", ".join(name for name, _ in outcomes if name != stack)
    text = f"{stack}: {check.seen} (also in {others})"
    return check.model_copy(update={"seen": text, "seconds": sum(other.seconds for _, other in outcomes)})
