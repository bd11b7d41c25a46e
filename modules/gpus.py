"""UUIDs of the GPUs that the modules use."""

from pulumi import Input

from machine.gpus import host_gpu
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def uuid_for(module: Module, settings: Settings, context: Context) -> Input[str]:
    """UUID of the first node's GPU that a module has or shares."""
    index, gpu = settings.gpu_index(module), host_gpu(settings, module)
    if gpu:
        return gpu.uuid
    return settings.gpu_uuid(index) or context.driver.uuid(settings.gpu_nodes[0].node, index)
