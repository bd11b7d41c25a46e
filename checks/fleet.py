"""Fleet of a stack that is up: many pods at once, where they are, and what of the fleet's GPUs is taken."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import yaml

from checks.live import DRIVER, MANIFESTS, LiveStack, Playground, wait_for
from components.commands.kube import ask
from components.manifests import copied
from gpus.fleet import LABEL, NODES_OF_A_RACK, RACK_LABEL, rack_name
from gpus.mig import EMPTY
from gpus.quantity import quantity_bytes
from settings.stack import NodeGpus

FOLDER = MANIFESTS / "12-fleet" / "examples"
# Hundreds of claims take the controller manager half a minute where it may make 20 requests a second, its default.
MANY_SECONDS = 300

Device = tuple[str, str]
"""Pool, which is the node's name, and device."""


@dataclass(frozen=True)
class Taken:
    """What a claim has of a device."""

    claim: str
    pod: str | None
    device: Device
    request: str
    memory: Fraction


def example(name: str, **replaced: str) -> list[dict[str, Any]]:
    """Documents of an example; `replaced` maps words of it to others."""
    text = (FOLDER / f"{name}.yaml").read_text()
    for old, new in replaced.items():
        assert old in text, f"{name}.yaml has no {old}"
        text = text.replace(old, new)
    return list(yaml.safe_load_all(text))


def pods(
    documents: Sequence[Mapping[str, Any]], names: Sequence[str], place: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """YAML of the example's objects with its pod once by each name; `place` is a part of the pods' node selector."""
    made: list[dict[str, Any]] = [copied(document) for document in documents if document["kind"] != "Pod"]
    (pod,) = (document for document in documents if document["kind"] == "Pod")
    for name in names:
        one = copied(pod)
        one["metadata"]["name"] = name
        one["spec"]["nodeSelector"] |= place or {}
        made.append(one)
    return made


def on(node: NodeGpus) -> dict[str, str]:
    """Node selector of one node of the fleet."""
    return {"kubernetes.io/hostname": node.node}


def create(
    playground: Playground,
    documents: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    place: Mapping[str, Any] | None,
) -> None:
    """Create an example's objects, its pod once by each name."""
    playground.stack.create(*pods(documents, names, place), namespace=playground.namespace)


def create_all(playground: Playground, documents: Sequence[Mapping[str, Any]]) -> None:
    """Create objects as they are."""
    playground.stack.create(*documents, namespace=playground.namespace)


def nodes_of(playground: Playground) -> dict[str, str | None]:
    """Node of each pod of the namespace that is not about to go; None where it has none yet."""
    return {
        pod["metadata"]["name"]: pod["spec"].get("nodeName")
        for pod in listed(playground.stack, f"/api/v1/namespaces/{playground.namespace}/pods")
        if "deletionTimestamp" not in pod["metadata"]
    }


def wait_placed(playground: Playground, names: Sequence[str]) -> dict[str, str]:
    """Node of each of the pods, once all have one."""

    def placed() -> dict[str, str] | None:
        there = nodes_of(playground)
        found = {name: node for name in names if (node := there.get(name))}
        return found if len(found) == len(names) else None

    return wait_for(f"{len(names)} pods have nodes", placed, MANY_SECONDS)


def listed(stack: LiveStack, path: str) -> list[dict[str, Any]]:
    """Objects at a path of the API, all as of one moment: a list in pieces would be as well, but slower."""
    where, question, query = path.partition("?")
    base, _, kinds = where.rpartition("/")
    return ask(stack.api, "GET", "", f"{kinds}{question}{query}", base=base).json()["items"]


def taken(stack: LiveStack, namespace: str | None = None) -> list[Taken]:
    """What claims have of the driver's devices, as of one moment."""
    place = f"/namespaces/{namespace}" if namespace else ""
    found = []
    for claim in listed(stack, f"/apis/resource.k8s.io/v1{place}/resourceclaims"):
        metadata = claim["metadata"]
        owner = next((one["name"] for one in metadata.get("ownerReferences", []) if one["kind"] == "Pod"), None)
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", []):
            if result["driver"] == DRIVER and not result.get("adminAccess"):
                memory = quantity_bytes(result.get("consumedCapacity", {}).get("memory", "0"))
                name = f"{metadata['namespace']}/{metadata['name']}"
                device = (result["pool"], result["device"])
                found.append(Taken(name, owner, device, result["request"], memory or Fraction(0)))
    return found


def slices(stack: LiveStack) -> dict[str, dict[str, Any]]:
    """Devices and counters of each node, those of the fleet and of the stack's own nodes, of all its ResourceSlices.

    Fails if a node has fewer ResourceSlices than its pool says, or of two generations.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for slice_ in listed(stack, "/apis/resource.k8s.io/v1/resourceslices"):
        spec = slice_["spec"]
        if spec["driver"] == DRIVER:
            node = nodes.setdefault(spec["nodeName"], {"devices": [], "sharedCounters": [], "pools": []})
            node["devices"] += spec.get("devices", [])
            node["sharedCounters"] += spec.get("sharedCounters", [])
            node["pools"].append(spec["pool"])
    for name, node in nodes.items():
        (pool, *others) = node["pools"]
        assert all(other == pool for other in others) and pool["resourceSliceCount"] == len(node["pools"]), (
            f"{name}: {len(node['pools'])} ResourceSlices, which say of themselves {node['pools']}"
        )
    return nodes


def is_whole(device: Mapping[str, Any]) -> bool:
    """Whether a device is a GPU, and not a part of one."""
    return device["attributes"]["type"]["string"] == "gpu"


def gpu_number(device: str) -> int:
    """Number of the GPU that a device of that name is, or is a part of."""
    return int(device.split("-")[1])


Counters = dict[tuple[str, str, str], Fraction]
"""Amount by node, counter set and counter."""


def consumption(node: str, device: Mapping[str, Any]) -> Counters:
    """Counters that a device of a node takes while a claim has it."""
    return {
        (node, part["counterSet"], name): quantity_bytes(counter["value"]) or Fraction(0)
        for part in device.get("consumesCounters", [])
        for name, counter in part["counters"].items()
    }


def counters_left(claims: Sequence[Taken], specs: Mapping[str, Mapping[str, Any]]) -> Counters:
    """Counters that claims leave of what nodes have; less than nothing where they took more."""
    left = {
        (node, counters["name"], name): quantity_bytes(counter["value"]) or Fraction(0)
        for node, spec in specs.items()
        for counters in spec["sharedCounters"]
        for name, counter in counters["counters"].items()
    }
    # Claims that share a device take its counters once.
    held = {one.device for one in claims}
    for node, spec in specs.items():
        for device in spec["devices"]:
            if (node, device["name"]) in held:
                for counter, amount in consumption(node, device).items():
                    left[counter] -= amount
    return left


def overdrawn(left: Counters) -> list[str]:
    """Counters of which claims took more than there is, one line each."""
    return [f"{'/'.join(counter)}: {float(-amount):.0f} too many" for counter, amount in left.items() if amount < 0]


def halves(claims: Sequence[Taken]) -> list[str]:
    """GPUs that one claim has whole while another has a part of them, one line each."""
    parts: dict[tuple[str, int], set[str]] = {}
    for one in claims:
        parts.setdefault((one.device[0], gpu_number(one.device[1])), set()).add(one.device[1])
    return [
        f"{node}/gpu-{number}: {', '.join(sorted(names))}"
        for (node, number), names in parts.items()
        if f"gpu-{number}" in names and len(names) > 1
    ]


def could_have(
    claims: Sequence[Taken], left: Counters, specs: Mapping[str, Mapping[str, Any]], profile: str | None
) -> list[Device]:
    """Devices that a claim for a profile, or with None for a whole GPU, could have and nobody has."""
    held = {one.device for one in claims}
    return [
        (node, device["name"])
        for node, spec in specs.items()
        for device in spec["devices"]
        if (node, device["name"]) not in held
        and device["attributes"].get("profile", {}).get("string") == profile
        and all(left[counter] >= amount for counter, amount in consumption(node, device).items())
    ]


def memory_by_device(specs: Mapping[str, Mapping[str, Any]]) -> dict[Device, Fraction]:
    """Bytes of memory that each device of some slices has."""
    return {
        (node, device["name"]): quantity_bytes(device["capacity"]["memory"]["value"]) or Fraction(0)
        for node, spec in specs.items()
        for device in spec["devices"]
    }


def overbooked(claims: Sequence[Taken], memory: Mapping[Device, Fraction]) -> list[str]:
    """Devices of which claims have more than there is, one line each."""
    totals: dict[Device, Fraction] = {}
    for one in claims:
        # One that says no part of the memory is for the whole.
        totals[one.device] = totals.get(one.device, Fraction(0)) + (one.memory or memory[one.device])
    lines = []
    for device, total in totals.items():
        if total > memory[device]:
            holders = ", ".join(one.claim for one in claims if one.device == device)
            lines.append(f"{'/'.join(device)}: {float(total):.0f} of {float(memory[device]):.0f} bytes: {holders}")
    return lines


def racks(stack: LiveStack) -> list[str]:
    """Racks of the fleet that have all their nodes, and these of the kind that most have; none where parts are all that
    is published of some of its GPUs."""
    nodes, kind = stack.settings.fleet_nodes, stack.settings.fleet_kind
    if EMPTY in nodes[0].mig:
        return []
    whole = [rack_name(first) for first in range(0, len(nodes) - NODES_OF_A_RACK + 1, NODES_OF_A_RACK)]
    return [name for name in whole if {kind(node) for node in of_rack(stack, name)} == {kind(nodes[0])}]


def by_kind(stack: LiveStack) -> dict[str, list[NodeGpus]]:
    """Nodes of the fleet by the name of their kind, in order."""
    kinds: dict[str, list[NodeGpus]] = {}
    for node in stack.settings.fleet_nodes:
        kinds.setdefault(stack.settings.fleet_kind(node), []).append(node)
    return kinds


def of_rack(stack: LiveStack, rack: str) -> list[NodeGpus]:
    """Nodes of a rack."""
    return [node for number, node in enumerate(stack.settings.fleet_nodes) if rack_name(number) == rack]


def in_racks(document: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A Pod or a Deployment whose pods go to nodes of these racks only."""
    return where(document, RACK_LABEL, names)


def where(document: dict[str, Any], label: str, values: Sequence[str]) -> dict[str, Any]:
    """A Pod or a Deployment whose pods go to nodes only whose label has one of these values."""
    document = copied(document)
    spec = document["spec"]["template"]["spec"] if "template" in document["spec"] else document["spec"]
    term = {"matchExpressions": [{"key": label, "operator": "In", "values": list(values)}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    spec["affinity"] = {"nodeAffinity": required}
    return document


@contextmanager
def drained(stack: LiveStack, rack: str) -> Iterator[list[str]]:
    """Block in which a DeviceTaintRule for each node of a rack keeps pods from its GPUs; the names of the rules."""
    (rule,) = example("drain")
    rules = []
    for node in of_rack(stack, rack):
        one = copied(rule)
        one["metadata"] |= {"name": f"drain-{node.node}", "labels": {LABEL: "check"}}
        one["spec"]["deviceSelector"]["pool"] = node.node
        rules.append(one)
    try:
        stack.create(*rules)
        yield [one["metadata"]["name"] for one in rules]
    finally:
        stack.kubectl("delete", "devicetaintrules", "-l", f"{LABEL}=check", "--ignore-not-found")
