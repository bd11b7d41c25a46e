"""What MPS gives its clients: multiprocessors for a thread percentage, memory under a limit.

The rules are those measured on an H100 with driver 580.159.04 (docs/learn/05-mps-limits.md has the table); the
simulated driver follows the same ones, and Settings uses them to refuse a limit before anything is touched.
"""

import math
import re
from fractions import Fraction

from gpus.models import GpuModel

MIB = 2**20
# The class of clients that have the limits of the daemon or claim itself.
DEFAULT_CLASS = "default"
# The class of clients whose memory limit is what their claim requests (module 07).
CAPACITY_CLASS = "consumable-capacity"
# The class of module 06's server.
VLLM_CLASS = "vllm"
# What a client's context takes of its own limit, in MiB: a fixed part and one for each multiprocessor granted.
CONTEXT_MIB = 27.6
CONTEXT_MIB_PER_MULTIPROCESSOR = 3.68
# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_FACTORS = {"Ki": 2**10, "Mi": MIB, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def granted_multiprocessors(model: GpuModel, percentage: float) -> int:
    """The SMs that a client sees: whole pairs of them, rounded down, but never fewer than the model's least."""
    pairs = math.floor(percentage * model.multiprocessors / 200)
    return min(model.multiprocessors, max(model.mps_minimum_multiprocessors, 2 * pairs))


def least_percentage(model: GpuModel) -> int:
    """The smallest whole percentage that grants what it says, and not the model's least."""
    least = model.mps_minimum_multiprocessors
    return next(p for p in range(1, 101) if 2 * math.floor(p * model.multiprocessors / 200) >= least)


def context_mib(multiprocessors: int) -> int:
    """What a client's context takes of its memory limit, in whole MiB."""
    return math.ceil(CONTEXT_MIB + CONTEXT_MIB_PER_MULTIPROCESSOR * multiprocessors)


def quantity_bytes(text: str) -> Fraction | None:
    """A Kubernetes quantity in bytes; None if it is none."""
    found = _QUANTITY.fullmatch(text)
    return Fraction(found[1]) * _FACTORS.get(found[2], 1) if found else None


def quantity_mib(text: str) -> int:
    """A quantity of whole MiB, as Settings has checked it."""
    size = quantity_bytes(text)
    assert size is not None and size % MIB == 0, f"{text} is no quantity of whole MiB"
    return int(size / MIB)


def mib_quantity(mib: int) -> str:
    """MiB as the API server writes them, in the largest unit that fits.

    In another one a claim would differ from what the cluster has, and every update would replace it.
    """
    units = ("Mi", "Gi", "Ti")
    power = next(power for power in (2, 1, 0) if mib % 1024**power == 0)
    return f"{mib // 1024**power}{units[power]}"


def mps_memory(text: str) -> str:
    """A quantity as MPS reads it; its M is 2**20 bytes, and a number without a letter is ignored (measured)."""
    return f"{quantity_mib(text)}M"
