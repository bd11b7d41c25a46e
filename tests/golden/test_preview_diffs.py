"""What one changed setting changes: no more than it has to, and as it was reviewed."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.golden.differences import Change, changes, render
from tests.golden.reviewed import compare
from tests.golden.stacks import FOLDER, load, record

FILES = FOLDER / "diffs"
CLIENTS, LIMITED, CLAIM = "shared-gpu-clients", "limited-client-limited", "shared-gpu-shared-gpu-claim"
DEFAULT_CLASS, SMALL_CLASS = "mps-policy-class-default", "mps-policy-class-small"
STACK = "dra-workshop-phase1"
UPDATED, REPLACED = "updated", "replaced, the old one goes first"
# A claim that pods use cannot go, so they go first.
CLAIM_AND_CLIENTS = {CLAIM: REPLACED, **dict.fromkeys((CLIENTS, LIMITED), f"replaced with {CLAIM}")}
# A daemon keeps running: its configuration is for the next one, the command sets the limits in this one.
DAEMONS_LIMITS = {"mps-daemon": "state only", "mps-daemon-config": UPDATED, "mps-daemon-limits": UPDATED}
# The setting before and after, and what becomes of which resource.
CHANGED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "daemon-percentage": (
        {},
        {"activeThreadPercentage": 30},
        {**DAEMONS_LIMITS, **dict.fromkeys((CLIENTS, LIMITED, DEFAULT_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-memory": (
        {},
        {"pinnedDeviceMemoryLimit": "4Gi"},
        {**DAEMONS_LIMITS, **dict.fromkeys((CLIENTS, LIMITED, DEFAULT_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-class": (
        {},
        {"classes": {"small": {"activeThreadPercentage": 10, "pinnedDeviceMemoryLimit": "512Mi"}}},
        {**dict.fromkeys((LIMITED, SMALL_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-new-class": (
        {},
        {"classes": {"small": {}, "tiny": {"activeThreadPercentage": 7}}},
        {
            **dict.fromkeys(("mps-policy", LIMITED), "state only"),
            STACK: "outputs",
            **dict.fromkeys(("mps-policy-class-tiny", "mps-policy-class-tiny-binding"), "created"),
            # Nobody without a known class may mount the pipe.
            "mps-policy-mps-pipe-binding": UPDATED,
        },
    ),
    "claim-percentage": (
        {"mode": "claim"},
        {"mode": "claim", "activeThreadPercentage": 30},
        {**CLAIM_AND_CLIENTS, DEFAULT_CLASS: UPDATED, STACK: "outputs"},
    ),
    "claim-class": (
        {"mode": "claim"},
        {"mode": "claim", "classes": {"small": {"activeThreadPercentage": 10}}},
        {**dict.fromkeys((LIMITED, SMALL_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-to-claim": (
        {},
        {"mode": "claim"},
        {
            **{f"mps-daemon{part}": "deleted" for part in ("", "-namespace", "-config", "-gpus-claim", "-daemonset")},
            **{"mps-daemon-limits": "deleted", **CLAIM_AND_CLIENTS, STACK: "outputs"},
            **dict.fromkeys(("dra-driver-release", "shared-gpu-mps", DEFAULT_CLASS, SMALL_CLASS), UPDATED),
        },
    ),
}


@cache
def found(name: str) -> list[Change]:
    before, after, _ = CHANGED[name]
    return changes(record(load("phase1", mps=before)), record(load("phase1", mps=after)))


@pytest.fixture(params=CHANGED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_changed_setting_changes_exactly_what_depends_on_it(name: str):
    assert {change.name: change.what for change in found(name)} == CHANGED[name][2]


def test_fields_that_change_are_the_reviewed_ones(name: str, request: pytest.FixtureRequest):
    compare(FILES / f"{name}.txt", render(found(name)), request)


def test_no_change_of_mps_touches_the_exclusive_gpu_or_the_cluster(name: str):
    touched = {change.name for change in found(name)}
    assert not {part for part in touched if part.startswith(("exclusive-gpu", "cluster", "simulated-gpus"))}


def test_changed_limits_of_the_daemon_restart_no_daemon():
    for name in ("daemon-percentage", "daemon-memory", "daemon-class"):
        assert "mps-daemon-daemonset" not in {change.name for change in found(name)}


def test_the_same_settings_change_nothing():
    assert changes(record(load("phase1")), record(load("phase1"))) == []


def test_every_reviewed_change_is_made_here():
    assert sorted(file.stem for file in Path(FILES).glob("*.txt")) == sorted(CHANGED)
