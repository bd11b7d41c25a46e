"""Workloads that use GPUs, from the plain YAML in `manifests/`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi import CustomTimeouts, Resource, ResourceOptions

from components.claims import CLAIMS, claim
from components.cluster import Cluster
from components.dra_driver import DraDriver

MANIFESTS = Path(__file__).resolve().parent.parent / "manifests"
KINDS = {"Namespace": k8s.core.v1.Namespace, "Deployment": k8s.apps.v1.Deployment}


class Workload(pulumi.ComponentResource):
    """Owns the objects of one folder of manifests: namespaces first, then claims, then what uses them.

    Sets what a manifest cannot know: the image that set-up made, and the node. Waits until a Deployment is
    available, unless its manifest says that it will not be.
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
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__("dra-workshop:workload:Workload", name, None, opts)
        self.timeout = f"{timeout_seconds}s"
        made: list[Resource] = []
        # In order: a claim template that is replaced takes the pods made from it along, and a workload that is to
        # wait for another one's GPU must not be there first.
        objects = sorted(load(manifests), key=_order)
        for document in objects:
            made.append(self._register(name, document, image, node, cluster.inside(self, [*driver.ready, *made])))
        self.register_outputs({"objects": [document["metadata"]["name"] for document in objects]})

    def _register(
        self, name: str, document: dict[str, Any], image: str, node: str, options: ResourceOptions
    ) -> Resource:
        kind, metadata = document["kind"], document["metadata"]
        resource_name = f"{name}-{metadata['name']}" + ("" if kind not in CLAIMS else "-claim")
        if kind in CLAIMS:
            return claim(resource_name, document, options)
        if kind == "Deployment":
            options.custom_timeouts = CustomTimeouts(create=self.timeout, update=self.timeout)
            pod = document["spec"]["template"]["spec"]
            pod["nodeSelector"] = {"kubernetes.io/hostname": node}
            for container in pod["containers"]:
                container["image"] = image
        rest = {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}
        return KINDS[kind](resource_name, **rest, opts=options)


def load(folder: str) -> Iterator[dict[str, Any]]:
    """The objects in a folder of `manifests/`, in the order of files and documents."""
    files = sorted((MANIFESTS / folder).glob("*.yaml"))
    if not files:
        raise FileNotFoundError(f"manifests/{folder} holds no YAML file")
    for file in files:
        yield from (document for document in yaml.safe_load_all(file.read_text()) if document)


def _order(document: dict[str, Any]) -> int:
    if document["kind"] == "Namespace":
        return 0
    return 1 if document["kind"] in CLAIMS else 2
