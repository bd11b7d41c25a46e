"""Page report.html: the document in one file that needs nothing beside it, and no JavaScript."""

import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from checks.report import plots
from checks.results import title_of
from toolchain.progress import duration

FOLDER = Path(__file__).resolve().parent


def render(document: Mapping[str, Any]) -> str:
    """The page of a document (see `report.document`). The same document gives the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "day": day,
        "duration": duration,
        "heading": heading,
        "title_of": title_of,
        "value": value,
        "words": words,
    }
    failed = [
        {"module": module["number"], "anchor": f"check-{module['number']}-{number}", **check}
        for module in document["modules"]
        for number, check in enumerate(module["checks"], 1)
        if check["result"] == "failed"
    ]
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    template = environment.get_template("page.html.jinja")
    return template.render(document, failed=failed, style=style, line_plot=line_plot, fault_plot=fault_plot)


def words(title: str) -> str:
    """A check's title with its case, which pytest puts into brackets, behind a colon."""
    return re.sub(r"\[(.*)\]$", r": \1", title)


def heading(title: str) -> str:
    """A check's title with a large first letter, unless it begins with the name of a program."""
    text = words(title)
    return text if text.startswith("nvidia-smi") else text[:1].upper() + text[1:]


def day(finished: str) -> str:
    """`25 November 2026, 15:06 UTC`."""
    return datetime.fromisoformat(finished).strftime("%-d %B %Y, %H:%M UTC")


def value(content: str | float) -> str:
    """A number in six digits, or in all of its whole ones; a text as it is."""
    if isinstance(content, float):
        return f"{content:.0f}" if abs(content) >= 1e6 else f"{content:.6g}"
    return str(content)


def line_plot(plot: Mapping[str, Any], key: str) -> Markup:
    """Plot of lines as markup; `plots` has escaped it."""
    return Markup(plots.lines(key, plot["title"], plot["x"], plot["y"], plot["series"]))


def fault_plot(faults: list[Mapping[str, Any]], key: str) -> Markup:
    values = [(fault["fault"], fault["seconds"]) for fault in faults]
    return Markup(plots.bars(key, "Seconds to recover from each fault", "seconds to recover", values))
