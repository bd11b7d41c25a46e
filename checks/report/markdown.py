"""Table of faults in Markdown, and its place between two marker lines of a page in docs/."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from checks.report.page import day
from checks.results import ReportError

BEGIN = "<!-- faults: begin -->"
END = "<!-- faults: end -->"
LINE_LENGTH = 120  # of prose in the pages
COLUMNS = ("fault", "who noticed", "what broke", "seconds to recover", "what was lost")


def write_faults(document: Mapping[str, Any], page: Path, machine: str) -> None:
    """Replace what stands between the markers of `page`. Raises `ReportError`, and then changes nothing."""
    table = fault_table(document, machine)
    try:
        lines = page.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise ReportError(f"{page}: there is no such file; name a page with the lines {BEGIN} and {END}") from None
    begin, end = (_only(line, lines, page) for line in (BEGIN, END))
    if end < begin:
        raise ReportError(f"{page}: {END} stands before {BEGIN}; turn them round, the table goes between them")
    page.write_text("\n".join([*lines[: begin + 1], "", *table, "", *lines[end:]]), encoding="utf-8")


def _only(marker: str, lines: Sequence[str], page: Path) -> int:
    """The number of the line that is the marker."""
    numbers = [number for number, line in enumerate(lines) if line.strip() == marker]
    if len(numbers) != 1:
        raise ReportError(
            f"{page}: {len(numbers)} lines are {marker}, and one has to be; write it where the table of faults "
            f"{'begins' if marker == BEGIN else 'ends'}"
        )
    return numbers[0]


def fault_table(document: Mapping[str, Any], machine: str) -> list[str]:
    """Lines of Markdown: where the figures are from, and a row for each fault. Raises `ReportError`."""
    remedy = f"run `make verify STACK={document['stack']}`"
    if not document["faults"]:
        raise ReportError(f"stack {document['stack']}: the last run has no faults; switch module 09 on and {remedy}")
    failed = sorted({fault["check"] for fault in document["faults"] if fault["result"] != "passed"})
    if failed:
        raise ReportError(
            f"{', '.join(failed)}: failed, and a page shows figures of passed checks only; {remedy} again"
        )
    versions = document["versions"]
    substitutions = f" ({'; '.join(map(cell, versions['substitutions']))})" if versions["substitutions"] else ""
    origin = (
        f"Measured on {day(document['finished'])}, on {'simulated' if document['simulated'] else 'real'} GPUs: "
        f"Kubernetes {versions['kubernetes']}, NVIDIA DRA driver v{versions['draDriver']}{substitutions}; {machine}."
    )
    head = [f"| {' | '.join(COLUMNS)} |", "|---|---|---|---:|---|"]
    return [
        *textwrap.wrap(origin, LINE_LENGTH, break_on_hyphens=False),
        "",
        *head,
        *(_row(fault) for fault in document["faults"]),
    ]


def _row(fault: Mapping[str, Any]) -> str:
    what, noticed, broke, lost = (cell(fault[key]) for key in ("fault", "noticed", "broke", "lost"))
    return f"| {what} | {noticed} | {broke} | {fault['seconds']:.1f} | {lost} |"


def cell(text: str) -> str:
    """One line in which Markdown finds no column and no tag; code in backquotes stays code."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()).replace("|", "\\|"))
    return "".join(piece if piece.startswith("`") else escape(piece, quote=False) for piece in pieces)
