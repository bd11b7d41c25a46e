"""Modules 04 and 05: GPUs shared by MPS, and its limits."""

from typing import TYPE_CHECKING, Any

import pulumi

from components.consumable_capacity import mps_size
from components.mps_clients import Limits, MpsByClaim
from components.mps_daemon import MpsDaemon
from components.mps_policy import MpsPolicy
from components.workload import Workload
from gpus.mps import VLLM_CLASS, context_mib, granted_multiprocessors, mib_quantity, quantity_mib
from modules import changes
from modules.consumable_capacity import most_memory_mib
from modules.gpus import gpu, gpu_model
from modules.module import Built, Module

if TYPE_CHECKING:
    from settings import Settings
    from settings.blocks import Mps, MpsLimits


def _limits(block: "Mps | MpsLimits") -> Limits:
    per_device = getattr(block, "per_device_pinned_memory_limit", {})
    return Limits(block.active_thread_percentage, block.pinned_device_memory_limit, per_device)


def build_mps(module: Module, settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 04 requires 01"
    assert built.driver, "module 04 requires 02"
    limits = _limits(settings.mps)
    classes = {name: _limits(own) for name, own in settings.mps.classes.items()}
    if "06" in settings.modules:
        classes[VLLM_CLASS] = Limits(settings.vllm.active_thread_percentage, settings.vllm_limit)
    if settings.mps.mode == "daemon":
        built.sharing = MpsDaemon(
            "mps-daemon",
            cluster=built.cluster,
            driver=built.driver,
            image=built.images.mps_daemon,
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
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        gpu=gpu(settings, built, module.number),
        sharing=built.sharing,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["mps"] = mps_outputs(settings)


def mps_outputs(settings: "Settings") -> dict[str, Any]:
    """What the limits mean on the first node's GPU model; a preview shows how they change."""
    mps, model = settings.mps, gpu_model(settings)
    outputs: dict[str, Any] = {
        "mode": mps.mode,
        "activeThreadPercentage": mps.active_thread_percentage,
        "pinnedDeviceMemoryLimit": mps.effective_memory_limit,
        "classes": {name: _limits(own).words for name, own in sorted(mps.classes.items())},
    }
    if model is not None:
        granted = granted_multiprocessors(model, mps.active_thread_percentage)
        context = context_mib(granted)
        free = quantity_mib(mps.effective_memory_limit) - context
        outputs["grantedMultiprocessors"] = f"{granted} of {model.multiprocessors} ({model.key})"
        outputs["memoryLeftForAClient"] = f"{free} MiB, after the {context} MiB of its context"
    return outputs


def build_mps_limits(module: Module, settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 05 requires 01"
    assert built.driver, "module 05 requires 02"
    assert built.sharing and built.shared, "module 05 requires 04"
    policy = MpsPolicy(
        "mps-policy",
        cluster=built.cluster,
        manifests=module.name,
        limits=built.sharing.limits,
        classes=built.sharing.classes,
        pipe="node" if settings.mps.mode == "daemon" else "claim",
        most_memory_mib=most_memory_mib(settings, built),
    )
    Workload(
        "limited-client",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        sharing=built.sharing,
        after=[built.shared],
        depends_on=policy.objects,
        timeout_seconds=settings.timeouts.workload,
    )
