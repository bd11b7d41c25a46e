"""Options of the test suites, and the shell that they run in. Here, since pytest reads the outermost folder's only."""

import os

import pytest
from xdist.remote import Producer

from tests.side_by_side import FilesSideBySide, has_clusters

# Tests compare what is printed in a plain shell, and let other users read what they make.
for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES"):
    os.environ.pop(name, None)
os.umask(0o022)
# What needs no cluster must not take the processor from what waits for one, whose bounds are in seconds.
if not has_clusters(os.environ.get("PYTEST_XDIST_WORKER", ""), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))):
    os.nice(5)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--stack", help="measure this stack, which is up, instead of one that the benchmark brings up")
    parser.addoption("--update-golden", action="store_true", help="write the golden files instead of comparing")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FilesSideBySide | None:
    return FilesSideBySide(config, log) if config.getvalue("dist") == "loadfile" else None
