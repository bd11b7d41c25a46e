"""Kubernetes cluster that a stack uses, and the options of what is put into it."""

from collections.abc import Sequence
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Input, Output, ResourceOptions

from settings import kubeconfig as kubeconfigs
from toolchain import versions

# The plugin that set-up installs. The SDK asks for its own version, which may be newer.
PROVIDER_VERSION = versions.PULUMI_KUBERNETES_PROVIDER
# The workshop's own mark keeps its DaemonSets on the nodes that the stack names; NVIDIA's is what the chart looks for.
GPU_NODE_SELECTOR = {"dra-workshop/gpus": "true"}
GPU_NODE_LABELS = {**GPU_NODE_SELECTOR, "nvidia.com/gpu.present": "true"}


class Cluster(pulumi.ComponentResource):
    """Owns the Kubernetes provider for one context of one kubeconfig; leaves the cluster itself to subclasses."""

    provider: k8s.Provider
    kubeconfig_file: Path
    context: str
    ready: list[pulumi.Resource]
    """Resources that must exist before anything is put into the cluster."""
    users: list[pulumi.Resource]
    """Components that have put something into the cluster, in order."""
    identity: Sequence[Input[str]]
    """Values that are others when the cluster itself is made anew."""

    def __init__(self, kind: str, name: str, opts: ResourceOptions | None = None) -> None:
        super().__init__(f"dra-workshop:cluster:{kind}", name, None, opts)
        self.ready, self.users, self.identity = [], [], []

    def connect(
        self,
        name: str,
        kubeconfig: Input[str],
        context: str,
        identity: Input[str] | None = None,
        *,
        forget_unreachable: bool = False,
    ) -> None:
        """Make the provider. A changed `identity` replaces it and all that was made through it.

        `forget_unreachable`: a cluster that does not answer takes what was in it out of the state. Without it `refresh`
        and `destroy` fail there, and the state stays.
        """
        self.context = context
        self.provider = k8s.Provider(
            f"{name}-kubernetes",
            kubeconfig=kubeconfig,
            context=context,
            cluster_identifier=identity,
            # None, not False: the provider then heeds PULUMI_K8S_DELETE_UNREACHABLE, as its own message tells people.
            delete_unreachable=forget_unreachable or None,
            # How fields are taken back and left (components/objects.py), whatever the shell's variables say.
            enable_server_side_apply=True,
            # A changed ConfigMap is an update of one object, not a new one under another name.
            enable_config_map_mutable=True,
            opts=ResourceOptions(parent=self, version=PROVIDER_VERSION),
        )

    def inside(
        self, parent: pulumi.Resource, depends_on: Sequence[pulumi.Resource] = (), *, deleted_first: bool = False
    ) -> ResourceOptions:
        """Options for an object in this cluster. `deleted_first`: it must be gone before the cluster may go."""
        if parent not in self.users:
            self.users.append(parent)
        return ResourceOptions(parent=parent, provider=self.provider, depends_on=[*self.ready, *depends_on])


class ExistingCluster(Cluster):
    """Cluster that somebody else owns. Labels the nodes that the workshop may use, and unlabels them at the end."""

    def __init__(
        self,
        name: str,
        *,
        kubeconfig_file: Path,
        context: str,
        gpu_nodes: Sequence[str],
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__("ExistingCluster", name, opts)
        self.kubeconfig_file = kubeconfig_file
        self.connect(name, Output.secret(kubeconfigs.text(kubeconfig_file)), context)
        for node in gpu_nodes:
            label = k8s.core.v1.NodePatch(
                f"{name}-{node}",
                metadata={"name": node, "labels": GPU_NODE_LABELS},
                opts=ResourceOptions(parent=self, provider=self.provider),
            )
            self.ready.append(label)
        self.register_outputs({"context": context})
