"""Ways in which the objects of a manifest share a GPU, and the order in which they get what that takes."""

from collections.abc import Sequence
from typing import Protocol

from pulumi import Resource

from components.claims import CLAIM_KINDS
from components.manifests import Document, copied


class Sharing(Protocol):
    """Way of sharing a GPU. Each step changes the document that it is given, which is a copy already."""

    @property
    def ready(self) -> Sequence[Resource]:
        """Resources that must exist before a claim or a pod does."""
        ...

    @property
    def needs_claim_deleted_first(self) -> bool:
        """True where a claim leaves its GPU changed unless it is deleted while NVIDIA's driver runs."""
        ...

    def admit(self, namespace: Document) -> None:
        """Let the namespace have such pods."""
        ...

    def request(self, claim: Document) -> None:
        """Let the claim ask for what its pods may use."""
        ...

    def limit(self, deployment: Document) -> None:
        """Set the limits of the pods, in their environment and their annotations."""
        ...

    def attach(self, deployment: Document) -> None:
        """Connect the pods to the daemon that serves them."""
        ...


def shared(document: Document, sharing: Sharing) -> Document:
    """New document whose claim or pods share their GPU; other kinds come back as they are."""
    document = copied(document)
    kind = document["kind"]
    if kind == "Namespace":
        sharing.admit(document)
    elif kind in CLAIM_KINDS:
        sharing.request(document)
    elif kind == "Deployment":
        sharing.limit(document)
        sharing.attach(document)
    return document
