"""Plan of a stack's GPUs: the GPU that each module uses, how claims share it, and the limits that MPS gives there."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from gpus.fleet import MIG
from gpus.mig import Layout, Slice, has_parts
from gpus.models import GPU_MODELS
from gpus.mps import CAPACITY_CLASS, DEFAULT_CLASS, Limits
from gpus.quantity import MIB, quantity_bytes
from settings import catalog
from settings.blocks import Blocks, ConsumableCapacity, Driver, Mps
from settings.catalog import GpuUse

# Value of driver.consumableShares by which a claim has its GPU alone.
DISABLED = "disabled"
DYNAMIC_MIG = "DynamicMIG"
# That of the driver's chart, where no module asks for more.
LOG_VERBOSITY = 4


def consumable_shares(driver: Driver, modules: Iterable[str]) -> str:
    """Way in which claims share a GPU, as the chart's `consumableShares` has it."""
    if driver.consumable_shares is not None:
        return str(driver.consumable_shares)
    return next((row.consumable_shares for row in catalog.rows(modules) if row.consumable_shares), DISABLED)


def certain_gates(driver: Driver, modules: Iterable[str]) -> dict[str, bool]:
    """Gates of NVIDIA's driver that modules need whatever else is set, and the stack's own choices over them."""
    needed = {gate.name: True for row in catalog.rows(modules) for gate in row.gates if gate.needed is catalog.always}
    return {**needed, **driver.feature_gates}


def fleet_kind(model: str, layouts: Sequence[Layout], *, dynamic: bool) -> str:
    """Name of a kind of nodes with simulated GPUs; `dynamic` is whether NVIDIA's driver has the gate DynamicMIG."""
    return f"{model}{MIG}" if dynamic and has_parts(GPU_MODELS[model], layouts) else model


def log_verbosity(driver: Driver, modules: Iterable[str]) -> int:
    """Verbosity of the log of NVIDIA's driver, from 0 to 10."""
    if driver.log_verbosity is not None:
        return driver.log_verbosity
    return max(LOG_VERBOSITY, *(row.log_verbosity for row in catalog.rows(modules)))


def gpu_index_by_module(modules: Iterable[str], shares: str) -> dict[str, int]:
    """Index of the GPU of the first node by the number of each module that has or shares one.

    Where claims share GPUs, all modules that can share one are on the same one.
    """
    index_by_module: dict[str, int] = {}
    shared: int | None = None
    for row in catalog.rows(modules):
        free = max(index_by_module.values(), default=-1) + 1
        if row.gpu is GpuUse.OWN:
            index_by_module[row.number] = free
        elif row.gpu is GpuUse.SHARED:
            index_by_module[row.number] = free if shared is None or shares == DISABLED else shared
            shared = index_by_module[row.number]
    return index_by_module


def slices_by_module(modules: Iterable[str], slices: Iterable[Slice]) -> dict[str, tuple[Slice, ...]]:
    """MIG devices by the number of each module that has some of its own; too few where there are no more.

    Those that need several of one GPU choose first, the others take what is left in order.
    """
    free, by_module = list(slices), {}
    for row in sorted(catalog.rows(modules), key=lambda row: -row.mig_slices):
        if row.mig_slices:
            of_gpus = [[other for other in free if (other.node, other.gpu) == (one.node, one.gpu)] for one in free]
            fitting = (group[: row.mig_slices] for group in of_gpus if len(group) >= row.mig_slices)
            by_module[row.number] = tuple(next(fitting, ()))
            free = [one for one in free if one not in by_module[row.number]]
    return by_module


def capacity_enforced(block: ConsumableCapacity, driver: Driver, mps: Mps, modules: tuple[str, ...]) -> bool:
    """Whether MPS holds clients of claims that request memory to what they requested."""
    if block.enforcement is not None:
        return block.enforcement == "mps"
    mps_daemon = catalog.MPS.number in modules and mps.mode == "daemon"
    return mps_daemon and consumable_shares(driver, modules) != DISABLED


def memory_of_clients(classes: Iterable[str], limits: Mapping[str, Limits]) -> list[Fraction]:
    """Bytes that each client may use; one whose limit is missing, or no quantity, is left out."""
    sizes = [quantity_bytes(limits[name].effective_memory_limit) for name in classes if name in limits]
    return [size for size in sizes if size is not None]


@dataclass(frozen=True)
class MpsPlan:
    """Plan of MPS for a stack: the limits of every client, those of each class, and the memory that they need.

    The daemon, the claim, the admission policy and the stack's own clients all get their limits from here.
    """

    limits: Limits
    """Limits of the daemon or the claim itself, which hold for every client that asks for no less."""
    classes: Mapping[str, Limits]
    """Limits below those by class: the stack's own classes, and those that modules bring."""
    claimed_mib: int | None
    """MiB that the shared claim requests of its GPU: the limits of all its clients. None: the whole GPU."""
    requested_class: str | None
    """Class of clients whose memory limit is what their claim requests; None where MPS enforces no requests."""
    pipe_namespaces: tuple[str, ...]
    """Namespaces whose pods mount the node's pipe without being clients."""

    @classmethod
    def of(cls, blocks: Blocks) -> "MpsPlan":
        """Plan for a complete configuration."""
        mps, rows = blocks.block(Mps), catalog.rows(blocks.modules)
        classes = dict(mps.classes)
        for brought in (brought for row in rows for brought in row.mps_classes):
            if brought.limits:
                classes[brought.name] = brought.limits(blocks)
        clients = [name for row in rows for name in row.mps_clients]
        claimed = int(sum(memory_of_clients(clients, {DEFAULT_CLASS: mps, **classes})) / MIB)
        shared = consumable_shares(blocks.driver, blocks.modules) != DISABLED
        requests = catalog.CONSUMABLE_CAPACITY.number in blocks.modules and capacity_enforced(
            blocks.block(ConsumableCapacity), blocks.driver, mps, blocks.modules
        )
        return cls(
            limits=mps,
            classes=classes,
            claimed_mib=claimed or None if shared else None,
            requested_class=CAPACITY_CLASS if requests else None,
            pipe_namespaces=tuple(name for row in catalog.MODULES.values() for name in row.mps_pipe_namespaces),
        )
