"""Memory that each of module 07's pods requests of the GPU that their claims share.

The scheduler counts what claims request (Kubernetes' consumable capacity); only MPS limits a process to it.
"""

from collections.abc import Mapping

# MiB to which a request is rounded down: round figures for people on a large GPU, finer ones on a small GPU.
COARSE_MIB, FINE_MIB = 1024, 64
COARSE_FROM_MIB = 32 * 1024
# Eighths of the free memory. Seven run; the four of `waiting` fit only after `large` is deleted.
EIGHTHS = {"small": 1, "medium": 2, "large": 4, "waiting": 4}
RUNNING = ("small", "medium", "large")


def default_requests(free_mib: int) -> dict[str, int]:
    """MiB that each pod requests by default on a GPU with that much unclaimed memory, by the pod's name."""
    unit = COARSE_MIB if free_mib >= COARSE_FROM_MIB else FINE_MIB
    return {name: free_mib * eighths // 8 // unit * unit for name, eighths in EIGHTHS.items()}


def requests(chosen: Mapping[str, int], free_mib: int) -> dict[str, int]:
    """MiB that each pod requests, by its name: as chosen in the config, else the default."""
    return {**default_requests(free_mib), **chosen}
