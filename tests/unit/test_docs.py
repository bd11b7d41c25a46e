"""Links of the pages, paths of pages that sources name, tables of modules, objects: each is true of this checkout."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.report import modules
from checks.results import ReportError
from settings import Settings, SettingsError, catalog
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


@pytest.mark.parametrize("table", modules.TABLES, ids=lambda table: table.page)
def test_table_of_modules_is_the_catalog(table: modules.Table):
    text = (CHECKOUT / table.page).read_text(encoding="utf-8")
    assert table.written(text) == text, "run `make tables`"
    rows = [cells for row in catalog.MODULES.values() for cells in [table.cells(row, ())]]
    assert all(len(cells) == len(table.columns) - 2 and all(cells) for cells in rows)


def test_table_of_modules_replaces_the_one_that_stands_there(tmp_path: Path):
    row, *others = catalog.MODULES.values()
    for table in modules.TABLES:
        page = tmp_path / table.page
        page.parent.mkdir(parents=True, exist_ok=True)
        old = f"| [{row.number}](old.md) |{' old |' * (len(table.columns) - 2)} 999 |"
        page.write_text(f"# A\n\n{table.head}\n|---|\n{old}\n| [99](gone.md) | gone |\n\nafter\n")
    modules.write(tmp_path)
    for table in modules.TABLES:
        # A translation is kept, and a module that is new there has its English words until somebody translates them.
        stands = {row.number: ["old"] * (len(table.columns) - 2)} if table.page.endswith(".zh-TW.md") else {}
        lines = (tmp_path / table.page).read_text().split("\n")
        assert lines == ["# A", "", *table.lines(stands), "", "after", ""]
        assert ("old" in lines[4]) == bool(stands) and "999" not in lines[4]
        assert others[0].title in lines[5]
    (tmp_path / modules.TABLES[0].page).write_text("# A\n")
    with pytest.raises(ReportError, match="has no table of modules"):
        modules.write(tmp_path)


def test_readme_is_a_page_that_one_reads_in_a_sitting():
    for name in ("README.md", "README.zh-TW.md"):
        assert len((CHECKOUT / name).read_text(encoding="utf-8").splitlines()) <= 100, name


# The lessons and what programs wrote are their authors' to wrap; tables and addresses cannot be.
PROSE = [page for page in PAGES if not re.match(r"docs/(learn/\d|measured/results)", str(page.relative_to(CHECKOUT)))]


@pytest.mark.parametrize("page", PROSE, ids=[str(page.relative_to(CHECKOUT)) for page in PROSE])
def test_lines_of_prose_can_be_read_in_a_difference(page: Path):
    lines = re.sub(r"(?ms)^ *```.*?^ *```", "", page.read_text(encoding="utf-8")).splitlines()
    assert not [line for line in lines if len(line) > 130 and not line.startswith("|") and " " in line[4:130]]


def test_objects_of_the_concepts_are_all_there_with_who_writes_them_and_what_they_look_like():
    text = (CHECKOUT / "docs/learn/concepts.md").read_text(encoding="utf-8")
    objects = re.split(r"^##+ ", text, flags=re.MULTILINE)
    described = {part.split("\n", 1)[0]: part for part in objects if "**Who writes it:**" in part.replace("\n", " ")}
    kinds = ["DeviceClass", "ResourceSlice", "ResourceClaim", "ResourceClaimTemplate", "CDI file", "DeviceTaintRule"]
    assert list(described) == kinds
    shown = {}
    for name, part in described.items():
        (block,) = re.findall(r"```yaml\n(.*?)```", part, re.DOTALL)
        assert 5 <= len(block.splitlines()) <= 6, name
        shown[name] = yaml.safe_load(block)
        assert shown[name].get("kind", name) in (name, "k8s.gpu.nvidia.com/claim")
    holder = yaml.safe_load_all((CHECKOUT / "manifests/03-workloads/holder.yaml").read_text())
    template = next(item for item in holder if item["kind"] == "ResourceClaimTemplate")
    assert shown["ResourceClaimTemplate"] == {key: template[key] for key in ("kind", "metadata", "spec")}


@pytest.mark.parametrize("row", catalog.MODULES.values(), ids=lambda row: row.name)
def test_minutes_of_a_module_follow_the_length_of_its_page(row: catalog.Module):
    page = (CHECKOUT / "docs" / "learn" / f"{row.name}.md").read_text()
    words, commands = len(page.split()), len(re.findall(r"(?m)^\$ ", page))
    assert row.minutes % 5 == 0 and abs(row.minutes - words / 100 - 0.4 * commands) <= 5, (words, commands)


def test_broken_links_are_reported(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n## A b c\n```\n# not one\n[no link](nowhere)\n```\n`[no link](nowhere)` [same](#a-b-c-1)\n"
        "[web](https://example.org/x) [lost](lost.md) [other](page.md#not-one)\n"
    )
    assert list(broken_links(page)) == ["lost.md: there is no such file", "page.md#not-one: there is no such heading"]


# What a page may leave out around its example: other modules of the stack, and the reader's own kubeconfig.
LEFT_OUT = re.compile(
    r"is set, but (the|no) module that uses it is o|is for whole GPUs, and gpu\.mig|is not a file; name the"
)


def configs(page: Path) -> Iterator[dict[str, Any]]:
    """Configs in the YAML of a page; a block that is no YAML fails the test."""
    for block in re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text(encoding="utf-8")):
        for item in yaml.safe_load_all(block):
            values = item.get("config", item) if isinstance(item, dict) else {}
            if any(str(key).startswith("dra-workshop:") for key in values):
                yield {key.removeprefix("dra-workshop:"): value for key, value in values.items()}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(CHECKOUT)) for page in PAGES])
def test_configs_that_a_page_shows_are_configs(page: Path):
    for config in configs(page):
        problems: list[str] = []
        try:
            Settings.parse(config, "docs")
        except SettingsError as error:
            problems = [line for line in str(error).splitlines()[1:] if not LEFT_OUT.search(line)]
        assert not problems, config
