"""Taint keeper: keeps a GPU that has failed from new claims until a person has mended it."""

import pulumi
from pulumi import ResourceOptions

from components import dra_driver
from components.manifests import by_kind, manifest
from components.objects import register
from components.pods import set_image, tolerate
from components.site import Site

NAMESPACE = "gpu-health"
NAME = "taint-keeper"
CLUSTER_ROLE = "dra-workshop-taint-keeper"
# Variable that names the namespace whose pods' logs the keeper reads.
PLUGIN_NAMESPACE = "PLUGIN_NAMESPACE"


class TaintKeeper(pulumi.ComponentResource):
    """Owns the Deployment that makes a DeviceTaintRule of each taint that NVIDIA's driver gives a device.

    The driver forgets its taints when its plugin restarts; a rule stays. Needs Kubernetes 1.37, which serves
    DeviceTaintRule in resource.k8s.io/v1. Leaves it to a person to delete a rule.
    """

    def __init__(
        self, name: str, *, site: Site, divided_gpus: bool = False, opts: ResourceOptions | None = None
    ) -> None:
        """`divided_gpus`: MIG divides some, so faults of whole GPUs are read in the logs of the driver's plugins."""
        super().__init__("dra-workshop:gpu:TaintKeeper", name, None, opts)
        documents = by_kind(manifest("taint-keeper.yaml"))
        set_image(documents["Deployment"], site.images["gpu-agents"])
        tolerate(documents["Deployment"], site.tolerations)
        namespace = register(documents["Namespace"], f"{name}-namespace", site.inside(self, site.driver.ready))
        account = register(documents["ServiceAccount"], f"{name}-account", site.inside(self, [namespace]))
        role = register(documents["ClusterRole"], f"{name}-role", site.inside(self, [account]))
        binding = register(documents["ClusterRoleBinding"], f"{name}-role-binding", site.inside(self, [role, account]))
        before = [binding]
        if divided_gpus:
            logs = by_kind(manifest("plugin-logs.yaml"))
            log_role = register(logs["Role"], f"{name}-log-role", site.inside(self, [namespace]))
            log_options = site.inside(self, [log_role, account])
            before.append(register(logs["RoleBinding"], f"{name}-log-role-binding", log_options))
            (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
            container["env"].append({"name": PLUGIN_NAMESPACE, "value": dra_driver.NAMESPACE})
        # The keeper goes before its ClusterRole does: a rule that it made afterwards would have no owner.
        options = site.inside(self, before)
        options.custom_timeouts = site.rollout
        self.deployment = register(documents["Deployment"], f"{name}-deployment", options)
        self.register_outputs({"clusterRole": CLUSTER_ROLE})
