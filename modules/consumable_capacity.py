"""Module 07: one GPU for the claims of many pods, and the memory that each of them requests."""

from pulumi import Input, Output

from components.consumable_capacity import SharedByMemory, SharedGpuPolicy, memory_quantity
from components.manifests import load
from components.site import Site
from components.workload import Dependencies, Workload
from gpus import shares as capacity
from gpus.quantity import quantity_mib
from machine.gpus import host_gpu
from modules.context import Context, SharedGpu
from modules.gpus import uuid_for
from settings import Settings
from settings.catalog import CONSUMABLE_CAPACITY, Module
from settings.plan import DISABLED

# Their claims and pods are in files of these names, in this order.
CLAIMS = ("1-small.yaml", "2-medium.yaml", "3-large.yaml", "4-waiting.yaml")


def _requests(settings: Settings, context: Context) -> dict[str, Input[int]]:
    """MiB that each claim of module 07 requests. Another cluster's GPU is known once it is published."""
    texts = settings.consumable_capacity.requests.model_dump(exclude_none=True)
    chosen = {name: quantity_mib(text) for name, text in texts.items()}
    taken = settings.shared_claim_mib or 0
    known = settings.gpu_model or host_gpu(settings, CONSUMABLE_CAPACITY)
    if known and known.memory_mib:
        return dict(capacity.requests(chosen, known.memory_mib - taken))
    memory = context.driver.memory_mib(settings.gpu_nodes[0].node, settings.gpu_index(CONSUMABLE_CAPACITY))
    sizes = memory.apply(lambda mib: capacity.requests(chosen, mib - taken))
    return {name: sizes.apply(lambda sizes, name=name: sizes[name]) for name in capacity.EIGHTHS}


def most_memory_mib(settings: Settings, context: Context) -> Input[int] | None:
    """Most memory that a client of MPS may get where some get what they request; None elsewhere."""
    if settings.mps_plan.requested_class is None:
        return None
    sizes = [quantity_mib(settings.mps.pinned_device_memory_limit), *_requests(settings, context).values()]
    known = [size for size in sizes if isinstance(size, int)]
    return max(known) if len(known) == len(sizes) else Output.all(*sizes).apply(max)


def build(module: Module, settings: Settings, context: Context) -> None:
    site, shared_gpu = context.get(Site), context.find(SharedGpu)
    requests = _requests(settings, context)
    daemon = shared_gpu.daemon if shared_gpu and settings.capacity_enforced else None
    # Without consumable shares a claim has the whole GPU, whatever it requests: the others wait.
    waiting = ("waiting",) if settings.consumable_shares != DISABLED else ("medium", "large", "waiting")
    policy = SharedGpuPolicy("shared-gpus-policy", site=site, documents=load(module.name, "policy.yaml"))
    Workload(
        "shared-gpus",
        site=site,
        documents=load(module.name, "0-namespace.yaml", *CLAIMS),
        gpu=uuid_for(module, settings, context),
        sharing=SharedByMemory(requests, daemon.clients if daemon else None, waiting),
        # The one that waits must not be there before module 04's clients have their part.
        depends_on=Dependencies([shared_gpu.workload] if shared_gpu else [], policy.objects),
    )
    context.outputs["consumableCapacity"] = {
        "consumableShares": settings.consumable_shares,
        "enforcement": "mps" if daemon else "none",
        "requests": {name: memory_quantity(size) for name, size in requests.items()},
    }
