"""Rules of consumable capacity: what NVIDIA's driver lets several claims share, and what MPS can hold them to."""

from collections.abc import Iterator, Mapping
from typing import Any

from gpus import mps as mps_limits
from gpus import shares as capacity
from gpus.models import GpuModel
from gpus.quantity import MIB, quantity_bytes
from settings.blocks import ConsumableCapacity, Driver, Gpu, Mps, Vllm
from settings.problems import Problem

MODULE, MPS_MODULE, EXCLUSIVE_MODULE, VLLM_MODULE = "07", "04", "03", "06"
# Those with claims that look on every GPU.
ADMIN_MODULES = {MPS_MODULE, "08"}
# Pods of module 07 that run at once, each with a share of its own.
RUNNING = len(capacity.RUNNING)
# The clients of module 04, and the limited one of module 05.
DEFAULT_CLIENTS = 2
CLASS_OF_LIMITED_CLIENT = "small"


def shares(driver: Driver, modules: tuple[str, ...]) -> str:
    """How claims share a GPU, as the chart's `consumableShares` has it."""
    if driver.consumable_shares is not None:
        return str(driver.consumable_shares)
    return "memory" if MODULE in modules else "disabled"


def enforced(block: ConsumableCapacity, driver: Driver, mps: Mps, modules: tuple[str, ...]) -> bool:
    """Whether MPS holds module 07's pods to what they requested."""
    if block.enforcement is not None:
        return block.enforcement == "mps"
    return MPS_MODULE in modules and mps.mode == "daemon" and shares(driver, modules) != "disabled"


def taken_mib(mps: Mps, modules: tuple[str, ...], vllm: Vllm | None = None) -> int:
    """What the claim of module 04 requests of its GPU: the limits of all its clients. 0 without a readable limit."""
    if MPS_MODULE not in modules:
        return 0
    sizes = [quantity_bytes(mps.pinned_device_memory_limit)] * DEFAULT_CLIENTS
    if limited := mps.classes.get(CLASS_OF_LIMITED_CLIENT):
        sizes.append(quantity_bytes(limited.pinned_device_memory_limit))
    if vllm and VLLM_MODULE in modules:
        sizes.append(quantity_bytes(vllm.pinned_device_memory_limit or mps.pinned_device_memory_limit))
    return int(sum(size for size in sizes if size is not None) / MIB)


def places(modules: tuple[str, ...], shares_: str) -> dict[str, int]:
    """Which GPU of the first node each module that needs one uses.

    Module 03 keeps one for itself. Where claims share GPUs, modules 04 and 07 are on the same one.
    """
    places, next_one = {}, 0
    for module in (EXCLUSIVE_MODULE, MPS_MODULE, MODULE):
        if module not in modules:
            continue
        if module == MODULE and MPS_MODULE in places and shares_ != "disabled":
            places[module] = places[MPS_MODULE]
            continue
        places[module] = next_one
        next_one += 1
    return places


def chosen(block: ConsumableCapacity) -> dict[str, str]:
    """The requests that the config sets."""
    return block.requests.model_dump(exclude_none=True)


def capacity_rules(blocks: Mapping[str, Any], models: Mapping[str, GpuModel]) -> Iterator[Problem]:
    """All that is wrong with how GPUs are shared; looks at other blocks where they are well-formed."""
    names = ("consumableCapacity", "driver", "mps", "gpu", "modules")
    block, driver, mps, gpu, modules = (blocks.get(name) for name in names)
    if gpu and driver and modules:
        yield from _count_rules(gpu, places(modules, shares(driver, modules)))
    if block is None or driver is None or mps is None or modules is None:
        return
    yield from _driver_rules(driver, mps, modules)
    if MODULE not in modules:
        if block.model_fields_set:
            value = block.model_dump(by_alias=True, exclude_unset=True)
            rule = "is set, but the module that uses it is off"
            yield Problem("consumableCapacity", value, rule, 'add "07" to modules or drop consumableCapacity')
        return
    yield from _enforcement_rules(block, driver, mps, modules)
    yield from _request_rules(block, driver, mps, modules, _first_model(gpu, models))


def _first_model(gpu: Gpu | None, models: Mapping[str, GpuModel]) -> GpuModel | None:
    """The model that module 07's pods meet; the host's is not known before it is there."""
    if gpu is None or gpu.source == "host":
        return None
    return models.get((gpu.nodes[0].model if gpu.nodes else None) or gpu.model)


def _count_rules(gpu: Gpu, used: Mapping[str, int]) -> Iterator[Problem]:
    first = gpu.nodes[0].count if gpu.nodes else None
    needed = max(used.values(), default=-1) + 1
    if gpu.source == "host" and gpu.devices and len(gpu.devices) < needed:
        rule = f"are too few: modules {', '.join(used)} use {needed} GPUs of the first node"
        yield Problem("gpu.devices", list(gpu.devices), rule, f"name {needed} or more, or switch one of them off")
    if gpu.source == "simulated" and (first or gpu.count) < needed:
        key = "gpu.count" if first is None else "gpu.nodes[0].count"
        rule = f"is too few: modules {', '.join(used)} use {needed} GPUs of the first node"
        if EXCLUSIVE_MODULE in used:
            rule += ", one of which module 03 holds for itself"
        yield Problem(key, first or gpu.count, rule, f"give {needed} or more, or switch one of them off")


def _driver_rules(driver: Driver, mps: Mps, modules: tuple[str, ...]) -> Iterator[Problem]:
    used, key = shares(driver, modules), "driver.consumableShares"
    gate = driver.feature_gates.get("ConsumableShares")
    if gate is True and used == "disabled":
        rule = "has no effect by itself: the driver publishes nothing to share"
        yield Problem("driver.featureGates.ConsumableShares", True, rule, "drop it and set driver.consumableShares")
    if used == "disabled":
        return
    if gate is False:
        rule = f"is off, and the driver shares nothing without it (driver.consumableShares: {used})"
        yield Problem("driver.featureGates.ConsumableShares", False, rule, "drop it")
    if driver.version == "0.4.1":
        rule = "of the driver has no consumable shares; they came with 0.5.0"
        yield Problem("driver.version", driver.version, rule, 'use 0.5.0, or drop "07" and driver.consumableShares')
    if MPS_MODULE in modules and mps.mode == "claim":
        rule = f"and consumable shares ({used}) exclude each other: NVIDIA's driver refuses its own MPS beside them"
        yield Problem("mps.mode", mps.mode, rule, "set it to daemon, or set driver.consumableShares to disabled")
    if EXCLUSIVE_MODULE in modules:
        rule = "lets several claims have one GPU, and module 03 shows that a claim has it for itself"
        yield Problem(key, used, rule, 'set it to disabled, or drop "03" from modules')
    # An admin claim takes no share, but Kubernetes allocates it only where one is left.
    claims = RUNNING * (MODULE in modules) + (MPS_MODULE in modules)
    looks_on = bool(ADMIN_MODULES & set(modules))
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
        rule = 'needs the MPS daemon of module "04"'
        yield Problem(key, "mps", rule, 'add "04" to modules or set it to none')
    elif mps.mode == "daemon" and shares(driver, modules) == "disabled":
        rule = "has nothing to hold to: with driver.consumableShares disabled a claim has the whole GPU"
        yield Problem(key, "mps", rule, "drop it, or set driver.consumableShares to memory")


def _request_rules(
    block: ConsumableCapacity, driver: Driver, mps: Mps, modules: tuple[str, ...], model: GpuModel | None
) -> Iterator[Problem]:
    key, sizes = "consumableCapacity.requests", {}
    for name, text in chosen(block).items():
        size = quantity_bytes(text)
        if size is None:
            yield Problem(f"{key}.{name}", text, "is no quantity of memory", "write it like 8Gi or 512Mi")
        elif size < MIB or (size / MIB).denominator != 1:
            rule = "is not a whole number of MiB, the step in which the driver counts"
            yield Problem(f"{key}.{name}", text, rule, "write it in Mi or Gi")
        else:
            sizes[name] = int(size / MIB)
    if len(sizes) < len(chosen(block)) or model is None or shares(driver, modules) == "disabled":
        return
    taken = taken_mib(mps, modules)  # vLLM's part is of a host's GPU, which has no model here
    free = model.memory_mib - taken
    beside = f", of which module 04's clients take {taken}" if taken else ""
    wanted = capacity.requests(sizes, free)
    if too_large := [name for name in sizes if sizes[name] > model.memory_mib]:
        for name in too_large:
            rule = f"is more than the {model.memory_mib} MiB of {model.key}"
            yield Problem(f"{key}.{name}", chosen(block)[name], rule, "lower it")
        return
    running = sum(wanted[name] for name in capacity.RUNNING)
    if running > free:
        rule = f"add up to {running} MiB, and {model.key} has {model.memory_mib} MiB{beside}"
        yield Problem(key, _words(wanted), rule, "lower them, or mps.pinnedDeviceMemoryLimit")
    elif running + wanted["waiting"] <= free:
        rule = f"would leave room for the one that is to wait: {free - running} MiB of {model.key} are free then"
        yield Problem(f"{key}.waiting", f"{wanted['waiting']}Mi", rule, "raise it, or raise the others")
    if enforced(block, driver, mps, modules):
        percentage = mps.active_thread_percentage
        context = mps_limits.context_mib(mps_limits.granted_multiprocessors(model, percentage))
        for name in wanted:
            if wanted[name] <= context:
                rule = f"leaves nothing: on {model.key} a client's context alone takes {context} MiB at {percentage} %"
                yield Problem(f"{key}.{name}", f"{wanted[name]}Mi", rule, f"use more than {context}Mi")


def _words(wanted: Mapping[str, int]) -> dict[str, str]:
    return {name: f"{wanted[name]}Mi" for name in capacity.RUNNING}
