"""Result of one prerequisite's check, as module 00 reports it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Result of one prerequisite's check: the observed state, `ok` if that is enough, and the remedy if it is not.

    With `warning` the state is enough, and the remedy is what would be better.
    """

    name: str
    observed: str
    ok: bool
    remedy: str = ""
    warning: bool = False
