"""MIG devices of a stack that is up: all of them free for a check, and pods that have some."""

import json
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from checks.live import LiveStack, Playground, wait_for
from checks.mps import DRIVER_NAMESPACE, MEMORY, PERCENTAGE, Client, Daemon, runs_once
from components import gpu_config
from components.manifests import load
from gpus.mig import Slice
from gpus.models import simulated_gpus
from gpus.quantity import quantity_mib

NAMESPACE = "mig"
REQUEST: dict[str, Any] = {"name": "slice", "exactly": {"deviceClassName": "mig.nvidia.com"}}
# A context, which takes some memory, until its pod goes.
HOLD = ("hold", "0", "--alloc", "2Mi")
# What the examples in manifests/ ask for: words that a check replaces by what the stack has.
PROFILE, PRODUCT = "3g.20gb", "NVIDIA A100-PCIE-40GB"
# Profiles of the workshop that this one replaces, on such GPUs, which some claims are written for.
LAYOUT = ("3g.20gb", "4g.20gb", "7g.40gb")


@contextmanager
def all_free(stack: LiveStack, namespace: str = NAMESPACE) -> Iterator[None]:
    """Block in which the stack's own pods have no MIG device; ends when they are back."""
    deployments = {
        one["metadata"]["name"]: one["spec"]["replicas"] for one in stack.get("deployments.apps", "", namespace)
    }
    try:
        for name in deployments:
            stack.kubectl("scale", "-n", namespace, f"deployment/{name}", "--replicas=0")
        wait_for("the stack's own MIG devices are free", lambda: not stack.allocations(namespace))
        yield
    finally:
        for name, replicas in deployments.items():
            stack.kubectl("scale", "-n", namespace, f"deployment/{name}", f"--replicas={replicas}")
        for name in deployments:
            stack.wait_deployed(namespace, name)


def product(stack: LiveStack, slice_: Slice) -> str:
    """Name of the model that a MIG device is a part of."""
    return slice_.model.product_name


def parent(stack: LiveStack, slice_: Slice) -> str:
    """UUID of the GPU that a MIG device is a part of."""
    return stack.devices()[slice_.node, slice_.device_name]["parentUUID"]


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


def mps(percentage: int, memory: str, per_device: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Configuration of a claim whose clients have these limits, by a daemon that NVIDIA's driver starts for it."""
    return gpu_config.shared_by_mps(percentage, memory, per_device or {}, REQUEST)


def request(slice_: Slice, name: str = "slice") -> dict[str, Any]:
    """Request of a claim for a MIG device of that profile and GPU."""
    attributes = 'device.attributes["gpu.nvidia.com"]'
    parent_uuid = simulated_gpus(slice_.node, slice_.model, slice_.gpu + 1)[slice_.gpu].uuid
    expression = f'{attributes}.profile == "{slice_.profile.name}" && {attributes}.parentUUID == "{parent_uuid}"'
    return {"name": name, "exactly": {**REQUEST["exactly"], "selectors": [{"cel": {"expression": expression}}]}}


def claim(
    playground: Playground,
    name: str,
    slice_: Slice,
    config: Mapping[str, Any] | None = None,
    beside: Sequence[Slice] = (),
) -> str:
    """Claim of that name for a MIG device, and others beside it, which pods can share."""
    others = [request(other, f"beside-{number}") for number, other in enumerate(beside)]
    return create_claim(playground, name, [request(slice_), *others], config)


def create_claim(
    playground: Playground, name: str, requests: Sequence[Mapping[str, Any]], config: Mapping[str, Any] | None = None
) -> str:
    """Claim of that name with these requests, which pods can share."""
    devices: dict[str, Any] = {"requests": list(requests)}
    if config:
        devices["config"] = [config]
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": playground.namespace},
        "spec": {"devices": devices},
    }
    playground.stack.create(document)
    return name


def client(
    playground: Playground, claim: str | Sequence[str], *args: str, env: Mapping[str, str] | None = None
) -> Client:
    """Pod that runs the probe once, with that command, on the device of a claim, or on those of several."""
    stack = playground.stack
    _, pod, _ = load("10.1-mig-devices/examples", "shared-claim.yaml")
    pod["metadata"] = {"name": f"client-{uuid.uuid4().hex[:8]}", "namespace": playground.namespace}
    spec = runs_once(pod["spec"])
    names = [claim] if isinstance(claim, str) else list(claim)
    spec["resourceClaims"] = [{"name": name, "resourceClaimName": name} for name in names]
    spec["tolerations"] = [*spec["tolerations"], *stack.tolerations]
    (container,) = spec["containers"]
    container["image"] = stack.settings.images.get("gpu-probe") or container["image"]
    container["resources"]["claims"] = [{"name": name} for name in names]
    container |= {"args": list(args), "env": [{"name": key, "value": value} for key, value in (env or {}).items()]}
    return Client.create(stack, pod)


class ClaimDaemon(Daemon):
    """MPS daemon that NVIDIA's driver started for one claim of a MIG device."""

    def __init__(self, stack: LiveStack, namespace: str, claim: str) -> None:
        super().__init__(stack)
        self.uid = stack.one("resourceclaims.v1.resource.k8s.io", claim, namespace)["metadata"]["uid"]

    @property
    def names(self) -> list[str]:
        """Names of its pods that are not being deleted."""
        pods = self.stack.get("pods", namespace=DRIVER_NAMESPACE)
        alive = [pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        return [name for name in alive if name.startswith(f"mps-control-daemon-{self.uid}")]

    def names_made(self) -> set[str]:
        """Names of all pods that were made for it, of which some may be gone."""
        events = self.stack.get("events", namespace=DRIVER_NAMESPACE, field_selector="reason=SuccessfulCreate")
        words = [event["message"].rpartition(" ")[2] for event in events]
        return {word for word in words if word.startswith(f"mps-control-daemon-{self.uid}")}

    @property
    def pod(self) -> tuple[str, str]:
        (name,) = self.names
        return DRIVER_NAMESPACE, name

    def devices(self) -> list[int]:
        return list(range(len(self.uuids())))

    def uuids(self) -> list[str]:
        """UUIDs of the devices that it serves."""
        return re.findall(r"^\d+\s+\S+\s+((?:GPU|MIG)-[0-9a-f-]+)", self.ask("device_query"), re.M)

    def stored_limit(self) -> int:
        """Memory limit in MiB that its claim gave it for its only device, by that device's UUID."""
        (uuid,) = self.uuids()
        answer = self.ask(f"get_default_device_pinned_mem_limit {uuid}").strip()
        return quantity_mib(re.sub(r"([MG])B?$", r"\1i", answer))


@dataclass(frozen=True)
class Shared:
    """MIG device that a claim shares by MPS, with one client that holds it."""

    playground: Playground
    claim: str
    slice_: Slice
    holder: Client
    daemon: ClaimDaemon

    def probe(self, *words: str, percentage: float | None = None, memory: str | None = None) -> list[dict[str, Any]]:
        """Lines of one more client, which sets limits for itself before its first CUDA call."""
        own = {PERCENTAGE: f"{percentage:g}" if percentage else None, MEMORY: f"0={memory}" if memory else None}
        options = [word for key, value in own.items() if value for word in ("--setenv", f"{key}={value}")]
        inside = ("exec", "-n", self.playground.namespace, self.holder.name, "--", "gpu-probe", *words, *options)
        # Its exit code says that an allocation was refused, which its lines say too.
        lines = self.playground.stack.kubectl(*inside, check=False).splitlines()
        return [json.loads(line) for line in lines]

    def context(self, percentage: float | None = None, memory: str | None = None) -> dict[str, Any]:
        """SMs and memory of such a client."""
        (line,) = [one for one in self.probe("info", "--context", percentage=percentage, memory=memory) if "sms" in one]
        return line

    def alloc(self, *mib: int, percentage: float | None = None, memory: str | None = None) -> list[str]:
        """What becomes of allocations of such a client, one after the other; it ends with the first that fails."""
        sizes = [f"{size}Mi" for size in mib]
        return [
            line["result"]
            for line in self.probe("alloc", *sizes, percentage=percentage, memory=memory)
            if "result" in line
        ]

    def hold(self, mib: int, memory: str | None = None) -> Client:
        """Client in a pod of its own that holds so much memory."""
        env = {MEMORY: f"0={memory}"} if memory else {}
        return client(self.playground, self.claim, *HOLD[:-1], f"{mib}Mi", env=env)


def share(playground: Playground, name: str, slice_: Slice, config: Mapping[str, Any]) -> Shared:
    """Claim that shares a MIG device by MPS, once it has a client."""
    holder = client(playground, claim(playground, name, slice_, config), *HOLD)
    holder.wait_line("holding")
    return Shared(playground, name, slice_, holder, ClaimDaemon(playground.stack, playground.namespace, name))


def of_the_layout(stack: LiveStack) -> list[Slice]:
    """MIG devices of the profiles of LAYOUT, in its order; skips where the stack has others of that model."""
    slices = [slice_ for slice_ in stack.settings.all_mig_slices if product(stack, slice_) == PRODUCT]
    if tuple(sorted(slice_.profile.name for slice_ in slices)) != LAYOUT:
        pytest.skip(f"the claims are for {', '.join(LAYOUT)} of {PRODUCT}, and the layouts have other MIG devices")
    return sorted(slices, key=lambda slice_: slice_.profile.name)


def of_one_model(stack: LiveStack) -> list[Slice]:
    """First MIG device of each profile of the first model in the layouts."""
    slices = distinct(stack)
    return [slice_ for slice_ in slices if slice_.model == slices[0].model]
