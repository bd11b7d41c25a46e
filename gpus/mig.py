"""MIG layouts of simulated GPUs: which GPU instances one GPU is cut into, and where.

A layout is what a stack's config says of one GPU. It becomes one line of the simulated driver's configuration.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gpus.models import GpuModel, MigProfile, ModelError

Layout = Sequence[str] | Literal["empty"]
# MIG mode on, and no instance.
EMPTY: Literal["empty"] = "empty"

# Of newer GPUs NVIDIA's driver switches MIG mode itself. Source: nvlib.go of its v0.5.0.
AMPERE = "Ampere"


@dataclass(frozen=True)
class Slice:
    """GPU instance of a layout: its node, the index of its GPU there, its profile, and its first memory slice.

    It has one compute instance, of all its compute slices: the two are one MIG device.
    """

    node: str
    gpu: int
    model: GpuModel
    profile: MigProfile
    start: int

    @property
    def part(self) -> GpuModel:
        """Its SMs and memory as those of a GPU of its own, which is what MPS shares."""
        figures = {"multiprocessors": self.profile.multiprocessors, "memory_mib": self.profile.memory_mib}
        key = f"{self.profile.name} of {self.model.key}"
        return self.model.model_copy(update={"key": key, "reserved_memory_mib": 0, **figures})

    @property
    def device_name(self) -> str:
        """Name that NVIDIA's driver publishes it under. Source: CanonicalName of mig.go in its v0.5.0."""
        profile = self.profile.name.replace(".", "").replace("+", "-")
        return f"gpu-{self.gpu}-mig-{profile}-{self.profile.profile_id}-{self.start}"

    @property
    def memory_slices(self) -> range:
        return _memory_slices(self.profile, self.start)


def has_parts(model: GpuModel, layouts: Sequence[Layout]) -> bool:
    """Whether NVIDIA's driver with the gate DynamicMIG publishes parts of some of a node's GPUs."""
    return bool(model.mig_profiles) and (model.architecture != AMPERE or EMPTY in layouts)


def smallest_profile(model: GpuModel) -> MigProfile:
    """Profile of a model with the fewest SMs and the least memory. ModelError if the model has no MIG."""
    if not model.mig_profiles:
        raise ModelError(f"{model.key} has no MIG; choose another model")
    # With +me it has engines as well.
    return min(model.mig_profiles, key=lambda profile: (profile.slices, profile.memory_mib, "+" in profile.name))


def slices(node: str, model: GpuModel, layouts: Sequence[Layout]) -> Iterator[Slice]:
    """GPU instances of a node's layouts, GPU by GPU, in their order. Raises `ModelError` as `mig_line` does."""
    for gpu, layout in enumerate(layouts):
        if not isinstance(layout, str):
            for profile, start in _placed(model, layout):
                yield Slice(node, gpu, model, profile, start)


def mig_line(model: GpuModel, layout: Layout) -> str:
    """Value of the key `mig` of one GPU: PROFILE@PLACEMENT for each instance, "on", or "" for MIG mode off.

    An entry of the layout is PROFILE@PLACEMENT, or PROFILE for the first placement that is free. ModelError if the
    model has no such profile, or the instances do not fit beside each other.
    """
    if isinstance(layout, str):
        if layout != EMPTY:
            raise ModelError(f'MIG layout "{layout}": must be a list of profiles, or {EMPTY}; correct it')
        if not model.mig_profiles:
            raise ModelError(f"MIG layout {EMPTY}: {model.key} has no MIG; drop it or choose another model")
        return "on"
    return ",".join(f"{profile.name}@{start}" for profile, start in _placed(model, layout))


def _placed(model: GpuModel, layout: Sequence[str]) -> list[tuple[MigProfile, int]]:
    placed: list[tuple[MigProfile, int]] = []
    for entry in layout:
        placed.append(_place(model, entry, placed))
    return placed


def _place(model: GpuModel, entry: str, placed: Sequence[tuple[MigProfile, int]]) -> tuple[MigProfile, int]:
    name, at, text = entry.partition("@")
    profile = model.mig_profile(name)
    if at and (not text.isdecimal() or int(text) not in profile.placements):
        places = ", ".join(f"{name}@{place}" for place in profile.placements)
        raise ModelError(f'MIG "{entry}": must be one of {places}; correct the placement')
    if sum(other is profile for other, _ in placed) == profile.instances:
        raise ModelError(f'MIG "{entry}": a {model.key} has {profile.instances} of this profile; remove one')
    slices = sum(other.slices for other, _ in placed) + profile.slices
    if slices > (most := max(each.slices for each in model.mig_profiles)):
        raise ModelError(f'MIG "{entry}": makes {slices} compute slices of {most}; remove or shrink an entry')
    taken = {memory for other, start in placed for memory in _memory_slices(other, start)}
    for start in [int(text)] if at else profile.placements:
        if taken.isdisjoint(_memory_slices(profile, start)):
            return profile, start
    remedy = "move or remove one of the two" if at else "remove or shrink an entry"
    raise ModelError(f'MIG "{entry}": overlaps an earlier entry; {remedy}')


def _memory_slices(profile: MigProfile, start: int) -> range:
    return range(start, start + profile.placement_size)
