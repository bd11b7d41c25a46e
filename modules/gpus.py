"""GPUs and MIG devices that the modules use."""

from pulumi import Input

from components.claims import MigDevice
from gpus.models import GPU_MODELS, simulated_gpus
from machine.gpus import host_gpu
from modules.context import Context
from settings import Settings
from settings.catalog import Module
from settings.stack import NodeGpus


def uuid_for(module: Module, settings: Settings, context: Context) -> Input[str]:
    """UUID of the first node's GPU that a module has or shares."""
    index, gpu = settings.gpu_index(module), host_gpu(settings, module)
    if gpu:
        return gpu.uuid
    return settings.gpu_uuid(index) or context.driver.uuid(settings.gpu_nodes[0].node, index)


def mig_devices_for(module: Module, settings: Settings) -> list[MigDevice]:
    """MIG devices that a module's own pods have: of simulated GPUs, whose UUIDs are known before they are there."""
    nodes = {node.node: node for node in settings.gpu_nodes}
    return [
        MigDevice(slice_.node, slice_.profile.name, parent_uuid(nodes[slice_.node], slice_.gpu))
        for slice_ in settings.mig_slices(module)
    ]


def parent_uuid(node: NodeGpus, gpu: int) -> str:
    """UUID of a node's simulated GPU."""
    return simulated_gpus(node.node, GPU_MODELS[node.model or ""], node.count or 0)[gpu].uuid
