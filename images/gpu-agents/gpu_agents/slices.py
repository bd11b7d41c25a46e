"""Devices of this node as NVIDIA's driver publishes them in ResourceSlices, and the GPU instance of one that is used.

For an exporter that has no GPU: no claim of one that looks on may have a MIG device, and NVML shows a container the
GPUs only whose device nodes it has.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import yaml

from gpu_agents import api
from gpu_agents.claims import SECONDS
from gpu_agents.failures import Failures
from gpu_agents.pods import DRIVER

NAME = re.compile(r"gpu-(\d+)(-mig-.*)?")
CAPABILITY = "/dev/nvidia-caps/nvidia-cap"
MINOR = re.compile(r"DeviceFileMinor: (\d+)")
MIB = 2**20
UNITS = {"": 1, **{f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)}}


@dataclass(frozen=True)
class Device:
    """A GPU or MIG device of a ResourceSlice.

    `minor` and `uuid` are its GPU's, `mig_uuid` is empty for a GPU and for a partition that nobody has made.
    """

    name: str
    pool: str
    minor: int
    uuid: str
    mig_uuid: str
    profile: str
    model: str
    pci_bus_id: str
    driver_version: str
    memory_mib: int
    multiprocessors: int | None

    @property
    def mig(self) -> bool:
        return bool(self.profile)


def devices(items: list[dict[str, Any]]) -> list[Device]:
    """GPUs and MIG devices of ResourceSlices of one node, by name; of each pool those of its newest generation."""
    pools: dict[str, int] = {}
    for item in items:
        pool = item["spec"]["pool"]
        pools[pool["name"]] = max(pool["generation"], pools.get(pool["name"], 0))
    found = []
    for item in items:
        pool = item["spec"]["pool"]
        if item["spec"]["driver"] == DRIVER and pool["generation"] == pools[pool["name"]]:
            published = item["spec"].get("devices") or []
            found += [device for entry in published if (device := _device(pool["name"], entry))]
    return sorted(found, key=lambda device: device.name)


def _device(pool: str, entry: Mapping[str, Any]) -> Device | None:
    """None for what is neither, such as a GPU for a virtual machine."""
    attributes = {name: next(iter(value.values())) for name, value in entry.get("attributes", {}).items()}
    name = NAME.fullmatch(entry["name"])
    if not name or attributes.get("type") not in ("gpu", "mig"):
        return None
    capacities = {key: _number(value["value"]) for key, value in entry.get("capacity", {}).items()}
    mig = attributes["type"] == "mig"
    return Device(
        name=entry["name"],
        pool=pool,
        minor=int(name[1]),
        uuid=attributes["parentUUID" if mig else "uuid"],
        mig_uuid=attributes.get("uuid", "") if mig else "",
        profile=attributes["profile"] if mig else "",
        model=attributes.get("productName", ""),
        pci_bus_id=_bus_id(attributes.get("resource.kubernetes.io/pciBusID", "")),
        driver_version=attributes.get("driverVersion", ""),
        memory_mib=capacities.get("memory", 0) // MIB,
        multiprocessors=capacities.get("multiprocessors"),
    )


def _number(quantity: str) -> int:
    """Value of a quantity as NVIDIA's driver writes it: a whole number and a binary unit."""
    number, unit = re.fullmatch(r"(\d+)(\D*)", quantity).groups()  # pyrefly: ignore[missing-attribute]
    return int(number) * UNITS[unit]


def _bus_id(address: str) -> str:
    """PCI address with eight digits of the domain, as NVML writes it; the slice has four."""
    domain, _, rest = address.partition(":")
    return f"{int(domain, 16):08X}:{rest.upper()}" if rest else ""


class Slices:
    """Asks the API for the node's ResourceSlices."""

    def __init__(self, node: str, failures: Failures) -> None:
        self._node, self._failures = node, failures

    def devices(self) -> list[Device]:
        """Those of the node; none where the API does not answer, which is counted."""
        try:
            return devices(anyio.run(self._list))
        except api.ERRORS as error:
            self._failures.add("api", api.reason(error), consequence="no device is told of")
        except (KeyError, TypeError, AttributeError) as error:
            self._failures.add(
                "api", f"{type(error).__name__}: {error}", consequence="a ResourceSlice is not understood"
            )
        return []

    async def _list(self) -> list[dict[str, Any]]:
        with anyio.fail_after(SECONDS):
            client = await api.connect()
            selector = f"spec.nodeName={self._node},spec.driver={DRIVER}"
            return (await api.get(client, api.RESOURCE, "resourceslices", fieldSelector=selector))["items"]


class GpuInstances:
    """IDs of the GPU instances of MIG devices that containers have.

    NVIDIA's driver writes a CDI file for each claim, with the capability files that its containers may open, and
    NVIDIA's kernel module shows which instance each of them belongs to. Of a device that nobody has there is no such
    file, and nothing else that a pod without privilege may read tells its instance.
    """

    def __init__(self, cdi: Path, capabilities: Path, failures: Failures) -> None:
        self._cdi, self._capabilities, self._failures = cdi, capabilities, failures

    def of(self, device: Device) -> str:
        """The ID, empty where no file tells it."""
        try:
            minors = self._minors(device.name)
            folders = self._capabilities.glob(f"gpu{device.minor}/mig/gi*/access") if minors else ()
            for file in folders:
                if (told := MINOR.search(file.read_text())) and int(told[1]) in minors:
                    return file.parent.name.removeprefix("gi")
        except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
            self._failures.add("cdi", f"{type(error).__name__}: {error}", consequence="a GPU instance has no ID")
        return ""

    def _minors(self, name: str) -> set[int]:
        """Minor numbers of the capability files of a device, from the newest CDI file of a claim that has it."""
        files = sorted(self._cdi.glob("*-claim_*"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files:
            for entry in yaml.safe_load(file.read_text())["devices"]:
                if entry["name"].endswith(f"-{name}"):
                    nodes = [node["path"] for node in entry["containerEdits"].get("deviceNodes", [])]
                    return {int(path.removeprefix(CAPABILITY)) for path in nodes if path.startswith(CAPABILITY)}
        return set()
