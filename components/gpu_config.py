"""NVIDIA's opaque device configuration (`GpuConfig`, `MigDeviceConfig`), as claims carry it, and what slips its driver.

Source: https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu, api/nvidia.com/resource/v1beta1 of v0.5.0. The driver
looks at it when a pod is already scheduled, and then the pod hangs; an empty `timeSlicingConfig` even ends the plugin.
So it is looked at here, before anything is registered.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from gpus.quantity import MIB, quantity_bytes

DRIVER = "gpu.nvidia.com"
API = {"apiVersion": "resource.nvidia.com/v1beta1", "kind": "GpuConfig"}
# Kinds of the configuration by DeviceClass; of all others it is that of API. Of the wrong kind, the driver refuses an
# entry that names the request, and ignores one that does not.
KINDS = {"mig.nvidia.com": "MigDeviceConfig"}
INTERVALS = ("Default", "Short", "Medium", "Long")
SECTIONS = {"MPS": "mpsConfig", "TimeSlicing": "timeSlicingConfig"}
# The driver decodes strictly: a key that it does not know hangs the pod.
KEYS = {
    "": {"apiVersion", "kind", "sharing"},
    "sharing": {"strategy", *SECTIONS.values()},
    "sharing.timeSlicingConfig": {"interval"},
    "sharing.mpsConfig": {
        "defaultActiveThreadPercentage",
        "defaultPinnedDeviceMemoryLimit",
        "defaultPerDevicePinnedMemoryLimit",
        "multiUser",
    },
}
_DEVICE = re.compile(r"[0-9]+|(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class GpuConfigError(ValueError):
    """Configuration of a claim that would be refused, ignored or worse; the text has every problem."""


def shared_by_mps(
    percentage: int, memory: str, per_device: Mapping[str, str], request: Mapping[str, Any]
) -> dict[str, Any]:
    """Entry of a claim's `config`: the driver starts an MPS daemon of these limits for the device of that request."""
    limits: dict[str, Any] = {
        "defaultActiveThreadPercentage": percentage,
        "defaultPinnedDeviceMemoryLimit": memory,
        # Pods of different users may share the claim.
        "multiUser": True,
    }
    if per_device:
        limits["defaultPerDevicePinnedMemoryLimit"] = dict(per_device)
    parameters = {**API, "kind": kind_of(request), "sharing": {"strategy": "MPS", "mpsConfig": limits}}
    # Always with the request's name: an entry for all requests meets those of other drivers as well.
    return {"requests": [request["name"]], "opaque": {"driver": DRIVER, "parameters": parameters}}


def kind_of(request: Mapping[str, Any]) -> str:
    """Kind of the configuration of a request, by the class of its devices."""
    choices = [request.get("exactly", {}), *request.get("firstAvailable", [])]
    return next((KINDS[name] for one in choices if (name := one.get("deviceClassName")) in KINDS), API["kind"])


def check(name: str, spec: Mapping[str, Any]) -> None:
    """Look at the configuration in a claim's spec. Raises `GpuConfigError` with all that is wrong with it."""
    devices = spec.get("spec", spec).get("devices", {})
    kinds = {request["name"]: kind_of(request) for request in devices.get("requests", [])}
    if problems := [line for entry in devices.get("config", []) for line in _problems(entry, kinds)]:
        raise GpuConfigError(f"claim {name}:\n" + "\n".join(f"  {line}" for line in problems))


def _problems(entry: Mapping[str, Any], kinds: Mapping[str, str]) -> Iterator[str]:
    opaque = entry.get("opaque", {})
    if opaque.get("driver") != DRIVER:
        return
    if not entry.get("requests"):
        yield "config.requests: is missing, so the entry would be for every request; name the claim's requests"
    parameters = opaque.get("parameters", {})
    # An alternative of a list is named as request/alternative.
    wanted = {kinds.get(name.partition("/")[0], API["kind"]) for name in entry.get("requests", [])} or {API["kind"]}
    if len(wanted) > 1:
        yield "config.requests: are of different kinds of devices; give each kind an entry of its own"
    for key, expected in {**API, "kind": min(wanted)}.items():
        if parameters.get(key) != expected:
            yield f"{key}: {parameters.get(key)!r} is not what the driver reads; use {expected}"
    yield from _unknown_keys("", parameters)
    if sharing := parameters.get("sharing"):
        if parameters.get("kind") == "MigDeviceConfig" and "timeSlicingConfig" in sharing:
            yield "sharing.timeSlicingConfig: is unknown to the driver for MIG devices; drop it"
        yield from _sharing(sharing)


def _unknown_keys(path: str, content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        inner = f"{path}.{key}".lstrip(".")
        if key not in KEYS[path]:
            known = ", ".join(sorted(KEYS[path]))
            yield f"{inner}: is unknown to the driver, which then refuses the pod; use some of {known}"
        elif inner in KEYS and isinstance(value, Mapping):
            yield from _unknown_keys(inner, value)


def _sharing(sharing: Mapping[str, Any]) -> Iterator[str]:
    strategy = sharing.get("strategy")
    if strategy not in SECTIONS:
        yield f"sharing.strategy: {strategy!r} is unknown; use {' or '.join(SECTIONS)}"
        return
    for other, section in SECTIONS.items():
        if sharing.get(section) is not None and other != strategy:
            yield f"sharing.{section}: is for the strategy {other}, not {strategy}; drop it"
    if strategy == "MPS":
        yield from _mps(sharing.get("mpsConfig") or {})
    elif (config := sharing.get("timeSlicingConfig")) is not None:
        interval = config.get("interval")
        if interval not in INTERVALS:
            effect = "which ends NVIDIA's plugin" if interval is None else "which is unknown"
            choices = ", ".join(INTERVALS)
            yield f"sharing.timeSlicingConfig.interval: {interval!r}, {effect}; use one of {choices}"


def _mps(config: Mapping[str, Any]) -> Iterator[str]:
    key = "sharing.mpsConfig.default"
    percentage = config.get("defaultActiveThreadPercentage", 100)
    if type(percentage) is not int or not 1 <= percentage <= 100:
        yield f"{key}ActiveThreadPercentage: {percentage!r} would be ignored by MPS; use 1 to 100"
    memory = {f"{key}PinnedDeviceMemoryLimit": config.get("defaultPinnedDeviceMemoryLimit", "1Mi")}
    for device, limit in config.get("defaultPerDevicePinnedMemoryLimit", {}).items():
        if not _DEVICE.fullmatch(device):
            yield f"{key}PerDevicePinnedMemoryLimit: {device!r} names no device; use an index or a UUID"
        memory[f"{key}PerDevicePinnedMemoryLimit.{device}"] = limit
    for name, limit in memory.items():
        size = quantity_bytes(str(limit))
        if size is None or size < MIB:
            yield f"{name}: {limit!r} is less than the driver's unit; use at least 1Mi, such as 8Gi"
