"""Fleet: nodes that are only objects, and what keeps them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pulumi
from pulumi import Output, ResourceOptions
from pulumi_command import local

from components.manifests import by_kind, manifest
from components.objects import register
from components.pods import annotate, set_image, tolerate
from components.site import Site
from toolchain.paths import CHECKOUT

NAMESPACE = "fleet"


@dataclass(frozen=True)
class FleetGroup:
    """Nodes of a fleet that are alike: how many, the node of the stack that they are copies of, the GPUs of each."""

    template: str
    nodes: int
    gpus: int


class Fleet(pulumi.ComponentResource):
    """Owns KWOK, the nodes of the fleet and their ResourceSlices; `summary` counts what was made.

    Leaves GPUs that are there, simulated or not, and pods on other nodes alone: KWOK manages nodes by their label.
    """

    summary: Output[str]

    def __init__(
        self, name: str, *, site: Site, groups: Sequence[FleetGroup], opts: ResourceOptions | None = None
    ) -> None:
        super().__init__("dra-workshop:fleet:Fleet", name, None, opts)
        documents = by_kind(manifest("kwok.yaml"))
        set_image(documents["Deployment"], site.images["kwok"])
        tolerate(documents["Deployment"], site.tolerations)
        # KWOK reads its stages when it starts.
        digest = hashlib.sha256(documents["ConfigMap"]["data"]["kwok.yaml"].encode()).hexdigest()[:12]
        annotate(documents["Deployment"], "dra-workshop/stages", digest)
        namespace = register(documents["Namespace"], f"{name}-namespace", site.inside(self, site.driver.ready))
        account = register(documents["ServiceAccount"], f"{name}-account", site.inside(self, [namespace]))
        inside = [namespace, account]
        for kind, words in (("ClusterRole", "role"), ("Role", "lease-role")):
            role = register(documents[kind], f"{name}-{words}", site.inside(self))
            binding = register(
                documents[f"{kind}Binding"], f"{name}-{words}-binding", site.inside(self, [role, account])
            )
            inside.append(binding)
        stages = register(documents["ConfigMap"], f"{name}-stages", site.inside(self, [namespace]))
        options = site.inside(self, [*inside, stages])
        options.custom_timeouts = site.rollout
        keeper = register(documents["Deployment"], f"{name}-kwok", options)
        made = local.Command(
            f"{name}-nodes",
            create="python -m components.commands.fleet",
            update="python -m components.commands.fleet",
            delete="python -m components.commands.fleet --delete",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(site.cluster.kubeconfig_file),
                "KUBE_CONTEXT": site.cluster.context,
                "FLEET": json.dumps([asdict(group) for group in groups]),
                "DRA_WORKSHOP_STACK": pulumi.get_stack(),
                # Other GPUs are other slices to be copied.
                "GPUS_DIGEST": site.gpus_digest or "",
                "WAIT_SECONDS": str(site.timeout_seconds),
            },
            triggers=[*site.cluster.identity],
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=[keeper], deleted_with=site.inside(self).deleted_with),
        )
        self.summary = made.stdout
        self.register_outputs({"summary": self.summary})
