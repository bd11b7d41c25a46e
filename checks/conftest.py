"""Fixtures of the checks: the stack, records of what was observed, and diagnostics of a check that fails."""

import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from checks import mig
from checks.live import LiveStack, Playground
from checks.results import Fault, Plot, Table, check_of
from toolchain.paths import CHECKOUT


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stack", help="the stack to check, which is up")
    parser.addoption("--results", help="folder for diagnostics", default=str(CHECKOUT / "results" / "checks"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> LiveStack:
    """The stack named by `--stack`."""
    return LiveStack.find(CHECKOUT, request.config.getoption("--stack"))


@pytest.fixture
def playground(stack: LiveStack) -> Iterator[Playground]:
    with stack.playground() as namespace:
        yield namespace


@pytest.fixture(scope="module")
def free_mig_devices(stack: LiveStack) -> Iterator[None]:
    """Every MIG device of the stack's layouts is free, until the last check of the file has ended."""
    with mig.all_free(stack):
        yield


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Record what a check saw, for the table and the results."""

    def record(text: str) -> None:
        request.node.user_properties.append(("seen", text))

    return record


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Callable[[str, Sequence[str], Sequence[Sequence[str | float]]], None]:
    """Record a table of what a check measured, for the results and the report: title, columns, rows."""

    def record(title: str, columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> None:
        module, check = check_of(request.node.nodeid)
        cells = tuple(tuple(row) for row in rows)
        table_record = Table(module=module, check=check, title=title, columns=tuple(columns), rows=cells)
        request.node.user_properties.append(("table", table_record.model_dump_json()))

    return record


@pytest.fixture
def plot(
    request: pytest.FixtureRequest,
) -> Callable[[str, str, str, Mapping[str, Sequence[tuple[float, float]]]], None]:
    """Record a plot of what a check measured: title, titles of the axes with their units, points by line.

    A figure of performance comes from a real GPU or is not recorded.
    """

    def record(title: str, x: str, y: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        module, check = check_of(request.node.nodeid)
        lines = {name: tuple((x, y) for x, y in points) for name, points in series.items()}
        plot_record = Plot(module=module, check=check, title=title, x=x, y=y, series=lines)
        request.node.user_properties.append(("plot", plot_record.model_dump_json()))

    return record


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Callable[[str, str, str, float, str], None]:
    """Record a fault: what it was, who noticed, what broke, seconds until all was well again, what was lost."""

    def record(fault: str, noticed: str, broke: str, seconds: float, lost: str) -> None:
        module, check = check_of(request.node.nodeid)
        words = {"fault": fault, "noticed": noticed, "broke": broke, "lost": lost}
        fault_record = Fault(module=module, check=check, seconds=seconds, **words)
        request.node.user_properties.append(("fault", fault_record.model_dump_json()))

    return record


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    live = item.funcargs.get("stack") if hasattr(item, "funcargs") else None
    if report.failed and report.when == "call" and isinstance(live, LiveStack):
        folder = Path(item.config.getoption("--results")) / "diagnostics" / item.name
        save_diagnostics(live, folder)
        report.sections.append(("diagnostics", f"events, descriptions and logs: {folder}"))
    return report


def save_diagnostics(live: LiveStack, folder: Path) -> None:
    """Events, descriptions and logs of what checks and the driver run; what cannot be had is said in its file."""
    folder.mkdir(parents=True, exist_ok=True)
    commands = {
        "events.txt": ("get", "events", "-A", "--sort-by=.lastTimestamp"),
        "pods.txt": ("describe", "pods", "-A"),
        "claims.yaml": ("get", "resourceclaims,resourceclaimtemplates", "-A", "-o", "yaml"),
        "slices.yaml": ("get", "resourceslices", "-o", "yaml"),
        "driver.log": (
            *("logs", "-n", "dra-driver-nvidia-gpu", "--all-containers", "--prefix", "--tail=1000"),
            *("-l", "dra-driver-nvidia-gpu-component=kubelet-plugin"),
        ),
        "gpu-sim.log": ("logs", "-n", "gpu-sim", "--all-containers", "--prefix", "-l", "app=gpu-sim"),
    }
    for file, words in commands.items():
        try:
            (folder / file).write_text(live.kubectl(*words))
        except subprocess.CalledProcessError as error:
            (folder / file).write_text(f"kubectl {' '.join(words)} ended with {error.returncode}:\n{error.stderr}")
