"""Module 12: a fleet of nodes that are only objects."""

from itertools import groupby

from components.fleet import Fleet, FleetGroup
from components.site import Site
from gpus.fleet import MIG
from modules.context import Context
from settings import NodeGpus, Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    alike = [
        list(nodes) for _, nodes in groupby(settings.fleet_nodes, lambda node: (_kind(settings, node), node.count))
    ]
    groups = [
        FleetGroup(settings.fleet_originals[_kind(settings, nodes[0])].node, len(nodes), nodes[0].count or 0)
        for nodes in alike
    ]
    context.outputs["fleet"] = Fleet("fleet", site=context.get(Site), groups=groups).summary
    context.outputs["fleetNodes"] = [in_words(_kind(settings, nodes[0]), nodes) for nodes in alike]


def _kind(settings: Settings, node: NodeGpus) -> str:
    return settings.fleet_kind(node)


def in_words(kind: str, nodes: list[NodeGpus]) -> str:
    """Nodes of one kind in words, for the stack's outputs, which a preview shows."""
    model, first, last = kind.removesuffix(MIG), nodes[0].node, nodes[-1].node
    names = first if first == last else f"{first} to -{last.rpartition('-')[2]}"
    gpus = f"{nodes[0].count} {model}" + (" each" if len(nodes) > 1 else "")
    return f"{names}: {gpus}, " + ("MIG on demand" if kind.endswith(MIG) else "whole")
