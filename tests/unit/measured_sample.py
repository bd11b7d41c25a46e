"""A measurement as `make measure` writes it, for the tests of docs/measured/results.md.

Its figures were made up for these tests, by the rules where there are any, and are shown nowhere else.
"""

from collections.abc import Iterable

from checks import measured as sheets
from checks.measured import Gpu, Machine, Measurement, Run, Sheet, StackTimes
from checks.results import Check, Fault, ModuleTitle, Plot, Results, Table
from gpus.mps import context_mib, granted_multiprocessors
from settings import GPU_MODELS

MODEL = GPU_MODELS["h100-80gb"]
MACHINE = Machine(cores=16, memory_mib=131072, kernel="6.1.0", processor="a sample")
THROTTLE = (100, 50, 20, 10, 5, 1)
PER_SM = 0.5
MODULES = {
    "03": "Exclusive GPUs by claim",
    "04": "Two pods on one GPU by MPS",
    "05": "Limits of MPS, and who wins",
    "07": "One GPU for many claims",
    "08": "Admin access and metrics",
    "09": "Faults and what survives them",
    "06.5": "vLLM by thread percentage",
}


def repeats(sms: int, per_sm: float = PER_SM) -> tuple[float, float, float]:
    """Three repeats that differ a little."""
    return sms * per_sm, sms * per_sm * 1.0001, sms * per_sm * 0.9999


def granted(percentage: float) -> int:
    return granted_multiprocessors(MODEL, percentage)


SHEETS: dict[str, list[tuple[Sheet, list[tuple]]]] = {
    "03": [(sheets.START, [(1, 0.01, 0.02, 1.97, 2.0), (2, 0.01, 0.02, 2.97, 3.0), (3, 0.01, 0.02, 2.47, 2.5)])],
    "04": [
        (
            sheets.TOGETHER,
            [
                (sheets.EXCLUSIVE, 1, 132, *repeats(132)),
                (sheets.WHOLE, 1, 132, *repeats(132)),
                (sheets.HALVES, 1, 66, *repeats(66)),
                (sheets.HALVES, 2, 66, *repeats(66)),
            ],
        ),
        (sheets.CHIP, [(MODEL.product_name, "9.0", 132, 128, 1980, 66.908)]),
    ],
    "05": [
        (sheets.TOGETHER, [(sheets.FIFTHS, number, 26, *repeats(26)) for number in (1, 2, 3)]),
        (sheets.THROTTLE, [(p, granted(p), granted(p), *repeats(granted(p))) for p in THROTTLE]),
        (
            sheets.GRANTS,
            [(p, granted(p), granted(p), context_mib(granted(p)) - 1, context_mib(granted(p))) for p in THROTTLE],
        ),
        (
            sheets.WINS_PERCENTAGE,
            [("the stack's own limits", 50, 66, 66), ("the client sets a lower value", 10.0, 12, 12)],
        ),
        (
            sheets.WINS_MEMORY,
            [("the stack's own limits", 8192, 8191), ("the client sets junk", sheets.NO_LIMIT, sheets.NO_LIMIT)],
        ),
        (sheets.MEMORY, [(1024, 100, "CUDA_SUCCESS"), (1024, 2048, "CUDA_ERROR_OUT_OF_MEMORY")]),
        (sheets.NEIGHBOUR, [(when, 4, 32.9, 33.0, 33.1) for when in ("before", "meanwhile", "after")]),
        (sheets.LIVE, [(sheets.LIVE_SECONDS, 2.5), (sheets.LIVE_SERVERS, 0)]),
        (sheets.USERS, [("65532", 50, 66, *repeats(66)), ("1000", 20.0, 26, *repeats(26))]),
    ],
    "07": [(sheets.CAPACITY, [("first", 1024, 66, 33.0, 32.9), ("second", 1024, 66, 33.0, 32.9)])],
    "08": [(sheets.BESIDE_SMI, [("DCGM_FI_DEV_POWER_USAGE", "at rest", 120.0, 121.5, 121.0, 25)])],
    "09": [],
    "06.5": [
        (
            sheets.VLLM,
            [
                (100, 132, "closed", 64, 2, 9000.0, 8900.0, 9100.0, 250.0, 420.0, 5.0, 9.0, 12.0, 0),
                (10, 12, "closed", 64, 2, 3000.0, 2900.0, 3100.0, 800.0, 1300.0, 12.0, 15.0, 30.0, 0),
            ],
        ),
        (sheets.VLLM_SERVER, [("model", "dummy-sample"), ("weights", "random: what it writes means nothing")]),
        (
            sheets.VLLM_TENANTS,
            [("50/50", 66, "closed", 16, 2, 4000.0, 3900.0, 4100.0, 50.0, 90.0, 4.0, 6.0, 9.0, 0, 0.9, 1.2)],
        ),
    ],
}


def results(stack: str, modules: Iterable[str], *, failed: bool = False, simulated: bool = False) -> Results:
    """A run of these modules, each with one check."""
    numbers = list(modules)
    name = "test_of_module_{}"
    return Results(
        stack=stack,
        cluster=f"dra-workshop-{stack}",
        simulated=simulated,
        finished="2026-11-20T10:00:00Z",
        seconds=100.0,
        complete=True,
        kubernetes="v1.37.2",
        containerRuntimes=("containerd://2.4.2",),
        driverVersion="0.5.0",
        substitutions=("go-nvfm v0.1.0 is a stub",),
        gpus=(f"{stack}-worker gpu-0: {MODEL.product_name}",),
        modules=tuple(ModuleTitle(number=number, title=MODULES[number]) for number in numbers),
        notChecked=(),
        checks=tuple(
            Check(
                module=number,
                name=name.format(number),
                result="failed" if failed else "passed",
                seen="broken | by the sample" if failed else "as it should be",
                seconds=10.0,
            )
            for number in numbers
        ),
        tables=tuple(
            Table(module=number, check=name.format(number), title=sheet.title, columns=sheet.columns, rows=tuple(rows))
            for number in numbers
            for sheet, rows in SHEETS[number]
        ),
        plots=tuple(
            Plot(
                module=number,
                check=name.format(number),
                title="Throughput by thread percentage, closed loop",
                x="thread percentage in %",
                y="output tokens/s",
                series={"64 under way": ((10, 3000.0), (100, 9000.0))},
            )
            for number in numbers
            if number == "06.5"
        ),
        faults=tuple(
            Fault(
                module="09",
                check=name.format("09"),
                fault="kubelet plugin killed",
                noticed="kubelet: `socket | closed`",
                broke="new pods waited",
                seconds=21.5,
                lost="nothing",
            )
            for number in numbers
            if number == "09"
        ),
    )


def run(stack: str, *modules: str, failed: bool = False, simulated: bool = False) -> Run:
    return Run(
        stack=stack,
        machine=MACHINE,
        timeline=StackTimes(up=60.0, first_gpu_pod=55.0, down=5.0),
        gpus=(
            Gpu(
                node=f"{stack}-worker",
                device="gpu-0",
                product_name=MODEL.product_name,
                compute_capability="9.0",
                memory_mib=MODEL.memory_mib,
                driver_version="580.159.04",
                cuda_driver_version="13.0",
            ),
        ),
        results=(results(stack, modules, failed=failed, simulated=simulated),),
    )


def measured(*runs: Run) -> Measurement:
    """Those runs, or all that was measured."""
    every = (
        run("gpu-exclusive", "03"),
        run("gpu-mps", "04", "05"),
        run("gpu-shared", "07", "08", "09"),
        run("vllm", "06.5"),
    )
    return Measurement(runs=runs or every)
