"""What the prerequisites of module 00 find out about a machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One look at the machine: what was seen, whether it will do, what to do if not.

    A `warning` will do, and its remedy says what would do better.
    """

    name: str
    seen: str
    ok: bool
    remedy: str = ""
    warning: bool = False
