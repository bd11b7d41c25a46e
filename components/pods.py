"""Pods of a manifest, and what only the stack knows of them: the image, the node, the GPUs that were there."""

from collections.abc import Iterable, Sequence
from typing import Any

from components.manifests import Document, manifest

# Digest of the simulated GPUs' configuration: pods and their claims know the GPUs that were there when they started, so
# other GPUs start them again.
GPUS_ANNOTATION = "dra-workshop/gpus"


def pod_of(workload: Document) -> dict[str, Any]:
    """Spec of a Deployment's, DaemonSet's or PodTemplate's pods."""
    return workload.get("template", workload.get("spec", {}).get("template"))["spec"]


def annotate(workload: Document, key: str, value: Any) -> None:
    """Annotate the pods of a Deployment or DaemonSet; another value starts them again."""
    workload["spec"]["template"]["metadata"].setdefault("annotations", {})[key] = value


def annotate_gpus(workload: Document, gpus_digest: str | None) -> None:
    """Annotate the pods with the digest of the simulated GPUs; not at all where GPUs are real."""
    if gpus_digest:
        annotate(workload, GPUS_ANNOTATION, gpus_digest)


def set_image(workload: Document, image: str) -> None:
    """Set the image of every container and init container."""
    pod = pod_of(workload)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        container["image"] = image


def on_node(node: str) -> dict[str, Any]:
    """Affinity of pods that run on one node only, by its name: its label kubernetes.io/hostname may be another.

    EC2 and vSphere, for example, give a node its short host name as that label.
    """
    (document,) = manifest("on-node.yaml")
    affinity = document["template"]["spec"]["affinity"]
    ((_, by_node),) = affinity.items()
    ((_, required),) = by_node.items()
    (term,) = required["nodeSelectorTerms"]
    (name,) = term["matchFields"]
    name["values"] = [node]
    return affinity


def set_node(workload: Document, node: str) -> None:
    """Let the pods run on one node only."""
    pod_of(workload)["affinity"] = on_node(node)


def tolerate(workload: Document, tolerations: Sequence[Document]) -> None:
    """Let the pods tolerate more than their manifest says; see gpu.tolerations."""
    if tolerations:
        pod = pod_of(workload)
        pod["tolerations"] = [*pod.get("tolerations", []), *tolerations]


def set_env(container: dict[str, Any], name: str, value: Any) -> None:
    """Set a variable that the container has in its manifest."""
    (variable,) = (variable for variable in container["env"] if variable["name"] == name)
    variable["value"] = value


def remove_env(container: dict[str, Any], name: str) -> None:
    """Remove a variable from a container's environment."""
    container["env"] = [variable for variable in container["env"] if variable["name"] != name]


def remove_volume(pod: dict[str, Any], name: str) -> None:
    """Remove a volume and its mounts from a pod."""
    pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != name]
    for container in pod["containers"]:
        container["volumeMounts"] = [mount for mount in container["volumeMounts"] if mount["name"] != name]


def set_volume_path(pod: dict[str, Any], name: str, path: str) -> None:
    """Set the folder of the node that a volume of a pod is."""
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == name]
    volume["hostPath"]["path"] = path


def merged(items: Iterable[dict[str, Any]], others: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """List of named items in which `others` stand in place of those of the same name, or after all."""
    by_name = {item["name"]: item for item in items}
    return list({**by_name, **{item["name"]: item for item in others}}.values())
