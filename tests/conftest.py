"""Options of the test suites, and the shell that they run in. Here, since pytest reads the outermost folder's only."""

import os

import pytest

# Tests compare what is printed in a plain shell, and let other users read what they make.
for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
os.umask(0o022)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stack", help="measure this stack, which is up, instead of one that the benchmark brings up")
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")
