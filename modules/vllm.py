"""Module 06: a vLLM server as a client of MPS."""

import json

from pulumi import Input

from components.site import Site
from components.vllm import (
    Environment,
    Model,
    Resources,
    ServerOptions,
    VllmServer,
)
from gpus import vllm as vllm_memory
from gpus.mps import granted_multiprocessors
from gpus.quantity import quantity_mib
from machine.gpus import gpu_model
from modules.context import Context, SharedGpu
from settings import Settings
from settings.blocks import NODE_ENVIRONMENT, NODE_MODEL
from settings.catalog import MPS, Module


def _utilization(settings: Settings, context: Context) -> Input[str]:
    """gpu_memory_utilization under the limit of MPS. Another cluster's GPU is known once it is published."""
    limit, model = quantity_mib(settings.vllm_limit), gpu_model(settings)
    if model:
        granted = granted_multiprocessors(model, settings.vllm.active_thread_percentage)
        return vllm_memory.utilization(limit, granted, model.memory_mib - model.reserved_memory_mib)
    memory = context.driver.memory_mib(settings.gpu_nodes[0].node, settings.gpu_index(MPS))
    return memory.apply(lambda total: vllm_memory.utilization(limit, None, total))


def build(module: Module, settings: Settings, context: Context) -> None:
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
        image=context.images["vllm"],
        model=model,
        gpu_memory_utilization=_utilization(settings, context),
        max_model_len=vllm.max_model_len,
        resources=Resources(vllm.cpu, vllm.memory, vllm.startup_seconds, vllm.shared_memory),
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
