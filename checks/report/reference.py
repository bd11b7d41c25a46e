"""Generated parts of the modules' pages in docs/reference/modules: `make tables` writes them.

What a module requires and uses comes from its row of the catalog, what its checks prove from their docstrings.
"""

import ast
import re
import sys
from pathlib import Path

from checks.results import ReportError, title_of
from settings import catalog
from settings.catalog import Module
from toolchain.paths import CHECKOUT

PAGES = "docs/reference/modules"
PREFIX = "Fails if "


def page_of(folder: Path, row: Module) -> Path:
    """Path of the module's page of reference."""
    return folder / PAGES / f"{row.name}.md"


def with_pages(folder: Path) -> list[Module]:
    """Modules that have a page of reference."""
    return [row for row in catalog.MODULES.values() if page_of(folder, row).is_file()]


def facts(row: Module) -> list[str]:
    """Lines of Markdown: what the catalog says of the module."""
    gates = ", ".join(f"`{gate.name}`" for gate in row.gates)
    features = ", ".join(f"`{feature.gate}` (on from {feature.since})" for feature in row.api_features)
    values = {
        "requires": ", ".join(row.requires),
        "excludes": ", ".join(row.excludes),
        "GPU": row.gpu.value + ("; looks on at every GPU" if row.looks_at_every_gpu else ""),
        "needs a real GPU": "yes" if row.needs_real_gpu else "",
        "gates of NVIDIA's driver": gates,
        "features of Kubernetes": features,
        "images": ", ".join(f"`{image.name}`" for image in row.images),
        "blocks of the config": ", ".join(f"`{block}`" for block in row.blocks),
        "objects": f"[manifests/{row.name}](../../../manifests/{row.name})",
        "checks": f"[checks/{row.check_file}](../../../checks/{row.check_file})",
    }
    if not (CHECKOUT / "manifests" / row.name).is_dir():
        del values["objects"]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in values.items() if value)]


def proofs(file: Path) -> list[str]:
    """Lines of Markdown: each check of the file with what it fails on, from the first paragraph of its docstring.

    Raises `ReportError` for a check whose docstring does not begin with `Fails if`.
    """
    lines = ["| check | fails if |", "|---|---|"]
    for function in ast.parse(file.read_text(encoding="utf-8")).body:
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("test_"):
            continue
        words = " ".join((ast.get_docstring(function) or "").split("\n\n")[0].split())
        if not words.startswith(PREFIX):
            raise ReportError(f"{file.name}: {function.name}: the docstring of a check begins with `{PREFIX}...`")
        cell = re.sub(r"(?<!\\)\|", r"\|", words.removeprefix(PREFIX).removesuffix("."))
        lines.append(f"| {title_of(function.name)} | {cell} |")
    return lines


def written(text: str, page: str, parts: dict[str, list[str]]) -> str:
    """The page with its generated parts as they should be. Raises `ReportError` where it lacks a marker."""
    for name, lines in parts.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ReportError(f"{page}: has no part between `{begin.strip()}` and `{end}`; write both")
        text = "\n".join([before + begin, *lines, "", end + after])
    return text


def page_text(folder: Path, row: Module) -> str:
    """Text of the module's page as it should be."""
    page = page_of(folder, row)
    parts = {"module": facts(row), "checks": proofs(folder / "checks" / row.check_file)}
    return written(page.read_text(encoding="utf-8"), f"{PAGES}/{page.name}", parts)


def main() -> int:
    """Write the pages of this checkout; returns the exit status."""
    try:
        for row in with_pages(CHECKOUT):
            page_of(CHECKOUT, row).write_text(page_text(CHECKOUT, row), encoding="utf-8")
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
