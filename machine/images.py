"""Images that a stack runs, by what they are for."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from machine.gpus import gpu_model
from settings import Settings
from toolchain.paths import IMAGES_FILE
from toolchain.versions import of_driver

INDEX = IMAGES_FILE
# Images that are only on this machine: no registry serves them.
LOCAL = "localhost/"


class ImagesMissing(Exception):
    """Set-up has not made the images yet."""


@dataclass(frozen=True)
class Images:
    """Image references as the cluster's runtime knows them, by the names of the catalog."""

    node: str
    references: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        """Reference of an image that the stack runs. Raises `KeyError` for one that no module of it runs."""
        return self.references[name]

    @property
    def to_load(self) -> tuple[str, ...]:
        """References that a Kind cluster cannot pull, since they are only on this machine."""
        return tuple(reference for reference in self.references.values() if reference.startswith(LOCAL))


def images_of(settings: Settings) -> Images:
    """Images of a stack: its own choices, upstream's, and those that set-up recorded. Raises `ImagesMissing`."""
    index, version = read_index(), settings.driver.version
    references, missing = {}, set()
    for name, image in settings.images_used.items():
        recorded = of_driver(name, version) if name == "dra-driver" else name
        own = image.by_compute_capability(settings)
        model = gpu_model(settings) if own else None
        reference = own.get(model.cuda_compute_capability) if model else None
        reference = reference or settings.images.get(name) or image.upstream or index.get(recorded)
        if reference is None:
            missing.add(recorded)
        else:
            references[name] = reference
    if "node" not in index:
        missing.add("node")
    if missing:
        raise ImagesMissing(f"images: {INDEX} does not name {', '.join(sorted(missing))}; run `make setup` again")
    return Images(index["node"], references)


def read_index() -> dict[str, str]:
    """References that `make setup` recorded, by name. Raises `ImagesMissing` where it has not."""
    if not INDEX.exists():
        raise ImagesMissing(f"images: {INDEX} is missing; run `make setup` first")
    return json.loads(INDEX.read_text())
