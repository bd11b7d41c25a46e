"""Place where a stack puts its objects."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
from pulumi import CustomTimeouts, Resource, ResourceOptions

from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.manifests import Document
from machine.images import Images


@dataclass(frozen=True)
class Site:
    """Cluster with NVIDIA's driver in it, its GPU nodes, and what all that is put there has in common."""

    cluster: Cluster
    driver: DraDriver
    images: Images
    gpu_nodes: tuple[str, ...]
    gpus_digest: str | None
    """Digest of the simulated GPUs' configuration; None where GPUs are real."""
    timeout_seconds: int
    """Seconds that a Deployment may take to become available."""
    tolerations: tuple[Document, ...] = ()
    """Tolerations of every pod beside those of its manifest, as Kubernetes has them."""

    @property
    def node(self) -> str:
        """Name of the first GPU node, whose GPUs the workloads use."""
        return self.gpu_nodes[0]

    @property
    def rollout(self) -> CustomTimeouts:
        """Time limits of an object whose pods are waited for."""
        return CustomTimeouts(create=f"{self.timeout_seconds}s", update=f"{self.timeout_seconds}s")

    def inside(
        self, parent: pulumi.Resource, depends_on: Sequence[Resource] = (), *, deleted_first: bool = False
    ) -> ResourceOptions:
        """Options for an object in the cluster; see `Cluster.inside`."""
        return self.cluster.inside(parent, depends_on, deleted_first=deleted_first)
