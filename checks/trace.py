"""`make trace`: which container has which MIG device of a stack that is up, and by which claim.

One line for each MIG device and container that has it, one for a MIG device that nobody has.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kr8s
import yaml

from checks.live import DRIVER, LiveStack, NotThisStack
from machine import nvidia_driver
from machine.gpus import driver_root
from toolchain.paths import CHECKOUT

CLAIMS = "resourceclaims.v1.resource.k8s.io"
CAPABILITY = "/dev/nvidia-caps/nvidia-cap"
COLUMNS = ("NODE", "GPU", "DEVICE", "PROFILE", "GI", "CI", "UUID", "NVIDIA-CAPS", "CLAIM", "POD", "CONTAINER")
NONE = "-"


@dataclass(frozen=True)
class Holder:
    """Container that a claim gives a device."""

    claim: str
    """Namespace and name."""
    claim_uid: str
    pod: str
    """Namespace and name."""
    container: str


@dataclass(frozen=True)
class MigRow:
    """MIG device, and one container that has it, if any.

    `instances` are the IDs of its GPU instance and compute instance, `capabilities` the minor numbers of the files
    below /dev/nvidia-caps that its claim lets a container open: none where nobody has it.
    """

    node: str
    device: str
    values: Mapping[str, Any]
    instances: tuple[int, int]
    capabilities: tuple[int, ...]
    holder: Holder | None

    @property
    def gpu(self) -> int:
        """Index of its GPU on the node."""
        return int(self.device.split("-")[1])

    @property
    def uuid(self) -> str:
        return self.values["uuid"]

    @property
    def cells(self) -> tuple[str, ...]:
        """Words of the table's columns."""
        numbers = [str(number) for number in (self.gpu, *self.instances)]
        holder = self.holder
        return (
            *(self.node, numbers[0], self.device, self.values["profile"], *numbers[1:], self.uuid),
            ",".join(map(str, self.capabilities)) or NONE,
            *((holder.claim, holder.pod, holder.container) if holder else (NONE, NONE, NONE)),
        )


def rows(stack: LiveStack) -> list[MigRow]:
    """Rows of every MIG device, by node and device."""
    devices = {place: values for place, values in stack.devices().items() if values["type"] == "mig"}
    holders = _holders(stack)
    instances = {node: _instances(stack, node) for node in {node for node, _ in devices}}
    found = []
    for (node, device), values in sorted(devices.items()):
        _, gpu, _, _, *_, start = device.split("-")
        both = instances[node][int(gpu), values["profile"], int(start)]
        for holder in holders.get((node, device), [None]):
            capabilities = _capabilities(stack, node, device, holder) if holder else ()
            found.append(MigRow(node, device, values, both, capabilities, holder))
    return found


def _instances(stack: LiveStack, node: str) -> dict[tuple[int, str, int], tuple[int, int]]:
    """IDs of the GPU and compute instances of a node, by GPU, profile and first memory slice."""
    smi = f"{driver_root(stack.settings).rstrip('/')}/usr/bin/nvidia-smi"
    places = {}
    for cells in _cells(stack.in_node(node, smi, "mig", "-lgi")):
        gpu, _, profile, _, instance, place = cells
        places[int(gpu), int(instance)] = (int(gpu), profile, int(place.partition(":")[0]))
    found = {}
    for cells in _cells(stack.in_node(node, smi, "mig", "-lci")):
        gpu, instance, compute = int(cells[0]), int(cells[1]), int(cells[-2])
        found[places[gpu, instance]] = (instance, compute)
    return found


def capabilities_folder(stack: LiveStack) -> str:
    """Folder of a node in which NVIDIA's kernel module shows the capability files of its GPUs."""
    return nvidia_driver.capabilities_folder(stack.settings.gpu.source == "simulated")


def _cells(table: str) -> Iterator[list[str]]:
    """Words of each line of a table of nvidia-smi's that begins with a number."""
    for line in table.splitlines():
        words = line.strip("| ").split()
        if words and words[0].isdecimal():
            yield words


def _capabilities(stack: LiveStack, node: str, device: str, holder: Holder) -> tuple[int, ...]:
    """Minor numbers of the capability files in the CDI file that the driver wrote for a claim, of one device of it."""
    text = stack.in_node(node, "sh", "-c", f"cat /var/run/cdi/*{holder.claim_uid}*")
    nodes = [
        entry["path"]
        for document in yaml.safe_load_all(text)
        for one in document["devices"]
        if one["name"].endswith(device)
        for entry in one["containerEdits"].get("deviceNodes", [])
    ]
    return tuple(int(path.removeprefix(CAPABILITY)) for path in nodes if path.startswith(CAPABILITY))


def _holders(stack: LiveStack) -> dict[tuple[str, str], list[Holder | None]]:
    """Containers by the node and device that claims give them."""
    claims = {_key(claim): claim for claim in stack.get(CLAIMS, namespace=kr8s.ALL)}
    found: dict[tuple[str, str], list[Holder | None]] = {}
    for pod in stack.get("pods", namespace=kr8s.ALL):
        if pod["status"]["phase"] not in ("Running", "Pending"):
            continue  # the driver has taken back what it had
        for container, name, request in _requests(pod):
            claim = claims.get((pod["metadata"]["namespace"], name))
            if claim is None:
                continue  # not made yet
            for result in _results(claim, request):
                holder = Holder("/".join(_key(claim)), claim["metadata"]["uid"], "/".join(_key(pod)), container)
                found.setdefault((result["pool"], result["device"]), []).append(holder)
    return found


def _key(item: Mapping[str, Any]) -> tuple[str, str]:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _results(claim: Mapping[str, Any], request: str) -> list[dict[str, Any]]:
    """Devices of NVIDIA's driver that a claim was given for a request, or for all where `request` is empty."""
    results = claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
    # An alternative of a prioritized list is named as request/alternative.
    return [
        result
        for result in results
        if result["driver"] == DRIVER and request in ("", result["request"], result["request"].partition("/")[0])
    ]


def _requests(pod: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(container, claim, request) of what each container of a pod asks for."""
    names = {one["name"]: one.get("resourceClaimName", "") for one in pod["spec"].get("resourceClaims", [])}
    for one in pod["status"].get("resourceClaimStatuses", []):
        names[one["name"]] = one.get("resourceClaimName", "")
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        for one in container.get("resources", {}).get("claims", []):
            yield container["name"], names.get(one["name"], ""), one.get("request", "")
    extended = pod["status"].get("extendedResourceClaimStatus", {})
    for one in extended.get("requestMappings", []):
        yield one["containerName"], extended["resourceClaimName"], one["requestName"]


def table(found: Sequence[MigRow]) -> str:
    """The rows as text, in columns, whatever the terminal's width: a UUID that is cut cannot be looked for."""
    lines = [COLUMNS, *(row.cells for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make trace", description=__doc__)
    parser.add_argument("--stack", default="phase3", help="the stack to look at, which is up (default: phase3)")
    chosen = parser.parse_args(words)
    try:
        found = rows(LiveStack.find(CHECKOUT, chosen.stack))
    except NotThisStack as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not found:
        print(
            f"stack {chosen.stack} has no MIG devices; `make up STACK=phase3` brings up one that has", file=sys.stderr
        )
        return 2
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
