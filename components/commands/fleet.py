"""Command that makes the nodes of a fleet and their ResourceSlices as they are asked for, and prints their number.

Environment: KUBECONFIG and KUBE_CONTEXT; DRA_WORKSHOP_STACK, the stack; FLEET, a JSON list of objects with `template`
(the node whose ResourceSlice is copied), `nodes` (how many copies) and `gpus` (how many of its GPUs each has), in the
order of the nodes' numbers; WAIT_SECONDS. Nodes of the stack that are there and not asked for go, with `--delete` all
of them; another stack's stay, and one of the same name ends it. Ends when each node is ready and has no taint but the
fleet's; on a time-out it says which are not.

A copy has the GPUs of its template as NVIDIA's driver published them, attribute by attribute. Only their UUIDs are
others: those that a simulated node of that name would have.
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


def templates(slices: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spec of the ResourceSlice by node, of those of NVIDIA's driver that no fleet has."""
    specs: dict[str, dict[str, Any]] = {}
    for slice_ in slices:
        spec = slice_["spec"]
        if spec["driver"] != DRIVER or LABEL in slice_["metadata"].get("labels", {}):
            continue
        if spec["nodeName"] in specs or spec["pool"]["resourceSliceCount"] != 1:
            raise NoTemplateError(f"{spec['nodeName']}: publishes several ResourceSlices, and one is copied")
        specs[spec["nodeName"]] = spec
    return specs


def copy_of(template: Mapping[str, Any], name: str, gpus: int) -> dict[str, Any]:
    """Spec of a slice for a node of that name: a template's first GPUs. Raises `NoTemplateError` for too few."""
    devices = sorted((d for d in template["devices"] if _type(d) == "gpu"), key=lambda device: _number(device["name"]))
    if len(devices) < gpus:
        raise NoTemplateError(f"{template['nodeName']}: publishes {len(devices)} GPUs, and {gpus} are to be copied")
    spec = copied({**template, "nodeName": name, "devices": devices[:gpus]})
    spec["pool"] = {"name": name, "generation": 1, "resourceSliceCount": 1}
    for device in spec["devices"]:
        device["attributes"]["uuid"] = {"string": simulated_uuid(name, _number(device["name"]))}
    return spec


def _type(device: Mapping[str, Any]) -> str:
    return device["attributes"]["type"]["string"]


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def not_ready(nodes: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Nodes of the fleet that pods cannot be put on yet, one line each."""
    for node in nodes:
        conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
        taints = [taint["key"] for taint in node["spec"].get("taints", []) if taint["key"] != LABEL]
        if conditions.get("Ready") != "True" or taints:
            ready, left = conditions.get("Ready", "unknown"), ", ".join(taints) or "none"
            yield f"{node['metadata']['name']}: Ready is {ready}, taints to go: {left}"


def specs(groups: Sequence[Mapping[str, Any]], slices: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Spec of the slice of each node of the fleet, by its name. Raises `NoTemplateError`."""
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
    # By the node's uid: the slice of one that has gone, and is made anew, is about to be collected.
    by_owner = {
        slice_.raw["metadata"]["ownerReferences"][0]["uid"]: slice_
        for slice_ in slices
        if LABEL in slice_.raw["metadata"].get("labels", {})
    }
    for name in nodes.keys() - wanted.keys():
        nodes.pop(name).delete()  # its slice goes with it
    for number, (name, spec) in enumerate(wanted.items()):
        if name not in nodes:
            nodes[name] = Node(node_document(number, stack), api=api)
            nodes[name].create()
        uid = nodes[name].raw["metadata"]["uid"]
        if slice_ := by_owner.get(uid):
            if slice_.raw["spec"]["devices"] != spec["devices"]:
                spec["pool"]["generation"] = slice_.raw["spec"]["pool"]["generation"] + 1
                slice_.patch({"spec": spec})
            continue
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": uid}
        metadata = {"generateName": f"{name}-", "labels": {LABEL: "true"}, "ownerReferences": [owner]}
        document = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": metadata, "spec": spec}
        ResourceSlice(document, api=api).create()


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
