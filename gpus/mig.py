"""MIG layouts of simulated GPUs: which GPU instances one GPU is cut into, and where.

A layout is what a stack's config says of one GPU. It becomes one line of the simulated driver's configuration.
"""

from collections.abc import Sequence
from typing import Literal

from gpus.models import GpuModel, MigProfile, ModelError

Layout = Sequence[str] | Literal["empty"]
# MIG mode on, and no instance.
EMPTY: Literal["empty"] = "empty"


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
    placed: list[tuple[MigProfile, int]] = []
    for entry in layout:
        placed.append(_place(model, entry, placed))
    return ",".join(f"{profile.name}@{start}" for profile, start in placed)


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
