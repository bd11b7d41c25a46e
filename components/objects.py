"""Registration of a manifest's document as a Pulumi resource."""

import pulumi
from pulumi import Resource, ResourceOptions

from components import gpu_config
from components.claims import CLAIM_KINDS
from components.manifests import Document
from machine.ownership import OWNER_ANNOTATION

# https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/: a spec cannot be changed,
# and Pulumi's provider does not know that.
IMMUTABLE_SPEC = ResourceOptions(replace_on_changes=["spec"], delete_before_replace=True)
# A field that the stack sets is the stack's: where somebody changed it by `kubectl scale` or `kubectl edit`, an update
# takes it back instead of failing with a conflict. Fields that the stack does not set stay with whoever set them.
# https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/managing-resources-with-server-side-apply/
FORCE = {"pulumi.com/patchForce": "true"}


def register(document: Document, name: str, options: ResourceOptions) -> Resource:
    """Resource named `name` for a document: claims and claim templates are replaced when their spec changes.

    Raises `GpuConfigError` for a claim's configuration that NVIDIA's driver would refuse too late, or not survive.
    """
    version, kind = document["apiVersion"], document["kind"]
    if kind in CLAIM_KINDS:
        gpu_config.check(document["metadata"]["name"], document["spec"])
        options = ResourceOptions.merge(options, IMMUTABLE_SPEC)
    group_version = version if "/" in version else f"core/{version}"
    # Not by the SDK's class of the kind: the modules with these take a third of the program's time to be imported.
    return pulumi.CustomResource(f"kubernetes:{group_version}:{kind}", name, owned(document), options)


def owned(document: Document) -> Document:
    """Copy of a document that says whose it is, and that its fields are to be kept as they are in it."""
    metadata = document["metadata"]
    annotations = {**metadata.get("annotations", {}), **FORCE, OWNER_ANNOTATION: pulumi.get_stack()}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
