"""Module 06: a vLLM server as a client of MPS."""

import json
from typing import TYPE_CHECKING

from pulumi import Input

from components.site import Site
from components.vllm import (
    NODE_ENVIRONMENT,
    NODE_MODEL,
    VLLM_IMAGE,
    Environment,
    Model,
    Resources,
    ServerOptions,
    VllmServer,
)
from gpus import vllm as vllm_memory
from gpus.mps import granted_multiprocessors
from gpus.quantity import quantity_mib
from machine.nvidia_driver import Mount
from modules.context import Context, SharedGpu
from modules.gpus import gpu_model
from modules.module import Module

if TYPE_CHECKING:
    from settings import Settings


def image_of(settings: "Settings") -> str:
    """The image for the GPU's compute capability where the stack has one, else the one for any."""
    model = gpu_model(settings)
    image = settings.vllm.images.get(model.cuda_compute_capability) if model else None
    return image or settings.images.vllm or VLLM_IMAGE


def images_to_load(settings: "Settings") -> list[str]:
    """vLLM's image, where a Kind cluster cannot pull it, since it is only on this machine."""
    image = image_of(settings) if "06" in settings.modules else ""
    return [image] if image.startswith("localhost/") else []


def mounts(settings: "Settings") -> list[Mount]:
    """The folders of this machine that vLLM reads, for the GPU nodes of a Kind cluster."""
    folders = ((settings.vllm.model.path, NODE_MODEL), (settings.vllm.python_environment, NODE_ENVIRONMENT))
    return [Mount(path, node) for path, node in folders if path and "06" in settings.modules]


def _utilization(settings: "Settings", context: Context) -> Input[str]:
    """gpu_memory_utilization under the limit of MPS. Another cluster's GPU is known once it is published."""
    limit, model = quantity_mib(settings.vllm_limit), gpu_model(settings)
    if model:
        granted = granted_multiprocessors(model, settings.vllm.active_thread_percentage)
        return vllm_memory.utilization(limit, granted, model.memory_mib - model.reserved_memory_mib)
    memory = context.driver.memory_mib(settings.gpu_nodes[0].node, settings.place("04"))
    return memory.apply(lambda total: vllm_memory.utilization(limit, None, total))


def build(module: Module, settings: "Settings", context: Context) -> None:
    site, shared_gpu = context.get(Site), context.get(SharedGpu)
    vllm, chosen, on_kind = settings.vllm, settings.vllm.model, settings.cluster.provider == "kind"
    folder = vllm.python_environment
    model = Model(
        served_name=settings.vllm_model_name,
        dummy=json.dumps(settings.vllm_dummy, indent=2) + "\n" if settings.vllm_dummy else None,
        path=NODE_MODEL if chosen.path and on_kind else chosen.path,
        claim=chosen.claim,
        hub=chosen.hub,
        revision=chosen.revision,
    )
    server = ServerOptions(
        image=image_of(settings),
        model=model,
        gpu_memory_utilization=_utilization(settings, context),
        max_model_len=vllm.max_model_len,
        resources=Resources(vllm.cpu, vllm.memory, vllm.startup_seconds),
        extra_args=vllm.extra_args,
        environment=Environment(folder, NODE_ENVIRONMENT if on_kind else folder) if folder else None,
        cache_claim=vllm.cache_claim,
    )
    VllmServer("vllm", site=site, server=server, sharing=shared_gpu.mps, workload=shared_gpu.workload)
    context.outputs["vllm"] = {
        "model": model.served_name,
        # Random weights: what it writes means nothing, and the one who reads its figures has to know.
        "weights": "dummy" if model.dummy else "real",
        "activeThreadPercentage": vllm.active_thread_percentage,
        "pinnedDeviceMemoryLimit": settings.vllm_limit,
        "gpuMemoryUtilization": server.gpu_memory_utilization,
        "service": "vllm.mps.svc.cluster.local:8000",
    }
