"""The plain YAML in `manifests/`, which a reader can also `kubectl apply`."""

from collections.abc import Iterator
from typing import Any

import yaml

from toolchain.paths import CHECKOUT

MANIFESTS = CHECKOUT / "manifests"


def load(folder: str) -> Iterator[dict[str, Any]]:
    """The objects in a folder of `manifests/`, in the order of files and documents."""
    files = sorted((MANIFESTS / folder).glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"manifests/{folder} holds no YAML file")
    for file in files:
        yield from (document for document in yaml.safe_load_all(file.read_text()) if document)
