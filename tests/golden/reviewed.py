"""Texts that a person has reviewed, and what differs from them now."""

import difflib
from pathlib import Path

import pytest


def compare(file: Path, now: str, request: pytest.FixtureRequest) -> None:
    """Fail with the difference to the reviewed text, or write it where the run is for that."""
    if request.config.getoption("--update-golden", default=False):
        file.parent.mkdir(exist_ok=True)
        file.write_text(now)
    reviewed = file.read_text() if file.exists() else ""
    lines = difflib.unified_diff(
        reviewed.splitlines(), now.splitlines(), f"{file.name} (reviewed)", f"{file.name} (registered now)", lineterm=""
    )
    if difference := "\n".join(lines):
        pytest.fail(f"{difference}\nif this is meant: pytest tests/golden --update-golden", pytrace=False)
