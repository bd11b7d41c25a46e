"""Limits of MPS clients, and the SMs and memory that MPS grants under them.

The rules were measured on an H100 with driver 580.159.04 (table in docs/reference/modules/05-mps-limits.md). The
simulated driver follows them, and Settings refuses a limit by them before anything is changed.
"""

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from gpus.models import GpuModel
from gpus.quantity import mps_memory, quantity_mib

# Class of clients that have the limits of the daemon or claim itself.
DEFAULT_CLASS = "default"
# Class of clients whose memory limit is the memory that their claim requests (module 07).
CAPACITY_CLASS = "consumable-capacity"
# Class of the vLLM server (module 06).
VLLM_CLASS = "vllm"
# MiB of its memory limit that a client's context takes: a fixed part, and a part for each SM granted (measured).
CONTEXT_MIB = 27.6
CONTEXT_MIB_PER_MULTIPROCESSOR = 3.68
# Thread percentages that a stack may set. Below the first, MPS does not grant what is asked for; above the last, all.
PERCENTAGES = range(1, 101)
Percentage = Annotated[int, Field(ge=PERCENTAGES[0], le=PERCENTAGES[-1])]


class Limits(BaseModel):
    """Limits of one MPS client: a percentage of the GPU's SMs, and memory as a quantity of whole MiB.

    The only type of limits from a stack's YAML, whose names its fields have, to a pod.
    """

    # Python may use either name; Settings reads YAML by the alias only.
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
        """Memory limits of single GPUs by index or UUID; empty but for the limits of a claim."""
        return {}

    @property
    def effective_memory_limit(self) -> str:
        """Memory limit on the claim's only GPU."""
        return next(iter(self.per_device.values()), self.pinned_device_memory_limit)

    @property
    def memory_mib(self) -> int:
        """Effective memory limit in MiB. Raises `ValueError` where it is no quantity of whole MiB."""
        return quantity_mib(self.effective_memory_limit)

    @property
    def mps_values(self) -> tuple[str, str]:
        """Percentage and memory limit in the notation of MPS."""
        return str(self.active_thread_percentage), mps_memory(self.pinned_device_memory_limit)

    @property
    def words(self) -> str:
        """Description of the limits for people, in one line."""
        per_device = "".join(f", GPU {device}: {limit}" for device, limit in sorted(self.per_device.items()))
        return f"{self.active_thread_percentage} % of the SMs, {self.pinned_device_memory_limit}{per_device}"


def granted_multiprocessors(model: GpuModel, percentage: float) -> int:
    """Number of SMs that a client gets: pairs, rounded down, and never fewer than the model's minimum."""
    pairs = math.floor(percentage * model.multiprocessors / 200)
    return min(model.multiprocessors, max(model.mps_minimum_multiprocessors, 2 * pairs))


def least_percentage(model: GpuModel) -> int:
    """Smallest whole percentage whose share of the SMs is at least the model's minimum."""
    minimum = model.mps_minimum_multiprocessors
    return next(p for p in PERCENTAGES if 2 * math.floor(p * model.multiprocessors / 200) >= minimum)


def context_mib(multiprocessors: int) -> int:
    """MiB of its memory limit that a client's context takes on that many SMs, rounded up."""
    return math.ceil(CONTEXT_MIB + CONTEXT_MIB_PER_MULTIPROCESSOR * multiprocessors)
