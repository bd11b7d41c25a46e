"""Quantities of memory in the notations of Kubernetes and MPS, and in MiB. The only parser of them.

Source of Kubernetes' notation: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
"""

import re
from fractions import Fraction

MIB = 2**20
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_FACTORS = {"Ki": 2**10, "Mi": MIB, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def quantity_bytes(text: str) -> Fraction | None:
    """Bytes of a Kubernetes quantity of memory; None for any other text."""
    match = _QUANTITY.fullmatch(text)
    return Fraction(match[1]) * _FACTORS.get(match[2], 1) if match else None


def quantity_mib(text: str) -> int:
    """MiB of a quantity that Settings has checked. Raises `ValueError` for anything but whole MiB."""
    size = quantity_bytes(text)
    if size is None or size % MIB:
        raise ValueError(f'quantity "{text}": is no quantity of whole MiB; write it like 8Gi or 512Mi')
    return int(size / MIB)


def mib_quantity(mib: int) -> str:
    """Kubernetes quantity of a number of MiB in the largest unit without a fraction, as the API server writes it.

    In another unit a claim would differ from the cluster's, and every update would replace it.
    """
    units = ("Mi", "Gi", "Ti")
    power = next(power for power in (2, 1, 0) if mib % 1024**power == 0)
    return f"{mib // 1024**power}{units[power]}"


def mps_memory(text: str) -> str:
    """Quantity in the notation of MPS, whose M is 2**20 bytes; MPS ignores a number without a letter (measured).

    Raises `ValueError` for anything but whole MiB.
    """
    return f"{quantity_mib(text)}M"
