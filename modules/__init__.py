"""Workshop's modules: each is built by `build` of the file that its row of the catalog names.

Components know no numbers, and a module that is switched off registers nothing.
"""

import importlib
from collections.abc import Callable
from typing import Any

import pulumi

from components.cluster import Cluster
from components.destroy_guard import DestroyGuard
from machine.images import Images
from modules.context import Context
from settings import Settings, catalog

# The stack that the commands of the Makefile mean unless they are told another.
DEFAULT_STACK = "phase1"
Builder = Callable[[catalog.Module, Settings, Context], None]


def builder(module: catalog.Module) -> Builder:
    """Builder of a module. Only the files of modules that are on are imported."""
    return importlib.import_module(module.builder).build


def build(settings: Settings, images: Images) -> dict[str, Any]:
    """Build the modules that are on, each after what it requires; returns the stack's outputs."""
    context = Context(images)
    for module in settings.rows:
        pulumi.log.debug(f"module {module.number}: {module.title}")
        builder(module)(module, settings, context)
    if cluster := context.find(Cluster):
        # Last: it depends on everything in the cluster, so that it goes first.
        folder = settings.state_folder if settings.cluster.provider == "kind" else None
        DestroyGuard("destroy-guard", cluster=cluster, kind_folder=folder)
    stack = "" if settings.stack == DEFAULT_STACK else f" STACK={settings.stack}"
    return {**context.outputs, "modules": list(settings.modules), "next": f"make verify{stack}"}
