"""Tables of the modules in the pages, from their rows of the catalog: `make tables` writes them."""

import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.results import ReportError
from settings import catalog
from settings.catalog import Module
from toolchain.paths import CHECKOUT

NUMBER = re.compile(r"\| \[([\d.]+)\]\(")


@dataclass(frozen=True)
class Table:
    """A page's table of modules: its heading, and the cells of a module after the one with its number.

    `cells` also gets those that stand in the page for that module, none where it is new there: a translation is kept.
    """

    page: str
    columns: tuple[str, ...]
    cells: Callable[[Module, Sequence[str]], Sequence[str]]

    @property
    def head(self) -> str:
        """First line of the table, by which it is found."""
        return f"| {' | '.join(self.columns)} |"

    def lines(self, stands: Mapping[str, Sequence[str]]) -> list[str]:
        """Lines of Markdown: a row for each module, with a link to its page, and the minutes at the end."""
        learn = os.path.relpath("docs/learn", Path(self.page).parent)
        return [
            self.head,
            f"|{'---|' * (len(self.columns) - 1)}---:|",
            *(
                f"| [{row.number}]({learn}/{row.name}.md) | "
                f"{' | '.join(self.cells(row, stands.get(row.number, ())))} | {row.minutes} |"
                for row in catalog.MODULES.values()
            ),
        ]

    def written(self, text: str) -> str:
        """The page with the table as it should be. Raises `ReportError` where the page has none."""
        lines = text.split("\n")
        begin = next((number for number, line in enumerate(lines) if line == self.head), None)
        if begin is None:
            raise ReportError(f"{self.page}: has no table of modules; write its first line, {self.head}")
        end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))
        stands = {
            found[1]: [cell.strip() for cell in line.split("|")[2:-2]]
            for line in lines[begin:end]
            if (found := NUMBER.match(line))
        }
        return "\n".join([*lines[:begin], *self.lines(stands), *lines[end:]])


TABLES = (
    Table("README.md", ("no.", "module", "you see", "minutes"), lambda row, _: (row.title, row.proves)),
    Table(
        "README.zh-TW.md",
        ("編號", "單元", "你會看到", "分鐘"),
        lambda row, stands: tuple(stands) or (row.title, row.proves),
    ),
    Table(
        "docs/reference/modules.md",
        ("no.", "module", "needs", "sets up", "proves", "minutes"),
        lambda row, _: (row.title, ", ".join(row.requires) or "nothing", row.sets_up, row.proves),
    ),
)


def write(folder: Path) -> None:
    """Write the tables of the pages below `folder`. Raises `ReportError` where a page has none."""
    for table in TABLES:
        page = folder / table.page
        page.write_text(table.written(page.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> int:
    """Write the tables of this checkout's pages; returns the exit status."""
    try:
        write(CHECKOUT)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
