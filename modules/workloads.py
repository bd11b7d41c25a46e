"""Module 03: GPUs that one pod has alone, by a claim."""

from components.manifests import load
from components.site import Site
from components.workload import Workload
from modules.context import Context
from modules.gpus import uuid_for
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    Workload(
        "exclusive-gpu",
        site=context.get(Site),
        documents=load(module.name, "0-namespace.yaml", "holder.yaml", "waiter.yaml"),
        # Both want the same GPU, so that the second waits for what the first holds, whatever else is free.
        gpu=uuid_for(module, settings, context),
    )
