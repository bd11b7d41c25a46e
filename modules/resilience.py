"""Module 09: a keeper of taints, for GPUs that broke. Its checks make the faults."""

from components.site import Site
from components.taint_keeper import TaintKeeper
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    TaintKeeper("taint-keeper", site=context.get(Site))
