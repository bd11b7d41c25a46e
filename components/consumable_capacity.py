"""Independent claims that share a GPU by the memory that each requests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
from pulumi import Input, Output, Resource, ResourceOptions

from components.claims import devices, request_memory
from components.gpu_config import GpuConfigError
from components.manifests import Document, by_kind
from components.mps_clients import CLASS_LABEL, LIMITS_ANNOTATION, MpsByDaemon, limit
from components.objects import register
from components.pods import annotate, pod_of
from components.site import Site
from components.workload import SKIP_AWAIT
from gpus.mps import CAPACITY_CLASS
from gpus.quantity import mib_quantity

# Where claims must request memory and carry no configuration of their own.
LABEL = "dra-workshop/shared-gpus"


@dataclass(frozen=True)
class SharedByMemory:
    """Sharing by memory: each claim, by its name, takes part of a GPU.

    With MPS, each pod's memory limit is what its claim requests: the scheduler only counts. Without, nothing keeps a
    process to its request.
    """

    requests_mib: Mapping[str, Input[int]]
    mps: MpsByDaemon | None = None
    waiting: tuple[str, ...] = ()
    """Deployments that are not to become available."""
    needs_claim_deleted_first: bool = field(default=False, init=False)

    @property
    def ready(self) -> Sequence[Resource]:
        return self.mps.ready if self.mps else ()

    def admit(self, namespace: Document) -> None:
        if self.mps:
            namespace["metadata"]["labels"][CLASS_LABEL] = CAPACITY_CLASS
            self.mps.admit(namespace)

    def request(self, claim: Document) -> None:
        name = claim["metadata"]["name"]
        if devices(claim).get("config"):
            raise GpuConfigError(
                f"claim {name}:\n  config: NVIDIA's driver refuses a pod whose claim's configuration differs from that "
                "of others on the same GPU, and the pod then hangs; drop it"
            )
        request_memory(claim, memory_quantity(self.requests_mib[name]))

    def limit(self, deployment: Document) -> None:
        name = deployment["metadata"]["name"]
        if name in self.waiting:
            deployment["metadata"].setdefault("annotations", {})[SKIP_AWAIT] = "true"
        if self.mps:
            memory, percentage = self.requests_mib[name], self.mps.limits.mps_values[0]
            words = Output.concat(f"{percentage} % of the SMs, ", memory_quantity(memory), " (what its claim requests)")
            if isinstance(memory, int):
                words = f"{percentage} % of the SMs, {mib_quantity(memory)} (what its claim requests)"
            annotate(deployment, LIMITS_ANNOTATION, words)
            limit(pod_of(deployment), percentage, mps_size(memory))

    def attach(self, deployment: Document) -> None:
        if self.mps:
            self.mps.attach(deployment)


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

    def __init__(
        self, name: str, *, site: Site, documents: Sequence[Document], opts: ResourceOptions | None = None
    ) -> None:
        """`documents` are the policy and its binding."""
        super().__init__("dra-workshop:gpu:SharedGpuPolicy", name, None, opts)
        kinds = by_kind(documents)
        policy = register(kinds["ValidatingAdmissionPolicy"], f"{name}-claims", site.inside(self))
        binding = register(
            kinds["ValidatingAdmissionPolicyBinding"], f"{name}-claims-binding", site.inside(self, [policy])
        )
        self.objects: list[Resource] = [policy, binding]
        """Resources that must exist before the policy holds."""
        self.register_outputs({})
