"""Module 10.1: MIG devices by claim."""

from components.manifests import load
from components.site import Site
from components.workload import Workload
from modules.context import Context, MigNamespace
from modules.gpus import mig_devices_for
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    (device,) = mig_devices_for(module, settings)
    context.add(MigNamespace(Workload("mig-tenant", site=context.get(Site), documents=load(module.name), gpu=device)))
