"""Module 10.3: isolation of MIG devices, and a keeper of taints for GPUs that broke."""

from components.site import Site
from components.taint_keeper import TaintKeeper
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """The keeper alone: the checks make the tenants, and the faults. Module 09, which has one too, excludes MIG."""
    TaintKeeper("taint-keeper", site=context.get(Site), divided_gpus=True)
