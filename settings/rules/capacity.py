"""Rules of consumable capacity: GPUs that claims share in NVIDIA's driver, and requests that MPS can enforce."""

from collections.abc import Iterable, Iterator, Mapping

from gpus import shares
from gpus.models import GPU_MODELS, GpuModel
from gpus.mps import DEFAULT_CLASS, context_mib, granted_multiprocessors
from gpus.quantity import MIB, quantity_mib
from settings import catalog
from settings.blocks import ConsumableCapacity, Draft, Driver, Gpu, Mps
from settings.catalog import GpuUse
from settings.plan import DISABLED, capacity_enforced, consumable_shares, gpu_index_by_module, memory_of_clients
from settings.problems import Problem
from settings.rules.quantity import quantity_rules
from toolchain.versions import DRA_DRIVER, DRA_DRIVER_FEATURE_GATES

CAPACITY_MODULE, MPS_MODULE = catalog.CONSUMABLE_CAPACITY.number, catalog.MPS.number


def chosen(block: ConsumableCapacity) -> dict[str, str]:
    """Requests that the config sets, by the name of the claim."""
    return block.requests.model_dump(exclude_none=True)


def capacity_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the way in which GPUs are shared; looks at other blocks where they are well-formed."""
    block, mps = draft.block(ConsumableCapacity), draft.block(Mps)
    driver, gpu, modules = draft.driver, draft.gpu, draft.modules
    if gpu and driver and modules:
        yield from _count_rules(gpu, gpu_index_by_module(modules, consumable_shares(driver, modules)))
    if block is None or driver is None or mps is None or modules is None:
        return
    yield from _driver_rules(driver, mps, modules)
    if CAPACITY_MODULE in modules:
        yield from _enforcement_rules(block, driver, mps, modules)
        yield from _request_rules(block, driver, mps, modules, _first_model(gpu))


def _first_model(gpu: Gpu | None) -> GpuModel | None:
    """The model that module 07's pods meet; the host's is not known before it is there."""
    if gpu is None or gpu.source == "host":
        return None
    return GPU_MODELS.get((gpu.nodes[0].model if gpu.nodes else None) or gpu.model)


def _exclusive(numbers: Iterable[str]) -> str:
    """Words on the modules that have a GPU of their own each; empty where none has."""
    exclusive = [row.number for row in catalog.rows(numbers) if row.gpu is GpuUse.OWN]
    if len(exclusive) > 1:
        return f"each of modules {', '.join(exclusive)} holds"
    return f"module {exclusive[0]} holds" if exclusive else ""


def _count_rules(gpu: Gpu, used: Mapping[str, int]) -> Iterator[Problem]:
    first = gpu.nodes[0].count if gpu.nodes else None
    needed = max(used.values(), default=-1) + 1
    if gpu.source == "host" and gpu.devices and len(gpu.devices) < needed:
        rule = f"are too few: modules {', '.join(used)} use {needed} GPUs of the first node"
        yield Problem("gpu.devices", list(gpu.devices), rule, f"name {needed} or more, or switch one of them off")
    if gpu.source == "simulated" and (first or gpu.count) < needed:
        key = "gpu.count" if first is None else "gpu.nodes[0].count"
        rule = f"is too few: modules {', '.join(used)} use {needed} GPUs of the first node"
        if exclusive := _exclusive(used):
            rule += f", one of which {exclusive} for itself"
        yield Problem(key, first or gpu.count, rule, f"give {needed} or more, or switch one of them off")


def _driver_rules(driver: Driver, mps: Mps, modules: tuple[str, ...]) -> Iterator[Problem]:
    used, key = consumable_shares(driver, modules), "driver.consumableShares"
    gate = driver.feature_gates.get("ConsumableShares")
    if gate is True and used == DISABLED:
        rule = "has no effect by itself: the driver publishes nothing to share"
        yield Problem("driver.featureGates.ConsumableShares", True, rule, "drop it and set driver.consumableShares")
    if used == DISABLED:
        return
    if gate is False:
        rule = f"is off, and the driver shares nothing without it (driver.consumableShares: {used})"
        yield Problem("driver.featureGates.ConsumableShares", False, rule, "drop it")
    if "ConsumableShares" not in DRA_DRIVER_FEATURE_GATES[driver.version]:
        rule = f"of the driver has no consumable shares; they came with {DRA_DRIVER}"
        yield Problem(
            "driver.version",
            driver.version,
            rule,
            f'use {DRA_DRIVER}, or drop "{CAPACITY_MODULE}" and driver.consumableShares',
        )
    if MPS_MODULE in modules and mps.mode == "claim":
        rule = f"and consumable shares ({used}) exclude each other: NVIDIA's driver refuses its own MPS beside them"
        yield Problem("mps.mode", mps.mode, rule, "set it to daemon, or set driver.consumableShares to disabled")
    for row in catalog.rows(modules):
        if row.gpu is GpuUse.OWN:
            rule = f"lets several claims have one GPU, and module {row.number} shows that a claim has it for itself"
            yield Problem(key, used, rule, f'set it to disabled, or drop "{row.number}" from modules')
    # An admin claim takes no share, but Kubernetes allocates it only where one is left.
    claims = sum(row.claims for row in catalog.rows(modules))
    looks_on = any(row.looks_at_every_gpu for row in catalog.rows(modules))
    if used.isdigit() and int(used) < claims + looks_on:
        rule = f"is too few: {claims} claims of the modules share one GPU, and each takes a share"
        rule += "; one has to be left for those that look on" if looks_on else ""
        yield Problem(key, driver.consumable_shares, rule, f"use at least {claims + looks_on}")


def _enforcement_rules(
    block: ConsumableCapacity, driver: Driver, mps: Mps, modules: tuple[str, ...]
) -> Iterator[Problem]:
    if block.enforcement != "mps":
        return
    key = "consumableCapacity.enforcement"
    if MPS_MODULE not in modules:
        rule = f'needs the MPS daemon of module "{MPS_MODULE}"'
        yield Problem(key, "mps", rule, f'add "{MPS_MODULE}" to modules or set it to none')
    elif mps.mode == "daemon" and consumable_shares(driver, modules) == DISABLED:
        rule = "has nothing to hold to: with driver.consumableShares disabled a claim has the whole GPU"
        yield Problem(key, "mps", rule, "drop it, or set driver.consumableShares to memory")


def _request_rules(
    block: ConsumableCapacity, driver: Driver, mps: Mps, modules: tuple[str, ...], model: GpuModel | None
) -> Iterator[Problem]:
    key, sizes = "consumableCapacity.requests", {}
    for name, text in chosen(block).items():
        if problems := list(quantity_rules(f"{key}.{name}", text, "the step in which the driver counts")):
            yield from problems
        else:
            sizes[name] = quantity_mib(text)
    if len(sizes) < len(chosen(block)) or model is None or consumable_shares(driver, modules) == DISABLED:
        return
    # A vLLM server's part is of a host's GPU, which has no model here.
    clients = catalog.MPS.mps_clients if MPS_MODULE in modules else ()
    taken = int(sum(memory_of_clients(clients, {DEFAULT_CLASS: mps, **mps.classes})) / MIB)
    free = model.memory_mib - taken
    beside = f", of which module {MPS_MODULE}'s clients take {taken}" if taken else ""
    wanted = shares.requests(sizes, free)
    if too_large := [name for name in sizes if sizes[name] > model.memory_mib]:
        for name in too_large:
            rule = f"is more than the {model.memory_mib} MiB of {model.key}"
            yield Problem(f"{key}.{name}", chosen(block)[name], rule, "lower it")
        return
    running = sum(wanted[name] for name in shares.RUNNING)
    if running > free:
        rule = f"add up to {running} MiB, and {model.key} has {model.memory_mib} MiB{beside}"
        yield Problem(key, _words(wanted), rule, "lower them, or mps.pinnedDeviceMemoryLimit")
    elif running + wanted["waiting"] <= free:
        rule = f"would leave room for the one that is to wait: {free - running} MiB of {model.key} are free then"
        yield Problem(f"{key}.waiting", f"{wanted['waiting']}Mi", rule, "raise it, or raise the others")
    if capacity_enforced(block, driver, mps, modules):
        percentage = mps.active_thread_percentage
        context = context_mib(granted_multiprocessors(model, percentage))
        for name in wanted:
            if wanted[name] <= context:
                rule = f"leaves nothing: on {model.key} a client's context alone takes {context} MiB at {percentage} %"
                yield Problem(f"{key}.{name}", f"{wanted[name]}Mi", rule, f"use more than {context}Mi")


def _words(wanted: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{wanted[name]}Mi" for name in shares.RUNNING}
