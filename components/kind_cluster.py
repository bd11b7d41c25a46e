"""Kind cluster of the stack's own."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pulumi import Output, ResourceOptions
from pulumi_command import local

from components.cluster import GPU_NODE_LABELS, Cluster
from machine import kind as commands
from machine.nvidia_driver import Mount
from toolchain.paths import CHECKOUT

# https://kubernetes.io/docs/reference/config-api/kubelet-config.v1beta1/
KUBELET_CONFIGURATION = {
    "kind": "KubeletConfiguration",
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    # The kubelet refuses cgroup v1 from 1.35 on unless it is told not to; on v2 this says nothing.
    "failCgroupV1": False,
    # A claim that could not be prepared is tried again when the pod is next synchronized, which by default is after 60
    # to 90 s. It needs no fault: the API server's node authorizer may not know of the pod yet when the kubelet asks.
    "syncFrequency": "10s",
}

# Its controllers ask for hundreds of kinds when they start, and a worker can join only once one of them has signed the
# bootstrap token's ConfigMap: with the default, 20 requests a second, that takes nine of the twenty seconds of a
# cluster's start. Kind makes of the map what the kubeadm API of the node's Kubernetes wants.
# https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/
CLUSTER_CONFIGURATION = {
    "kind": "ClusterConfiguration",
    "controllerManager": {"extraArgs": {"kube-api-qps": "200", "kube-api-burst": "400"}},
}


@dataclass(frozen=True)
class KindOptions:
    """Nodes of a Kind cluster, and what they get of the host."""

    name: str
    workers: int
    gpu_nodes: Sequence[str]
    node_image: str
    filled_node_image: str | None = None
    """The same image with images in it. It is none of kind's configuration: another one makes no cluster anew."""
    pods_anywhere: bool = False
    """True where pods of the workshop may run on a control plane beside workers, in spite of its taint."""
    mounts: Sequence[Mount] = ()
    """Folders of the host for the GPU nodes."""
    hidden_devices: Sequence[str] = ()
    """Device files of the host that the GPU nodes must not have: Docker gives a privileged container all of them."""

    @property
    def image_nodes(self) -> Sequence[str]:
        """Names of the nodes that get the workshop's images."""
        control_plane = f"{self.name}-control-plane"
        beside = self.pods_anywhere and control_plane not in self.gpu_nodes
        return [control_plane, *self.gpu_nodes] if beside else self.gpu_nodes


class KindCluster(Cluster):
    """Owns the cluster's containers and network, its kubeconfig file and the images in its nodes.

    Never adopts a cluster that it did not create: creation fails if the name is taken, unless what is
    there bears this checkout's mark and was left by an interrupted run; then it is made anew.
    """

    def __init__(
        self,
        name: str,
        *,
        options: KindOptions,
        kubeconfig_file: Path,
        load_images: Sequence[str],
        timeout_seconds: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`load_images` are images of this machine's Docker Engine that the nodes get."""
        super().__init__("KindCluster", name, opts)
        self.kubeconfig_file = kubeconfig_file
        folder, cluster_name = kubeconfig_file.parent, options.name
        hidden_devices = list(options.hidden_devices)
        incarnation = commands.incarnation(folder, cluster_name)
        config = kind_config(cluster_name, options.workers, options.gpu_nodes, options.node_image, options.mounts)
        # A device file that a node had comes back with a new node only.
        made_of = [config, *([hidden_devices] if hidden_devices else [])]
        hidden = {"CLUSTER_HIDDEN_DEVICES": json.dumps(hidden_devices)} if hidden_devices else {}
        ahead: dict[str, Any] = {"nodes": list(options.image_nodes), "images": list(load_images)}
        if options.filled_node_image:
            ahead["filled"] = {options.node_image: options.filled_node_image}
        self.created = local.Command(
            f"{name}-kind",
            create="python -m machine.kind create",
            # What matters for the cluster is in the triggers; any other change only reads the kubeconfig again.
            update="python -m machine.kind kubeconfig",
            delete="python -m machine.kind delete",
            dir=str(CHECKOUT),
            environment={
                "CLUSTER_NAME": cluster_name,
                "CLUSTER_FOLDER": str(folder),
                "CLUSTER_INCARNATION": incarnation,
                "CLUSTER_TIMEOUT": str(timeout_seconds),
                **hidden,
                "CLUSTER_IMAGES": json.dumps(ahead),
            },
            stdin=yaml.safe_dump(config, sort_keys=False),
            triggers=[incarnation, *made_of],
            logging=local.Logging.STDERR,
            opts=ResourceOptions(
                parent=self,
                # Two clusters of one name cannot be at once.
                delete_before_replace=True,
                # Standard output is the kubeconfig.
                additional_secret_outputs=["stdout"],
                # Only a new cluster loads images ahead. Other ones are a matter of the next resource: an update here
                # would leave every preview without the kubeconfig.
                ignore_changes=["environment.CLUSTER_IMAGES"],
            ),
        )
        kubeconfig = Output.secret(self.created.stdout)
        # Whatever makes the cluster anew makes everything in it anew.
        digest = hashlib.sha256("".join(map(repr, made_of)).encode()).hexdigest()[:12]
        identity = f"{cluster_name}/{incarnation}/{digest}"
        # A cluster that was deleted behind the stack's back must not stop `refresh` and `destroy`.
        self.connect(name, kubeconfig, f"kind-{cluster_name}", identity, forget_unreachable=True)
        self.identity = [self.created.id]
        self.ready = [self.created]
        if load_images:
            load = ["python", "-m", "machine.node_images", cluster_name]
            load += ["--nodes", *options.image_nodes, "--images", *load_images]
            loaded = local.Command(
                f"{name}-images",
                create=shlex.join(load),
                dir=str(CHECKOUT),
                triggers=[incarnation],
                logging=local.Logging.STDERR,
                opts=ResourceOptions(parent=self, depends_on=[self.created], deleted_with=self.created),
            )
            self.ready.append(loaded)
        self.register_outputs({"kubeconfig": kubeconfig})

    def inside(self, parent: Any, depends_on: Sequence[Any] = (), *, deleted_first: bool = False) -> ResourceOptions:
        """Objects go with the cluster: deleting them one by one would only take time."""
        options = super().inside(parent, depends_on, deleted_first=deleted_first)
        options.deleted_with = None if deleted_first else self.created
        return options


def kind_config(
    cluster_name: str, workers: int, gpu_nodes: Sequence[str], node_image: str, mounts: Sequence[Mount] | None = None
) -> dict[str, Any]:
    """Kind's configuration: https://kind.sigs.k8s.io/docs/user/configuration/."""
    nodes: list[dict[str, Any]] = [{"role": "control-plane", "image": node_image}]
    nodes += [{"role": "worker", "image": node_image} for _ in range(workers)]
    for node in nodes[1:] or nodes:
        node["labels"] = dict(GPU_NODE_LABELS)
        if mounts:
            node["extraMounts"] = [mount.for_kind for mount in mounts]
    return {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "name": cluster_name,
        "kubeadmConfigPatches": [
            yaml.safe_dump(patch, sort_keys=False) for patch in (KUBELET_CONFIGURATION, CLUSTER_CONFIGURATION)
        ],
        "nodes": nodes,
    }
