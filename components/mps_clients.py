"""Clients of MPS: their limits, and what makes a pod of a plain manifest one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pulumi
from pulumi import Input, Resource

from components import gpu_config
from components.claims import devices, request_memory
from components.manifests import Document, copied, manifest
from components.pods import annotate, annotate_gpus, pod_of
from gpus.mps import Limits

PIPE_FOLDER = "/run/dra-workshop/mps/pipe"
CLASS_LABEL = "dra-workshop/mps-class"
# A client keeps the limits that it started with, so it starts again when they change.
LIMITS_ANNOTATION = "dra-workshop/mps-limits"
# Every program that has the GPU comes after these words. The policy of module 05 asks for them.
WAIT_FOLDER = "/run/dra-workshop/wait"
WAIT_FIRST = (f"{WAIT_FOLDER}/mps-daemon", "wait", "--")
# Limits that the wait has to see announced, as `limits_name` has them: images/mps-daemon/src/ready.go reads it.
WANTED_VARIABLE = "MPS_DAEMON_LIMITS"
LEVEL_LABEL = "pod-security.kubernetes.io/enforce"


@dataclass(frozen=True)
class NodeDaemon:
    """MPS daemon of each node, as its clients need it."""

    image: str
    gpus_digest: str | None
    ready: Sequence[Resource] = ()
    """Resources that must exist before a client does."""
    limits_name: str = ""
    """Limits that each client waits for, as the daemon announces them; empty where it waits for a daemon only.

    With them a client may be made while they are being set in the daemons: none of its programs starts before.
    """

    def admit(self, namespace: Document) -> None:
        """Let the namespace have clients: the pipe is a folder of the node, which no stricter level lets a pod mount.

        Where MpsPolicy is on, it allows the daemon's folder and nothing else.
        """
        namespace["metadata"]["labels"][LEVEL_LABEL] = "privileged"

    def attach(self, deployment: Document) -> None:
        """Make a Deployment's pods clients.

        Other GPUs restart the daemon, which ends its clients: new pods wait for the next one.
        """
        annotate_gpus(deployment, self.gpus_digest)
        add_to_pod(pod_of(deployment), self.image, self.limits_name)


@dataclass(frozen=True)
class MpsByDaemon:
    """Sharing through the daemon of the node, which gives its own limits to whoever asks for none."""

    limits: Limits
    classes: Mapping[str, Limits]
    daemon: NodeDaemon
    clients_carry_limits: bool = False
    """True where a client has to ask for `limits`, since what it gets without asking is more."""
    claimed_memory: str | None = None
    """Memory that a shared claim requests of its GPU; None for all of it."""
    needs_claim_deleted_first: bool = field(default=False, init=False)

    @property
    def ready(self) -> Sequence[Resource]:
        return self.daemon.ready

    def admit(self, namespace: Document) -> None:
        self.daemon.admit(namespace)

    def request(self, claim: Document) -> None:
        if self.claimed_memory:
            request_memory(claim, self.claimed_memory)

    def limit(self, deployment: Document) -> None:
        set_limits(deployment, self.limits, self.classes, carried=self.clients_carry_limits)

    def attach(self, deployment: Document) -> None:
        self.daemon.attach(deployment)


@dataclass(frozen=True)
class MpsByClaim:
    """Sharing through a daemon that NVIDIA's driver starts for each claim, with the limits that the claim carries.

    On a real GPU that sets its compute mode, which outlives the cluster unless the claim goes first.
    """

    limits: Limits
    classes: Mapping[str, Limits]
    needs_claim_deleted_first: bool = False
    ready: Sequence[Resource] = field(default=(), init=False)

    def admit(self, namespace: Document) -> None:
        """Nothing: pods mount no folder of the node."""

    def request(self, claim: Document) -> None:
        part = devices(claim)
        limits, request = self.limits, part["requests"][0]
        part["config"] = [
            gpu_config.shared_by_mps(
                limits.active_thread_percentage, limits.pinned_device_memory_limit, limits.per_device, request
            )
        ]

    def limit(self, deployment: Document) -> None:
        set_limits(deployment, self.limits, self.classes, carried=False)

    def attach(self, deployment: Document) -> None:
        """Nothing: NVIDIA's driver mounts the pipe of the claim's daemon."""


Mps = MpsByDaemon | MpsByClaim
"""Way of sharing through MPS, with its limits and classes."""


def set_limits(deployment: Document, limits: Limits, classes: Mapping[str, Limits], *, carried: bool) -> None:
    """Annotate a Deployment's pods with their limits; those of a class, or all where `carried`, also ask for them."""
    template, words = deployment["spec"]["template"], limits.words
    class_name = template["metadata"].get("labels", {}).get(CLASS_LABEL)
    if class_name or carried:
        limit(template["spec"], *(classes[class_name] if class_name else limits).mps_values)
    if class_name:
        words = f"{classes[class_name].words} (class {class_name}; at most {words})"
    annotate(deployment, LIMITS_ANNOTATION, words)


def limit(pod: dict[str, Any], percentage: str, memory: Input[str]) -> None:
    """Set limits, as MPS writes them, in the client's own environment. Its GPU is number 0 to itself."""
    memory = f"0={memory}" if isinstance(memory, str) else pulumi.Output.concat("0=", memory)
    for container in client_containers(pod):
        container.setdefault("env", []).extend(
            [
                {"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": percentage},
                {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": memory},
            ]
        )


def add_to_pod(pod: dict[str, Any], image: str, limits_name: str = "") -> None:
    """Give a pod what makes it a client of the node's daemon, of `image`; mps-client.yaml says why.

    `limits_name` are the limits that it waits for, empty for any.

    Every container that has the GPU waits for the daemon itself, however it comes to start. Raises `ValueError` where
    one leaves its program to the image, which then could not be started by the wait.
    """
    (template,) = manifest("mps-client.yaml")
    model = pod_of(template)
    (client,), (install,) = model["containers"], model["initContainers"]
    wanted = [{"name": WANTED_VARIABLE, "value": limits_name}] if limits_name else []
    for container in client_containers(pod):
        if not container.get("command"):
            raise ValueError(
                f"container {container['name']}: a client of MPS names its command, after which its program is started "
                "when the daemon is ready; add the image's entrypoint as command"
            )
        container["command"] = [*client["command"], *container["command"]]
        container["env"] = [*copied(client["env"]), *copied(wanted), *container.get("env", [])]
        container["volumeMounts"] = [*container.get("volumeMounts", []), *copied(client["volumeMounts"])]
    install["image"] = image
    # Of the pod's own user: the policy lets no client be root.
    install["securityContext"] = copied(pod["containers"][0].get("securityContext", install["securityContext"]))
    pod["initContainers"] = [install, *pod.get("initContainers", [])]
    pod["volumes"] = [*pod.get("volumes", []), *model["volumes"]]


def limits_name(percentage: str, memory: str) -> str:
    """Name of limits as MPS writes them, by which the daemon announces them and clients wait for them."""
    return f"{percentage}/{memory}"


def client_containers(pod: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Containers of a pod that are clients: its own ones, and those of its init containers that have a claim."""
    before = [one for one in pod.get("initContainers", []) if one.get("resources", {}).get("claims")]
    return [*pod["containers"], *before]
