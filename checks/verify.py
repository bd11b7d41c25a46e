"""`make verify`: runs the checks of the modules that are on against a stack that is up.

Prints a table and writes `verify.json` and `verify.xml` (JUnit) to results/<stack>; what failed has its
diagnostics beside them. Ends with 0 if every check passed, 1 if one failed, 2 if there is nothing to check.
"""

import argparse
import fcntl
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import rich.table
from rich.console import Console
from rich.markup import escape

from checks import leftovers
from checks.live import LiveStack, NotThisStack
from checks.results import Check, CheckName, Fault, ModuleTitle, Plot, Results, Table, check_of
from settings import Settings, catalog
from toolchain import versions
from toolchain.paths import CHECKOUT, SOURCE_FILE
from toolchain.progress import duration

PLAIN_WIDTH = 160  # of a log, which has no width of its own
# What a shell may have for the tests of other projects, such as `-n 4` or `-x`.
OTHERS_OPTIONS = ("PYTEST_ADDOPTS", "PYTEST_PLUGINS", "PYTEST_DISABLE_PLUGIN_AUTOLOAD")
LAST_LINES = 20  # of pytest's own log, where it says why it stopped
OPERATORS = {"and", "or", "not", "(", ")"}
STYLES = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


class Recorder:
    """Pytest plugin that keeps every check's outcome and what it measured, and prints a line for each.

    A check has its line when it has ended, on a terminal and elsewhere: a fault alone may take a minute, and nobody
    waits for minutes without a word. `after_each` is called when a check has ended and all of it is kept.
    """

    def __init__(self, console: Console, after_each: Callable[["Recorder"], object] = lambda recorder: None) -> None:
        self.console, self._after_each = console, after_each
        self.checks: list[Check] = []
        self.tables: list[Table] = []
        self.plots: list[Plot] = []
        self.faults: list[Fault] = []
        self.chosen = 0
        self._names: list[CheckName] | None = None

    @property
    def not_run(self) -> tuple[CheckName, ...] | None:
        """The checks that have not ended; None before it is known which there are."""
        if self._names is None:
            return None
        ended = {(check.module, check.name) for check in self.checks}
        return tuple(name for name in self._names if (name.module, name.name) not in ended)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.chosen = len(session.items)
        names = (check_of(item.nodeid) for item in session.items)
        self._names = [CheckName(module=module, name=name) for module, name in names]
        self.console.print(f"{self.chosen} checks")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            # The last report of a check has all of its properties, whatever became of it.
            self._keep_measured(report)
        self._keep_outcome(report)
        if report.when == "teardown":
            self._after_each(self)

    def _keep_outcome(self, report: pytest.TestReport) -> None:
        # A set-up that fails or skips is the check's outcome too; a tear-down only if it fails.
        if not (report.when == "call" or report.failed or (report.when == "setup" and report.skipped)):
            return
        text = "; ".join(str(value) for key, value in report.user_properties if key == "seen")
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr)
        elif report.skipped and isinstance(report.longrepr, tuple):
            text = report.longrepr[2].removeprefix("Skipped: ")
        module, name = check_of(report.nodeid)
        check = Check(module=module, name=name, result=report.outcome, seen=text, seconds=report.duration)
        if report.when == "teardown":
            check = self._with_tear_down(check)
        self.checks.append(check)
        # The number, so that one sees how far it is; the words are whole, however narrow the output is.
        self.console.print(
            f"  {len(self.checks):>{len(str(self.chosen))}}/{self.chosen}  {check.module}  "
            f"[{STYLES[check.result]}]{check.result}[/] in {duration(check.seconds)}  {escape(check.title)}",
            soft_wrap=True,
        )

    def _with_tear_down(self, failed: Check) -> Check:
        """The check once, where its tear-down failed after it had an outcome."""
        if not self.checks or (self.checks[-1].module, self.checks[-1].name) != (failed.module, failed.name):
            return failed
        before = self.checks.pop()
        text = f"{before.seen}\nand its tear-down: {failed.seen}" if before.result == "failed" else failed.seen
        return failed.model_copy(update={"seen": text, "seconds": before.seconds + failed.seconds})

    def _keep_measured(self, report: pytest.TestReport) -> None:
        for key, value in report.user_properties:
            if key == "table":
                self.tables.append(Table.model_validate_json(str(value)))
            elif key == "plot":
                self.plots.append(Plot.model_validate_json(str(value)))
            elif key == "fault":
                self.faults.append(Fault.model_validate_json(str(value)))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make verify", description=__doc__)
    parser.add_argument("--stack", default="phase1", help="the stack to check (default: phase1)")
    parser.add_argument("--module", action="append", help="check this module only; can be given more than once")
    parser.add_argument(
        "--check",
        action="append",
        help="only checks whose name has one of these words, or fits them with and, or, not and parentheses as in -k "
        "of pytest; more than once: or",
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write verify.json there too, after each check")
    chosen = parser.parse_args()
    with _alone(CHECKOUT / "stacks" / f"Pulumi.{chosen.stack}.yaml") as alone:
        if alone:
            return _verify(chosen)
    print(
        f"error: stack {chosen.stack}: another `make verify` runs its checks, and two runs would remove each other's "
        "pods and claims; wait for its end, or end it with Ctrl-C where it runs"
    )
    return 2


@contextmanager
def _alone(stack_file: Path) -> Iterator[bool]:
    """Context of the only run that checks a stack: False where another one does.

    The stack's own file is locked, so that nothing is left when the stack is gone.
    """
    if not stack_file.exists():
        yield True  # there is no such stack, as `LiveStack.find` says
        return
    with stack_file.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a file system without locks, on which nobody is kept out
        yield True


def _verify(chosen: argparse.Namespace) -> int:
    # Of this moment: pytest's log takes the place of sys.stdout below, and progress is for a person.
    console = Console(file=sys.stdout, highlight=False)
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

    try:
        expression = expression_of(chosen.check or ())
    except ValueError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    if left := leftovers.remove(live):
        console.print(f"removed what an earlier run left, since it did not end: {', '.join(left)}", soft_wrap=True)

    results = CHECKOUT / "results" / live.name
    shutil.rmtree(results, ignore_errors=True)  # nothing to remove on the first run
    results.mkdir(parents=True)
    simulated = live.settings.gpu.source == "simulated"
    console.print(
        f"stack {live.name} at {live.kubeconfig}: modules {', '.join(numbers)}, "
        f"{'simulated' if simulated else 'real'} GPUs",
        soft_wrap=True,
    )
    # Before the checks, since one of them may leave an API server that does not answer.
    about = _about(live, numbers)
    started = time.monotonic()

    def keep(recorder: Recorder, complete: bool = False) -> Results:
        """Write what is known so far: of a run that is killed, all checks that ended are there."""
        results_so_far = Results(
            **about,
            simulated=simulated,
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=time.monotonic() - started,
            complete=complete,
            checks=tuple(recorder.checks),
            tables=tuple(recorder.tables),
            plots=tuple(recorder.plots),
            faults=tuple(recorder.faults),
            notRun=recorder.not_run,
        )
        for file in filter(None, (results / "verify.json", chosen.keep)):
            results_so_far.write(file)
        return results_so_far

    # Checks run one at a time and in their order.
    for name in OTHERS_OPTIONS:
        os.environ.pop(name, None)
    recorder = Recorder(console, keep)
    files = [CHECKOUT / "checks" / catalog.MODULES[n].check_file for n in numbers]
    options = ["--stack", live.name, "--results", str(results), f"--junit-xml={results / 'verify.xml'}"]
    only = ["-k", expression] if expression else []
    # pytest's own output goes to a file: the table is what a person reads.
    with open(results / "pytest.log", "w") as log:
        stdout, sys.stdout = sys.stdout, log
        try:
            code = pytest.main([*map(str, files), *options, *only, "-p", "no:cacheprovider"], plugins=[recorder])
        finally:
            sys.stdout = stdout
    final = keep(recorder, complete=code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
    if code == pytest.ExitCode.NO_TESTS_COLLECTED and expression:
        console.print(
            f"[red]error:[/red] --check {escape(' '.join(chosen.check))}: no check of {', '.join(numbers)} has a name "
            "that fits; `make verify` without CHECK prints the names of all",
            soft_wrap=True,
        )
        return 2
    console.print(check_table(final.checks))
    if final.faults:
        console.print(fault_table(final.faults))
    failed = [check for check in recorder.checks if check.result == "failed"]
    not_run = recorder.chosen - len(recorder.checks)
    console.print(
        f"{len(recorder.checks) - len(failed)} of {recorder.chosen} checks passed or were skipped with a reason, "
        f"{len(failed)} failed, {f'{not_run} did not run, ' if not_run else ''}"
        f"in {duration(time.monotonic() - started)}; results in {results.relative_to(CHECKOUT)}",
        soft_wrap=True,
    )
    # Once more, and last: the table above may be hundreds of lines long.
    for check in failed:
        console.print(f"[{STYLES['failed']}]failed[/] {check.module}  {escape(check.title)}: {escape(check.seen)}")
    if failed:
        console.print(f"what was there when they failed: {(results / 'diagnostics').relative_to(CHECKOUT)}")
    elif code:
        log = results / "pytest.log"
        console.print(f"[red]error:[/red] the checks did not run to their end; {log.relative_to(CHECKOUT)} ends with:")
        console.print(escape("\n".join(log.read_text().splitlines()[-LAST_LINES:])), soft_wrap=True)
    return 1 if failed or code else 0


def expression_of(chosen: Sequence[str]) -> str:
    """Expression for pytest's -k of what was given by --check; empty if nothing was.

    Words without an operator are words of names, any of which will do. Raises ValueError with the rule.
    """
    expressions = []
    for text in chosen:
        words = re.findall(r"[()]|[^\s()]+", text)
        if not OPERATORS & set(words):
            words = " or ".join(words).split()
        # As Python reads it, with each word for a name: pytest's grammar is a part of Python's.
        names = ["name" if re.fullmatch(r"[\w-]+", word) and word not in OPERATORS else word for word in words]
        try:
            compile(" ".join(names), "--check", "eval")
        except SyntaxError:
            raise ValueError(
                f"--check {text!r}: must be words of names of checks, such as curve, or words with and, or, not and "
                'parentheses between them; run `make verify CHECK="curve or granted"`'
            ) from None
        expressions.append(f"({' '.join(words)})")
    return " or ".join(expressions)


def check_table(checks: Sequence[Check]) -> rich.table.Table:
    table = rich.table.Table(show_lines=False, header_style="bold", pad_edge=False)
    for column in ("module", "check", "result"):
        table.add_column(column, overflow="fold", ratio=3 if column == "check" else None)
    table.add_column("what was seen", overflow="fold", ratio=5)
    table.add_column("seconds", justify="right", overflow="fold")
    for check in checks:
        result = f"[{STYLES[check.result]}]{check.result}[/]"
        table.add_row(check.module, escape(check.title), result, escape(check.seen), f"{check.seconds:.1f}")
    return table


def fault_table(faults: Sequence[Fault]) -> rich.table.Table:
    table = rich.table.Table(title="faults and recovery", show_lines=False, header_style="bold", pad_edge=False)
    for column in ("fault", "who noticed", "what broke"):
        table.add_column(column, overflow="fold", ratio=1)
    table.add_column("seconds to recover", justify="right", overflow="fold")
    table.add_column("what was lost", overflow="fold", ratio=1)
    for fault in faults:
        words = (escape(fault.fault), escape(fault.noticed), escape(fault.broke))
        table.add_row(*words, f"{fault.seconds:.1f}", escape(fault.lost))
    return table


def _about(live: LiveStack, numbers: Sequence[str]) -> dict[str, Any]:
    """Description of the run: the stack, its versions and GPUs, the modules that are checked and those that are not."""
    runtimes = {node["status"]["nodeInfo"]["containerRuntimeVersion"] for node in live.nodes()}
    return {
        "stack": live.name,
        "cluster": live.settings.cluster_name,
        "kubernetes": json.loads(live.kubectl("version", "--output=json"))["serverVersion"]["gitVersion"],
        "containerRuntimes": tuple(sorted(runtimes)),
        "driverVersion": live.settings.driver.version,
        "substitutions": _substitutions(live.settings),
        "gpus": (*live.outputs.get("gpus", ()), *live.outputs.get("migDevices", ())),
        "modules": tuple(ModuleTitle(number=number, title=catalog.MODULES[number].title) for number in numbers),
        "notChecked": tuple(number for number in live.settings.modules if number not in numbers),
    }


def _substitutions(settings: Settings) -> tuple[str, ...]:
    """Differences from upstream in the driver that set-up made; those of a stack's own image are not known."""
    if settings.driver.version != versions.DRA_DRIVER:
        return ()  # the other version is built as upstream has it
    substitutions = versions.SUBSTITUTIONS[json.loads(SOURCE_FILE.read_text())["way"]]
    image = settings.images.get("dra-driver")
    return tuple(f"{words}, if `make setup` made {image}" if image else words for words in substitutions)


if __name__ == "__main__":
    sys.exit(main())
