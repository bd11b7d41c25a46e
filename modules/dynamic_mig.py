"""Module 10.6: MIG devices that NVIDIA's driver makes for a claim."""

from components.claims import MigDevice
from components.manifests import load
from components.site import Site
from components.workload import Workload
from gpus.mig import smallest_profile
from gpus.models import GPU_MODELS
from modules.context import Context
from modules.gpus import parent_uuid
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    node = settings.gpu_nodes[0]
    profile = smallest_profile(GPU_MODELS[node.model or ""])
    device = MigDevice(node.node, profile.name, parent_uuid(node, 0))
    Workload("dynamic-mig", site=context.get(Site), documents=load(module.name), gpu=device)
