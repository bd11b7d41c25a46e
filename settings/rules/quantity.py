"""Rules of memory quantities, which blocks with limits and requests share."""

from collections.abc import Iterator

from gpus.quantity import MIB, quantity_bytes
from settings.problems import Problem


def quantity_rules(key: str, text: str, counted_by: str = "") -> Iterator[Problem]:
    """Problems of a quantity that has to be one or more whole MiB; `counted_by` says who counts in that unit."""
    size = quantity_bytes(text)
    if size is None:
        yield Problem(key, text, "is no quantity of memory", "write it like 8Gi or 512Mi")
    elif size < MIB or size % MIB:
        rule = "is not a whole number of MiB" + (f", {counted_by}" if counted_by else "")
        yield Problem(key, text, "rounds to 0 MiB" if size < MIB else rule, "write it in Mi or Gi")
