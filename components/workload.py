"""Workloads that use GPUs, from the plain YAML in `manifests/`."""

from collections.abc import Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, Input, Output, Resource, ResourceOptions

from components.claims import CLAIMS, claim
from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.manifests import load
from components.mps_clients import MpsSharing

# What a workload is made of, and in which order; other kinds in a folder belong to other components.
ORDER = {"Namespace": 0, **dict.fromkeys(CLAIMS, 1), "Deployment": 2}
# Pulumi does not wait for a Deployment with this annotation.
SKIP_AWAIT = "pulumi.com/skipAwait"
KINDS = {"Namespace": k8s.core.v1.Namespace, "Deployment": k8s.apps.v1.Deployment}


class Workload(pulumi.ComponentResource):
    """Owns the objects of one folder of manifests: namespaces first, then claims, then what uses them.

    Sets what a manifest cannot know: the image that set-up made, the node, which of its GPUs, and how it is shared.
    Waits until a Deployment is available, unless its manifest says that it will not be.
    """

    def __init__(
        self,
        name: str,
        *,
        manifests: str,
        cluster: Cluster,
        driver: DraDriver,
        image: str,
        node: str,
        timeout_seconds: int,
        gpu: Input[str] | None = None,
        sharing: MpsSharing | None = None,
        after: "Sequence[Workload]" = (),
        depends_on: Sequence[Resource] = (),
        opts: ResourceOptions | None = None,
    ) -> None:
        """`gpu` is the UUID of the GPU that every claim is to get; None leaves the choice to the scheduler.

        Pods may name claims of the workloads in `after`.
        """
        super().__init__("dra-workshop:workload:Workload", name, None, opts)
        self.timeout = f"{timeout_seconds}s"
        self.objects: list[Resource] = []
        """In the order in which they are made."""
        self.claims: dict[str, Resource] = {name: made for other in after for name, made in other.claims.items()}
        """By their names in the cluster."""
        earlier = [made for other in after for made in other.objects]
        needed = [*driver.ready, *(sharing.ready if sharing else []), *earlier, *depends_on]
        # In order: a workload that is to wait for another one's GPU must not be there first.
        documents = sorted((document for document in load(manifests) if document["kind"] in ORDER), key=_order)
        for document in documents:
            if document["kind"] in CLAIMS and gpu is not None:
                _select(document, gpu)
            if document["kind"] == "Deployment":
                _place(document, image, node)
            if sharing:
                sharing.share(document)
            # A Deployment is gone when its pods are, and by then the kubelet has had the driver undo their claim.
            first = sharing is not None and sharing.undone_by_deletion and document["kind"] != "Namespace"
            made = self._register(name, document, cluster.inside(self, [*needed, *self.objects], deleted_first=first))
            self.objects.append(made)
            if document["kind"] in CLAIMS:
                self.claims[document["metadata"]["name"]] = made
        self.register_outputs({"objects": [document["metadata"]["name"] for document in documents]})

    def _register(self, name: str, document: dict[str, Any], options: ResourceOptions) -> Resource:
        kind, metadata = document["kind"], document["metadata"]
        resource_name = f"{name}-{metadata['name']}" + ("" if kind not in CLAIMS else "-claim")
        if kind in CLAIMS:
            return claim(resource_name, document, options)
        if kind == "Deployment":
            options.custom_timeouts = CustomTimeouts(create=self.timeout, update=self.timeout)
            # Kubernetes keeps a deleted claim until no pod uses it, so its pods go before it and come back after it.
            needed = self.claims if _waits(document) else _claims_of(document)
            options.replace_with = [self.claims[name] for name in needed]
        rest = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
        return KINDS[kind](resource_name, **rest, opts=options)


def _place(document: dict[str, Any], image: str, node: str) -> None:
    pod = document["spec"]["template"]["spec"]
    pod["nodeSelector"] = {"kubernetes.io/hostname": node}
    for container in pod["containers"]:
        container["image"] = image


def _claims_of(deployment: dict[str, Any]) -> list[str]:
    claims = deployment["spec"]["template"]["spec"].get("resourceClaims", [])
    return [claim.get("resourceClaimName") or claim["resourceClaimTemplateName"] for claim in claims]


def _waits(deployment: dict[str, Any]) -> bool:
    """Whether it is there to wait: then it would take what another's claim gives up while that is replaced."""
    return deployment["metadata"].get("annotations", {}).get(SKIP_AWAIT) == "true"


def _select(document: dict[str, Any], gpu: Input[str]) -> None:
    expression = Output.concat('device.attributes["gpu.nvidia.com"].uuid == "', gpu, '"')
    if isinstance(gpu, str):
        expression = f'device.attributes["gpu.nvidia.com"].uuid == "{gpu}"'
    spec = document["spec"].get("spec", document["spec"])
    for request in spec["devices"]["requests"]:
        request["exactly"]["selectors"] = [{"cel": {"expression": expression}}]


def _order(document: dict[str, Any]) -> int:
    return ORDER[document["kind"]]
