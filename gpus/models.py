"""GPU models a simulated node can have, and the configuration that the simulated driver reads.

The facts live in images/gpu-sim/models/*.ini, one file a model. This module reads and checks them and renders one
self-contained file a node, so that the C library needs no table of its own. It does not install anything.
"""

from __future__ import annotations

import configparser
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolchain.paths import CHECKOUT

MODELS_FOLDER = CHECKOUT / "images" / "gpu-sim" / "models"
MAX_GPUS_PER_NODE = 16
MAX_MIG_PROFILES = 16
MAX_PLACEMENTS = 8
# One GPU-instance ID stands for one profile at one placement (see images/gpu-sim/src/config.h).
MAX_MIG_INSTANCE_IDS = 31
BRANDS = ("GeForce", "NVIDIA", "Tesla")
ARCHITECTURES = ("Ampere", "Ada Lovelace", "Hopper", "Blackwell")

_UUID_NAMESPACE = uuid.UUID("6f9c8f4e-2d0b-5e0a-9a55-0d7c9f1b6a11")
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_MODEL_KEY = re.compile(r"[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?")
_PROFILE_NAME = re.compile(r"[1-8]g\.[1-9][0-9]{0,2}gb(\+me)?")


class ModelError(ValueError):
    """A model file or a node's request breaks a rule; the text names file, key, value, rule and remedy."""


@dataclass(frozen=True)
class MigProfile:
    """One GPU-instance profile; memory in MiB, placements in memory slices."""

    name: str
    profile_id: int
    profile_index: int
    slices: int
    multiprocessors: int
    memory_mib: int
    instances: int
    placements: tuple[int, ...]
    placement_size: int
    copy_engines: int
    decoders: int
    jpeg_engines: int
    ofa_engines: int


@dataclass(frozen=True)
class GpuModel:
    """What a GPU of this model reports; memory in MiB as nvidia-smi shows it.

    The driver keeps reserved_memory_mib of memory_mib for itself; CUDA's total is what is left.
    """

    key: str
    product_name: str
    brand: str
    architecture: str
    cuda_compute_capability: str
    memory_mib: int
    multiprocessors: int
    pci_device_id: int
    power_limit_watts: int
    mps_minimum_multiprocessors: int
    reserved_memory_mib: int = 0
    mig_profiles: tuple[MigProfile, ...] = ()

    def mig_profile(self, name: str) -> MigProfile:
        """The profile of that name; ModelError if the model has none."""
        for profile in self.mig_profiles:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in self.mig_profiles) or "none: the model has no MIG"
        raise ModelError(f'MIG profile "{name}" is not one of {self.key}\'s ({known}); choose one of these')


@dataclass(frozen=True)
class SimulatedGpu:
    """Identity and place of one GPU on one node."""

    index: int
    minor: int
    uuid: str
    pci_bus_id: str
    pcie_root: str
    model: GpuModel


class _Section:
    """One section of a model file, read key by key so that a leftover key is an error."""

    def __init__(self, file: Path, name: str, values: dict[str, str]) -> None:
        self._file, self._name, self._values = file, name, dict(values)

    def error(self, key: str, value: str, rule: str, remedy: str) -> ModelError:
        return ModelError(f'{self._file}: [{self._name}] {key} = "{value}": {rule}; {remedy}')

    def text(self, key: str) -> str:
        value = self._values.pop(key, "")
        if not value:
            raise self.error(key, "", "the key is required", f'add "{key} = ..." to this section')
        if len(value) > 63 or not value.isascii() or not value.isprintable():
            raise self.error(key, value, "must be 1 to 63 printable ASCII characters", "shorten or correct it")
        return value

    def optional_number(self, key: str, low: int, high: int, default: int) -> int:
        return self.number(key, low, high) if key in self._values else default

    def choice(self, key: str, allowed: Sequence[str]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise self.error(key, value, f"must be one of {', '.join(allowed)}", "write it exactly like that")
        return value

    def number(self, key: str, low: int, high: int) -> int:
        value = self.text(key)
        try:
            number = int(value, 16 if value.startswith("0x") else 10)
        except ValueError:
            raise self.error(key, value, "must be a whole number", "write digits, or 0x and hex digits") from None
        if not low <= number <= high:
            raise self.error(key, value, f"must be {low} to {high}", "correct the figure")
        return number

    def numbers(self, key: str, low: int, high: int, most: int) -> tuple[int, ...]:
        value = self.text(key)
        parts = [part.strip() for part in value.split(",")]
        if not all(part.isdecimal() and low <= int(part) <= high for part in parts):
            raise self.error(key, value, f"must be numbers {low} to {high} joined by commas", "correct the list")
        numbers = tuple(int(part) for part in parts)
        if len(numbers) > most or list(numbers) != sorted(set(numbers)):
            raise self.error(key, value, f"must be at most {most} different numbers in rising order", "sort the list")
        return numbers

    def matching(self, key: str, pattern: str, rule: str) -> str:
        value = self.text(key)
        if not re.fullmatch(pattern, value):
            raise self.error(key, value, rule, "correct it")
        return value

    def done(self) -> None:
        for key, value in self._values.items():
            raise self.error(key, value, "is not a key of this section", "remove it or correct its spelling")


def _read_sections(file: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(
        delimiters=("=",), comment_prefixes=("#",), interpolation=None, strict=True, default_section="\0"
    )
    try:
        parser.read_string(file.read_text(encoding="utf-8"), source=str(file))
    except (configparser.Error, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise ModelError(f"{file}: not an ini file ({text}); correct that line") from error
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _mig_profile(file: Path, section_name: str, values: dict[str, str], model_memory_mib: int) -> MigProfile:
    section = _Section(file, section_name, values)
    name = section_name.removeprefix("mig ")
    if not _PROFILE_NAME.fullmatch(name):
        raise section.error("section", name, "must read like 1g.10gb or 1g.10gb+me", "correct the profile's name")
    profile = MigProfile(
        name=name,
        profile_id=section.number("profile_id", 0, 255),
        profile_index=section.number("profile_index", 0, 17),
        slices=section.number("slices", 1, 8),
        multiprocessors=section.number("multiprocessors", 1, 1024),
        memory_mib=section.number("memory_mib", 1, model_memory_mib),
        instances=section.number("instances", 1, 8),
        placements=section.numbers("placements", 0, 7, MAX_PLACEMENTS),
        placement_size=section.number("placement_size", 1, 8),
        copy_engines=section.number("copy_engines", 0, 64),
        decoders=section.number("decoders", 0, 64),
        jpeg_engines=section.number("jpeg_engines", 0, 64),
        ofa_engines=section.number("ofa_engines", 0, 64),
    )
    section.done()
    if profile.placements[-1] + profile.placement_size > 8:
        rule = f"the last placement with placement_size {profile.placement_size} ends behind memory slice 8"
        raise section.error("placements", str(profile.placements[-1]), rule, "lower one of the two")
    return profile


def _load_model(file: Path) -> GpuModel:
    if not _MODEL_KEY.fullmatch(file.stem):
        raise ModelError(f'{file}: file name "{file.stem}" must be lower-case letters, digits and dashes; rename it')
    sections = _read_sections(file)
    for name in sections:
        if name != "model" and not name.startswith("mig "):
            raise ModelError(f"{file}: [{name}] is neither [model] nor [mig PROFILE]; rename or remove it")
    section = _Section(file, "model", sections.get("model", {}))
    memory_mib = section.number("memory_mib", 1, 2**22)
    profiles = tuple(
        _mig_profile(file, name, values, memory_mib) for name, values in sections.items() if name != "model"
    )
    model = GpuModel(
        key=file.stem,
        product_name=section.text("product_name"),
        brand=section.choice("brand", BRANDS),
        architecture=section.choice("architecture", ARCHITECTURES),
        cuda_compute_capability=section.matching(
            "cuda_compute_capability", r"[1-9][0-9]?\.[0-9]", "must read like 9.0"
        ),
        memory_mib=memory_mib,
        multiprocessors=section.number("multiprocessors", 1, 1024),
        pci_device_id=section.number("pci_device_id", 1, 0xFFFFFFFF),
        power_limit_watts=section.number("power_limit_watts", 1, 10000),
        mps_minimum_multiprocessors=section.number("mps_minimum_multiprocessors", 1, 1024),
        reserved_memory_mib=section.optional_number("reserved_memory_mib", 0, memory_mib - 1, 0),
        mig_profiles=profiles,
    )
    section.done()
    _check_profiles(file, profiles)
    return model


def _check_profiles(file: Path, profiles: tuple[MigProfile, ...]) -> None:
    unique: tuple[tuple[str, Callable[[MigProfile], int]], ...] = (
        ("profile_id", lambda profile: profile.profile_id),
        ("profile_index", lambda profile: profile.profile_index),
    )
    for key, get in unique:
        seen: dict[int, str] = {}
        for profile in profiles:
            if other := seen.get(get(profile)):
                raise ModelError(
                    f'{file}: [mig {profile.name}] {key} = "{get(profile)}": already used by [mig {other}]; '
                    f"NVML tells profiles apart by it, so correct one of the two"
                )
            seen[get(profile)] = profile.name
    places = sum(len(profile.placements) for profile in profiles)
    if len(profiles) > MAX_MIG_PROFILES or places > MAX_MIG_INSTANCE_IDS:
        raise ModelError(
            f"{file}: {len(profiles)} MIG profiles with {places} placements; at most {MAX_MIG_PROFILES} and "
            f"{MAX_MIG_INSTANCE_IDS} are simulated, so remove some"
        )


def load_models(folder: Path = MODELS_FOLDER) -> dict[str, GpuModel]:
    """All models of the folder by key (the file's name without .ini); ModelError if a file breaks a rule."""
    files = sorted(folder.glob("*.ini"))
    if not files:
        raise ModelError(f"{folder}: no *.ini file; a model is one such file, so add one or correct the folder")
    return {file.stem: _load_model(file) for file in files}


def model_of(product_name: str) -> GpuModel | None:
    """The model that reports this product name; None for one that is not known here."""
    return next((model for model in load_models().values() if model.product_name == product_name), None)


def simulated_gpus(node: str, model: GpuModel, count: int) -> tuple[SimulatedGpu, ...]:
    """The node's GPUs, the same ones at every call: UUIDs depend only on the node's name and the index.

    Two neighbouring GPUs share a PCIe root, as on boards with a switch for each pair.
    """
    if not _NODE_NAME.fullmatch(node) or len(node) > 253:
        raise ModelError(f'node "{node}": must be a Kubernetes node name; use lower-case letters, digits, dashes, dots')
    if not 1 <= count <= MAX_GPUS_PER_NODE:
        raise ModelError(f"node {node}: {count} GPUs; a node has 1 to {MAX_GPUS_PER_NODE}, so correct the count")
    return tuple(
        SimulatedGpu(
            index=index,
            minor=index,
            uuid=f"GPU-{uuid.uuid5(_UUID_NAMESPACE, f'{node}/{index}')}",
            pci_bus_id=f"0000:{0x0A + 0x10 * index:02x}:00.0",
            pcie_root=f"pci0000:{0x10 * (index // 2):02x}",
            model=model,
        )
        for index in range(count)
    )


def _model_lines(model: GpuModel) -> list[str]:
    lines = [
        f"[model {model.key}]",
        f"product_name = {model.product_name}",
        f"brand = {model.brand}",
        f"architecture = {model.architecture}",
        f"cuda_compute_capability = {model.cuda_compute_capability}",
        f"memory_mib = {model.memory_mib}",
        f"multiprocessors = {model.multiprocessors}",
        f"pci_device_id = 0x{model.pci_device_id:08x}",
        f"power_limit_watts = {model.power_limit_watts}",
        f"mps_minimum_multiprocessors = {model.mps_minimum_multiprocessors}",
    ]
    if model.reserved_memory_mib:
        lines.append(f"reserved_memory_mib = {model.reserved_memory_mib}")
    for profile in model.mig_profiles:
        lines += [
            "",
            f"[mig {model.key} {profile.name}]",
            f"profile_id = {profile.profile_id}",
            f"profile_index = {profile.profile_index}",
            f"slices = {profile.slices}",
            f"multiprocessors = {profile.multiprocessors}",
            f"memory_mib = {profile.memory_mib}",
            f"instances = {profile.instances}",
            f"placements = {','.join(str(start) for start in profile.placements)}",
            f"placement_size = {profile.placement_size}",
            f"copy_engines = {profile.copy_engines}",
            f"decoders = {profile.decoders}",
            f"jpeg_engines = {profile.jpeg_engines}",
            f"ofa_engines = {profile.ofa_engines}",
        ]
    return lines


def _check_static_mig(model: GpuModel, static_mig: Sequence[str]) -> None:
    taken: set[int] = set()
    for entry in static_mig:
        name, _, start = entry.partition("@")
        profile = model.mig_profile(name)
        if not start.isdecimal() or int(start) not in profile.placements:
            places = ", ".join(f"{name}@{place}" for place in profile.placements)
            raise ModelError(f'static MIG "{entry}": must be one of {places}; correct the placement')
        slices = set(range(int(start), int(start) + profile.placement_size))
        if slices & taken:
            raise ModelError(f'static MIG "{entry}": overlaps an earlier entry; move or remove one of the two')
        taken |= slices


def render_node_config(
    node: str,
    model: GpuModel,
    count: int,
    driver_version: str = "580.159.04",
    cuda_version: str = "13.0",
    *,
    static_mig: Sequence[str] = (),
    mig: Sequence[str] = (),
    mps_memory_limit_by_mig_uuid: Literal["applied", "ignored"] | None = None,
) -> str:
    """The ini text the simulated driver of that node reads.

    static_mig gives every GPU the same fixed MIG devices, each as PROFILE@PLACEMENT, e.g. "3g.40gb@0". mig has a line
    of gpus.mig.mig_line for each GPU in order of index; GPUs beyond it have MIG off.
    mps_memory_limit_by_mig_uuid is a switch of the simulation, see images/gpu-sim/src/config.h; None is its default.
    """
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", driver_version):
        raise ModelError(f'driver version "{driver_version}": must read like 580.159.04; correct it')
    if not re.fullmatch(r"[1-9][0-9]?\.[0-9]", cuda_version):
        raise ModelError(f'CUDA version "{cuda_version}": must read like 13.0; correct it')
    if len(mig) > count:
        raise ModelError(f"node {node}: MIG layouts of {len(mig)} GPUs, but it has {count}; remove some or add GPUs")
    _check_static_mig(model, static_mig)
    lines = [
        f"# Simulated GPUs of node {node}; read by the simulated driver, see images/gpu-sim.",
        "[driver]",
        f"version = {driver_version}",
        f"cuda = {cuda_version}",
        *([f"mps_memory_limit_by_mig_uuid = {limit}"] if (limit := mps_memory_limit_by_mig_uuid) else []),
        "",
        *_model_lines(model),
    ]
    for gpu in simulated_gpus(node, model, count):
        lines += [
            "",
            f"[gpu {gpu.index}]",
            f"model = {model.key}",
            f"uuid = {gpu.uuid}",
            f"minor = {gpu.minor}",
            f"pci_bus_id = {gpu.pci_bus_id}",
            f"pcie_root = {gpu.pcie_root}",
        ]
        if layout := ",".join(static_mig) or "".join(mig[gpu.index : gpu.index + 1]):
            lines.append(f"mig = {layout}")
    return "\n".join(lines) + "\n"


GPU_MODELS = load_models()
