"""`make verify`: runs the checks of the modules that are on against a stack that is up.

Prints a table and writes `verify.json` and `verify.xml` (JUnit) to results/<stack>; what failed has its
diagnostics beside them. Ends with 0 if every check passed, 1 if one failed, 2 if there is nothing to check.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import modules
from tests.e2e.live import LiveStack, NotThisStack
from toolchain import versions
from toolchain.progress import duration

CHECKOUT = Path(__file__).resolve().parent.parent
PLAIN_WIDTH = 160  # of a log, which has no width of its own
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


@dataclass(frozen=True)
class Check:
    """One check's outcome."""

    module: str
    name: str
    result: str
    seen: str
    seconds: float

    @property
    def title(self) -> str:
        return self.name.removeprefix("test_").replace("_", " ")


class Recorder:
    """A pytest plugin that keeps every check's outcome and shows that work goes on."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.checks: list[Check] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A set-up that fails or skips is the check's outcome too; a tear-down only if it fails.
        if not (report.when == "call" or report.failed or (report.when == "setup" and report.skipped)):
            return
        seen = "; ".join(str(value) for key, value in report.user_properties if key == "seen")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            seen = crash.message if crash else str(report.longrepr)
        elif report.skipped and isinstance(report.longrepr, tuple):
            seen = report.longrepr[2].removeprefix("Skipped: ")
        file = Path(report.nodeid.partition("::")[0]).stem
        check = Check(file.split("_")[1], report.nodeid.rpartition("::")[2], report.outcome, seen, report.duration)
        self.checks.append(check)
        if not self.console.is_terminal:
            return
        self.console.print(f"  {check.module}  [{STYLES[check.result]}]{check.result}[/]  {escape(check.title)}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make verify", description=__doc__)
    parser.add_argument("--stack", default="phase1", help="the stack to check (default: phase1)")
    parser.add_argument("--module", action="append", help="check this module only; can be given more than once")
    chosen = parser.parse_args()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    try:
        live = LiveStack.find(CHECKOUT, chosen.stack)
        _ = live.api  # refuses a cluster that is not the stack's, before anything is done to it
    except NotThisStack as error:
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        return 2
    numbers = [number for number in live.settings.modules if not chosen.module or number in chosen.module]
    if unknown := set(chosen.module or ()) - set(live.settings.modules):
        console.print(
            f"[red]error:[/red] --module {', '.join(sorted(unknown))}: not on in stack {live.name}, which has "
            f"{', '.join(live.settings.modules)}",
            soft_wrap=True,
        )
        return 2

    results = CHECKOUT / "results" / live.name
    shutil.rmtree(results, ignore_errors=True)  # nothing to remove on the first run
    results.mkdir(parents=True)
    simulated = live.settings.gpu.source == "simulated"
    console.print(
        f"stack {live.name} at {live.kubeconfig}: modules {', '.join(numbers)}, "
        f"{'simulated' if simulated else 'real'} GPUs"
    )
    started = time.monotonic()
    recorder = Recorder(console)
    files = [CHECKOUT / "tests" / "e2e" / f"test_{modules.MODULES[n].name.replace('-', '_')}.py" for n in numbers]
    options = ["--stack", live.name, "--results", str(results), f"--junit-xml={results / 'verify.xml'}"]
    # pytest's own output goes to a file: the table is what a person reads.
    with open(results / "pytest.log", "w") as log:
        stdout, sys.stdout = sys.stdout, log
        try:
            code = pytest.main([*map(str, files), *options, "-p", "no:cacheprovider"], plugins=[recorder])
        finally:
            sys.stdout = stdout
    _write_json(live, recorder.checks, results / "verify.json", simulated)
    console.print(_table(recorder.checks))
    failed = sum(check.result == "failed" for check in recorder.checks)
    console.print(
        f"{len(recorder.checks) - failed} of {len(recorder.checks)} checks passed or were skipped with a reason, "
        f"{failed} failed, in {duration(time.monotonic() - started)}; results in {results.relative_to(CHECKOUT)}",
        soft_wrap=True,
    )
    if failed:
        console.print(f"what was there when they failed: {(results / 'diagnostics').relative_to(CHECKOUT)}")
    elif code:
        console.print(f"[red]error:[/red] the checks did not run to their end; see {results / 'pytest.log'}")
    return 1 if failed or code else 0


def _table(checks: list[Check]) -> Table:
    table = Table(show_lines=False, header_style="bold", pad_edge=False)
    for column in ("module", "check", "result"):
        table.add_column(column, overflow="fold", ratio=3 if column == "check" else None)
    table.add_column("what was seen", overflow="fold", ratio=5)
    table.add_column("seconds", justify="right")
    for check in checks:
        result = f"[{STYLES[check.result]}]{check.result}[/]"
        table.add_row(check.module, escape(check.title), result, escape(check.seen), f"{check.seconds:.1f}")
    return table


def _write_json(live: LiveStack, checks: list[Check], file: Path, simulated: bool) -> None:
    file.write_text(
        json.dumps(
            {
                "stack": live.name,
                "cluster": live.settings.cluster_name,
                "simulated": simulated,
                "kubernetes": json.loads(live.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"],
                "draDriver": versions.DRA_DRIVER,
                "checks": [asdict(check) for check in checks],
            },
            indent=2,
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
