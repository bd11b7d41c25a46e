"""The images that the stack runs, by what they are for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from toolchain.paths import IMAGES_FILE
from toolchain.versions import DRA_DRIVER, of_driver

INDEX = IMAGES_FILE


class ImagesMissing(Exception):
    """Set-up has not made the images yet."""


@dataclass(frozen=True)
class Images:
    """References as the cluster's runtime knows them. "" is one that nothing runs."""

    node: str
    dra_driver: str
    gpu_sim: str
    gpu_probe: str
    mps_daemon: str
    gpu_agents: str

    @classmethod
    def made_by_setup(cls, overrides: Mapping[str, str], driver_version: str = DRA_DRIVER) -> "Images":
        """Those that `make setup` recorded, with the stack's own choices instead where it has some.

        `driver_version` is one of `DRA_DRIVERS`; `dra_driver` is the image of that one. Raises `ImagesMissing`.
        """
        if not INDEX.exists():
            raise ImagesMissing(f"images: {INDEX} is missing; run `make setup` first")
        index = json.loads(INDEX.read_text())
        names = {field.name: field.name.replace("_", "-") for field in fields(cls)}
        names["dra_driver"] = of_driver(names["dra_driver"], driver_version)
        if missing := sorted(set(names.values()) - set(index)):
            raise ImagesMissing(f"images: {INDEX} does not name {', '.join(missing)}; run `make setup` again")
        made = cls(**{field: index[name] for field, name in names.items()})
        return replace(made, **overrides)

    @property
    def to_load(self) -> tuple[str, ...]:
        """Those that a Kind cluster cannot pull, since they are only on this machine."""
        refs = (self.dra_driver, self.gpu_sim, self.gpu_probe, self.mps_daemon, self.gpu_agents)
        return tuple(ref for ref in refs if ref.startswith("localhost/"))
