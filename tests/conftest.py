"""Options of the test suites. Here, since pytest reads options from the outermost folder only."""

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stack", help="check this stack, which is up, instead of one that the tests bring up")
    parser.addoption("--results", help="folder for diagnostics", default=str(CHECKOUT / "results" / "e2e"))
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")
