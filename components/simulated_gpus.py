"""NVIDIA GPUs that are not there: a simulated driver root on each GPU node."""

import hashlib
from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from components.cluster import GPU_NODE_SELECTOR, Cluster
from gpus.models import load_models, render_node_config
from machine.nvidia_driver import SIMULATED_DRIVER_FOLDER as HOST_FOLDER
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
        gpus: Mapping[str, tuple[str, int]],
        opts: ResourceOptions | None = None,
    ) -> None:
        """`gpus` maps a node's name to its GPU model and count."""
        super().__init__("dra-workshop:gpu:SimulatedGpus", name, None, opts)
        models = load_models()
        configs = {
            f"{node}.ini": render_node_config(node, models[model], count) for node, (model, count) in gpus.items()
        }
        # Pods see a changed ConfigMap only after a while; a changed digest rolls them at once.
        self.digest = hashlib.sha256(repr(sorted(configs.items())).encode()).hexdigest()[:12]
        namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={
                "name": NAMESPACE,
                # hostPath and MKNOD; nothing is privileged. docs/reference/security.md has the reasons.
                "labels": {"pod-security.kubernetes.io/enforce": "privileged"},
            },
            opts=cluster.inside(self),
        )
        config = k8s.core.v1.ConfigMap(
            f"{name}-config",
            metadata={"name": "gpus", "namespace": NAMESPACE},
            data=configs,
            opts=cluster.inside(self, [namespace]),
        )
        spec: Any = daemon_set_spec(image, self.digest)
        self.daemon_set = k8s.apps.v1.DaemonSet(
            f"{name}-daemonset",
            metadata={"name": "gpu-sim", "namespace": NAMESPACE},
            spec=spec,
            opts=cluster.inside(self, [config]),
        )
        self.register_outputs({"driverRoot": DRIVER_ROOT, "digest": self.digest})


def daemon_set_spec(image: str, digest: str) -> dict[str, Any]:
    """The DaemonSet's spec; another digest rolls its pods."""
    labels = {"app": "gpu-sim"}
    metadata = {"labels": labels, "annotations": {"dra-workshop/gpus": digest}}
    return {"selector": {"matchLabels": labels}, "template": {"metadata": metadata, "spec": _pod_spec(image)}}


def _pod_spec(image: str) -> dict[str, Any]:
    mounts = [{"name": "host", "mountPath": HOST_FOLDER}]
    return {
        "nodeSelector": GPU_NODE_SELECTOR,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "initContainers": [
            {
                "name": "install",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["install", "--config", "/config/$(NODE_NAME).ini", "--root", DRIVER_ROOT],
                "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
                "securityContext": _security(["MKNOD"]),
                "volumeMounts": [*mounts, {"name": "config", "mountPath": "/config", "readOnly": True}],
            }
        ],
        "containers": [
            {
                "name": "hold",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["hold", "--root", DRIVER_ROOT, "--remove-on-exit"],
                "securityContext": _security([]),
                "volumeMounts": mounts,
                "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}, "limits": {"memory": "32Mi"}},
            }
        ],
        "volumes": [
            {"name": "host", "hostPath": {"path": HOST_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "config", "configMap": {"name": "gpus"}},
        ],
    }


def _security(added: list[str]) -> dict[str, Any]:
    capabilities = {"drop": ["ALL"], **({"add": added} if added else {})}
    return {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": capabilities}
