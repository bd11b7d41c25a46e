"""Images, and charts with them, that only some stacks run: set-up makes them once a checkout asked for them."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from toolchain import versions
from toolchain.plan import Plan
from toolchain.steps import StepError

NAMES = versions.OPTIONAL_IMAGES
ALL = "all"


def known(words: Iterable[str]) -> frozenset[str]:
    """Names of NAMES that `words` ask for, each of which may be several. Raises `StepError` for another."""
    asked = {name for word in words for name in word.split()}
    if unknown := sorted(asked - {*NAMES, ALL}):
        raise StepError(f"--with: {', '.join(unknown)} is unknown; it may be {', '.join((*NAMES, ALL))}")
    return frozenset(NAMES if ALL in asked else asked)


def recall(words: Iterable[str], recorded: Path) -> frozenset[str]:
    """Names that are asked for now, or were before in this checkout; the file has them for the next set-up.

    Every command of `make` sets up first: it must not take away what another one asked for.
    """
    before = frozenset(json.loads(recorded.read_text())) if recorded.exists() else frozenset[str]()
    asked = known(words) | (before & set(NAMES))
    if asked != before:
        recorded.parent.mkdir(parents=True, exist_ok=True)
        recorded.write_text(json.dumps(sorted(asked)) + "\n")
    return asked


def without(plan: Plan, asked: frozenset[str]) -> Plan:
    """Plan without the optional images, and their charts, that were not asked for."""
    left_out = set(NAMES) - asked
    charts = {
        version: step
        for version, step in plan.charts.items()
        if versions.of_driver("dra-driver", version) not in left_out
    }
    return replace(plan, images=tuple(step for step in plan.images if step.name not in left_out), charts=charts)
