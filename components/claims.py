"""ResourceClaims and their templates, with the options that their immutability asks for."""

from typing import Any

import pulumi_kubernetes as k8s
from pulumi import Input, Resource, ResourceOptions

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


def request_memory(manifest: dict[str, Any], memory: Input[str]) -> None:
    """Let every request of a claim take only that much of its GPU's memory, a quantity of whole MiB."""
    spec = manifest["spec"].get("spec", manifest["spec"])
    for request in spec["devices"]["requests"]:
        request["exactly"]["capacity"] = {"requests": {"memory": memory}}


def every_gpu(namespace: str, shared: bool) -> dict[str, Any]:
    """The manifest of a claim template for a look at every GPU of a node, those that others hold or failed as well.

    `shared` says that claims share GPUs by consumable capacity (`admits_itself`).
    """
    exactly: dict[str, Any] = {
        "deviceClassName": "gpu.nvidia.com",
        "allocationMode": "All",
        "adminAccess": True,
        # A GPU that failed must neither keep its holder from all others of the node nor have it evicted. The eviction
        # by a DeviceTaintRule heeds only a toleration that names its effect.
        "tolerations": [{"operator": "Exists", "effect": effect} for effect in ("NoSchedule", "NoExecute")],
    }
    template = {
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": "every-gpu", "namespace": namespace},
        "spec": {"spec": {"devices": {"requests": [{"name": "gpus", "exactly": exactly}]}}},
    }
    if shared:
        admits_itself(template)
    return template


def admits_itself(manifest: dict[str, Any]) -> None:
    """Let an admin claim ask for as little as it can of GPUs that are shared by memory.

    Kubernetes 1.37 does not count what an admin claim consumes, but allocates it only where that would fit: without a
    request it would need a GPU that nobody uses.
    """
    request_memory(manifest, "1Mi")
