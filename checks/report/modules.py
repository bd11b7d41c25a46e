"""Table of the modules in README, from their rows of the catalog: `make tables` writes it, a test holds it to them."""

import sys
from pathlib import Path

from checks.results import ReportError
from settings import catalog
from toolchain.paths import CHECKOUT

HEAD = ["| no. | module | sets up | proves | minutes |", "|---|---|---|---|---:|"]


def table() -> list[str]:
    """Lines of Markdown: a row for each module, with a link to its page."""
    return [
        *HEAD,
        *(
            f"| [{row.number}](docs/learn/{row.name}.md) | {row.title} | {row.sets_up} | {row.proves} | {row.minutes} |"
            for row in catalog.MODULES.values()
        ),
    ]


def write(page: Path) -> None:
    """Replace the page's table of modules. Raises `ReportError` where it has none."""
    lines = page.read_text(encoding="utf-8").split("\n")
    begin = next((number for number, line in enumerate(lines) if line.startswith(HEAD[0][:17])), None)
    if begin is None:
        raise ReportError(f"{page}: has no table of modules; write its first line, {HEAD[0]}")
    end = next(number for number in range(begin, len(lines)) if not lines[number].startswith("|"))
    page.write_text("\n".join([*lines[:begin], *table(), *lines[end:]]), encoding="utf-8")


def main() -> int:
    """Write README's table; returns the exit status."""
    try:
        write(CHECKOUT / "README.md")
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
