"""MIG devices that NVIDIA's driver makes on demand: claims for partitions, and what is made in a node."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from checks import mig
from checks.live import LiveStack, Playground, wait_for
from checks.mps import Client
from gpus.models import GpuModel, simulated_gpus
from machine.gpus import driver_root
from settings import GPU_MODELS
from settings.stack import NodeGpus

NAMESPACE = "dynamic-mig"
ATTRIBUTES = 'device.attributes["gpu.nvidia.com"]'
GONE_SECONDS = 30
# One line of `nvidia-smi -L`.
GPU_LINE, MIG_LINE = re.compile(r"GPU (\d+): "), re.compile(r"MIG (\S+) .*UUID: (MIG-[0-9a-f-]+)\)")


@dataclass(frozen=True)
class Gpu:
    """Simulated GPU of a node."""

    stack: LiveStack
    node: str
    index: int
    model: GpuModel
    uuid: str

    def smi(self, *words: str) -> list[str]:
        """Lines that nvidia-smi prints in the node."""
        program = f"{driver_root(self.stack.settings).rstrip('/')}/usr/bin/nvidia-smi"
        return self.stack.in_node(self.node, program, *words).splitlines()

    def mode(self) -> str:
        """MIG mode of now: Enabled, Disabled or [N/A]."""
        return self.smi("--query-gpu=mig.mode.current", "--format=csv,noheader")[self.index]

    def made(self) -> dict[str, str]:
        """Profiles of its MIG devices that are there, by their UUIDs."""
        found: dict[str, str] = {}
        index = -1
        for line in self.smi("-L"):
            if gpu := GPU_LINE.match(line):
                index = int(gpu[1])
            elif (device := MIG_LINE.search(line)) and index == self.index:
                found[device[2]] = device[1]
        return found

    def make(self, profile: str) -> None:
        """A MIG device by hand, as an administrator makes one."""
        self.smi("-i", str(self.index), "-mig", "1")
        self.smi("mig", "-i", str(self.index), "-cgi", profile, "-C")

    def unmake(self) -> None:
        """Destroy all its MIG devices by hand, which an administrator made."""
        self.smi("mig", "-i", str(self.index), "-dci")
        self.smi("mig", "-i", str(self.index), "-dgi")


def gpus_of(stack: LiveStack, node: NodeGpus) -> list[Gpu]:
    """GPUs of a node."""
    model = GPU_MODELS[node.model or ""]
    return [
        Gpu(stack, node.node, gpu.index, model, gpu.uuid) for gpu in simulated_gpus(node.node, model, node.count or 0)
    ]


def all_gpus(stack: LiveStack) -> list[Gpu]:
    """GPUs of all nodes."""
    return [gpu for node in stack.settings.gpu_nodes for gpu in gpus_of(stack, node)]


def partitions(model: GpuModel, index: int) -> set[str]:
    """Names of the devices that NVIDIA's driver publishes for every profile of a GPU at every place."""
    return {
        f"gpu-{index}-mig-{profile.name.replace('.', '').replace('+', '-')}-{profile.profile_id}-{start}"
        for profile in model.mig_profiles
        for start in profile.placements
    }


def profile_cel(profile: str) -> str:
    return f'{ATTRIBUTES}.profile == "{profile}"'


def of_gpu(gpu: Gpu) -> str:
    """Expression for the partitions of a GPU."""
    return f'{ATTRIBUTES}.parentUUID == "{gpu.uuid}"'


def request(*expressions: str, name: str = "slice", count: int = 1, gpu: bool = False) -> dict[str, Any]:
    """Request of a claim for so many MIG devices, or whole GPUs, that match all expressions."""
    selectors = [{"cel": {"expression": expression}} for expression in expressions]
    kind = "gpu.nvidia.com" if gpu else "mig.nvidia.com"
    return {"name": name, "exactly": {"deviceClassName": kind, "count": count, "selectors": selectors}}


def claim(
    playground: Playground, name: str, wanted: Mapping[str, Any], config: Mapping[str, Any] | None = None
) -> None:
    """Claim of that name for one request."""
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": name, "namespace": playground.namespace},
        "spec": {"devices": {"requests": [wanted], "config": [config] if config else []}},
    }
    playground.stack.create(document)


def start(playground: Playground, name: str, wanted: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str:
    """Pod with a claim of its own, both of that name in a playground; returns the pod's name."""
    claim(playground, name, wanted, config)
    return mig.client(playground, name, "hold").name


def run(playground: Playground, name: str, wanted: Mapping[str, Any]) -> "Partition":
    """Such a pod once it runs."""
    pod = start(playground, name, wanted)
    playground.wait_running(pod)
    return Partition(playground, name, pod)


@dataclass(frozen=True)
class Partition:
    """Pod with the devices of its claim."""

    playground: Playground
    claim: str
    pod: str

    @property
    def devices(self) -> list[dict[str, Any]]:
        """Devices of its claim, with what the driver publishes of them."""
        return self.playground.allocated(self.pod)

    @property
    def device(self) -> str:
        """Name of its only device."""
        (device,) = self.devices
        return device["device"]

    @property
    def place(self) -> int:
        """First memory slice of its only device."""
        return int(self.device.rpartition("-")[2])

    @property
    def uuids(self) -> list[str]:
        """UUIDs of what a program in the pod sees."""
        return self.playground.sees(self.pod)

    @property
    def client(self) -> Client:
        return Client(self.playground.stack, self.pod, self.playground.namespace)

    def remove(self) -> None:
        """Remove pod and claim; returns once both are gone."""
        stack, namespace = self.playground.stack, self.playground.namespace
        self.client.remove()
        self.playground.wait_gone(self.pod)
        stack.kubectl("delete", "resourceclaim", "-n", namespace, self.claim)


def wait_nothing_made(stack: LiveStack, seconds: float = GONE_SECONDS) -> None:
    """Wait until no MIG device is there, and MIG mode is off on GPUs of which NVIDIA's driver switches it."""

    def clean() -> bool:
        return all(not gpu.made() and (gpu.mode() != "Enabled" or switched_by_hand(gpu)) for gpu in all_gpus(stack))

    wait_for("no MIG device is left, and MIG mode is off", clean, seconds)


def switched_by_hand(gpu: Gpu) -> bool:
    """True for a GPU of an architecture whose MIG mode NVIDIA's driver does not switch."""
    return gpu.model.architecture == "Ampere"
