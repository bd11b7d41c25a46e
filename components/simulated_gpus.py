"""Simulated NVIDIA GPUs: a driver root on each GPU node for GPUs that are not there."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
from pulumi import ResourceOptions

from components.cluster import Cluster
from components.manifests import Document, by_kind, manifest
from components.objects import register
from components.pods import annotate_gpus, set_image
from gpus.mig import Layout, mig_line
from gpus.models import load_models, render_node_config
from machine.nvidia_driver import SIMULATED_DRIVER_ROOT as DRIVER_ROOT

NAMESPACE = "gpu-sim"


class SimulatedGpus(pulumi.ComponentResource):
    """Owns a DaemonSet that puts the driver root and device nodes on every GPU node, and takes them away at the end.

    Leaves alone how GPUs are allocated: that is NVIDIA's own driver's work, on this root as on a real one.
    """

    driver_root = DRIVER_ROOT

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        image: str,
        gpus: Mapping[str, tuple[str, int, Sequence[Layout]]],
        opts: ResourceOptions | None = None,
    ) -> None:
        """`gpus` maps a node's name to its GPU model and count, and the MIG layouts of its first GPUs."""
        super().__init__("dra-workshop:gpu:SimulatedGpus", name, None, opts)
        models = load_models()
        configs = {
            f"{node}.ini": render_node_config(
                node, models[model], count, mig=[mig_line(models[model], layout) for layout in layouts]
            )
            for node, (model, count, layouts) in gpus.items()
        }
        # Pods see a changed ConfigMap only after a while; a changed digest rolls them at once.
        self.digest = hashlib.sha256(repr(sorted(configs.items())).encode()).hexdigest()[:12]
        documents = _documents(image, self.digest)
        documents["ConfigMap"]["data"] = configs
        namespace = register(documents["Namespace"], f"{name}-namespace", cluster.inside(self))
        config = register(documents["ConfigMap"], f"{name}-config", cluster.inside(self, [namespace]))
        self.daemon_set = register(documents["DaemonSet"], f"{name}-daemonset", cluster.inside(self, [config]))
        self.register_outputs({"driverRoot": DRIVER_ROOT, "digest": self.digest})


def daemon_set_spec(image: str, digest: str) -> dict[str, Any]:
    """Spec of the DaemonSet; another digest rolls its pods."""
    return _documents(image, digest)["DaemonSet"]["spec"]


def _documents(image: str, digest: str) -> dict[str, Document]:
    documents = by_kind(manifest("simulated-gpus.yaml"))
    set_image(documents["DaemonSet"], image)
    annotate_gpus(documents["DaemonSet"], digest)
    return documents
