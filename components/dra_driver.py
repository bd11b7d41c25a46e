"""NVIDIA's DRA driver, from its own Helm chart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Output, ResourceOptions
from pulumi_command import local

from components.cluster import GPU_NODE_SELECTOR, Cluster, ExistingCluster
from components.destroy_guard import DestroyGuard
from components.manifests import Document, manifest
from components.objects import register
from components.simulated_gpus import SimulatedGpus
from gpus.quantity import quantity_mib
from settings import catalog
from settings.blocks import GPU_TOLERATION
from toolchain.paths import CHECKOUT
from toolchain.versions import DRA_DRIVER, of_driver

CHART = "./.tools/charts/dra-driver-nvidia-gpu"
NAMESPACE = "dra-driver-nvidia-gpu"
RELEASE = "dra-driver-nvidia-gpu"


@dataclass(frozen=True)
class DriverOptions:
    """Version and settings of NVIDIA's driver, mostly values of its chart."""

    image: str
    """Image of that version."""
    driver_root: str
    feature_gates: Mapping[str, bool]
    log_verbosity: int
    timeout_seconds: int
    """Seconds that the release may take, and then its GPUs."""
    version: str = DRA_DRIVER
    """One of `toolchain.versions.DRA_DRIVERS`."""
    consumable_shares: str | None = None
    """None leaves it to the chart; versions without the gate ConsumableShares do not have it."""
    tolerations: Sequence[Document] = ()
    """Tolerations of the plugin beside the chart's own."""


@dataclass(frozen=True)
class ExpectedGpus:
    """GPUs that the driver is to publish."""

    counts: Mapping[str, int]
    """Number of whole GPUs by the node's name; 0 asks for at least one, but for none where `mig` has the node."""
    mig: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Names of the MIG devices by the node's name, where layouts say what they are."""
    only_uuids: Sequence[str] = ()
    """UUIDs of those that may be published, where the nodes hide others; empty for all."""


class DraDriver(pulumi.ComponentResource):
    """Owns the Helm release and the wait for its GPUs; `gpus` is what it published, `cluster_uid` where.

    Ready means that the kubelet plugin runs and that every expected GPU is in a ResourceSlice. Helm's own
    wait does not see that: the plugin's DaemonSet may be wholly unavailable by its update strategy.
    """

    gpus: Output[list[str]]
    cluster_uid: Output[str]
    mig_devices: Output[list[str]] | None = None
    """MIG devices that it published; None where no layout says what they are."""

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        gpus: SimulatedGpus | None,
        options: DriverOptions,
        expected: ExpectedGpus,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__("dra-workshop:gpu:DraDriver", name, None, opts)
        self.shared = options.consumable_shares is not None
        """True where claims share GPUs by consumable capacity."""
        (document,) = manifest("dra-driver.yaml")
        namespace = register(document, f"{name}-namespace", cluster.inside(self))
        values = chart_values(
            options.image,
            options.driver_root,
            options.feature_gates,
            options.log_verbosity,
            gpus.digest if gpus else None,
            options.consumable_shares,
            hidden=bool(expected.only_uuids),
        )
        if options.tolerations:
            # Helm puts a list in the place of the chart's own, so it has to hold that as well.
            values["kubeletPlugin"]["tolerations"] = [GPU_TOLERATION.for_kubernetes, *options.tolerations]
        release = k8s.helm.v3.Release(
            f"{name}-release",
            name=RELEASE,
            # Another version is an upgrade of the release in place: what it has prepared has to be taken over.
            chart=of_driver(CHART, options.version),
            version=options.version,
            namespace=NAMESPACE,
            values=values,
            # They are ComputeDomains', which are off, and Helm would leave them behind at the end.
            skip_crds=True,
            timeout=options.timeout_seconds,
            opts=cluster.inside(self, [namespace, *([gpus.daemon_set] if gpus else [])]),
        )
        published = local.Command(
            f"{name}-gpus",
            create="python -m components.commands.wait_for_gpus",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(cluster.kubeconfig_file),
                "KUBE_CONTEXT": cluster.context,
                "DRIVER_NAMESPACE": NAMESPACE,
                # A new revision asks anew.
                "DRIVER_REVISION": release.status.apply(lambda status: str(status.revision)),
                "EXPECTED_GPUS": json.dumps(expected.counts, sort_keys=True),
                **({"EXPECTED_MIG": json.dumps(dict(expected.mig), sort_keys=True)} if expected.mig else {}),
                **({"ONLY_GPUS": json.dumps(sorted(expected.only_uuids))} if expected.only_uuids else {}),
                "WAIT_SECONDS": str(options.timeout_seconds),
            },
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=[release], deleted_with=cluster.inside(self).deleted_with),
        )
        answer = published.stdout.apply(json.loads)
        note = " (simulated)" if gpus else ""
        self.gpus = answer.apply(lambda content: [describe(gpu) + note for gpu in content["gpus"]])
        self._published = answer.apply(lambda content: content["gpus"])
        self.cluster_uid = answer.apply(lambda content: content["clusterUid"])
        self.ready: list[pulumi.Resource] = [published]
        if isinstance(cluster, ExistingCluster):
            # A Kind cluster takes pods of others with it; somebody's own would keep pods that cannot end. What uses the
            # driver is made behind the guard, so that it is gone when the guard looks.
            guarded = ResourceOptions(parent=self)
            guard = DestroyGuard(f"{name}-guard", cluster=cluster, kind_folder=None, driver=[release], opts=guarded)
            self.ready.append(guard)
        outputs = {"gpus": self.gpus, "clusterUid": self.cluster_uid}
        if expected.mig:
            self.mig_devices = answer.apply(lambda content: [describe(mig) + note for mig in content["migDevices"]])
            outputs["migDevices"] = self.mig_devices
        self.register_outputs(outputs)

    def uuid(self, node: str, number: int) -> Output[str]:
        """UUID of one of a node's GPUs, counted from 0 in the order of their names.

        Fails the update where the node has fewer: for a host's GPUs nobody can know that before.
        """
        return self._published.apply(lambda gpus: uuid_of(gpus, node, number))

    def memory_mib(self, node: str, number: int) -> Output[int]:
        """Memory of one of a node's GPUs, counted as for `uuid`."""
        return self._published.apply(lambda gpus: quantity_mib(gpu_of(gpus, node, number)["memory"]))


def uuid_of(gpus: Sequence[Mapping[str, str]], node: str, number: int) -> str:
    """UUID of a published GPU. Raises as `gpu_of` does."""
    return gpu_of(gpus, node, number)["uuid"]


def gpu_of(gpus: Sequence[Mapping[str, str]], node: str, number: int) -> Mapping[str, str]:
    """Published GPU of a node by its number. Raises `pulumi.RunError` with the remedy if there is none."""
    of_node = [gpu for gpu in gpus if gpu["node"] == node]
    if number >= len(of_node):
        count = f"{len(of_node)} GPU{'s' if len(of_node) != 1 else ''}"
        raise pulumi.RunError(
            f"node {node} has {count}, and the modules of the stack use {number + 1}; switch one of them off "
            f'("{catalog.WORKLOADS.number}" holds one for itself), or use a node with more GPUs'
        )
    return of_node[number]


def describe(gpu: Mapping[str, str]) -> str:
    """One line on a published GPU or MIG device."""
    profile = f" {gpu['profile']}" if "profile" in gpu else ""
    return f"{gpu['node']} {gpu['name']}: {gpu['productName']}{profile}, {gpu['memory']}, {gpu['uuid']}"


def chart_values(
    image: str,
    driver_root: str,
    feature_gates: Mapping[str, bool],
    log_verbosity: int,
    simulated: str | None,
    consumable_shares: str | None = None,
    hidden: bool = False,
) -> dict:
    """Values of the chart; `simulated` is the digest of the simulated GPUs' configuration, None for real ones.

    `consumable_shares` None leaves it to the chart. `hidden`: the nodes lack device files, and the plugin, which could
    make them anew, must not.
    """
    repository, _, tag = image.rpartition(":")
    plugin: dict = {"nodeSelector": GPU_NODE_SELECTOR}
    if simulated:
        # The plugin reads its GPUs when it starts, so it starts again when they change.
        plugin["podAnnotations"] = {"dra-workshop/gpus": simulated}
        # The chart starts the plugin by bash, which reads this file first: it lays what NVIDIA's kernel module
        # would show in /proc and /sys over the container's own view. The image stays as NVIDIA made it.
        plugin["containers"] = {"gpus": {"env": [{"name": "BASH_ENV", "value": "/driver-root/sim/plugin-env.sh"}]}}
    values = {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "nvidiaDriverRoot": driver_root,
        # GPUs by DRA are not yet NVIDIA's default way, so the chart asks for this consent.
        "gpuResourcesEnabledOverride": True,
        # ComputeDomains are for NVLink across nodes.
        "resources": {"gpus": {"enabled": True}, "computeDomains": {"enabled": False}},
        "featureGates": dict(feature_gates),
        "logVerbosity": str(log_verbosity),
        "kubeletPlugin": plugin,
    }
    if hidden:
        values["maskNvidiaDriverParams"] = True
    return values if consumable_shares is None else {**values, "consumableShares": consumable_shares}
