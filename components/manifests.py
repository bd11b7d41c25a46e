"""Reader of the plain YAML in `manifests/`, which a person can also `kubectl apply`.

A component that has a file of its own asks for it by the file's name, since components know no module numbers; a module
hands on the documents of files that several modules have, such as `0-namespace.yaml`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from toolchain.paths import CHECKOUT

MANIFESTS = CHECKOUT / "manifests"

# libyaml's takes a tenth of the time, and PyYAML's wheels have it; a build of PyYAML without it has none.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

Document = dict[str, Any]
"""Object of Kubernetes as its YAML has it."""


def load(folder: str, *files: str) -> list[Document]:
    """Documents of a folder of `manifests/`, in the order of `files`, or of all of them by name where none is given."""
    paths = [MANIFESTS / folder / file for file in files] or sorted((MANIFESTS / folder).glob("*.yaml"))
    if not paths:
        raise FileNotFoundError(f"manifests/{folder} holds no YAML file")
    return [document for path in paths for document in yaml.load_all(path.read_text(), LOADER) if document]


def find(file: str) -> Path:
    """Path of a file by its name, which only one folder of `manifests/` may have."""
    paths = sorted(MANIFESTS.rglob(file))
    if len(paths) != 1:
        raise LookupError(f"{file}: {len(paths)} files in manifests/ have this name, and one must; rename or add one")
    return paths[0]


def manifest(file: str) -> list[Document]:
    """Documents of a file that is found by its name."""
    return load(str(find(file).parent.relative_to(MANIFESTS)), file)


def by_kind(documents: Iterable[Document]) -> dict[str, Document]:
    """Documents by their kind. Raises `ValueError` where two have the same."""
    by_kind: dict[str, Document] = {}
    for document in documents:
        kind = document["kind"]
        if kind in by_kind:
            raise ValueError(f"{kind}: two documents have this kind, and one may; give one a file of its own")
        by_kind[kind] = document
    return by_kind


def copied(document: Any) -> Any:
    """Copy of a document's mappings and lists; values in them, which may be Pulumi's outputs, are the same."""
    match document:
        case dict():
            return {key: copied(value) for key, value in document.items()}
        case list():
            return [copied(value) for value in document]
    return document
