"""Options of the test suites. Here, since pytest reads options from the outermost folder only."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stack", help="measure this stack, which is up, instead of one that the benchmark brings up")
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")
