"""Module 10.3: two tenants of one GPU, on a MIG device each."""

from components.manifests import load
from components.site import Site
from components.workload import Dependencies, Workload
from modules.context import Context, MigNamespace
from modules.gpus import mig_devices_for
from settings import Settings
from settings.catalog import Module

TENANTS = ("left", "right")


def build(module: Module, settings: Settings, context: Context) -> None:
    for name, device in zip(TENANTS, mig_devices_for(module, settings), strict=True):
        Workload(
            f"mig-{name}",
            site=context.get(Site),
            documents=load(module.name, f"{name}.yaml"),
            gpu=device,
            depends_on=Dependencies(resources=context.get(MigNamespace).workload.objects[:1]),
        )
