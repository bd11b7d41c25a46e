"""Taint keeper: keeps a GPU that has failed from new claims until a person has mended it."""

import pulumi
from pulumi import ResourceOptions

from components.manifests import by_kind, manifest
from components.objects import register
from components.pods import set_image, tolerate
from components.site import Site

NAMESPACE = "gpu-health"
NAME = "taint-keeper"
CLUSTER_ROLE = "dra-workshop-taint-keeper"


class TaintKeeper(pulumi.ComponentResource):
    """Owns the Deployment that makes a DeviceTaintRule of each taint that NVIDIA's driver gives a device.

    The driver forgets its taints when its plugin restarts; a rule stays. Needs Kubernetes 1.37, which serves
    DeviceTaintRule in resource.k8s.io/v1. Leaves it to a person to delete a rule.
    """

    def __init__(self, name: str, *, site: Site, opts: ResourceOptions | None = None) -> None:
        super().__init__("dra-workshop:gpu:TaintKeeper", name, None, opts)
        documents = by_kind(manifest("taint-keeper.yaml"))
        set_image(documents["Deployment"], site.images["gpu-agents"])
        tolerate(documents["Deployment"], site.tolerations)
        namespace = register(documents["Namespace"], f"{name}-namespace", site.inside(self, site.driver.ready))
        account = register(documents["ServiceAccount"], f"{name}-account", site.inside(self, [namespace]))
        role = register(documents["ClusterRole"], f"{name}-role", site.inside(self, [account]))
        binding = register(documents["ClusterRoleBinding"], f"{name}-role-binding", site.inside(self, [role, account]))
        # The keeper goes before its ClusterRole does: a rule that it made afterwards would have no owner.
        options = site.inside(self, [binding])
        options.custom_timeouts = site.rollout
        self.deployment = register(documents["Deployment"], f"{name}-deployment", options)
        self.register_outputs({"clusterRole": CLUSTER_ROLE})
