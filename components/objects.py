"""Registration of a manifest's document as a Pulumi resource."""

from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Resource, ResourceOptions
from pydantic.alias_generators import to_snake

from components import gpu_config
from components.claims import CLAIM_KINDS
from components.manifests import Document
from machine.ownership import OWNER_ANNOTATION

# Modules of Pulumi's SDK by apiVersion. A kind that its module lacks becomes a CustomResource.
SDK_MODULES: dict[str, Any] = {
    "v1": k8s.core.v1,
    "apps/v1": k8s.apps.v1,
    "rbac.authorization.k8s.io/v1": k8s.rbac.v1,
    "resource.k8s.io/v1": k8s.resource.v1,
    "admissionregistration.k8s.io/v1": k8s.admissionregistration.v1,
}
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
    document = owned(document)
    # The SDK names arguments in snake case; what is below the top level is as it is in the YAML.
    fields = {to_snake(key): value for key, value in document.items() if key not in ("apiVersion", "kind")}
    if kind in CLAIM_KINDS:
        gpu_config.check(document["metadata"]["name"], document["spec"])
        options = ResourceOptions.merge(options, IMMUTABLE_SPEC)
    resource_class = getattr(SDK_MODULES.get(version), kind, None)
    if resource_class is None:
        return k8s.apiextensions.CustomResource(name, api_version=version, kind=kind, **fields, opts=options)
    return resource_class(name, **fields, opts=options)


def owned(document: Document) -> Document:
    """Copy of a document that says whose it is, and that its fields are to be kept as they are in it."""
    metadata = document["metadata"]
    annotations = {**metadata.get("annotations", {}), **FORCE, OWNER_ANNOTATION: pulumi.get_stack()}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
