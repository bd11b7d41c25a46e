"""Command that makes the nodes of a fleet and their ResourceSlices as they are asked for, and prints their number.

Environment: KUBECONFIG and KUBE_CONTEXT; DRA_WORKSHOP_STACK, the stack; FLEET, a JSON list of objects with `template`
(the node whose ResourceSlices are copied), `nodes` (how many copies) and `gpus` (how many of its GPUs each has), in the
order of the nodes' numbers; WAIT_SECONDS. Nodes of the stack that are there and not asked for go, with `--delete` all
of them; another stack's stay, and one of the same name ends it. Ends when each node is ready and has no taint but the
fleet's; on a time-out it says which are not.

A copy has the GPUs of its template as NVIDIA's driver published them, attribute by attribute, with the gate DynamicMIG
also their parts and the counters. Only the GPUs' UUIDs are others: those that a simulated node of that name would have.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kr8s.objects import Node, new_class

from components.commands.kube import connect, reported
from components.commands.wait_for_gpus import DRIVER
from components.commands.waiting import wait
from components.manifests import copied, manifest
from gpus.fleet import LABEL, RACK_LABEL, node_name, rack_name
from gpus.models import simulated_uuid
from machine.ownership import OWNER_ANNOTATION

SLICES = "resourceslices.v1.resource.k8s.io"
ResourceSlice: Any = new_class("ResourceSlice", version="resource.k8s.io/v1", namespaced=False)
LISTED = 5
CONSUMES = "consumesCounters"
STACK = "DRA_WORKSHOP_STACK"


class NoTemplateError(Exception):
    """A node that is to be copied publishes no GPUs, or too few."""


class ForeignNodeError(Exception):
    """A node that is to be made is there already, and another stack made it, or nobody of the workshop."""


def node_document(number: int, stack: str) -> dict[str, Any]:
    """Node of the fleet by its number, made by a stack."""
    (document,) = manifest("fleet-node.yaml")
    metadata, name = document["metadata"], node_name(number)
    metadata["name"] = name
    metadata["labels"] |= {"kubernetes.io/hostname": name, RACK_LABEL: rack_name(number)}
    metadata["annotations"][OWNER_ANNOTATION] = stack
    return document


def templates(slices: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Specs of the ResourceSlices by node, the newest that NVIDIA's driver published of those that no fleet has."""
    specs: dict[str, list[dict[str, Any]]] = {}
    for slice_ in slices:
        if slice_["spec"]["driver"] == DRIVER and LABEL not in slice_["metadata"].get("labels", {}):
            specs.setdefault(slice_["spec"]["nodeName"], []).append(slice_["spec"])
    for node, of_node in specs.items():
        newest = max(spec["pool"]["generation"] for spec in of_node)
        specs[node] = sorted((spec for spec in of_node if spec["pool"]["generation"] == newest), key=_first_device)
    return specs


def incomplete(groups: Sequence[Mapping[str, Any]], slices: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Nodes that are to be copied while the driver has published a part of their ResourceSlices, one line each."""
    by_node = templates(slices)
    for node in dict.fromkeys(group["template"] for group in groups):
        specs = by_node.get(node, [])
        if specs and len(specs) != (count := specs[0]["pool"]["resourceSliceCount"]):
            yield f"{node}: {len(specs)} of {count} ResourceSlices are there, and all are copied"


def copy_of(template: Sequence[Mapping[str, Any]], name: str, gpus: int) -> list[dict[str, Any]]:
    """Specs of the slices for a node of that name: a template's first GPUs, their parts, and the counters of both.

    Raises `NoTemplateError` for too few.
    """
    numbers = sorted({_gpu(device["name"]) for spec in template for device in spec.get("devices", [])})
    if len(numbers) < gpus:
        raise NoTemplateError(f"{template[0]['nodeName']}: publishes {len(numbers)} GPUs, and {gpus} are to be copied")
    uuids = {number: {"string": simulated_uuid(name, number)} for number in numbers[:gpus]}
    specs: list[dict[str, Any]] = []
    for original in template:
        spec = copied({**original, "nodeName": name})
        spec["devices"] = [device for device in spec.get("devices", []) if _gpu(device["name"]) in uuids]
        for device in spec["devices"]:
            # A part that nobody has made has no UUID of its own, but that of its GPU.
            key = "uuid" if device["attributes"]["type"]["string"] == "gpu" else "parentUUID"
            device["attributes"][key] = uuids[_gpu(device["name"])]
        specs.append(spec)
    consumed = {one["counterSet"] for spec in specs for device in spec["devices"] for one in device.get(CONSUMES, [])}
    for spec in specs:
        spec["sharedCounters"] = [one for one in spec.get("sharedCounters", []) if one["name"] in consumed]
    # The API has no empty lists of either, and knows a slice without both for a node that publishes nothing.
    specs = [{key: value for key, value in spec.items() if value != []} for spec in specs]
    specs = [spec for spec in specs if "devices" in spec or "sharedCounters" in spec]
    for spec in specs:
        spec["pool"] = {"name": name, "generation": 1, "resourceSliceCount": len(specs)}
    return specs


def _gpu(device: str) -> int:
    """Number of the GPU that a device is, or is a part of. Source: CanonicalName of gpu.go and mig.go in v0.5.0."""
    return int(device.split("-")[1])


def _first_device(spec: Mapping[str, Any]) -> tuple[int, ...]:
    return min(((_gpu(device["name"]),) for device in spec.get("devices", [])), default=())


def not_ready(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Nodes of the fleet that pods cannot be put on yet, one line each."""
    for node in nodes:
        conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
        taints = [taint["key"] for taint in node["spec"].get("taints", []) if taint["key"] != LABEL]
        if conditions.get("Ready") != "True" or taints:
            ready, left = conditions.get("Ready", "unknown"), ", ".join(taints) or "none"
            yield f"{node['metadata']['name']}: Ready is {ready}, taints to go: {left}"


def specs(groups: Sequence[Mapping[str, Any]], slices: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Specs of the slices of each node of the fleet, by its name. Raises `NoTemplateError`."""
    by_node, wanted = templates(slices), {}
    for group in groups:
        if group["template"] not in by_node:
            raise NoTemplateError(f"{group['template']}: publishes no GPUs by {DRIVER}, and they are to be copied")
        for _ in range(group["nodes"]):
            name = node_name(len(wanted))
            wanted[name] = copy_of(by_node[group["template"]], name, group["gpus"])
    return wanted


def nodes_of(api: Any, stack: str) -> dict[str, Any]:
    """Nodes of a stack's fleet, by name."""
    nodes = api.get("nodes", label_selector={LABEL: "true"})
    return {node.name: node for node in nodes if owner_of(node) == stack}


def owner_of(node: Any) -> str | None:
    """Stack that made a node."""
    return node.raw["metadata"].get("annotations", {}).get(OWNER_ANNOTATION)


def refuse_foreign(api: Any, names: Sequence[str], stack: str) -> None:
    """Raise `ForeignNodeError` where a node of one of these names is not the stack's."""
    for node in api.get("nodes"):
        if node.name in names and owner_of(node) != stack:
            whose = f"stack {owner_of(node)}" if owner_of(node) else "somebody else"
            raise ForeignNodeError(
                f"{node.name}: is a node that {whose} made, and a cluster has one fleet; take that one down first, or "
                "use another cluster"
            )


def make(api: Any, groups: Sequence[Mapping[str, Any]], stack: str) -> None:
    """Make what is missing, change what is otherwise, remove what is not asked for; only what the stack made.

    Raises `NoTemplateError` and `ForeignNodeError` before anything is changed.
    """
    slices = list(api.get(SLICES))
    wanted = specs(groups, [slice_.raw for slice_ in slices])
    refuse_foreign(api, list(wanted), stack)
    nodes = nodes_of(api, stack)
    # By the node's uid: those of one that has gone, and is made anew, are about to be collected.
    by_owner: dict[str, list[Any]] = {}
    for slice_ in slices:
        if LABEL in slice_.raw["metadata"].get("labels", {}):
            by_owner.setdefault(slice_.raw["metadata"]["ownerReferences"][0]["uid"], []).append(slice_)
    for name in nodes.keys() - wanted.keys():
        nodes.pop(name).delete()  # its slices go with it
    for number, (name, specs_of_node) in enumerate(wanted.items()):
        if name not in nodes:
            nodes[name] = Node(node_document(number, stack), api=api)
            nodes[name].create()
        uid = nodes[name].raw["metadata"]["uid"]
        old = sorted(by_owner.get(uid, []), key=lambda slice_: _first_device(slice_.raw["spec"]))
        if [_content(slice_.raw["spec"]) for slice_ in old] == [_content(spec) for spec in specs_of_node]:
            continue
        # The scheduler goes by the newest generation as soon as that is whole, so the old ones go last.
        generation = max((slice_.raw["spec"]["pool"]["generation"] for slice_ in old), default=0) + 1
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        metadata = {"generateName": f"{name}-", "labels": {LABEL: "true"}, "ownerReferences": [owner]}
        for spec in specs_of_node:
            spec["pool"]["generation"] = generation
            document = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": copied(metadata)}
            ResourceSlice({**document, "spec": spec}, api=api).create()
        for slice_ in old:
            slice_.delete()


def _content(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: spec.get(key) for key in ("devices", "sharedCounters")}


def remove(api: Any, stack: str) -> None:
    """Remove the nodes of a stack's fleet; what they own, and what was to run on them, follows."""
    for node in nodes_of(api, stack).values():
        node.delete()


def main() -> int:
    api = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    if "--delete" in sys.argv[1:]:
        remove(api, os.environ[STACK])
        return 0
    groups, seconds, stack = json.loads(os.environ["FLEET"]), int(os.environ["WAIT_SECONDS"]), os.environ[STACK]
    count = sum(group["nodes"] for group in groups)
    # NVIDIA's driver publishes a node's slices one after another.
    if lines := wait(lambda: list(incomplete(groups, [slice_.raw for slice_ in api.get(SLICES)])), seconds):
        print(f"after {seconds} s:\n" + "\n".join(lines), file=sys.stderr)
        return 1
    try:
        make(api, groups, stack)
    except (NoTemplateError, ForeignNodeError) as error:
        print(error, file=sys.stderr)
        return 1

    def missing() -> list[str]:
        nodes = [node.raw for node in nodes_of(api, stack).values()]
        lines = list(not_ready(nodes))
        return lines if len(nodes) == count else [*lines, f"{len(nodes)} of {count} nodes are there"]

    if lines := wait(missing, seconds):
        more = f"\nand {len(lines) - LISTED} more" if len(lines) > LISTED else ""
        print(f"after {seconds} s:\n" + "\n".join(lines[:LISTED]) + more, file=sys.stderr)
        return 1
    gpus = sum(group["nodes"] * group["gpus"] for group in groups)
    print(f"{count} nodes with {gpus} GPUs (simulated, and nothing behind them)")
    return 0


if __name__ == "__main__":
    sys.exit(reported(main))
