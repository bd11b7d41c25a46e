"""What pods may ask of MPS, by the class of their namespace."""

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Input, Output, ResourceOptions

from components.cluster import Cluster
from components.manifests import load
from components.mps_clients import CLASS_LABEL
from gpus.mps import CAPACITY_CLASS, DEFAULT_CLASS, Limits
from gpus.quantity import quantity_mib

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
        most_memory_mib: Input[int] | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`pipe` is `node` where clients mount the node's daemon's, `claim` where the driver does it for them.

        `most_memory_mib` is the daemon's own limit where it is above `limits`, for clients of claims that request
        memory: their class is `consumable-capacity`.
        """
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
                spec=pipe_binding_spec([DEFAULT_CLASS, *classes, *([CAPACITY_CLASS] if most_memory_mib else [])]),
                opts=cluster.inside(self, [policies[PIPE_POLICY]]),
            )
        )
        most = (limits.active_thread_percentage, quantity_mib(limits.effective_memory_limit))
        for class_name, own in {DEFAULT_CLASS: limits, **classes}.items():
            asked = (own.active_thread_percentage, quantity_mib(own.effective_memory_limit))
            # Nothing but the client's own environment holds a limit below the daemon's.
            required = asked != most or most_memory_mib is not None
            self._add_class(cluster, name, class_name, (namespace, policies[POLICY]), *asked, required, pipe)
        if most_memory_mib is not None:
            parts = (namespace, policies[POLICY])
            self._add_class(cluster, name, CAPACITY_CLASS, parts, most[0], most_memory_mib, True, pipe)
        self.register_outputs({"classes": sorted({DEFAULT_CLASS, *classes})})

    def _add_class(
        self,
        cluster: Cluster,
        name: str,
        class_name: str,
        needed: tuple[pulumi.Resource, pulumi.Resource],
        percentage: int,
        memory_mib: Input[int],
        required: bool,
        pipe: str,
    ) -> None:
        namespace, policy = needed
        memory = str(memory_mib) if isinstance(memory_mib, int) else Output.from_input(memory_mib).apply(str)
        parameters = k8s.core.v1.ConfigMap(
            f"{name}-class-{class_name}",
            metadata={"name": class_name, "namespace": "mps-classes"},
            data={
                "activeThreadPercentage": str(percentage),
                "pinnedDeviceMemoryLimitMiB": memory,
                "required": str(required).lower(),
                "pipe": pipe,
            },
            opts=cluster.inside(self, [namespace]),
        )
        binding = k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
            f"{name}-class-{class_name}-binding",
            metadata={"name": f"{POLICY}-{class_name}"},
            spec=binding_spec(class_name),
            opts=cluster.inside(self, [policy, parameters]),
        )
        self.objects += [parameters, binding]


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
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["gpu-metrics", "mps-system"]},
    ]
    return {
        "policyName": PIPE_POLICY,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchExpressions": outside}},
    }
