"""ResourceClaims and their templates, with the options that their immutability asks for."""

from typing import Any

import pulumi_kubernetes as k8s
from pulumi import Resource, ResourceOptions

from components import gpu_config

# https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/: a spec cannot be changed,
# and Pulumi's provider does not know that.
IMMUTABLE = {"replace_on_changes": ["spec"], "delete_before_replace": True}
CLAIMS = {
    "ResourceClaim": k8s.resource.v1.ResourceClaim,
    "ResourceClaimTemplate": k8s.resource.v1.ResourceClaimTemplate,
}


def claim(name: str, manifest: dict[str, Any], opts: ResourceOptions) -> Resource:
    """Register a claim or a claim template from its manifest; a changed spec replaces it.

    Raises `GpuConfigError` for a configuration that NVIDIA's driver would refuse too late, or not survive.
    """
    gpu_config.check(manifest["metadata"]["name"], manifest["spec"])
    resource = CLAIMS[manifest["kind"]]
    return resource(
        name,
        metadata=manifest["metadata"],
        spec=manifest["spec"],
        opts=ResourceOptions.merge(opts, ResourceOptions(**IMMUTABLE)),
    )
