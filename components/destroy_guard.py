"""Guard that looks at a cluster before a stack is taken from it."""

from pathlib import Path

import pulumi
from pulumi import ResourceOptions
from pulumi_command import local

from components.cluster import Cluster
from toolchain.paths import CHECKOUT


class DestroyGuard(pulumi.ComponentResource):
    """Owns a command that does something only when it is deleted: it names pods of others that hold GPUs.

    Depends on everything that is in the cluster, so that it is the first to go. `pulumi destroy` does not run the
    program, so nothing in the program could look. To be made last.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        kind_folder: Path | None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`kind_folder` has a Kind cluster's files; None on an existing cluster."""
        super().__init__("dra-workshop:cluster:DestroyGuard", name, None, opts)
        local.Command(
            f"{name}-look",
            create="true",  # there is nothing to be done before the end
            delete="python -m components.commands.destroy_guard",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(cluster.kubeconfig_file),
                "KUBE_CONTEXT": cluster.context,
                "DRA_WORKSHOP_STACK": pulumi.get_stack(),
                **({"CLUSTER_FOLDER": str(kind_folder)} if kind_folder else {}),
            },
            triggers=[*cluster.identity],
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=[cluster, *cluster.users]),
        )
        self.register_outputs({"context": cluster.context})
