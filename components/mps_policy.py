"""What pods may ask of MPS, by the class of their namespace."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import ResourceOptions

from components.cluster import Cluster
from components.mps_clients import CLASS_LABEL, Limits
from components.workload import load
from mps_limits import DEFAULT_CLASS, quantity_mib

KIND = "ValidatingAdmissionPolicy"
POLICY, PIPE_POLICY = "dra-workshop-mps-clients", "dra-workshop-mps-pipe"


class MpsPolicy(pulumi.ComponentResource):
    """Owns the admission policies of module 05, and for each class its limits and its binding.

    A namespace has a class by its label; who may label namespaces may choose. The class `default` has the limits
    of the daemon or claim itself: clients may leave them out, since those hold for whoever sets nothing.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        manifests: str,
        limits: Limits,
        classes: Mapping[str, Limits],
        pipe: str,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`pipe` is `node` where clients mount the node's daemon's, `claim` where the driver does it for them."""
        super().__init__("dra-workshop:gpu:MpsPolicy", name, None, opts)
        namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={"name": "mps-classes", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            opts=cluster.inside(self),
        )
        self.objects: list[pulumi.Resource] = []
        """What must exist before the policies hold."""
        policies = {}
        for document in (document for document in load(manifests) if document["kind"] == KIND):
            full = document["metadata"]["name"]
            policies[full] = k8s.admissionregistration.v1.ValidatingAdmissionPolicy(
                f"{name}-{full.removeprefix('dra-workshop-')}",
                metadata=document["metadata"],
                spec=document["spec"],
                opts=cluster.inside(self),
            )
        self.objects.append(
            k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
                f"{name}-mps-pipe-binding",
                metadata={"name": PIPE_POLICY},
                spec=pipe_binding_spec([DEFAULT_CLASS, *classes]),
                opts=cluster.inside(self, [policies[PIPE_POLICY]]),
            )
        )
        for class_name, own in {DEFAULT_CLASS: limits, **classes}.items():
            memory = quantity_mib(own.effective_memory_limit)
            most = (limits.active_thread_percentage, quantity_mib(limits.effective_memory_limit))
            below = (own.active_thread_percentage, memory) != most
            parameters = k8s.core.v1.ConfigMap(
                f"{name}-class-{class_name}",
                metadata={"name": class_name, "namespace": "mps-classes"},
                data={
                    "activeThreadPercentage": str(own.active_thread_percentage),
                    "pinnedDeviceMemoryLimitMiB": str(memory),
                    # Nothing but the client's own environment holds a limit below the daemon's.
                    "required": str(below).lower(),
                    "pipe": pipe,
                },
                opts=cluster.inside(self, [namespace]),
            )
            binding = k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
                f"{name}-class-{class_name}-binding",
                metadata={"name": f"{POLICY}-{class_name}"},
                spec=binding_spec(class_name),
                opts=cluster.inside(self, [policies[POLICY], parameters]),
            )
            self.objects += [parameters, binding]
        self.register_outputs({"classes": sorted({DEFAULT_CLASS, *classes})})


def binding_spec(class_name: str) -> Any:
    """The policy holds in namespaces of the class, with the class's parameters."""
    return {
        "policyName": POLICY,
        "validationActions": ["Deny"],
        "paramRef": {"name": class_name, "namespace": "mps-classes", "parameterNotFoundAction": "Deny"},
        "matchResources": {"namespaceSelector": {"matchLabels": {CLASS_LABEL: class_name}}},
    }


def pipe_binding_spec(classes: Sequence[str]) -> Any:
    """The policy of the pipe holds wherever no known class does: without a label, or with one that is no class."""
    outside = [
        {"key": CLASS_LABEL, "operator": "NotIn", "values": sorted(set(classes))},
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["mps-system"]},
    ]
    return {
        "policyName": PIPE_POLICY,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchExpressions": outside}},
    }
