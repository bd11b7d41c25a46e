"""Admin access: a namespace that may look at every GPU, and a tenant's that may not."""

import pulumi
from pulumi import Resource, ResourceOptions

from components.claims import CLAIM_KINDS, request_least_memory
from components.manifests import manifest
from components.objects import register
from components.pods import annotate_gpus, set_image, set_node, tolerate
from components.site import Site

NAMESPACE, OBSERVER, TENANT = "gpu-admin", "observer", "tenant"


class AdminAccess(pulumi.ComponentResource):
    """Owns the objects of two manifests, in the order of their documents.

    They are a namespace whose claims may have `adminAccess`, a Deployment there that sees every GPU of a node, and a
    namespace whose account may do everything in it but label it. Waits until the Deployment is available.
    """

    def __init__(self, name: str, *, site: Site, opts: ResourceOptions | None = None) -> None:
        super().__init__("dra-workshop:gpu:AdminAccess", name, None, opts)
        objects: list[Resource] = []
        claims: list[Resource] = []
        for document in [*manifest("1-admin.yaml"), *manifest("2-tenant.yaml")]:
            kind, suffix = document["kind"], document["kind"].lower()
            options = site.inside(self, [*site.driver.ready, *objects])
            if kind in CLAIM_KINDS:
                suffix = "claim"
                if site.driver.shared:
                    request_least_memory(document)
            if kind == "Deployment":
                set_image(document, site.images["gpu-probe"])
                set_node(document, site.node)
                tolerate(document, site.tolerations)
                annotate_gpus(document, site.gpus_digest)
                options.custom_timeouts = site.rollout
                # Kubernetes keeps a deleted claim until no pod uses it, so its pods go before it and come back after.
                options.replace_with = claims
            resource = register(document, f"{name}-{document['metadata']['name']}-{suffix}", options)
            objects.append(resource)
            if kind in CLAIM_KINDS:
                claims.append(resource)
        self.register_outputs({"namespaces": [NAMESPACE, TENANT]})
