"""The GPUs that the modules use: the host's, simulated ones, or those of somebody else's cluster."""

from typing import TYPE_CHECKING

from pulumi import Input

from components.simulated_gpus import SimulatedGpus
from gpus.models import GpuModel, model_of
from machine import gpus as host_gpus
from machine.gpus import HostGpu, HostGpus
from modules.module import Built

if TYPE_CHECKING:
    from settings import Settings


def host(settings: "Settings") -> HostGpus | None:
    """What this machine has of GPUs, where they are the stack's; None where they are simulated or other nodes'."""
    if settings.gpu.source != "host" or settings.cluster.provider != "kind":
        return None
    return host_gpus.discover(settings.gpu.driver_root, settings.gpu.devices)


def gpu_model(settings: "Settings") -> GpuModel | None:
    """The model of the first GPU node's GPUs, also of the host's where it is a known one."""
    found = host(settings)
    if found is None or not found.published:
        return settings.gpu_model
    return model_of(found.published[0].name)


def driver_root(settings: "Settings") -> str:
    """Where NVIDIA's driver is on a node."""
    if settings.gpu.source == "simulated":
        return SimulatedGpus.driver_root
    if found := host(settings):
        return found.driver.node_root
    return settings.gpu.driver_root or "/"


def gpu(settings: "Settings", built: Built, module: str) -> Input[str]:
    """The UUID of the first node's GPU that a module uses."""
    assert built.driver, "GPUs are published by module 02"
    number, known = settings.place(module), host_gpu(settings, module)
    if known:
        return known.uuid
    return settings.gpu_uuid(number) or built.driver.uuid(settings.gpu_nodes[0].node, number)


def host_gpu(settings: "Settings", module: str) -> HostGpu | None:
    """The GPU of the host that a module uses; None where it is not known before it is published."""
    found = host(settings)
    # By the names that NVIDIA's driver gives them.
    gpus = sorted(found.published, key=lambda gpu: f"gpu-{gpu.minor}") if found else []
    return gpus[settings.place(module)] if settings.place(module) < len(gpus) else None
