"""What a killed end-to-end run left goes with the next run, and nothing else does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from machine.kind import OWNER_LABEL
from tests.e2e import leftovers

OF_A_RUN = "import pathlib; from tests.e2e import leftovers; leftovers.mark(pathlib.Path('{folder}'))"


def networks() -> set[str]:
    listed = ["docker", "network", "ls", "--format", "{{.Name}}"]
    return set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Networks by their owner's kind: a run that has ended, this run, and a user."""
    subprocess.run([sys.executable, "-c", OF_A_RUN.format(folder=tmp_path)], check=True)
    owners = {"ended": (tmp_path / "owner").read_text().strip()}
    leftovers.mark(tmp_path)
    owners |= {"alive": (tmp_path / "owner").read_text().strip(), "user": "12345678-2c6f-4c4d-9df5-0a2c2b9c0b9e"}
    made = {kind: f"kind-leftovers-{kind}" for kind in owners}
    try:
        for kind, network in made.items():
            create = ["docker", "network", "create", "--label", f"{OWNER_LABEL}={owners[kind]}", network]
            subprocess.run(create, check=True, capture_output=True)
        yield made
    finally:
        for network in networks() & set(made.values()):
            subprocess.run(["docker", "network", "rm", network], check=True, capture_output=True)


def test_only_clusters_of_runs_that_have_ended_are_removed(owned: dict[str, str]) -> None:
    assert "leftovers-ended" in leftovers.remove_those_of_ended_runs()
    assert networks() & set(owned.values()) == {owned["alive"], owned["user"]}
