"""Links of the pages, paths of pages that sources name, and the table of modules: each is true of this checkout."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from checks.report import modules
from checks.results import ReportError
from settings import catalog
from toolchain.paths import CHECKOUT

PAGES = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md")])
# What set-up, stacks and bundles leave in a checkout is no source.
NO_SOURCES = {"results", "dist", "bundle"}
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
# Not the path of an address, such as https://kubernetes.io/docs/concepts.
DOCS_PATH = re.compile(r"(?<![\w./-])docs/[\w./-]*")


def anchors(page: Path) -> set[str]:
    """Anchors that GitHub gives the headings: the n-th one of the same words has the suffix -(n-1)."""
    anchors, used = set(), Counter()
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.add(f"{anchor}-{used[anchor]}" if used[anchor] else anchor)
        used[anchor] += 1
    return anchors


def broken_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(CODE.sub("", FENCED.sub("", page.read_text()))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists():
            yield f"{target}: there is no such file"
        elif anchor and anchor not in anchors(file):
            yield f"{target}: there is no such heading"


def sources() -> Iterator[Path]:
    for top in CHECKOUT.iterdir():
        if top.is_file():
            yield top
        elif top.name not in NO_SOURCES and (top.name == ".ci" or not top.name.startswith(".")):
            yield from (file for file in top.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(CHECKOUT)) for page in PAGES])
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    assert not list(broken_links(page))


def test_every_page_that_a_source_names_is_there():
    missing = []
    for file in sources():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a program or a picture
        named = {name.rstrip(".") for name in DOCS_PATH.findall(text)}
        missing += [f"{file.relative_to(CHECKOUT)} names {name}" for name in named if not (CHECKOUT / name).exists()]
    assert not missing


def test_table_of_modules_in_the_readme_is_the_catalog():
    lines = (CHECKOUT / "README.md").read_text().splitlines()
    written = [line for line in lines if line.startswith(modules.HEAD[0][:17]) or "](docs/learn/" in line]
    assert written == [line for line in modules.table() if not line.startswith("|--")], "run `make tables`"


def test_table_of_modules_replaces_the_one_that_stands_there(tmp_path: Path):
    page = tmp_path / "README.md"
    page.write_text(f"# A\n\n{modules.HEAD[0]}\n|---|\n| old |\n\nafter\n")
    modules.write(page)
    assert page.read_text().split("\n") == ["# A", "", *modules.table(), "", "after", ""]
    page.write_text("# A\n")
    with pytest.raises(ReportError, match="has no table of modules"):
        modules.write(page)


@pytest.mark.parametrize("row", catalog.MODULES.values(), ids=lambda row: row.name)
def test_minutes_of_a_module_follow_the_length_of_its_page(row: catalog.Module):
    page = (CHECKOUT / "docs" / "learn" / f"{row.name}.md").read_text()
    words, commands = len(page.split()), 0 if row.number.startswith("1") else len(re.findall(r"(?m)^\$ ", page))
    assert row.minutes % 5 == 0 and abs(row.minutes - words / 100 - 0.4 * commands) <= 5, (words, commands)


def test_broken_links_are_reported(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n## A b c\n```\n# not one\n[no link](nowhere)\n```\n`[no link](nowhere)` [same](#a-b-c-1)\n"
        "[web](https://example.org/x) [lost](lost.md) [other](page.md#not-one)\n"
    )
    assert list(broken_links(page)) == ["lost.md: there is no such file", "page.md#not-one: there is no such heading"]
