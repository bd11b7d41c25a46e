"""Who may look at every GPU, and who may not: an administrator's namespace and a tenant's."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, Resource, ResourceOptions

from components.claims import CLAIMS, admits_itself, claim
from components.cluster import Cluster
from components.dra_driver import DraDriver
from components.manifests import load

NAMESPACE, OBSERVER, TENANT = "gpu-admin", "observer", "tenant"
KINDS = {
    "Namespace": k8s.core.v1.Namespace,
    "ServiceAccount": k8s.core.v1.ServiceAccount,
    "Role": k8s.rbac.v1.Role,
    "RoleBinding": k8s.rbac.v1.RoleBinding,
    "Deployment": k8s.apps.v1.Deployment,
}


class AdminAccess(pulumi.ComponentResource):
    """Owns the objects of a folder of manifests, in the order of files and documents.

    They are a namespace whose claims may have `adminAccess`, a Deployment there that sees every GPU of a node, and a
    namespace whose account may do everything in it but label it. Waits until the Deployment is available.
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
        simulated: str | None,
        timeout_seconds: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`node` is the one whose GPUs are looked at; `simulated` the digest of simulated GPUs' configuration."""
        super().__init__("dra-workshop:gpu:AdminAccess", name, None, opts)
        self.timeout = f"{timeout_seconds}s"
        self.objects: list[Resource] = []
        """In the order in which they are made."""
        self._claims: list[Resource] = []
        for document in load(manifests):
            if document["kind"] == "Deployment":
                _place(document["spec"]["template"], image, node, simulated)
            if document["kind"] in CLAIMS and driver.shared:
                admits_itself(document)
            options = cluster.inside(self, [*driver.ready, *self.objects])
            self.objects.append(self._register(name, document, options))
        self.register_outputs({"namespaces": [NAMESPACE, TENANT]})

    def _register(self, name: str, document: dict[str, Any], options: ResourceOptions) -> Resource:
        kind, metadata = document["kind"], document["metadata"]
        if kind in CLAIMS:
            made = claim(f"{name}-{metadata['name']}-claim", document, options)
            self._claims.append(made)
            return made
        if kind == "Deployment":
            options.custom_timeouts = CustomTimeouts(create=self.timeout, update=self.timeout)
            # Kubernetes keeps a deleted claim until no pod uses it, so its pods go before it and come back after it.
            options.replace_with = self._claims
        rest = {_snake(key): value for key, value in document.items() if key not in ("apiVersion", "kind")}
        return KINDS[kind](f"{name}-{metadata['name']}-{kind.lower()}", **rest, opts=options)


def _place(template: dict[str, Any], image: str, node: str, simulated: str | None) -> None:
    template["spec"]["nodeSelector"] = {"kubernetes.io/hostname": node}
    for container in template["spec"]["containers"]:
        container["image"] = image
    if simulated:
        # A claim for every GPU has those that were there when it was made.
        template["metadata"]["annotations"] = {"dra-workshop/gpus": simulated}


def _snake(key: str) -> str:
    """A field of an object as Pulumi's SDK names it: the top level is arguments, all below is as it is."""
    return {"roleRef": "role_ref", "automountServiceAccountToken": "automount_service_account_token"}.get(key, key)
