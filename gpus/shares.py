"""How independent claims divide a GPU's memory: what module 04's clients take of it, what module 07's pods ask for.

The scheduler counts what claims request (Kubernetes' consumable capacity); only MPS keeps a process to it.
"""

from collections.abc import Mapping

# Sizes that a person reads at a glance where the GPU is large, finer ones where it is small.
COARSE_MIB, FINE_MIB = 1024, 64
COARSE_FROM_MIB = 32 * 1024
# Eighths of what is free: seven of them run; the last one waits until the large one goes, and not for less.
EIGHTHS = {"small": 1, "medium": 2, "large": 4, "waiting": 4}
RUNNING = ("small", "medium", "large")


def default_requests(free_mib: int) -> dict[str, int]:
    """MiB that each of module 07's pods asks for on a GPU with that much unclaimed memory."""
    unit = COARSE_MIB if free_mib >= COARSE_FROM_MIB else FINE_MIB
    return {name: free_mib * eighths // 8 // unit * unit for name, eighths in EIGHTHS.items()}


def requests(chosen: Mapping[str, int], free_mib: int) -> dict[str, int]:
    """MiB that each pod asks for: as chosen in the config, else by default."""
    return {**default_requests(free_mib), **chosen}
