"""Module 04: one GPU for two pods, by MPS."""

from typing import Any

import pulumi

from components.consumable_capacity import mps_size
from components.mps_clients import MpsByClaim
from components.mps_daemon import MpsDaemon
from components.workload import Workload
from gpus.mps import context_mib, granted_multiprocessors
from gpus.quantity import mib_quantity, quantity_mib
from machine.gpus import gpu_model
from modules import changes
from modules.consumable_capacity import most_memory_mib
from modules.gpus import uuid_for
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 04 requires 01"
    assert built.driver, "module 04 requires 02"
    limits, classes = settings.mps_plan.limits, settings.mps_plan.classes
    if settings.mps.mode == "daemon":
        built.sharing = MpsDaemon(
            "mps-daemon",
            cluster=built.cluster,
            driver=built.driver,
            image=built.images["mps-daemon"],
            limits=limits,
            classes=classes,
            nodes=[node.node for node in settings.gpu_nodes],
            simulated=built.gpus.digest if built.gpus else None,
            most_memory=None if (most := most_memory_mib(settings, built)) is None else mps_size(most),
            manifests=module.name if settings.cluster.provider == "kind" else None,
            claimed_memory=mib_quantity(settings.shared_claim_mib) if settings.shared_claim_mib else None,
            timeout_seconds=settings.timeouts.workload,
        )
    else:
        built.sharing = MpsByClaim(limits, classes, simulated=settings.gpu.source == "simulated")
        if settings.gpu.source == "host":
            pulumi.log.warn(changes.COMPUTE_MODE)
    built.shared = Workload(
        "shared-gpu",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-probe"],
        node=settings.gpu_nodes[0].node,
        gpu=uuid_for(module, settings, built),
        sharing=built.sharing,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["mps"] = mps_outputs(settings)


def mps_outputs(settings: Settings) -> dict[str, Any]:
    """What the limits mean on the first node's GPU model; a preview shows how they change."""
    mps, model = settings.mps, gpu_model(settings)
    outputs: dict[str, Any] = {
        "mode": mps.mode,
        "activeThreadPercentage": mps.active_thread_percentage,
        "pinnedDeviceMemoryLimit": mps.effective_memory_limit,
        "classes": {name: own.words for name, own in sorted(mps.classes.items())},
    }
    if model is not None:
        granted = granted_multiprocessors(model, mps.active_thread_percentage)
        context = context_mib(granted)
        free = quantity_mib(mps.effective_memory_limit) - context
        outputs["grantedMultiprocessors"] = f"{granted} of {model.multiprocessors} ({model.key})"
        outputs["memoryLeftForAClient"] = f"{free} MiB, after the {context} MiB of its context"
    return outputs
