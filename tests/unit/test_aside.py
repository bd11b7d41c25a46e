"""Deployments that are away during a check: which ones, in which order, and that they come back."""

from typing import Any

import pytest

from checks.aside import set_aside

SMALL, CLIENTS, WAITING = ("shared", "small"), ("mps", "clients"), ("shared", "waiting")


class Cluster:
    """A stack of plain data: Deployments with a ReplicaSet, pods and a claim each, whose pods go and come at once."""

    def __init__(self, devices: dict[tuple[str, str], str], replicas: int = 1) -> None:
        self.devices, self.replicas, self.commands = devices, dict.fromkeys([*devices, WAITING], replicas), []

    def get(self, kind: str, namespace: str, **options: Any) -> list[dict[str, Any]]:
        if "label_selector" in options:
            return [{}] * self.replicas[namespace, options["label_selector"]["app"]]
        return [part for place, device in self.devices.items() for part in self._parts(kind, *place, device)]

    def _parts(self, kind: str, namespace: str, name: str, device: str) -> list[dict[str, Any]]:
        result: dict[str, Any] = {"driver": "gpu.nvidia.com", "pool": "n", "device": device.removeprefix("admin:")}
        if device.startswith("admin:"):
            result["adminAccess"] = True
        parts: dict[str, dict[str, Any]] = {
            "resourceclaims": {
                "status": {"allocation": {"devices": {"results": [result]}}, "reservedFor": [{"uid": f"pod-{name}"}]}
            },
            "pods": {"metadata": {"uid": f"pod-{name}", "ownerReferences": [{"uid": f"set-{name}", "name": name}]}},
            "replicasets": {
                "metadata": {"uid": f"set-{name}", "namespace": namespace, "ownerReferences": [{"name": name}]}
            },
        }
        return [parts[kind.partition(".")[0]]] if self.replicas[namespace, name] else []

    def one(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        return {"spec": {"replicas": self.replicas[namespace, name], "selector": {"matchLabels": {"app": name}}}}

    def kubectl(self, *words: str) -> None:
        _, _, namespace, deployment, replicas = words
        name = deployment.removeprefix("deployment/")
        self.replicas[namespace, name] = int(replicas.removeprefix("--replicas="))
        self.commands.append(f"{name} {self.replicas[namespace, name]}")

    def wait_deployed(self, namespace: str, name: str, seconds: float) -> None:
        assert self.replicas[namespace, name]
        self.commands.append(f"{name} is ready")


def test_who_has_the_device_is_away_and_comes_back_before_the_one_that_waits():
    stack: Any = Cluster({SMALL: "gpu-0", CLIENTS: "gpu-0"}, replicas=2)
    with set_aside(stack, "n", ["gpu-0"]):
        stack.commands.append("evicted")
    assert stack.commands == [
        *("waiting 0", "clients 0", "small 0", "evicted"),
        *("clients 2", "small 2", "clients is ready", "small is ready", "waiting 1"),
    ]


def test_they_come_back_after_a_check_that_failed():
    stack: Any = Cluster({CLIENTS: "gpu-0"})
    with pytest.raises(ZeroDivisionError), set_aside(stack, "n", ["gpu-0"]):
        raise ZeroDivisionError
    assert stack.commands == ["clients 0", "clients 1", "clients is ready"]


@pytest.mark.parametrize("device", ["gpu-1", "admin:gpu-0"])
def test_who_has_another_device_or_only_looks_on_stays(device: str):
    stack: Any = Cluster({CLIENTS: device})
    with set_aside(stack, "n", ["gpu-0"]):
        pass
    assert stack.commands == []
