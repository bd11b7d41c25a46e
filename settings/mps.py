"""Rules of the block `mps`: what a GPU can grant, what fits into its memory, what NVIDIA's driver accepts."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpus import mps as mps_limits
from gpus.models import GpuModel
from gpus.mps import Limits
from gpus.quantity import MIB, quantity_bytes
from settings.blocks import UUID, Driver, Gpu, Mps
from settings.capacity import CLASS_OF_LIMITED_CLIENT, DEFAULT_CLIENTS
from settings.problems import Problem

# Modules that share a GPU through MPS.
MPS_MODULES = ("04", "05")
CLASS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,28}[a-z0-9])?")
DEVICE_KEY = re.compile(rf"[0-9]{{1,2}}|{UUID}")


def mps_rules(blocks: Mapping[str, Any], models: Mapping[str, GpuModel]) -> Iterator[Problem]:
    """All that is wrong with the block; looks at other blocks where they are well-formed."""
    mps, gpu, driver = (blocks.get(name) for name in ("mps", "gpu", "driver"))
    modules = blocks.get("modules", ())
    if mps is None:
        return
    if mps.model_fields_set and "modules" in blocks and not set(MPS_MODULES) & set(modules):
        rule = "is set, but no module that uses MPS is on"
        yield Problem("mps", mps.model_dump(by_alias=True, exclude_unset=True), rule, 'add "04" to modules or drop mps')
    if driver:
        yield from _gate_rules(mps, driver)
    used = [models[name] for name in _model_names(gpu) if name in models] if gpu else []
    yield from _limits_rules("mps", mps, used)
    for name, limits in mps.classes.items():
        yield from _class_rules(name, limits, mps, used)
    if CLASS_OF_LIMITED_CLIENT not in mps.classes:
        rule = f'has no class "{CLASS_OF_LIMITED_CLIENT}"'
        yield Problem("mps.classes", sorted(mps.classes), rule, "module 05's limited client is of that class; add it")
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
        least = mps_limits.least_percentage(model)
        if percentage < least:
            granted, all_of = model.mps_minimum_multiprocessors, model.multiprocessors
            rule = f"cannot be granted: {model.key} gives a client {granted} of its {all_of} SMs or more"
            yield Problem(f"{key}.activeThreadPercentage", percentage, rule, f"use at least {least}")
    yield from _memory_rules(f"{key}.pinnedDeviceMemoryLimit", limits.pinned_device_memory_limit, percentage, models)


def _memory_rules(key: str, text: str, percentage: int, models: list[GpuModel]) -> Iterator[Problem]:
    size = quantity_bytes(text)
    if size is None:
        yield Problem(key, text, "is no quantity of memory", "write it like 8Gi or 512Mi")
        return
    mib = size / MIB
    if mib < 1 or mib.denominator != 1:
        rule = "rounds to 0 MiB" if mib < 1 else "is not a whole number of MiB, which MPS counts in"
        yield Problem(key, text, rule, "write it in Mi or Gi")
        return
    for model in models:
        context = mps_limits.context_mib(mps_limits.granted_multiprocessors(model, percentage))
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
    if name == mps_limits.DEFAULT_CLASS:
        yield Problem("mps.classes", name, "is the class of the daemon's own limits", "rename it")
    if name == mps_limits.CAPACITY_CLASS:
        yield Problem("mps.classes", name, "is the class of module 07's pods", "rename it")
    yield from _limits_rules(key, limits, models)
    if limits.active_thread_percentage > mps.active_thread_percentage:
        rule = f"is above mps.activeThreadPercentage ({mps.active_thread_percentage}), which caps every client"
        yield Problem(f"{key}.activeThreadPercentage", limits.active_thread_percentage, rule, "lower it or raise that")
    memory = mps.effective_memory_limit
    own, cap = (quantity_bytes(text) for text in (limits.pinned_device_memory_limit, memory))
    if own is not None and cap is not None and own > cap >= MIB:
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


def _sum_rules(mps: Mps, models: list[GpuModel]) -> Iterator[Problem]:
    sizes = [quantity_bytes(mps.effective_memory_limit)] * DEFAULT_CLIENTS
    if limited := mps.classes.get(CLASS_OF_LIMITED_CLIENT):
        sizes.append(quantity_bytes(limited.pinned_device_memory_limit))
    known = [size for size in sizes if size is not None]
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
