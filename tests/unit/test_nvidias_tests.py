"""Page that says which check of ours asks what a test of NVIDIA's asks: the checks that it names are there."""

import re
from collections.abc import Iterator

from toolchain.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "reference" / "nvidias-tests.md"
LINK = re.compile(r"\]\(([^)]+\.py)\)|`(test_\w+)`")


def named_checks(text: str) -> Iterator[tuple[str, str]]:
    """(file, function) of each check; a function belongs to the file whose link stands before it in its row."""
    for line in text.splitlines():
        file = ""
        for link, function in LINK.findall(line) if line.startswith("|") else ():
            file = link or file
            if function:
                yield file, function


def test_every_check_that_the_page_names_is_there():
    checks = list(named_checks(PAGE.read_text()))
    assert len(checks) > 30
    for file, function in checks:
        path = (PAGE.parent / file).resolve()
        assert re.search(rf"^def {function}\(", path.read_text(), re.M), f"{file} has no {function}"


def test_row_without_a_check_says_so():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "our check" not in line]
    assert rows
    for row in rows:
        assert any(named_checks(row)) or "no check" in row or row.endswith(("| the same |",)), row


def test_name_that_no_file_has_would_be_noticed():
    assert list(named_checks("| a | [03](x.py) `test_a`, `test_b`; [04](y.py) `test_c` |")) == [
        ("x.py", "test_a"),
        ("x.py", "test_b"),
        ("y.py", "test_c"),
    ]
