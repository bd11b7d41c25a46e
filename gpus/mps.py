"""Limits of MPS' clients, and what they grant: multiprocessors for a thread percentage, memory under a limit.

The rules are those measured on an H100 with driver 580.159.04 (docs/learn/05-mps-limits.md has the table); the
simulated driver follows the same ones, and Settings uses them to refuse a limit before anything is touched.
"""

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpus.models import GpuModel
from gpus.quantity import mps_memory, quantity_mib

# The class of clients that have the limits of the daemon or claim itself.
DEFAULT_CLASS = "default"
# The class of clients whose memory limit is what their claim requests (module 07).
CAPACITY_CLASS = "consumable-capacity"
# The class of module 06's server.
VLLM_CLASS = "vllm"
# What a client's context takes of its own limit, in MiB: a fixed part and one for each multiprocessor granted.
CONTEXT_MIB = 27.6
CONTEXT_MIB_PER_MULTIPROCESSOR = 3.68
# Below the first, MPS grants nothing that it was asked for; above the last, all.
PERCENTAGES = range(1, 101)
Percentage = Annotated[int, Field(ge=PERCENTAGES[0], le=PERCENTAGES[-1])]


class Limits(BaseModel):
    """Limits of one client of MPS: a percentage of the GPU's SMs, and memory as a quantity of whole MiB.

    Field names are those of the YAML; this is the one type of a limit from a stack's file to a pod.
    """

    # By either name in Python; Settings reads YAML by the alias only.
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
    )

    active_thread_percentage: Percentage = 20
    pinned_device_memory_limit: str = "1Gi"

    @property
    def per_device(self) -> Mapping[str, str]:
        """Memory limits of single GPUs by index or UUID; only a claim's can have some."""
        return {}

    @property
    def effective_memory_limit(self) -> str:
        """Memory limit on the claim's only GPU."""
        return next(iter(self.per_device.values()), self.pinned_device_memory_limit)

    @property
    def memory_mib(self) -> int:
        """MiB of the effective memory limit. Raises `ValueError` where it is no quantity of whole MiB."""
        return quantity_mib(self.effective_memory_limit)

    @property
    def mps_values(self) -> tuple[str, str]:
        """Percentage and memory as MPS reads them."""
        return str(self.active_thread_percentage), mps_memory(self.pinned_device_memory_limit)

    @property
    def words(self) -> str:
        """One line for people."""
        per_device = "".join(f", GPU {device}: {limit}" for device, limit in sorted(self.per_device.items()))
        return f"{self.active_thread_percentage} % of the SMs, {self.pinned_device_memory_limit}{per_device}"


def granted_multiprocessors(model: GpuModel, percentage: float) -> int:
    """Number of SMs that a client sees: whole pairs of them, rounded down, but never fewer than the model's least."""
    pairs = math.floor(percentage * model.multiprocessors / 200)
    return min(model.multiprocessors, max(model.mps_minimum_multiprocessors, 2 * pairs))


def least_percentage(model: GpuModel) -> int:
    """Smallest whole percentage that grants what it says, and not the model's least."""
    least = model.mps_minimum_multiprocessors
    return next(p for p in PERCENTAGES if 2 * math.floor(p * model.multiprocessors / 200) >= least)


def context_mib(multiprocessors: int) -> int:
    """Whole MiB of its memory limit that a client's context takes."""
    return math.ceil(CONTEXT_MIB + CONTEXT_MIB_PER_MULTIPROCESSOR * multiprocessors)
