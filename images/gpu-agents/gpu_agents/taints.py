"""Taints of NVIDIA's driver in ResourceSlices, and those that it leaves out; the DeviceTaintRules that outlast them."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

DRIVER = "gpu.nvidia.com"
XID = f"{DRIVER}/xid"
MANAGED_BY = {"app.kubernetes.io/managed-by": "dra-workshop"}
# DeviceTaintRules are named by RFC 1123 subdomains.
MAX_NAME = 253
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass(frozen=True)
class GpuFault:
    """XID of a whole GPU."""

    uuid: str
    xid: int


@dataclass(frozen=True)
class Tainted:
    """A device's taint as the driver publishes it."""

    pool: str
    device: str
    key: str
    value: str
    effect: str

    @property
    def rule_name(self) -> str:
        """`xid-<pool>-<device>` for the key gpu.nvidia.com/xid; with a hash where that is no name."""
        wanted = f"{self.key.removeprefix(f'{DRIVER}/')}-{self.pool}-{self.device}"
        if len(wanted) <= MAX_NAME and _SUBDOMAIN.fullmatch(wanted):
            return wanted
        digest = hashlib.sha256(wanted.encode()).hexdigest()[:8]
        plain = re.sub(r"[^a-z0-9]+", "-", wanted.lower())[: MAX_NAME - len(digest) - 1].strip("-")
        return f"{plain}-{digest}"

    def rule(self, owner: dict[str, Any]) -> dict[str, Any]:
        """The rule that keeps the taint; it goes with its owner."""
        taint = {"key": self.key, "value": self.value, "effect": self.effect}
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceTaintRule",
            "metadata": {"name": self.rule_name, "labels": MANAGED_BY, "ownerReferences": [owner]},
            "spec": {
                "deviceSelector": {"driver": DRIVER, "pool": self.pool, "device": self.device},
                "taint": {name: text for name, text in taint.items() if text},
            },
        }


def lasting(resource_slice: dict[str, Any]) -> Iterator[Tainted]:
    """The driver's taints of a slice that keep claims off.

    Effect None is left out: it keeps nobody off, and a rule with it would take the name of one that does.
    """
    spec = resource_slice["spec"]
    if spec["driver"] != DRIVER:
        return
    for device in spec.get("devices", []):
        for taint in device.get("taints", []):
            if taint["key"].startswith(f"{DRIVER}/") and taint["effect"] != "None":
                yield Tainted(
                    spec["pool"]["name"], device["name"], taint["key"], taint.get("value", ""), taint["effect"]
                )


def of_divided_gpus(resource_slice: dict[str, Any], faults: Iterable[GpuFault]) -> Iterator[Tainted]:
    """Taints of a slice's MIG devices whose GPU has such a fault, in the form that the driver gives a whole GPU's."""
    spec = resource_slice["spec"]
    if spec["driver"] != DRIVER:
        return
    for fault in faults:
        for device in spec.get("devices", []):
            if device.get("attributes", {}).get("parentUUID", {}).get("string") == fault.uuid:
                yield Tainted(spec["pool"]["name"], device["name"], XID, str(fault.xid), "NoSchedule")


def owner_reference(cluster_role: dict[str, Any]) -> dict[str, Any]:
    """What makes an object go with the ClusterRole."""
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "name": cluster_role["metadata"]["name"],
        "uid": cluster_role["metadata"]["uid"],
    }
