"""References of the images that a stack runs, by their names in the catalog."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from machine.gpus import gpu_model
from settings import Settings
from toolchain.paths import IMAGES_FILE, SOURCE_FILE
from toolchain.versions import FILLED_NODE, OPTIONAL_IMAGES, of_driver

INDEX = IMAGES_FILE
# Start of the references of images that are only on this machine: no registry serves them.
LOCAL = "localhost/"


class ImagesMissing(Exception):
    """Error of a checkout whose set-up has not built the images; the text has the remedy."""

    def __init__(self, text: str, optional: frozenset[str] = frozenset()) -> None:
        super().__init__(text)
        self.optional = optional
        """Names of those that set-up makes when it is asked to, where no other is missing."""


@dataclass(frozen=True)
class Images:
    """References of a stack's images as the cluster's container runtime knows them, by their names in the catalog."""

    node: str
    references: Mapping[str, str]
    in_the_engine: frozenset[str] = frozenset()
    """References that set-up built or pulled into this machine's Docker Engine."""
    filled_node: str | None = None
    """The node image with images in it, where set-up made one."""

    def __getitem__(self, name: str) -> str:
        """Reference of an image. Raises `KeyError` where no module of the stack runs it."""
        return self.references[name]

    @property
    def only_here(self) -> tuple[str, ...]:
        """References that no cluster can pull: they are only on this machine."""
        return tuple(reference for reference in self.references.values() if reference.startswith(LOCAL))

    @property
    def to_load(self) -> tuple[str, ...]:
        """References that a Kind cluster is given: those only on this machine, and those that set-up pulled.

        A node would pull the latter anew, without the engine's proxies, mirrors, authorities and log-ins.
        """
        given = self.in_the_engine | set(self.only_here)
        return tuple(reference for reference in self.references.values() if reference in given)


def images_of(settings: Settings) -> Images:
    """Images of a stack: the config's, those that set-up recorded, or upstream's. Raises `ImagesMissing`."""
    index, version = read_index(), settings.driver.version
    references, missing = {}, set()
    for name, image in settings.images_used.items():
        recorded = of_driver(name, version) if name == "dra-driver" else name
        by_capability = image.by_compute_capability(settings)
        model = gpu_model(settings) if by_capability else None
        reference = by_capability.get(model.cuda_compute_capability) if model else None
        reference = reference or settings.images.get(name) or index.get(recorded)
        if reference is None and not (name in OPTIONAL_IMAGES and everything_is_built()):
            reference = image.upstream
        if reference is None:
            missing.add(recorded)
        else:
            references[name] = reference
    if "node" not in index:
        missing.add("node")
    # The chart of that version comes with its image, also where a stack has an image of its own.
    if (recorded := of_driver("dra-driver", version)) in OPTIONAL_IMAGES and recorded not in index:
        missing.add(recorded)
    if missing:
        names = ", ".join(sorted(missing))
        optional = frozenset(missing if missing <= set(OPTIONAL_IMAGES) else ())
        again = f'`make setup WITH="{" ".join(sorted(optional))}"`' if optional else "`make setup` again"
        raise ImagesMissing(f"images: {INDEX} does not name {names}; run {again}", optional)
    return Images(index["node"], references, frozenset(index.values()), index.get(FILLED_NODE))


def everything_is_built() -> bool:
    """True where set-up makes everything itself, since upstream's sites do not answer or somebody chose so."""
    source = INDEX.with_name(SOURCE_FILE.name)
    return source.exists() and json.loads(source.read_text())["way"] == "built"


def read_index() -> dict[str, str]:
    """References that `make setup` recorded, by name. Raises `ImagesMissing` before it ran."""
    if not INDEX.exists():
        raise ImagesMissing(f"images: {INDEX} is missing; run `make setup` first")
    return json.loads(INDEX.read_text())
