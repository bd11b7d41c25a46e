"""Rules of the block `mps`: the limits that a GPU can grant and hold, and those that NVIDIA's driver accepts."""

import re
from collections.abc import Iterator

from gpus.models import GPU_MODELS, GpuModel
from gpus.mps import DEFAULT_CLASS, Limits, context_mib, granted_multiprocessors, least_percentage
from gpus.quantity import MIB, quantity_bytes, quantity_mib
from settings import catalog
from settings.blocks import UUID, Draft, Driver, Gpu, Mps
from settings.catalog import LIMITED_CLASS
from settings.plan import DISABLED, consumable_shares, memory_of_clients, slices_by_module
from settings.problems import Problem
from settings.rules.mig import mig_slices
from settings.rules.quantity import quantity_rules

CLASS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?")
DEVICE_KEY = re.compile(rf"[0-9]{{1,2}}|{UUID}")


def mps_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the block; looks at other blocks where they are well-formed."""
    mps, gpu, driver = draft.block(Mps), draft.gpu, draft.driver
    if mps is None:
        return
    if driver:
        yield from _gate_rules(mps, driver)
    used = [GPU_MODELS[name] for name in _model_names(gpu) if name in GPU_MODELS] if gpu else []
    by_claim = [row.number for row in catalog.rows(draft.modules or ()) if row.mps_by_claim]
    if gpu and by_claim:
        given = slices_by_module(draft.modules or (), mig_slices(gpu))
        used = [slice_.part for number in by_claim for slice_ in given.get(number, ())]
        yield from _by_claim_rules(mps, driver, by_claim)
    yield from _limits_rules("mps", mps, used)
    for name, limits in mps.classes.items():
        yield from _class_rules(name, limits, mps, used)
    yield from _reserved_rules(mps, draft.modules or ())
    if LIMITED_CLASS not in mps.classes:
        rule = f'has no class "{LIMITED_CLASS}"'
        yield Problem(
            "mps.classes",
            sorted(mps.classes),
            rule,
            f"module {catalog.MPS_LIMITS.number}'s limited client is of that class; add it",
        )
    if mps.per_device_pinned_memory_limit and mps.mode == "daemon":
        rule = (
            "is for MPS by claim: CUDA applies a daemon's memory limits by the client's own numbers of its GPUs, and "
        )
        rule += "a pod sees its only GPU as number 0, so one daemon for all of a node's GPUs cannot tell them apart"
        limits = dict(mps.per_device_pinned_memory_limit)
        yield Problem("mps.perDevicePinnedMemoryLimit", limits, rule, "drop it or set mps.mode to claim")
    if len(mps.per_device_pinned_memory_limit) > 1:
        names = list(mps.per_device_pinned_memory_limit)
        rule = "names more than one GPU, and the claim has one"
        yield Problem("mps.perDevicePinnedMemoryLimit", names, rule, "keep one of them")
    for key, text in mps.per_device_pinned_memory_limit.items():
        yield from _device_rules(key, text, mps, used)
    yield from _sum_rules(mps, used)


def _by_claim_rules(mps: Mps, driver: Driver | None, modules: list[str]) -> Iterator[Problem]:
    """Problems of MPS for modules whose claims of MIG devices have a daemon of NVIDIA's driver."""
    if mps.mode != "claim":
        rule = (
            f'has no daemon for MIG devices, and module "{modules[0]}" shares some: an admin claim sees whole GPUs only'
        )
        yield Problem("mps.mode", mps.mode, rule, f'set it to claim or drop "{modules[0]}" from modules')
    if driver and (shares := consumable_shares(driver, modules)) != DISABLED:
        rule = f'and module "{modules[0]}" exclude each other: NVIDIA\'s driver refuses its own MPS beside shares'
        yield Problem("driver.consumableShares", shares, rule, f'drop it or drop "{modules[0]}" from modules')


def _model_names(gpu: Gpu) -> list[str]:
    """The models of the simulated GPUs, each once; the host's are not known before they are there."""
    if gpu.source == "host":
        return []
    return sorted({node.model or gpu.model for node in gpu.nodes} or {gpu.model})


def _gate_rules(mps: Mps, driver: Driver) -> Iterator[Problem]:
    if mps.mode != "claim":
        return
    gates = driver.feature_gates
    if gates.get("MPSSupport") is False:
        rule = "is off, and NVIDIA's driver starts no MPS daemon without it"
        yield Problem("driver.featureGates.MPSSupport", False, rule, "drop it or set mps.mode to daemon")
    if gates.get("DynamicMIG"):
        rule = "and MPS by claim (gate MPSSupport) exclude each other in NVIDIA's driver"
        yield Problem("driver.featureGates.DynamicMIG", True, rule, "switch it off or set mps.mode to daemon")


def _limits_rules(key: str, limits: Limits, models: list[GpuModel]) -> Iterator[Problem]:
    """Percentage and memory of one group of clients, on each model that they may meet."""
    percentage = limits.active_thread_percentage
    for model in models:
        least = least_percentage(model)
        if percentage < least:
            granted, all_of = model.mps_minimum_multiprocessors, model.multiprocessors
            rule = f"cannot be granted: {model.key} gives a client {granted} of its {all_of} SMs or more"
            yield Problem(f"{key}.activeThreadPercentage", percentage, rule, f"use at least {least}")
    yield from _memory_rules(f"{key}.pinnedDeviceMemoryLimit", limits.pinned_device_memory_limit, percentage, models)


def _memory_rules(key: str, text: str, percentage: int, models: list[GpuModel]) -> Iterator[Problem]:
    if problems := list(quantity_rules(key, text, "which MPS counts in")):
        yield from problems
        return
    mib = quantity_mib(text)
    for model in models:
        context = context_mib(granted_multiprocessors(model, percentage))
        if mib > model.memory_mib:
            yield Problem(key, text, f"is more than the {model.memory_mib} MiB of {model.key}", "lower it")
        elif mib <= context:
            rule = f"leaves nothing: on {model.key} a client's context alone takes {context} MiB at {percentage} %"
            yield Problem(key, text, rule, f"use more than {context}Mi or a smaller thread percentage")


def _class_rules(name: str, limits: Limits, mps: Mps, models: list[GpuModel]) -> Iterator[Problem]:
    key = f"mps.classes.{name}"
    if not CLASS_NAME.fullmatch(name):
        rule = "must be at most 30 lower-case letters, digits and '-', since it becomes a label"
        yield Problem("mps.classes", name, rule, "rename it")
    if name == DEFAULT_CLASS:
        yield Problem("mps.classes", name, "is the class of the daemon's own limits", "rename it")
    yield from _limits_rules(key, limits, models)
    if limits.active_thread_percentage > mps.active_thread_percentage:
        rule = f"is above mps.activeThreadPercentage ({mps.active_thread_percentage}), which caps every client"
        yield Problem(f"{key}.activeThreadPercentage", limits.active_thread_percentage, rule, "lower it or raise that")
    memory = mps.effective_memory_limit
    asked, cap = (quantity_bytes(text) for text in (limits.pinned_device_memory_limit, memory))
    if asked is not None and cap is not None and asked > cap >= MIB:
        rule = f"is above {_memory_key(mps)} ({memory}), which caps every client"
        text = limits.pinned_device_memory_limit
        yield Problem(f"{key}.pinnedDeviceMemoryLimit", text, rule, "lower it or raise that")


def _device_rules(key: str, text: str, mps: Mps, models: list[GpuModel]) -> Iterator[Problem]:
    name = "mps.perDevicePinnedMemoryLimit"
    if not DEVICE_KEY.fullmatch(key):
        yield Problem(name, key, "names no GPU", 'use its index ("0") or UUID ("GPU-...")')
    elif key.isdigit() and int(key) > 0:
        rule = "is the index of no GPU: NVIDIA's driver counts those of the claim, which has one"
        yield Problem(name, key, rule, 'use "0"')
    yield from _memory_rules(f"{name}.{key}", text, mps.active_thread_percentage, models)


def _reserved_rules(mps: Mps, modules: tuple[str, ...]) -> Iterator[Problem]:
    for row in catalog.MODULES.values():
        for brought in row.mps_classes:
            if brought.name in mps.classes and (brought.always_reserved or row.number in modules):
                rule = f"is the class of module {row.number}'s {brought.clients}"
                yield Problem("mps.classes", brought.name, rule, "rename it")


def _sum_rules(mps: Mps, models: list[GpuModel]) -> Iterator[Problem]:
    known = memory_of_clients(catalog.MPS.mps_clients, {DEFAULT_CLASS: mps, **mps.classes})
    total = sum(known) / MIB
    for model in models:
        if max(known, default=0) / MIB <= model.memory_mib < total:
            rule = f"is too much: the limits of the {len(known)} clients that share a GPU add up to "
            rule += f"{float(total):.0f} MiB, and {model.key} has {model.memory_mib}"
            yield Problem(_memory_key(mps), mps.effective_memory_limit, rule, "lower it")


def _memory_key(mps: Mps) -> str:
    """Where the limit that holds is set."""
    for device in mps.per_device_pinned_memory_limit:
        return f"mps.perDevicePinnedMemoryLimit.{device}"
    return "mps.pinnedDeviceMemoryLimit"
