"""Effects of one changed setting: no more resources than it has to touch, and those that were reviewed."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.golden.differences import Change, changes, render
from tests.golden.reviewed import compare
from tests.golden.stacks import FILES as FILES_OF_STACKS
from tests.golden.stacks import FOLDER, load, record

FILES = FOLDER / "diffs"
CLIENTS, LIMITED, CLAIM = "shared-gpu-clients", "limited-client-limited", "shared-gpu-shared-gpu-claim"
# The update waits for the new pods itself.
ROLLOUTS = dict.fromkeys((f"{CLIENTS}-rollout", f"{LIMITED}-rollout"), "updated")
DEFAULT_CLASS, SMALL_CLASS = "mps-policy-class-default", "mps-policy-class-small"
STACK = "dra-workshop-phase1"
GUARD = "destroy-guard-look"  # depends on everything
UPDATED, REPLACED = "updated", "replaced, the old one goes first"
# A claim that pods use cannot go, so they go first.
CLAIM_AND_CLIENTS = {CLAIM: REPLACED, **dict.fromkeys((CLIENTS, LIMITED), f"replaced with {CLAIM}")}
# A daemon keeps running: its configuration is for the next one, the command sets the limits in this one.
DAEMONS_LIMITS = {"mps-daemon": "state only", "mps-daemon-config": UPDATED, "mps-daemon-limits": UPDATED}
# The block `mps` of phase1 before and after, and what becomes of which resource.
MPS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = {
    "daemon-percentage": (
        {},
        {"activeThreadPercentage": 30},
        {**DAEMONS_LIMITS, **ROLLOUTS, **dict.fromkeys((CLIENTS, LIMITED, DEFAULT_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-memory": (
        {},
        {"pinnedDeviceMemoryLimit": "4Gi"},
        {**DAEMONS_LIMITS, **ROLLOUTS, **dict.fromkeys((CLIENTS, LIMITED, DEFAULT_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-class": (
        {},
        {"classes": {"small": {"activeThreadPercentage": 10, "pinnedDeviceMemoryLimit": "512Mi"}}},
        {**dict.fromkeys((LIMITED, f"{LIMITED}-rollout", SMALL_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-new-class": (
        {},
        {"classes": {"small": {}, "tiny": {"activeThreadPercentage": 7}}},
        {
            **dict.fromkeys(("mps-policy", LIMITED, GUARD), "state only"),
            STACK: "outputs",
            **{f"mps-policy-class-tiny{part}": "created" for part in ("", "-binding", "-claims-binding")},
            # Nobody without a known class may mount the pipe.
            "mps-policy-mps-pipe-binding": UPDATED,
        },
    ),
    "claim-percentage": (
        {"mode": "claim"},
        {"mode": "claim", "activeThreadPercentage": 30},
        {**CLAIM_AND_CLIENTS, **ROLLOUTS, DEFAULT_CLASS: UPDATED, STACK: "outputs"},
    ),
    "claim-class": (
        {"mode": "claim"},
        {"mode": "claim", "classes": {"small": {"activeThreadPercentage": 10}}},
        {**dict.fromkeys((LIMITED, f"{LIMITED}-rollout", SMALL_CLASS), UPDATED), STACK: "outputs"},
    ),
    "daemon-to-claim": (
        {},
        {"mode": "claim"},
        {
            **{f"mps-daemon{part}": "deleted" for part in ("", "-namespace", "-config", "-gpus-claim", "-daemonset")},
            "mps-daemon-limits": "deleted",
            **{**CLAIM_AND_CLIENTS, **ROLLOUTS, STACK: "outputs", GUARD: "state only"},
            **dict.fromkeys(("dra-driver-release", "shared-gpu-mps", DEFAULT_CLASS, SMALL_CLASS), UPDATED),
            # The daemon's image is no longer one of those that the nodes need.
            "cluster-images": UPDATED,
        },
    ),
}
RUNNING = ("shared-gpus-small", "shared-gpus-medium", "shared-gpus-large")
WAITING = "shared-gpus-waiting"
PHASE2 = "dra-workshop-phase2"
# What a daemon gives at most is the largest request; its pods keep running.
DAEMONS_MOST = dict.fromkeys(("mps-daemon-config", "mps-daemon-limits"), UPDATED)


def anew(*pods: str) -> dict[str, str]:
    """A claim and its pods for each name: the pods go first. Who waits goes too, so that it takes nothing meanwhile."""
    claims = {f"{name}-claim": REPLACED for name in pods}
    return {
        WAITING: f"replaced with {min(claims)}",
        **claims,
        **{name: f"replaced with {name}-claim" for name in pods if name != WAITING},
    }


# Blocks of phase2 after the change, and what becomes of which resource.
CAPACITY: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "capacity-small": (
        {"consumableCapacity": {"requests": {"small": "6Gi"}}},
        {**anew("shared-gpus-small"), PHASE2: "outputs"},
    ),
    "capacity-large": (
        {"consumableCapacity": {"requests": {"large": "30Gi", "waiting": "30Gi"}}},
        {**anew("shared-gpus-large", WAITING), **DAEMONS_MOST, PHASE2: "outputs"},
    ),
    "capacity-unenforced": (
        {"consumableCapacity": {"enforcement": "none"}},
        {
            # The pods leave MPS, and their claims are the same.
            **dict.fromkeys((*RUNNING, WAITING, "shared-gpus-shared"), UPDATED),
            **{f"{name}-claim": "state only" for name in (*RUNNING, WAITING)},
            # Nobody gets more than module 04's limits any more, so its clients need not ask for them.
            **DAEMONS_MOST,
            **dict.fromkeys((CLIENTS, f"{CLIENTS}-rollout"), UPDATED),
            # And so they may be made before the daemon has its limits, for which they wait then.
            **dict.fromkeys(("shared-gpu-mps", CLAIM), "state only"),
            PHASE2: "outputs",
        },
    ),
    "capacity-unlimited": (
        {"driver": {"consumableShares": "unlimited"}},
        {"dra-driver-release": UPDATED, PHASE2: "outputs"},
    ),
    "capacity-mps-memory": (
        {"mps": {"pinnedDeviceMemoryLimit": "4Gi"}},
        {
            # What module 04's clients no longer need is divided among those of module 07.
            **anew(*RUNNING, WAITING),
            **{CLAIM: REPLACED, CLIENTS: f"replaced with {CLAIM}", f"{CLIENTS}-rollout": UPDATED},
            WAITING: f"replaced with {CLAIM}",
            **{"mps-daemon": "state only", **DAEMONS_MOST},
            PHASE2: "outputs",
        },
    ),
}
PHASE3 = yaml.safe_load(FILES_OF_STACKS["phase3"].read_text())["config"]["dra-workshop:gpu"]
FIRST_NODE, SECOND_NODE = PHASE3["nodes"]
# GPUs of phase3 after the change, and what becomes of which resource.
MIG: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    # Of the first node's first GPU: the tenant has one of them.
    "mig-layout": (
        {"nodes": [{**FIRST_NODE, "mig": [["2g.10gb@4", "4g.20gb@0"], ["7g.40gb@0"]]}, SECOND_NODE]},
        {
            "simulated-gpus": "state only",
            **dict.fromkeys(("simulated-gpus-config", "simulated-gpus-daemonset"), UPDATED),
            **dict.fromkeys(("dra-driver-release", "dra-driver-gpus"), UPDATED),
            # Of the MIG device beside it: it stays, but the driver of a node starts again.
            "mig-clients-clients": UPDATED,
            **dict.fromkeys(("mig-clients-clients-rollout", "mig-tenant-tenant-rollout"), UPDATED),
            "mig-tenant-one-slice-claim": REPLACED,
            "mig-tenant-tenant": "replaced with mig-tenant-one-slice-claim",
            "dra-workshop-phase3": "outputs",
        },
    ),
}
# Stack, its blocks before and after, and what becomes of which resource.
CHANGED: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, str]]] = {
    **{name: ("phase1", {"mps": before}, {"mps": after}, expected) for name, (before, after, expected) in MPS.items()},
    **{name: ("phase2", {}, after, expected) for name, (after, expected) in CAPACITY.items()},
    **{name: ("phase3", {}, {"gpu": gpu}, expected) for name, (gpu, expected) in MIG.items()},
}


@cache
def found(name: str) -> list[Change]:
    stack, before, after, _ = CHANGED[name]
    return changes(record(load(stack, **before)), record(load(stack, **after)))


@pytest.fixture(params=CHANGED)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_changed_setting_changes_exactly_what_depends_on_it(name: str):
    assert {change.name: change.what for change in found(name)} == CHANGED[name][3]


def test_fields_that_change_are_the_reviewed_ones(name: str, request: pytest.FixtureRequest):
    compare(FILES / f"{name}.txt", render(found(name)), request)


def test_no_change_of_sharing_touches_the_exclusive_gpu_or_the_cluster(name: str):
    if name in MIG:
        return  # it is the GPUs that change
    # But for what is loaded into its nodes: by claim no image of a daemon is.
    touched = {change.name for change in found(name)} - {"cluster-images"}
    assert not {part for part in touched if part.startswith(("exclusive-gpu", "cluster", "simulated-gpus"))}


def test_no_change_of_a_request_touches_those_who_look_on():
    for name in CAPACITY:
        touched = {change.name for change in found(name)}
        assert not {part for part in touched if part.startswith(("gpu-exporter", "admin-access", "taint-keeper"))}


def test_changed_limits_of_the_daemon_restart_no_daemon():
    for name in ("daemon-percentage", "daemon-memory", "daemon-class", *CAPACITY):
        assert "mps-daemon-daemonset" not in {change.name for change in found(name)}


@pytest.mark.parametrize("stack", ["phase1", "phase2", "phase3"])
def test_the_same_settings_change_nothing(stack: str):
    assert changes(record(load(stack)), record(load(stack))) == []


def test_every_reviewed_change_is_made_here():
    assert sorted(file.stem for file in Path(FILES).glob("*.txt")) == sorted(CHANGED)
