"""MPS daemon on each GPU node, without privilege."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import pulumi
from pulumi import Input, Resource, ResourceOptions
from pulumi_command import local

from components.claims import request_least_memory
from components.manifests import by_kind, manifest
from components.mps_clients import MpsByDaemon, NodeDaemon, limits_name
from components.objects import register
from components.pods import annotate_gpus, set_image
from components.site import Site
from gpus.mps import Limits
from toolchain.paths import CHECKOUT

NAMESPACE = "mps-system"
NAME = "mps-daemon"
# Keys of the ConfigMap, and the variables that `mps-daemon run` and the live change read.
VARIABLES = {
    "activeThreadPercentage": "ACTIVE_THREAD_PERCENTAGE",
    "pinnedDeviceMemoryLimit": "PINNED_DEVICE_MEMORY_LIMIT",
}


@dataclass(frozen=True)
class DaemonOptions:
    """Limits that a daemon gives, and what goes with them."""

    limits: Limits
    classes: Mapping[str, Limits]
    most_memory: Input[str] | None = None
    """Most memory that any client of the node may get, as MPS writes it, where some may get more than `limits`; then
    those of `limits` ask for them.
    """
    claimed_memory: str | None = None
    """Memory that a shared claim requests of its GPU; None for all of it."""


class MpsDaemon(pulumi.ComponentResource):
    """Owns the DaemonSet, the claim for its GPUs, the limits that it gives, and their live change.

    What is set here holds for every client that does not ask for less. A changed limit reaches the running daemons
    through their pipes, and so new clients, without a restart; clients that run keep theirs. One memory limit is for
    every GPU of the node: CUDA applies a daemon's limits by the client's own numbers of its GPUs (measured), and a
    pod sees its only GPU as number 0.
    """

    def __init__(self, name: str, *, site: Site, options: DaemonOptions, opts: ResourceOptions | None = None) -> None:
        super().__init__("dra-workshop:gpu:MpsDaemon", name, None, opts)
        percentage, memory = options.limits.mps_values
        given = dict(zip(VARIABLES, (percentage, options.most_memory or memory), strict=True))
        documents = by_kind(manifest("mps-daemon.yaml"))
        documents["ConfigMap"]["data"] = given
        if site.driver.shared:
            request_least_memory(documents["ResourceClaimTemplate"])
        set_image(documents["DaemonSet"], site.images["mps-daemon"])
        annotate_gpus(documents["DaemonSet"], site.gpus_digest)
        namespace = register(documents["Namespace"], f"{name}-namespace", site.inside(self, site.driver.ready))
        config = register(documents["ConfigMap"], f"{name}-config", site.inside(self, [namespace]))
        gpus = register(documents["ResourceClaimTemplate"], f"{name}-gpus-claim", site.inside(self, [namespace]))
        inside = site.inside(self, [config, gpus])
        # A pod keeps the claim that it was made with.
        inside.replace_with = [gpus]
        daemon_set = register(documents["DaemonSet"], f"{name}-daemonset", inside)
        applied = local.Command(
            f"{name}-limits",
            create="python -m components.commands.mps_limits",
            update="python -m components.commands.mps_limits",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(site.cluster.kubeconfig_file),
                "KUBE_CONTEXT": site.cluster.context,
                "MPS_NAMESPACE": NAMESPACE,
                "NODES": json.dumps(sorted(site.gpu_nodes)),
                **{variable: given[key] for key, variable in VARIABLES.items()},
                "WAIT_SECONDS": str(site.timeout_seconds),
            },
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=[daemon_set], deleted_with=site.inside(self).deleted_with),
        )
        self.ready: list[Resource] = [applied]
        """Resources that exist once the daemons have their limits."""
        # Where all clients have the daemon's limits, each waits itself until they are set, and starts meanwhile. Those
        # with limits of their own would all start again when the limits of one change.
        all_alike = options.most_memory is None
        self.clients = MpsByDaemon(
            limits=options.limits,
            classes=options.classes,
            daemon=NodeDaemon(
                site.images["mps-daemon"],
                site.gpus_digest,
                [config, daemon_set] if all_alike else self.ready,
                limits_name(percentage, memory) if all_alike else "",
            ),
            clients_carry_limits=options.most_memory is not None,
            claimed_memory=options.claimed_memory,
        )
        """Way in which pods share GPUs through this daemon."""
        self.register_outputs({"limits": options.limits.words})
