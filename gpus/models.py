"""GPU models of images/gpu-sim/models, one ini file each, and the configuration file of a node's simulated driver.

A node's file has everything that the simulated driver needs, so that its C code has no table of models. Nothing is
installed here.
"""

import configparser
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from toolchain.paths import CHECKOUT
from toolchain.versions import SIMULATED_DRIVER

MODELS_FOLDER = CHECKOUT / "images" / "gpu-sim" / "models"
MAX_GPUS_PER_NODE = 16
MAX_MIG_PROFILES = 16
MEMORY_SLICES = 8
# One GPU-instance ID stands for one profile at one placement (see images/gpu-sim/src/config.h).
MAX_MIG_INSTANCE_IDS = 31

_UUID_NAMESPACE = uuid.UUID("6f9c8f4e-2d0b-5e0a-9a55-0d7c9f1b6a11")
_NODE_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class ModelError(ValueError):
    """Error of a model file or of a node's GPUs. The text names file, section, key, value, rule and remedy.

    Each problem of a file has a line.
    """


def _whole_number(text: str) -> int:
    try:
        return int(text, 16 if text.startswith("0x") else 10)
    except ValueError:
        raise ValueError("must be a whole number; write digits, or 0x and hex digits") from None


def _rising_numbers(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(f"[0-{MEMORY_SLICES - 1}]", part) for part in parts):
        raise ValueError(f"must be numbers 0 to {MEMORY_SLICES - 1} joined by commas; correct the list")
    if parts != sorted(set(parts)):
        raise ValueError("must be different numbers in rising order; sort the list")
    return tuple(map(int, parts))


Whole = Annotated[int, BeforeValidator(_whole_number)]
Multiprocessors = Annotated[Whole, Field(ge=1, le=1024)]
MemoryMib = Annotated[Whole, Field(ge=1, le=2**22)]
Engines = Annotated[Whole, Field(ge=0, le=64)]


class Section(BaseModel):
    """Section of a model file, one field a key.

    A field with an alias in brackets is no key: in a file such a line starts a section.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class MigProfile(Section):
    """GPU-instance profile of MIG; memory in MiB, placements and their size in memory slices.

    `profile_id` is the number in `nvidia-smi mig -lgip`, `profile_index` NVML_GPU_INSTANCE_PROFILE_* of nvml.h.
    """

    name: str = Field(
        alias="[section]",
        pattern=r"^[1-8]g\.[1-9][0-9]{0,2}gb(\+me)?$",
        description="must read like 1g.10gb or 1g.10gb+me; correct the profile's name",
    )
    profile_id: Whole = Field(ge=0, le=255)
    profile_index: Whole = Field(ge=0, le=17)
    slices: Whole = Field(ge=1, le=8)
    multiprocessors: Multiprocessors
    memory_mib: MemoryMib
    instances: Whole = Field(ge=1, le=8)
    placements: Annotated[tuple[int, ...], BeforeValidator(_rising_numbers)]
    placement_size: Whole = Field(ge=1, le=MEMORY_SLICES)
    copy_engines: Engines
    decoders: Engines
    jpeg_engines: Engines
    ofa_engines: Engines


class GpuModel(Section):
    """Facts that a GPU of one model reports; memory in MiB as nvidia-smi shows it, power in watts.

    The driver keeps `reserved_memory_mib` of `memory_mib` for itself; CUDA's total is the rest.
    `mps_minimum_multiprocessors` is the least number of SMs that MPS grants a client.
    """

    key: str = Field(
        alias="[file]",
        pattern="^[a-z0-9]([-a-z0-9]{0,30}[a-z0-9])?$",
        description="must be 1 to 32 lower-case letters, digits and dashes; rename it",
    )
    product_name: str = Field(
        pattern="^[ -~]{1,63}$", description="must be 1 to 63 printable ASCII characters; shorten or correct it"
    )
    brand: Literal["GeForce", "NVIDIA", "Tesla"]
    architecture: Literal["Ampere", "Ada Lovelace", "Hopper", "Blackwell"]
    cuda_compute_capability: str = Field(pattern=r"^[1-9][0-9]?\.[0-9]$", description="must read like 9.0; correct it")
    memory_mib: MemoryMib
    multiprocessors: Multiprocessors
    pci_device_id: Whole = Field(ge=1, le=0xFFFFFFFF)
    power_limit_watts: Whole = Field(ge=1, le=10000)
    mps_minimum_multiprocessors: Multiprocessors
    reserved_memory_mib: Whole = Field(default=0, ge=0, le=2**22)
    mig_profiles: tuple[MigProfile, ...] = Field(alias="[mig]")

    def mig_profile(self, name: str) -> MigProfile:
        """MIG profile by name. Raises `ModelError` where the model has none of that name."""
        for profile in self.mig_profiles:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in self.mig_profiles) or "none: the model has no MIG"
        raise ModelError(f'MIG profile "{name}" is not one of {self.key}\'s ({known}); choose one of these')


@dataclass(frozen=True)
class SimulatedGpu:
    """Identity of one simulated GPU, and its place on a node's PCI buses. `minor` is the number of its device file."""

    index: int
    minor: int
    uuid: str
    pci_bus_id: str
    pcie_root: str
    model: GpuModel


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


def _load_model(file: Path) -> GpuModel:
    sections = _read_sections(file)
    profiles = [name for name in sections if name != "model"]
    for name in profiles:
        if not name.startswith("mig "):
            raise ModelError(f"{file}: [{name}] is neither [model] nor [mig PROFILE]; rename or remove it")
    mig = [{"[section]": name.removeprefix("mig "), **sections[name]} for name in profiles]
    try:
        model = GpuModel.model_validate({"[file]": file.stem, "[mig]": mig, **sections.get("model", {})})
    except ValidationError as error:
        raise ModelError("\n".join(_wrong_key(file, sections, detail) for detail in error.errors())) from None
    if problems := list(_contradictions(file, model)):
        raise ModelError("\n".join(problems))
    return model


def _wrong_key(file: Path, sections: Mapping[str, Mapping[str, str]], detail: Any) -> str:
    """Problem that one of pydantic's errors means."""
    section, kind, path = "model", GpuModel, detail["loc"]
    if path[0] == "[mig]":
        section, kind = [name for name in sections if name != "model"][path[1]], MigProfile
    key, limits = path[-1].strip("[]"), kind.model_json_schema()["properties"].get(path[-1], {})
    # As the file has it: pydantic's own is a number already.
    value = sections.get(section, {}).get(key, detail["input"])
    match detail["type"]:
        case "missing":
            value, rule, remedy = "", "the key is required", f'add "{key} = ..." to this section'
        case "extra_forbidden":
            rule, remedy = "is not a key of this section", "remove it or correct its spelling"
        case "value_error":
            rule, _, remedy = str(detail["ctx"]["error"]).partition("; ")
        case "literal_error":
            rule, remedy = f"must be one of {', '.join(limits['enum'])}", "write it exactly like that"
        case "greater_than_equal" | "less_than_equal":
            rule, remedy = f"must be {limits['minimum']} to {limits['maximum']}", "correct the figure"
        case _:
            rule, _, remedy = limits["description"].partition("; ")
    return f'{file}: [{section}] {key} = "{value}": {rule}; {remedy}'


def _contradictions(file: Path, model: GpuModel) -> Iterator[str]:
    """Problems of values that are right by themselves, and not beside each other."""
    memory, profiles = model.memory_mib, model.mig_profiles
    if model.reserved_memory_mib >= memory:
        value = f'[model] reserved_memory_mib = "{model.reserved_memory_mib}"'
        yield f"{file}: {value}: must be 0 to {memory - 1}; correct the figure"
    for number, profile in enumerate(profiles):
        section, start, size = f"{file}: [mig {profile.name}]", profile.placements[-1], profile.placement_size
        if profile.memory_mib > memory:
            yield f'{section} memory_mib = "{profile.memory_mib}": must be 1 to {memory}; correct the figure'
        if start + size > MEMORY_SLICES:
            rule = f"the last placement with placement_size {size} ends behind memory slice {MEMORY_SLICES}"
            yield f'{section} placements = "{start}": {rule}; lower one of the two'
        for key in ("profile_id", "profile_index"):
            value = getattr(profile, key)
            if other := next((other.name for other in profiles[:number] if getattr(other, key) == value), None):
                remedy = "NVML tells profiles apart by it, so correct one of the two"
                yield f'{section} {key} = "{value}": already used by [mig {other}]; {remedy}'
    placements = sum(len(profile.placements) for profile in profiles)
    if len(profiles) > MAX_MIG_PROFILES or placements > MAX_MIG_INSTANCE_IDS:
        yield (
            f"{file}: {len(profiles)} MIG profiles with {placements} placements; at most {MAX_MIG_PROFILES} and "
            f"{MAX_MIG_INSTANCE_IDS} are simulated, so remove some"
        )


def load_models(folder: Path = MODELS_FOLDER) -> dict[str, GpuModel]:
    """Models of a folder by key, which is the file's name without .ini.

    Raises `ModelError` with all problems of the first wrong file, or where the folder has no file.
    """
    files = sorted(folder.glob("*.ini"))
    if not files:
        raise ModelError(f"{folder}: no *.ini file; a model is one such file, so add one or correct the folder")
    return {file.stem: _load_model(file) for file in files}


def model_of(product_name: str) -> GpuModel | None:
    """Model that reports a product name; None where no model file has it."""
    return next((model for model in GPU_MODELS.values() if model.product_name == product_name), None)


def simulated_uuid(node: str, index: int) -> str:
    """UUID of a node's simulated GPU, which is the same at every call."""
    return f"GPU-{uuid.uuid5(_UUID_NAMESPACE, f'{node}/{index}')}"


def simulated_gpus(node: str, model: GpuModel, count: int) -> tuple[SimulatedGpu, ...]:
    """GPUs of a node, the same at every call: a UUID depends only on the node's name and the GPU's index.

    Two neighbours share a PCIe root, as on boards with a switch for each pair. Raises `ModelError` for a name that is
    no node's and for a count outside 1 to MAX_GPUS_PER_NODE.
    """
    if not _NODE_NAME.fullmatch(node) or len(node) > 253:
        raise ModelError(f'node "{node}": must be a Kubernetes node name; use lower-case letters, digits, dashes, dots')
    if not 1 <= count <= MAX_GPUS_PER_NODE:
        raise ModelError(f"node {node}: {count} GPUs; a node has 1 to {MAX_GPUS_PER_NODE}, so correct the count")
    return tuple(
        SimulatedGpu(
            index=index,
            minor=index,
            uuid=simulated_uuid(node, index),
            pci_bus_id=f"0000:{0x0A + 0x10 * index:02x}:00.0",
            pcie_root=f"pci0000:{0x10 * (index // 2):02x}",
            model=model,
        )
        for index in range(count)
    )


def _model_lines(model: GpuModel) -> list[str]:
    lines = [f"[model {model.key}]", *_key_lines(model)]
    for profile in model.mig_profiles:
        lines += ["", f"[mig {model.key} {profile.name}]", *_key_lines(profile)]
    return lines


def _key_lines(section: Section) -> Iterator[str]:
    """Lines of a section's keys, without those that have their defaults."""
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if field.alias or value == field.default:
            continue
        if key == "pci_device_id":
            value = f"0x{value:08x}"
        elif key == "placements":
            value = ",".join(map(str, value))
        yield f"{key} = {value}"


def _check_static_mig(model: GpuModel, static_mig: Sequence[str]) -> None:
    used_slices: set[int] = set()
    for entry in static_mig:
        name, _, start = entry.partition("@")
        profile = model.mig_profile(name)
        if not start.isdecimal() or int(start) not in profile.placements:
            known = ", ".join(f"{name}@{placement}" for placement in profile.placements)
            raise ModelError(f'static MIG "{entry}": must be one of {known}; correct the placement')
        slices = set(range(int(start), int(start) + profile.placement_size))
        if slices & used_slices:
            raise ModelError(f'static MIG "{entry}": overlaps an earlier entry; move or remove one of the two')
        used_slices |= slices


@dataclass(frozen=True)
class SimulatedDriver:
    """NVIDIA driver that simulated GPUs report: its version, and the newest CUDA version that it serves.

    `mps_memory_limit_by_mig_uuid` is a switch of the simulation, see images/gpu-sim/src/config.h; None is its default.
    """

    version: str = SIMULATED_DRIVER
    cuda: str = "13.0"
    mps_memory_limit_by_mig_uuid: Literal["applied", "ignored"] | None = None


def render_node_config(
    node: str,
    model: GpuModel,
    count: int,
    driver: SimulatedDriver = SimulatedDriver(),
    *,
    static_mig: Sequence[str] = (),
    mig: Sequence[str] = (),
) -> str:
    """Content of the ini file that a node's simulated driver reads.

    `static_mig` gives every GPU the same fixed MIG devices, each as PROFILE@PLACEMENT, such as 3g.40gb@0. `mig` has a
    line of gpus.mig.mig_line for each GPU in order of index; GPUs beyond it have MIG off.
    Raises `ModelError` for a version or a MIG device that cannot be.
    """
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}(\.[0-9]{1,4})?", driver.version):
        raise ModelError(f'driver version "{driver.version}": must read like 580.159.04; correct it')
    if not re.fullmatch(r"[1-9][0-9]?\.[0-9]", driver.cuda):
        raise ModelError(f'CUDA version "{driver.cuda}": must read like 13.0; correct it')
    if len(mig) > count:
        raise ModelError(f"node {node}: MIG layouts of {len(mig)} GPUs, but it has {count}; remove some or add GPUs")
    _check_static_mig(model, static_mig)
    lines = [
        f"# Simulated GPUs of node {node}; read by the simulated driver, see images/gpu-sim.",
        "[driver]",
        f"version = {driver.version}",
        f"cuda = {driver.cuda}",
        *([f"mps_memory_limit_by_mig_uuid = {limit}"] if (limit := driver.mps_memory_limit_by_mig_uuid) else []),
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
