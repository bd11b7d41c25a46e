"""Fixture by which benchmarks print figures and keep them in results/bench.json."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from toolchain.paths import CHECKOUT

RESULTS = CHECKOUT / "results" / "bench.json"


@pytest.fixture
def measured() -> Callable[..., None]:
    """Record figures under a name; seconds unless the key says otherwise."""

    def record(name: str, **figures: Any) -> None:
        known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps({**known, name: figures}, indent=2) + "\n")
        print(f"\n{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))

    return record
