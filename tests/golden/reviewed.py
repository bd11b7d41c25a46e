"""Texts that a person has reviewed, and what differs from them now."""

import difflib
from pathlib import Path

import pytest

ACCEPT = "pytest tests/golden --update-golden"


def compare(file: Path, now: str, request: pytest.FixtureRequest) -> None:
    """Fail with the difference to the reviewed text, or write it where the run is for that."""
    if request.config.getoption("--update-golden", default=False):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(now.encode())
    # Bytes, since reading as text would take another line end for the same.
    reviewed = file.read_bytes().decode() if file.exists() else ""
    if reviewed == now:
        return
    texts = (reviewed.split("\n"), now.split("\n"))
    lines = difflib.unified_diff(*texts, f"{file.name} (reviewed)", f"{file.name} (registered now)", lineterm="")
    pytest.fail("\n".join([*lines, f"if this is meant, accept it with: {ACCEPT}"]), pytrace=False)
