"""Module 04: one GPU for two pods, by MPS."""

from typing import Any

import pulumi

from components.consumable_capacity import mps_size
from components.manifests import load
from components.mps_clients import Mps, MpsByClaim
from components.mps_daemon import DaemonOptions, MpsDaemon
from components.site import Site
from components.workload import Workload
from gpus.models import GpuModel
from gpus.mps import context_mib, granted_multiprocessors
from gpus.quantity import mib_quantity, quantity_mib
from machine.gpus import gpu_model
from modules import changes
from modules.consumable_capacity import most_memory_mib
from modules.context import Context, SharedGpu
from modules.gpus import uuid_for
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    site, daemon = context.get(Site), None
    plan = settings.mps_plan
    if settings.mps.mode == "daemon":
        most = most_memory_mib(settings, context)
        options = DaemonOptions(
            limits=plan.limits,
            classes=plan.classes,
            most_memory=None if most is None else mps_size(most),
            claimed_memory=mib_quantity(plan.claimed_mib) if plan.claimed_mib else None,
        )
        daemon = MpsDaemon("mps-daemon", site=site, options=options)
        mps: Mps = daemon.clients
    else:
        on_host = settings.gpu.source == "host"
        mps = MpsByClaim(plan.limits, plan.classes, needs_claim_deleted_first=on_host)
        if on_host:
            pulumi.log.warn(changes.COMPUTE_MODE)
    workload = Workload(
        "shared-gpu",
        site=site,
        documents=load(module.name, "0-namespace.yaml", "clients.yaml"),
        gpu=uuid_for(module, settings, context),
        sharing=mps,
    )
    context.add(SharedGpu(mps, workload, daemon))
    context.outputs["mps"] = mps_outputs(settings)


def mps_outputs(settings: Settings, part: GpuModel | None = None) -> dict[str, Any]:
    """Meaning of the limits on a part of a GPU, or the first node's GPU model; a preview shows how they change."""
    mps, model = settings.mps, part or gpu_model(settings)
    outputs: dict[str, Any] = {
        "mode": mps.mode,
        "activeThreadPercentage": mps.active_thread_percentage,
        "pinnedDeviceMemoryLimit": mps.effective_memory_limit,
        "classes": {name: limits.words for name, limits in sorted(mps.classes.items())},
    }
    if model is not None:
        granted = granted_multiprocessors(model, mps.active_thread_percentage)
        context = context_mib(granted)
        free = quantity_mib(mps.effective_memory_limit) - context
        outputs["grantedMultiprocessors"] = f"{granted} of {model.multiprocessors} ({model.key})"
        if part is None:  # of a MIG device NVIDIA's driver sets the limit by UUID, and MPS may not hold it
            outputs["memoryLeftForAClient"] = f"{free} MiB, after the {context} MiB of its context"
    return outputs
