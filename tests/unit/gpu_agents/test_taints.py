"""Which taints last, and the rules that keep them."""

import re

import pytest
from gpu_agents.taints import MAX_NAME, Tainted, lasting, owner_reference

XID = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule", "timeAdded": "2026-01-01T00:00:00Z"}


def resource_slice(*devices: dict, driver: str = "gpu.nvidia.com", pool: str = "node") -> dict:
    return {"spec": {"driver": driver, "pool": {"name": pool}, "devices": list(devices)}}


def test_a_taint_of_the_driver_lasts_with_its_key_value_and_effect():
    found = lasting(resource_slice({"name": "gpu-0"}, {"name": "gpu-1", "taints": [XID]}))
    assert list(found) == [Tainted("node", "gpu-1", "gpu.nvidia.com/xid", "79", "NoSchedule")]


@pytest.mark.parametrize(
    "found",
    [
        resource_slice({"name": "gpu-0", "taints": [XID | {"key": "example.com/xid"}]}),
        resource_slice({"name": "gpu-0", "taints": [XID]}, driver="compute-domain.nvidia.com"),
        # A later one of the same key may have an effect, and must find the name free.
        resource_slice({"name": "gpu-0", "taints": [XID | {"effect": "None"}]}),
        {"spec": {"driver": "gpu.nvidia.com", "pool": {"name": "node"}}},
    ],
    ids=["another key", "another driver", "no effect", "no devices"],
)
def test_what_is_not_the_drivers_or_keeps_nobody_off_does_not_last(found: dict):
    assert list(lasting(found)) == []


def test_a_rule_selects_the_one_device_and_goes_with_its_owner():
    owner = owner_reference({"metadata": {"name": "taint-keeper", "uid": "u1"}})
    assert Tainted("node", "gpu-1", "gpu.nvidia.com/xid", "79", "NoSchedule").rule(owner) == {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceTaintRule",
        "metadata": {
            "name": "xid-node-gpu-1",
            "labels": {"app.kubernetes.io/managed-by": "dra-workshop"},
            "ownerReferences": [
                {
                    "apiVersion": "rbac.authorization.k8s.io/v1",
                    "kind": "ClusterRole",
                    "name": "taint-keeper",
                    "uid": "u1",
                }
            ],
        },
        "spec": {
            "deviceSelector": {"driver": "gpu.nvidia.com", "pool": "node", "device": "gpu-1"},
            "taint": {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"},
        },
    }


def test_a_taint_without_a_value_makes_a_rule_without_one():
    rule = Tainted("node", "gpu-1", "gpu.nvidia.com/gpu-lost", "", "NoSchedule").rule({})
    assert rule["metadata"]["name"] == "gpu-lost-node-gpu-1"
    assert rule["spec"]["taint"] == {"key": "gpu.nvidia.com/gpu-lost", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("pool", "key"),
    [
        ("a/b", "xid"),
        ("n" * 260, "xid"),
        ("n" * 239 + "-" + "m" * 20, "xid"),
        ("node", "Gpu_Lost"),
        ("node.", "xid"),
        ("n..m", "x"),
    ],
)
def test_a_name_that_kubernetes_refuses_is_made_one_that_it_takes(pool: str, key: str):
    name = Tainted(pool, "gpu-0", f"gpu.nvidia.com/{key}", "", "NoSchedule").rule_name
    assert len(name) <= MAX_NAME
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?-[0-9a-f]{8}", name)


def test_names_that_are_alike_when_they_are_cleaned_stay_apart():
    names = {Tainted(pool, "gpu-0", "gpu.nvidia.com/xid", "", "NoSchedule").rule_name for pool in ("a/b", "a-b", "A/b")}
    assert len(names) == 3


def test_a_long_pools_devices_stay_apart():
    names = {Tainted("n" * 250, f"gpu-{i}", "gpu.nvidia.com/xid", "", "NoSchedule").rule_name for i in range(3)}
    assert len(names) == 3
