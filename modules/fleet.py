"""Module 12: a fleet of nodes that are only objects."""

from itertools import groupby

from components.fleet import Fleet, FleetGroup
from components.site import Site
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    templates = {node.model: node.node for node in reversed(settings.gpu_nodes)}
    alike = groupby(settings.fleet_nodes, lambda node: (templates[node.model], node.count or 0))
    groups = [FleetGroup(template, len(list(nodes)), gpus) for (template, gpus), nodes in alike]
    context.outputs["fleet"] = Fleet("fleet", site=context.get(Site), groups=groups).summary
