"""MIG devices of a stack that is up: all of them free for a check, and pods that have some."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

from checks.live import LiveStack, Playground, wait_for
from checks.mps import Client, runs_once
from components.manifests import load
from gpus.mig import Slice
from gpus.models import GPU_MODELS, simulated_gpus

NAMESPACE = "mig"
# What the examples in manifests/ ask for: words that a check replaces by what the stack has.
PROFILE, PRODUCT = "3g.20gb", "NVIDIA A100-PCIE-40GB"


@contextmanager
def all_free(stack: LiveStack) -> Iterator[None]:
    """Block in which the stack's own pods have no MIG device; ends when they are back."""
    deployments = {
        one["metadata"]["name"]: one["spec"]["replicas"] for one in stack.get("deployments.apps", "", NAMESPACE)
    }
    try:
        for name in deployments:
            stack.kubectl("scale", "-n", NAMESPACE, f"deployment/{name}", "--replicas=0")
        wait_for("the stack's own MIG devices are free", lambda: not stack.allocations(NAMESPACE))
        yield
    finally:
        for name, replicas in deployments.items():
            stack.kubectl("scale", "-n", NAMESPACE, f"deployment/{name}", f"--replicas={replicas}")
        for name in deployments:
            stack.wait_deployed(NAMESPACE, name)


def product(stack: LiveStack, slice_: Slice) -> str:
    """Name of the model that a MIG device is a part of."""
    (model,) = (node.model for node in stack.settings.gpu_nodes if node.node == slice_.node)
    return GPU_MODELS[model or ""].product_name


def parent(stack: LiveStack, slice_: Slice) -> str:
    """UUID of the GPU that a MIG device is a part of."""
    (node,) = (node for node in stack.settings.gpu_nodes if node.node == slice_.node)
    return simulated_gpus(node.node, GPU_MODELS[node.model or ""], node.count or 0)[slice_.gpu].uuid


def by_gpu(slices: Sequence[Slice]) -> dict[tuple[str, int], list[Slice]]:
    """MIG devices by node and index of their GPU."""
    groups: dict[tuple[str, int], list[Slice]] = {}
    for slice_ in slices:
        groups.setdefault((slice_.node, slice_.gpu), []).append(slice_)
    return groups


def distinct(stack: LiveStack) -> list[Slice]:
    """First MIG device of each profile and product, in the order of the layouts."""
    first = {
        (slice_.profile.name, product(stack, slice_)): slice_ for slice_ in reversed(stack.settings.all_mig_slices)
    }
    return [slice_ for slice_ in stack.settings.all_mig_slices if slice_ in first.values()]


def create(playground: Playground, name: str, slice_: Slice) -> str:
    """Pod with a MIG device of that profile and product."""
    words = {"by-profile": name, PROFILE: slice_.profile.name, PRODUCT: product(playground.stack, slice_)}
    (pod,) = playground.create("10.1-mig-devices/by-profile", **words)
    return pod


def mig_uuids(lines: Sequence[str]) -> list[str]:
    """UUIDs of MIG devices in what `nvidia-smi -L` prints."""
    return [line.rpartition("UUID: ")[2].rstrip(")") for line in lines if "UUID: MIG-" in line]


def in_pod(playground: Playground, pod: str, *words: str, container: str = "probe") -> list[str]:
    """Lines that a program prints in a pod."""
    inside = ("exec", "-n", playground.namespace, pod, "-c", container, "--", *words)
    return playground.stack.kubectl(*inside).splitlines()


def events(playground: Playground, pod: str) -> list[str]:
    """Messages of the pod's events, whatever their reason."""
    found = playground.stack.get("events", namespace=playground.namespace, field_selector=f"involvedObject.name={pod}")
    return [event["message"] for event in found if event.get("message")]


def wait_event(playground: Playground, pod: str, words: str) -> str:
    """Message of the pod's events that has these words, once it is there."""
    return wait_for(
        f"an event of {pod} says {words}",
        lambda: next((text for text in events(playground, pod) if words in text), None),
    )


def cdi_devices(playground: Playground, pod: str) -> list[dict[str, Any]]:
    """Device nodes that the CDI files of a pod's claims name for its MIG devices."""
    stack, nodes = playground.stack, []
    for status in playground.pod(pod)["status"]["resourceClaimStatuses"]:
        claim = stack.one("resourceclaims.v1.resource.k8s.io", status["resourceClaimName"], playground.namespace)
        (node,) = {result["pool"] for result in claim["status"]["allocation"]["devices"]["results"]}
        text = stack.in_node(node, "sh", "-c", f"cat /var/run/cdi/*{claim['metadata']['uid']}*")
        devices = [device for document in yaml.safe_load_all(text) for device in document["devices"]]
        nodes += [one for device in devices for one in device["containerEdits"]["deviceNodes"]]
    return nodes


def claim(playground: Playground, name: str, slice_: Slice, config: Mapping[str, Any] | None = None) -> str:
    """Claim of that name for a MIG device of that profile and product, which pods can share."""
    attributes = 'device.attributes["gpu.nvidia.com"]'
    expression = f'{attributes}.profile == "{slice_.profile.name}" && '
    expression += f'{attributes}.parentUUID == "{parent(playground.stack, slice_)}"'
    selectors = [{"cel": {"expression": expression}}]
    exactly = {"deviceClassName": "mig.nvidia.com", "selectors": selectors}
    devices: dict[str, Any] = {"requests": [{"name": "slice", "exactly": exactly}]}
    if config:
        devices["config"] = [config]
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": playground.namespace},
        "spec": {"devices": devices},
    }
    playground.stack.kubectl("create", "-f", "-", stdin=yaml.safe_dump(document))
    return name


def client(playground: Playground, claim: str, *args: str, env: Mapping[str, str] | None = None) -> Client:
    """Pod that runs the probe once, with that command, on the device of a claim."""
    stack = playground.stack
    _, pod, _ = load("10.1-mig-devices/examples", "shared-claim.yaml")
    pod["metadata"] = {"name": f"client-{uuid.uuid4().hex[:8]}", "namespace": playground.namespace}
    spec = runs_once(pod["spec"])
    spec["resourceClaims"] = [{"name": "slice", "resourceClaimName": claim}]
    spec["tolerations"] = [*spec["tolerations"], *stack.tolerations]
    (container,) = spec["containers"]
    container["image"] = stack.settings.images.get("gpu-probe") or container["image"]
    container |= {"args": list(args), "env": [{"name": key, "value": value} for key, value in (env or {}).items()]}
    return Client.create(stack, pod)
