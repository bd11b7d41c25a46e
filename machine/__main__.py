"""Program of `make doctor`: every prerequisite of a stack as a table, met or not, before and after set-up.

    make doctor                of the stack phase1
    make doctor STACK=phase2   of another one

Looks only. Ends with 0 if everything is met, 1 if something is not, 2 if the stack's configuration cannot be used.
"""

import argparse
import sys
from collections.abc import Sequence

import rich.table
from rich.console import Console
from rich.markup import escape

from machine import prerequisites
from machine.findings import Finding
from machine.images import ImagesMissing, images_of
from settings import Settings, SettingsError

PLAIN_WIDTH = 160  # of a log, which has no width of its own


def main(words: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="make doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stack", default="phase1", help="the stack whose prerequisites are looked at")
    chosen = parser.parse_args(words)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    try:
        settings = Settings.of_stack(chosen.stack)
    except FileNotFoundError as error:
        console.print(f"[red]error:[/red] stack {chosen.stack}: {error.filename} is missing; write it", soft_wrap=True)
        return 2
    except SettingsError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        return 2
    try:
        images, missing = images_of(settings), []
    except ImagesMissing as error:
        words_of_error, _, remedy = str(error).removeprefix("images: ").rpartition("; ")
        images, missing = None, [Finding("images", words_of_error, False, remedy)]
    findings = [*missing, *prerequisites.look(settings, images)]
    console.print(table(findings))
    unmet = sum(not finding.ok for finding in findings)
    console.print(f"stack {chosen.stack}: {len(findings) - unmet} of {len(findings)} prerequisites are met")
    return 1 if unmet else 0


def table(findings: Sequence[Finding]) -> rich.table.Table:
    """Table of findings: what was looked at, the result, what was observed, and the remedy where one is due."""
    columns = rich.table.Table(header_style="bold", pad_edge=False)
    for name, ratio in (("prerequisite", 2), ("result", None), ("what was seen", 5), ("what to do", 5)):
        columns.add_column(name, overflow="fold", ratio=ratio)
    for finding in findings:
        result = "[yellow]warning[/]" if finding.warning else "[green]met[/]"
        if not finding.ok:
            result = "[bold red]not met[/]"
        remedy = "" if finding.ok and not finding.warning else finding.remedy
        columns.add_row(escape(finding.name), result, escape(finding.observed), escape(remedy))
    return columns


if __name__ == "__main__":
    sys.exit(main())
