"""Removal, for the time of a check, of the stack's Deployments that would stand in its way."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kr8s

from checks import capacity
from checks.faults import CLAIMS, RESTORE_SECONDS
from checks.live import LiveStack, wait_for

Place = tuple[str, str]
"""(namespace, name)"""


@contextmanager
def set_aside(stack: LiveStack, node: str, devices: Sequence[str]) -> Iterator[None]:
    """The Deployments whose pods have one of the devices are without pods meanwhile.

    A pod that is evicted from a claim of its Deployment comes back to it for ever: its ReplicaSet makes another one
    at once, the scheduler gives it the claim, which the pod before still has and which no taint is looked at for, and
    it is evicted as well. On an H100 six pods a second were.
    """
    replicas_by_place = deployments(stack, node, devices)
    waits = (capacity.NAMESPACE, capacity.WAITING)
    shared = any(namespace == capacity.NAMESPACE for namespace, _ in replicas_by_place)
    # The one that waits for room must not find it.
    away = ({waits: 1} if shared else {}) | replicas_by_place
    try:
        for place in away:
            scale(stack, place, 0)
        for place in replicas_by_place:
            wait_for(f"{'/'.join(place)} has no pod", lambda place=place: not pods(stack, place), RESTORE_SECONDS)
        yield
    finally:
        for place, replicas in replicas_by_place.items():
            scale(stack, place, replicas)
        for namespace, name in replicas_by_place:
            stack.wait_deployed(namespace, name, RESTORE_SECONDS)
        if shared:
            scale(stack, waits, 1)


def deployments(stack: LiveStack, node: str, devices: Sequence[str]) -> dict[Place, int]:
    """Deployments whose pods have one of the devices, with their replicas; not those whose pods only look on."""
    wanted = {(node, device) for device in devices}
    holders = {
        reserved["uid"]
        for claim in stack.get(CLAIMS, namespace=kr8s.ALL)
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
        if (result["pool"], result["device"]) in wanted and not result.get("adminAccess")
        for reserved in claim["status"].get("reservedFor", [])
    }
    owners = {
        owner["uid"]
        for pod in stack.get("pods", namespace=kr8s.ALL)
        if pod["metadata"]["uid"] in holders
        for owner in pod["metadata"].get("ownerReferences", [])
    }
    names = {
        (replica_set["metadata"]["namespace"], owner["name"])
        for replica_set in stack.get("replicasets.apps", namespace=kr8s.ALL)
        if replica_set["metadata"]["uid"] in owners
        for owner in replica_set["metadata"].get("ownerReferences", [])
    }
    return {
        (namespace, name): stack.one("deployments.apps", name, namespace)["spec"]["replicas"]
        for namespace, name in sorted(names)
    }


def scale(stack: LiveStack, place: Place, replicas: int) -> None:
    namespace, name = place
    stack.kubectl("scale", "-n", namespace, f"deployment/{name}", f"--replicas={replicas}")


def pods(stack: LiveStack, place: Place) -> list[dict[str, Any]]:
    namespace, name = place
    labels = stack.one("deployments.apps", name, namespace)["spec"]["selector"]["matchLabels"]
    return stack.get("pods", namespace=namespace, label_selector=labels)
