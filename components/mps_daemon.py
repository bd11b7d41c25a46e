"""An MPS daemon on each GPU node, without privilege, and how pods become its clients."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import Input, ResourceOptions
from pulumi_command import local

from components.claims import CLAIMS, claim, every_gpu, request_memory
from components.cluster import GPU_NODE_SELECTOR, Cluster
from components.dra_driver import DraDriver
from components.manifests import load
from components.mps_clients import PIPE_FOLDER, SHM_FOLDER, MpsSharing, add_to_pod
from gpus.mps import Limits
from toolchain.paths import CHECKOUT

NAMESPACE = "mps-system"
NAME = "mps-daemon"
# What makes a client that fails start its whole pod again, by the names of their resources.
RESTART_KINDS = {"MutatingAdmissionPolicy": "restart", "MutatingAdmissionPolicyBinding": "restart-binding"}
# The daemon's own view of the node's folders.
PIPE, LOG, SHM = "/mps/pipe", "/mps/log", "/dev/shm"
READY = {"exec": {"command": ["mps-daemon", "ready"]}, "timeoutSeconds": 5}
# ConfigMap key -> the variable that `mps-daemon run` reads.
VARIABLES = {
    "activeThreadPercentage": "ACTIVE_THREAD_PERCENTAGE",
    "pinnedDeviceMemoryLimit": "PINNED_DEVICE_MEMORY_LIMIT",
}


class MpsDaemon(pulumi.ComponentResource, MpsSharing):
    """Owns the DaemonSet, the claim for its GPUs, the limits that it gives, and their live change.

    What is set here holds for every client that does not ask for less. A changed limit reaches the running daemons
    through their pipes, and so new clients, without a restart; clients that run keep theirs. One memory limit is for
    every GPU of the node: CUDA applies a daemon's limits by the client's own numbers of its GPUs (measured), and a
    pod sees its only GPU as number 0.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        driver: DraDriver,
        image: str,
        limits: Limits,
        classes: Mapping[str, Limits],
        nodes: Sequence[str],
        simulated: str | None,
        timeout_seconds: int,
        most_memory: Input[str] | None = None,
        claimed_memory: str | None = None,
        manifests: str | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`simulated` is the digest of the simulated GPUs' configuration, None for real ones.

        `most_memory`, as MPS writes it, is the most that any client of the node may get, where some may get more
        than `limits`; then those of `limits` ask for them. `claimed_memory` is what a shared claim requests of its
        GPU, None for all of it. `manifests` is the folder with the policy by which a client that fails starts its
        whole pod again; None where the cluster's Kubernetes has no such policies (before 1.36).
        """
        super().__init__("dra-workshop:gpu:MpsDaemon", name, None, opts)
        self.image, self.limits, self.classes, self.simulated = image, limits, classes, simulated
        self.clients_limit_themselves, self.claimed_memory = most_memory is not None, claimed_memory
        percentage, memory = limits.mps_values
        given = dict(zip(VARIABLES, (percentage, most_memory or memory), strict=True))
        namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={
                "name": NAMESPACE,
                "labels": {
                    # Its claim sees every GPU, those that others hold as well.
                    "resource.kubernetes.io/admin-access": "true",
                    # Two folders of the node are mounted; nothing is privileged.
                    # docs/reference/security.md has the reasons.
                    "pod-security.kubernetes.io/enforce": "privileged",
                },
            },
            opts=cluster.inside(self, driver.ready),
        )
        config = k8s.core.v1.ConfigMap(
            f"{name}-config",
            metadata={"name": "mps-limits", "namespace": NAMESPACE},
            data=given,
            opts=cluster.inside(self, [namespace]),
        )
        gpus = claim(f"{name}-gpus-claim", every_gpu(NAMESPACE, driver.shared), cluster.inside(self, [namespace]))
        spec: Any = daemon_set_spec(image, simulated)
        options = cluster.inside(self, [config, gpus])
        # A pod keeps the claim that it was made with.
        options.replace_with = [gpus]
        daemon_set = k8s.apps.v1.DaemonSet(
            f"{name}-daemonset",
            metadata={"name": NAME, "namespace": NAMESPACE},
            spec=spec,
            opts=options,
        )
        applied = local.Command(
            f"{name}-limits",
            create="python -m components.commands.mps_limits",
            update="python -m components.commands.mps_limits",
            dir=str(CHECKOUT),
            environment={
                "KUBECONFIG": str(cluster.kubeconfig_file),
                "KUBE_CONTEXT": cluster.context,
                "MPS_NAMESPACE": NAMESPACE,
                "NODES": json.dumps(sorted(nodes)),
                **{variable: given[key] for key, variable in VARIABLES.items()},
                "WAIT_SECONDS": str(timeout_seconds),
            },
            logging=local.Logging.STDERR,
            opts=ResourceOptions(parent=self, depends_on=[daemon_set], deleted_with=cluster.inside(self).deleted_with),
        )
        self.ready = [applied]
        for document in load(manifests) if manifests else ():
            if document["kind"] in RESTART_KINDS:
                # The binding comes after the policy that it names, in the manifest too.
                inside = cluster.inside(self, self.ready[1:])
                self.ready.append(_untyped(f"{name}-{RESTART_KINDS[document['kind']]}", document, inside))
        self.register_outputs({"limits": limits.words})

    def share(self, document: dict[str, Any]) -> None:
        super().share(document)
        if document["kind"] in CLAIMS and self.claimed_memory:
            request_memory(document, self.claimed_memory)
        self.attach(document)

    def attach(self, document: dict[str, Any]) -> None:
        """Make a Deployment's pods clients of the node's daemon, and let their namespace have such pods."""
        if document["kind"] == "Namespace":
            # The pipe is a folder of the node, which no stricter level lets a pod mount. Where MpsPolicy is on, it
            # allows the daemon's two folders and nothing else.
            document["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] = "privileged"
        elif document["kind"] == "Deployment":
            template = document["spec"]["template"]
            if self.simulated:
                # Other GPUs restart the daemon, which ends its clients: new pods wait for the next one.
                template["metadata"].setdefault("annotations", {})["dra-workshop/gpus"] = self.simulated
            add_to_pod(template["spec"], self.image)


def _untyped(name: str, document: dict[str, Any], opts: ResourceOptions) -> pulumi.Resource:
    """An object of a kind that Pulumi's SDK of this version has no class for."""
    return k8s.apiextensions.CustomResource(
        name,
        api_version=document["apiVersion"],
        kind=document["kind"],
        metadata=document["metadata"],
        spec=document["spec"],
        opts=opts,
    )


def daemon_set_spec(image: str, simulated: str | None) -> dict[str, Any]:
    """The DaemonSet's spec. It does not name the limits: a change of theirs must not restart it."""
    labels = {"app": NAME}
    metadata: dict[str, Any] = {"labels": labels}
    if simulated:
        # A daemon and its claim know the GPUs that were there when they started.
        metadata["annotations"] = {"dra-workshop/gpus": simulated}
    return {"selector": {"matchLabels": labels}, "template": {"metadata": metadata, "spec": _pod_spec(image)}}


def _pod_spec(image: str) -> dict[str, Any]:
    limits = [
        {"name": variable, "valueFrom": {"configMapKeyRef": {"name": "mps-limits", "key": key}}}
        for key, variable in VARIABLES.items()
    ]
    return {
        "nodeSelector": GPU_NODE_SELECTOR,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 10,
        "automountServiceAccountToken": False,
        "containers": [
            {
                "name": "mps-daemon",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": ["run"],
                "env": [
                    {"name": "CUDA_MPS_PIPE_DIRECTORY", "value": PIPE},
                    {"name": "CUDA_MPS_LOG_DIRECTORY", "value": LOG},
                    *limits,
                ],
                "startupProbe": {**READY, "periodSeconds": 1, "failureThreshold": 60},
                # Every question is five lines in the daemon's log.
                "readinessProbe": {**READY, "periodSeconds": 10},
                # NVIDIA lets only root serve clients of every user (-multiuser-server); it needs no capability.
                "securityContext": {
                    "runAsUser": 0,
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "resources": {
                    "requests": {"cpu": "1m", "memory": "16Mi"},
                    "limits": {"memory": "1Gi"},
                    "claims": [{"name": "gpus"}],
                },
                "volumeMounts": [
                    {"name": "pipe", "mountPath": PIPE},
                    {"name": "shm", "mountPath": SHM},
                    {"name": "log", "mountPath": LOG},
                ],
            }
        ],
        "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "every-gpu"}],
        "volumes": [
            # Below /run, which is memory: what a client shares with the daemon is gone with a restart of the node.
            {"name": "pipe", "hostPath": {"path": PIPE_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "shm", "hostPath": {"path": SHM_FOLDER, "type": "DirectoryOrCreate"}},
            {"name": "log", "emptyDir": {}},
        ],
    }
