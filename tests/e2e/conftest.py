"""Marker of the end-to-end tests, and the order in which their files start."""

from pathlib import Path

import pytest

LONGEST = ("test_phase2.py", "test_lifecycle.py", "test_existing_cluster.py", "test_driver_upgrade.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    # Where files run side by side, the last one to start must not be a long one.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
