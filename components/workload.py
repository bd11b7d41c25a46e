"""Workloads that use GPUs, from the plain YAML in `manifests/`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import pulumi
from pulumi import Input, Resource, ResourceOptions
from pulumi_command import local

from components.claims import CLAIM_KINDS, MigDevice, select_gpu, select_mig_device
from components.manifests import Document, copied
from components.objects import register
from components.pods import annotate_gpus, pod_of, set_image, set_node, tolerate
from components.sharing import Sharing, shared
from components.site import Site
from toolchain.paths import CHECKOUT

# Kinds that a workload is made of, in their order.
ORDER = {"Namespace": 0, **dict.fromkeys(CLAIM_KINDS, 1), "Deployment": 2}
# Pulumi does not wait for a Deployment with this annotation.
SKIP_AWAIT = "pulumi.com/skipAwait"


@dataclass(frozen=True)
class Dependencies:
    """Workloads and other resources that must exist before a workload does.

    Its pods may name claims of those workloads.
    """

    workloads: "Sequence[Workload]" = ()
    resources: Sequence[Resource] = ()


class Workload(pulumi.ComponentResource):
    """Owns the objects of some manifests: namespaces first, then claims, then what uses them.

    Sets what a manifest cannot know: the image that set-up made, the node, which of its GPUs, and how it is shared.
    Waits until a Deployment is available, unless its manifest says that it will not be.
    """

    def __init__(
        self,
        name: str,
        *,
        site: Site,
        documents: Sequence[Document],
        gpu: Input[str] | MigDevice | None = None,
        sharing: Sharing | None = None,
        depends_on: Dependencies | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`gpu` is the UUID of the GPU, or the MIG device, that every claim is to get.

        None leaves the choice to the scheduler.
        """
        super().__init__("dra-workshop:workload:Workload", name, None, opts)
        self._name, self._site = name, site
        earlier = depends_on or Dependencies()
        self.objects: list[Resource] = []
        """In the order in which they are made."""
        self.claims = {name: claim for workload in earlier.workloads for name, claim in workload.claims.items()}
        """By their names in the cluster."""
        needed = [
            *site.driver.ready,
            *(sharing.ready if sharing else []),
            *chain.from_iterable(workload.objects for workload in earlier.workloads),
            *earlier.resources,
        ]
        # In order: a workload that is to wait for another one's GPU must not be there first.
        documents = sorted(documents, key=lambda document: ORDER[document["kind"]])
        for document in documents:
            # A Deployment is gone when its pods are, and by then the kubelet has had the driver undo their claim.
            claimed_first = sharing is not None and sharing.needs_claim_deleted_first
            deleted_first = claimed_first and document["kind"] != "Namespace"
            options = site.inside(self, [*needed, *self.objects], deleted_first=deleted_first)
            self._register(placed(document, site, gpu, sharing), options)
        self.register_outputs({"objects": [document["metadata"]["name"] for document in documents]})

    def _register(self, document: Document, options: ResourceOptions) -> None:
        kind, name = document["kind"], document["metadata"]["name"]
        resource_name = f"{self._name}-{name}"
        if kind in CLAIM_KINDS:
            self.claims[name] = register(document, f"{resource_name}-claim", options)
            self.objects.append(self.claims[name])
            return
        if kind == "Deployment":
            options.custom_timeouts = self._site.rollout
            # Kubernetes keeps a deleted claim until no pod uses it, so its pods go before it and come back after it.
            needed = self.claims if _waits(document) else _claims_of(document)
            options.replace_with = [self.claims[claim] for claim in needed]
        self.objects.append(register(document, resource_name, options))
        recreated = kind == "Deployment" and document["spec"].get("strategy", {}).get("type") == "Recreate"
        if recreated and not _waits(document):
            self.objects.append(self._rolled_out(document, resource_name, self.objects[-1]))

    def _rolled_out(self, document: Document, name: str, deployment: Resource) -> Resource:
        """Wait for a Deployment's new pods; the provider's own ends when the old ones are gone.

        What comes later waits for it: where all users of a claim are gone at once, Kubernetes takes its device away,
        and the scheduler lets pods that meet that wait for ten seconds and more (measured).
        """
        cluster, revision = self._site.cluster, pulumi.Output.json_dumps(document["spec"])
        return local.Command(
            f"{name}-rollout",
            create="python -m components.commands.rollout",
            update="python -m components.commands.rollout",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(cluster.kubeconfig_file),
                "KUBE_CONTEXT": cluster.context,
                "NAMESPACE": document["metadata"]["namespace"],
                "DEPLOYMENT": document["metadata"]["name"],
                "REVISION": revision.apply(lambda text: hashlib.sha256(text.encode()).hexdigest()[:12]),
                "WAIT_SECONDS": str(self._site.timeout_seconds),
            },
            logging=local.Logging.STDERR,
            opts=ResourceOptions(
                parent=self, depends_on=[deployment], deleted_with=self._site.inside(self).deleted_with
            ),
        )


def placed(document: Document, site: Site, gpu: Input[str] | MigDevice | None, sharing: Sharing | None) -> Document:
    """New document with what the manifest cannot know, in this order: which GPU, image and node, then how it is shared.

    Sharing comes last since it adds containers that have an image of their own.
    """
    document = copied(document)
    if document["kind"] in CLAIM_KINDS:
        if isinstance(gpu, MigDevice):
            select_mig_device(document, gpu)
        elif gpu is not None:
            select_gpu(document, gpu)
    if document["kind"] == "Deployment":
        set_image(document, site.images["gpu-probe"])
        set_node(document, gpu.node if isinstance(gpu, MigDevice) else site.node)
        if isinstance(gpu, MigDevice):
            # Another layout makes its device anew, or not at all, and a pod would keep what is no longer there.
            annotate_gpus(document, site.gpus_digest)
        tolerate(document, site.tolerations)
    return shared(document, sharing) if sharing else document


def _claims_of(deployment: Document) -> list[str]:
    claims = pod_of(deployment).get("resourceClaims", [])
    return [claim.get("resourceClaimName") or claim["resourceClaimTemplateName"] for claim in claims]


def _waits(deployment: Document) -> bool:
    """True where it is there to wait: then it would take what another's claim gives up while that is replaced."""
    return deployment["metadata"].get("annotations", {}).get(SKIP_AWAIT) == "true"
