"""The images that the stack runs, by what they are for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

INDEX = Path(__file__).resolve().parent.parent / ".tools" / "images.json"


class ImagesMissing(Exception):
    """Set-up has not made the images yet."""


@dataclass(frozen=True)
class Images:
    """References as the cluster's runtime knows them."""

    node: str
    dra_driver: str
    gpu_sim: str
    gpu_probe: str
    mps_daemon: str

    @classmethod
    def made_by_setup(cls, overrides: Mapping[str, str]) -> "Images":
        """Those that `make setup` recorded, with the stack's own choices instead where it has some."""
        if not INDEX.exists():
            raise ImagesMissing(f"images: {INDEX} is missing; run `make setup` first")
        index = json.loads(INDEX.read_text())
        names = {field.name: field.name.replace("_", "-") for field in fields(cls)}
        if missing := sorted(set(names.values()) - set(index)):
            raise ImagesMissing(f"images: {INDEX} does not name {', '.join(missing)}; run `make setup` again")
        made = cls(**{field: index[name] for field, name in names.items()})
        return replace(made, **overrides)

    @property
    def to_load(self) -> tuple[str, ...]:
        """Those that a Kind cluster cannot pull, since they are only on this machine."""
        refs = (self.dra_driver, self.gpu_sim, self.gpu_probe, self.mps_daemon)
        return tuple(ref for ref in refs if ref.startswith("localhost/"))
