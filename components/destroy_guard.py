"""Guard that looks at a cluster before a stack, or its driver, is taken from it."""

from collections.abc import Sequence
from pathlib import Path

import pulumi
from pulumi import ResourceOptions
from pulumi_command import local

from components.cluster import Cluster
from toolchain.paths import CHECKOUT


class DestroyGuard(pulumi.ComponentResource):
    """Owns a command that does something only when it is deleted: it names pods of others that hold GPUs.

    Depends on what it guards, so that it goes before that. `pulumi destroy` does not run the program, so nothing in the
    program could look.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        kind_folder: Path | None,
        driver: Sequence[pulumi.Resource] = (),
        opts: ResourceOptions | None = None,
    ) -> None:
        """`kind_folder` has a Kind cluster's files; None on an existing cluster.

        `driver` is what it guards; empty for everything that is in the cluster by now. The guard of everything is made
        last, so an `up` that failed has none: the driver's, which others may have come to use, is there before.
        """
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
                **({"GUARDED": "driver"} if driver else {}),
            },
            triggers=[*cluster.identity],
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=driver or [cluster, *cluster.users]),
        )
        self.register_outputs({"context": cluster.context})
