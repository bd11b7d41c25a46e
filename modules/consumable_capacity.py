"""Module 07: one GPU for the claims of many pods, and what each of them requests of it."""

from pulumi import Input, Output

from components.consumable_capacity import SharedByMemory, SharedGpuPolicy, memory_quantity
from components.mps_daemon import MpsDaemon
from components.workload import Workload
from gpus import shares as capacity
from gpus.quantity import quantity_mib
from machine.gpus import host_gpu
from modules.gpus import uuid_for
from modules.module import Built, Module
from settings import Settings
from settings.catalog import CONSUMABLE_CAPACITY


def _requests(settings: Settings, built: Built) -> dict[str, Input[int]]:
    """MiB that each claim of module 07 requests. Another cluster's GPU is known once it is published."""
    assert built.driver, "GPUs are published by module 02"
    texts = settings.consumable_capacity.requests.model_dump(exclude_none=True)
    chosen = {name: quantity_mib(text) for name, text in texts.items()}
    taken = settings.shared_claim_mib or 0
    known = settings.gpu_model or host_gpu(settings, CONSUMABLE_CAPACITY)
    if known and known.memory_mib:
        return dict(capacity.requests(chosen, known.memory_mib - taken))
    memory = built.driver.memory_mib(settings.gpu_nodes[0].node, settings.gpu_index(CONSUMABLE_CAPACITY))
    found = memory.apply(lambda mib: capacity.requests(chosen, mib - taken))
    return {name: found.apply(lambda sizes, name=name: sizes[name]) for name in capacity.EIGHTHS}


def most_memory_mib(settings: Settings, built: Built) -> Input[int] | None:
    """The most memory that a client of MPS may get where some get what they request; None elsewhere."""
    if settings.mps_plan.requested_class is None:
        return None
    sizes = [quantity_mib(settings.mps.pinned_device_memory_limit), *_requests(settings, built).values()]
    known = [size for size in sizes if isinstance(size, int)]
    return max(known) if len(known) == len(sizes) else Output.all(*sizes).apply(max)


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 07 requires 01"
    assert built.driver, "module 07 requires 02"
    requests = _requests(settings, built)
    daemon = built.sharing if isinstance(built.sharing, MpsDaemon) and settings.capacity_enforced else None
    # Without consumable shares a claim has the whole GPU, whatever it requests: the others wait.
    waiting = ("waiting",) if settings.consumable_shares != "disabled" else ("medium", "large", "waiting")
    policy = SharedGpuPolicy("shared-gpus-policy", cluster=built.cluster, manifests=module.name)
    Workload(
        "shared-gpus",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-probe"],
        node=settings.gpu_nodes[0].node,
        gpu=uuid_for(module, settings, built),
        sharing=SharedByMemory(requests, daemon, waiting),
        # The one that waits must not be there before module 04's clients have their part.
        after=[built.shared] if built.shared else [],
        depends_on=policy.objects,
        timeout_seconds=settings.timeouts.workload,
    )
    built.outputs["consumableCapacity"] = {
        "consumableShares": settings.consumable_shares,
        "enforcement": "mps" if daemon else "none",
        "requests": {name: memory_quantity(size) for name, size in requests.items()},
    }
