"""Independent claims that share a GPU by the memory that each requests."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Input, Output, ResourceOptions

from components.claims import CLAIMS, request_memory
from components.cluster import Cluster
from components.gpu_config import GpuConfigError
from components.manifests import load
from components.mps_clients import CLASS_LABEL, LIMITS_ANNOTATION, MpsSharing, limit
from components.mps_daemon import MpsDaemon
from components.workload import SKIP_AWAIT
from gpus.mps import CAPACITY_CLASS
from gpus.quantity import mib_quantity

KIND = "ValidatingAdmissionPolicy"
# Where claims must request memory and carry no configuration of their own.
LABEL = "dra-workshop/shared-gpus"


class SharedByMemory(MpsSharing):
    """How each claim of a folder takes part of a GPU, by name. Owns no resource.

    With a `daemon`, each pod's memory limit is what its claim requests: the scheduler only counts. Without one, nothing
    keeps a process to its request.
    """

    def __init__(
        self, requests_mib: Mapping[str, Input[int]], daemon: MpsDaemon | None = None, waiting: tuple[str, ...] = ()
    ) -> None:
        """`waiting` are the Deployments that are not to become available."""
        self.requests_mib, self.daemon, self.waiting = requests_mib, daemon, waiting
        self.ready = daemon.ready if daemon else []

    def share(self, document: dict[str, Any]) -> None:
        name = document["metadata"]["name"]
        if document["kind"] in CLAIMS:
            self._claim(name, document)
        elif document["kind"] == "Deployment":
            if name in self.waiting:
                document["metadata"].setdefault("annotations", {})[SKIP_AWAIT] = "true"
            if self.daemon:
                self._limit(self.daemon, name, document["spec"]["template"])
        elif self.daemon:
            document["metadata"]["labels"][CLASS_LABEL] = CAPACITY_CLASS
        if self.daemon:
            self.daemon.attach(document)

    def _claim(self, name: str, document: dict[str, Any]) -> None:
        spec = document["spec"].get("spec", document["spec"])
        if spec["devices"].get("config"):
            raise GpuConfigError(
                f"claim {name}:\n  config: NVIDIA's driver refuses a pod whose claim's configuration differs from that "
                "of others on the same GPU, and the pod then hangs; drop it"
            )
        request_memory(document, memory_quantity(self.requests_mib[name]))

    def _limit(self, daemon: MpsDaemon, name: str, template: dict[str, Any]) -> None:
        memory, percentage = self.requests_mib[name], daemon.limits.mps_values[0]
        words = Output.concat(f"{percentage} % of the SMs, ", memory_quantity(memory), " (what its claim requests)")
        if isinstance(memory, int):
            words = f"{percentage} % of the SMs, {mib_quantity(memory)} (what its claim requests)"
        template["metadata"].setdefault("annotations", {})[LIMITS_ANNOTATION] = words
        limit(template["spec"], percentage, mps_size(memory))


def memory_quantity(size_mib: Input[int]) -> Input[str]:
    """MiB as Kubernetes writes them."""
    return mib_quantity(size_mib) if isinstance(size_mib, int) else Output.from_input(size_mib).apply(mib_quantity)


def mps_size(size_mib: Input[int]) -> Input[str]:
    """MiB as MPS writes them."""
    return f"{size_mib}M" if isinstance(size_mib, int) else Output.concat(Output.from_input(size_mib).apply(str), "M")


class SharedGpuPolicy(pulumi.ComponentResource):
    """Owns the admission policy on claims of namespaces that share GPUs by memory.

    A claim without a request takes the whole GPU and says nothing, and one with a configuration of its own makes its
    pod hang: both are refused instead.
    """

    def __init__(self, name: str, *, cluster: Cluster, manifests: str, opts: ResourceOptions | None = None) -> None:
        super().__init__("dra-workshop:gpu:SharedGpuPolicy", name, None, opts)
        (document,) = (document for document in load(manifests) if document["kind"] == KIND)
        policy = k8s.admissionregistration.v1.ValidatingAdmissionPolicy(
            f"{name}-claims",
            metadata=document["metadata"],
            spec=document["spec"],
            opts=cluster.inside(self),
        )
        where: Any = {
            "policyName": document["metadata"]["name"],
            "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {LABEL: "true"}}},
        }
        binding = k8s.admissionregistration.v1.ValidatingAdmissionPolicyBinding(
            f"{name}-claims-binding",
            metadata={"name": document["metadata"]["name"]},
            spec=where,
            opts=cluster.inside(self, [policy]),
        )
        self.objects: list[pulumi.Resource] = [policy, binding]
        """What must exist before the policy holds."""
        self.register_outputs({})
