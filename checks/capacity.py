"""Claims that share GPUs by memory in a stack that is up: memory of each, and pods of one check each."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kr8s

from checks.live import RESTRICTED, LiveStack, Playground
from checks.mps import MEMORY, Client, runs_once
from components.consumable_capacity import LABEL
from components.mps_clients import CLASS_LABEL
from gpus.mps import CAPACITY_CLASS
from gpus.quantity import MIB, quantity_bytes

NAMESPACE = "shared"
NAMES = ("small", "medium", "large")
WAITING = "waiting"


def mib(quantity: str) -> float:
    """A quantity as the API writes it, in MiB."""
    size = quantity_bytes(quantity)
    assert size is not None, f"{quantity} is no quantity"
    return float(size / MIB)


def requests(stack: LiveStack) -> dict[str, float]:
    """MiB that each of the stack's claims requests, by the stack's outputs."""
    return {name: mib(text) for name, text in stack.outputs["consumableCapacity"]["requests"].items()}


def most_memory_mib(stack: LiveStack) -> int:
    """MiB that the MPS daemon gives a client at most, and module 05's policy lets it ask for."""
    return int(max(stack.settings.mps.memory_mib, *requests(stack).values()))


def results(stack: LiveStack, name: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
    """Devices that the scheduler allocated to a claim; none while it waits."""
    claim = stack.one("resourceclaims.v1.resource.k8s.io", name, namespace)
    return claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])


def consumed_mib(stack: LiveStack) -> dict[tuple[str, str], float]:
    """(node, device) -> MiB that all claims together have of it; an admin claim only looks on."""
    mib_by_device: dict[tuple[str, str], float] = {}
    for claim in stack.get("resourceclaims.v1.resource.k8s.io", namespace=kr8s.ALL):
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", []):
            if not result.get("adminAccess") and "consumedCapacity" in result:
                device = (result["pool"], result["device"])
                mib_by_device[device] = mib_by_device.get(device, 0) + mib(result["consumedCapacity"]["memory"])
    return mib_by_device


def total_mib(stack: LiveStack) -> dict[tuple[str, str], float]:
    """(node, device) -> MiB of its memory."""
    return {device: mib(values["memory"]) for device, values in stack.devices().items()}


def pods_of(stack: LiveStack, name: str) -> list[dict[str, Any]]:
    """The pods of one of the stack's Deployments: one, or none while it is made anew."""
    pods = stack.get("pods", namespace=NAMESPACE, label_selector={"app": name})
    return [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]


def pod_of(stack: LiveStack, name: str) -> dict[str, Any]:
    """The pod of one of the stack's Deployments."""
    (pod,) = pods_of(stack, name)
    return pod


@contextmanager
def namespace(stack: LiveStack) -> Iterator[Playground]:
    """A namespace in which claims share GPUs by memory, under the same rules as the stack's own."""
    labels = {**RESTRICTED, LABEL: "true"}
    if stack.settings.capacity_enforced:
        # The daemon's pipe is a folder of the node.
        labels |= {CLASS_LABEL: CAPACITY_CLASS, "pod-security.kubernetes.io/enforce": "privileged"}
    with stack.playground(labels) as playground:
        yield playground


def claim_manifest(name: str, space: str, memory: str | None, uuid: str | None) -> dict[str, Any]:
    """A claim of one GPU, or of that one; `memory` None requests no capacity."""
    exactly: dict[str, Any] = {"deviceClassName": "gpu.nvidia.com"}
    if memory:
        exactly["capacity"] = {"requests": {"memory": memory}}
    if uuid:
        exactly["selectors"] = [{"cel": {"expression": f'device.attributes["gpu.nvidia.com"].uuid == "{uuid}"'}}]
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": space},
        "spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}},
    }


def start_client(
    stack: LiveStack, space: str, name: str, memory_mib: int, args: Sequence[str], uuid: str | None = None
) -> Client:
    """A claim and a pod of its own, as the stack's are: where MPS enforces, the request is the pod's limit.

    Beyond what the daemon gives any client the limit is that: module 05's policy, where that is on as well, refuses a
    pod of more at once, also one that would wait for its claim for ever.
    """
    limit = min(memory_mib, most_memory_mib(stack))
    template = stack.one("deployments.apps", "small", NAMESPACE)["spec"]["template"]["spec"]
    spec = runs_once(json.loads(json.dumps(template)))
    spec["terminationGracePeriodSeconds"] = 1
    spec["containers"][0]["args"] = list(args)
    spec["resourceClaims"] = [{"name": "gpu", "resourceClaimName": name}]
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        for variable in container.get("env", []):
            if variable["name"] == MEMORY:
                variable["value"] = f"0={limit}M"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": space}, "spec": spec}
    claim = claim_manifest(name, space, f"{memory_mib}Mi", uuid)
    stack.create(claim, pod)
    return Client(stack, name, space)
