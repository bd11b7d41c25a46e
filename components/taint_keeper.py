"""Keeps a GPU that has failed from new claims until a person has mended it."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, ResourceOptions

from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.rbac import GROUP, grant

NAMESPACE = "gpu-health"
NAME = "taint-keeper"
CLUSTER_ROLE = "dra-workshop-taint-keeper"
PORT = 8080
LABELS = {"app": NAME}
# It may make rules, and neither change nor delete one: that is for who mends the GPU.
RULES = [
    {"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["list", "watch"]},
    {"apiGroups": ["resource.k8s.io"], "resources": ["devicetaintrules"], "verbs": ["get", "list", "create"]},
    # Its rules name this ClusterRole as their owner, so they go with the stack.
    {
        "apiGroups": [GROUP],
        "resources": ["clusterroles"],
        "resourceNames": [CLUSTER_ROLE],
        "verbs": ["get"],
    },
]


class TaintKeeper(pulumi.ComponentResource):
    """Owns the Deployment that makes a DeviceTaintRule of each taint that NVIDIA's driver gives a device.

    The driver forgets its taints when its plugin restarts; a rule stays. Needs Kubernetes 1.37, which serves
    DeviceTaintRule in resource.k8s.io/v1. Leaves it to a person to delete a rule.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        driver: DraDriver,
        image: str,
        timeout_seconds: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__("dra-workshop:gpu:TaintKeeper", name, None, opts)
        namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            opts=cluster.inside(self, driver.ready),
        )
        account = k8s.core.v1.ServiceAccount(
            f"{name}-account",
            metadata={"name": NAME, "namespace": NAMESPACE},
            opts=cluster.inside(self, [namespace]),
        )
        binding = grant(
            f"{name}-role",
            cluster=cluster,
            parent=self,
            role=CLUSTER_ROLE,
            rules=RULES,
            account=(NAMESPACE, NAME),
            depends_on=[account],
        )
        # The keeper goes before its ClusterRole does: a rule that it made afterwards would have no owner.
        options = cluster.inside(self, [binding])
        timeout = f"{timeout_seconds}s"
        options.custom_timeouts = CustomTimeouts(create=timeout, update=timeout)
        spec: Any = deployment_spec(image)
        self.deployment = k8s.apps.v1.Deployment(
            f"{name}-deployment", metadata={"name": NAME, "namespace": NAMESPACE}, spec=spec, opts=options
        )
        self.register_outputs({"clusterRole": CLUSTER_ROLE})


def deployment_spec(image: str) -> dict[str, Any]:
    """The Deployment's spec."""
    return {
        "replicas": 1,
        # Two would make the same rules.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": _pod_spec(image)},
    }


def _pod_spec(image: str) -> dict[str, Any]:
    return {
        "terminationGracePeriodSeconds": 5,
        "serviceAccountName": NAME,
        "automountServiceAccountToken": True,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": NAME,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "command": [NAME],
                "env": [{"name": "OWNER_CLUSTER_ROLE", "value": CLUSTER_ROLE}],
                "ports": [{"name": "health", "containerPort": PORT}],
                # Ready once every slice has been looked at.
                "readinessProbe": {"httpGet": {"path": "/readyz", "port": "health"}, "periodSeconds": 5},
                "livenessProbe": {"httpGet": {"path": "/healthz", "port": "health"}, "periodSeconds": 30},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "1m", "memory": "48Mi"}, "limits": {"memory": "256Mi"}},
            }
        ],
    }
