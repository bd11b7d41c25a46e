"""Marker of the end-to-end tests, the order of their files, and a machine without what ended runs left."""

import fcntl
import tempfile
from pathlib import Path

import pytest

from tests.e2e import leftovers

LONGEST = (
    "test_lifecycle.py",
    "test_phase2.py",
    "test_phase3.py",
    "test_lessons.py",
    "test_existing_cluster.py",
    "test_driver_upgrade.py",
    "test_phase3_dynamic.py",
    "test_fleet.py",
    "test_stock.py",
    "test_older_kubernetes.py",
    "test_distributions.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    # Where files run side by side, the last one to start must not be a long one.
    longest = [Path(__file__).parent / name for name in LONGEST]
    items.sort(key=lambda item: longest.index(item.path) if item.path in longest else len(longest))


@pytest.fixture(scope="session", autouse=True)
def _no_cluster_of_an_ended_run() -> None:
    with open(Path(tempfile.gettempdir()) / "dra-workshop-leftovers.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the runs side by side: one removes, the others find nothing
        if removed := leftovers.remove_those_of_ended_runs():
            print(f"removed what ended runs left: {', '.join(removed)}")
