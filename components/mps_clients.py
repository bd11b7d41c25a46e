"""Clients of MPS: their limits, and what makes a pod of a plain manifest one of them."""

from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi import Input

from components.gpu_config import shared_by_mps
from gpus.mps import Limits

FOLDER = "/run/dra-workshop/mps"
PIPE_FOLDER, SHM_FOLDER = f"{FOLDER}/pipe", f"{FOLDER}/shm"
# Where CUDA looks for a daemon unless it is told otherwise, and where the driver's claim mode mounts its own.
CLIENT_PIPE = "/tmp/nvidia-mps"
CLASS_LABEL = "dra-workshop/mps-class"
LIMITS_ANNOTATION = "dra-workshop/mps-limits"
# What a container's program is behind where the container waits for the daemon itself.
WAIT_FOLDER = "/run/dra-workshop/wait"
WAIT_FIRST = (f"{WAIT_FOLDER}/mps-daemon", "wait", "--")


class MpsSharing:
    """One way of sharing GPUs through MPS."""

    limits: Limits
    classes: Mapping[str, Limits]
    ready: list[pulumi.Resource]
    """What must exist before a client does."""
    clients_limit_themselves = False
    """Whether a client has to ask for `limits`, since what it gets without asking is more."""
    undone_by_deletion = False
    """Whether a claim leaves its GPU changed unless it is deleted while NVIDIA's driver runs."""

    def share(self, document: dict[str, Any]) -> None:
        """Make an object of a manifest one that shares its GPU this way."""
        if document["kind"] == "Deployment":
            template, words = document["spec"]["template"], self.limits.words
            name = template["metadata"].get("labels", {}).get(CLASS_LABEL)
            if name or self.clients_limit_themselves:
                limit(template["spec"], *(self.classes[name] if name else self.limits).mps_values)
            if name:
                words = f"{self.classes[name].words} (class {name}; at most {words})"
            # A client keeps the limits that it started with, so it starts again when they change.
            template["metadata"].setdefault("annotations", {})[LIMITS_ANNOTATION] = words


class MpsByClaim(MpsSharing):
    """NVIDIA's driver starts a daemon for each claim, with the limits that the claim carries. Owns no resource.

    On a real GPU that sets its compute mode, which outlives the cluster unless the claim goes first.
    """

    def __init__(self, limits: Limits, classes: Mapping[str, Limits], simulated: bool = True) -> None:
        self.limits, self.classes, self.ready = limits, classes, []
        self.undone_by_deletion = not simulated

    def share(self, document: dict[str, Any]) -> None:
        super().share(document)
        if document["kind"] in ("ResourceClaim", "ResourceClaimTemplate"):
            spec = document["spec"].get("spec", document["spec"])
            limits = self.limits
            spec["devices"]["config"] = [
                shared_by_mps(
                    limits.active_thread_percentage,
                    limits.pinned_device_memory_limit,
                    limits.per_device,
                    spec["devices"]["requests"][0]["name"],
                )
            ]


def limit(pod: dict[str, Any], percentage: str, memory: Input[str]) -> None:
    """Set limits, as MPS writes them, in the client's own environment. Its GPU is number 0 to itself."""
    memory = f"0={memory}" if isinstance(memory, str) else pulumi.Output.concat("0=", memory)
    for container in pod["containers"]:
        container.setdefault("env", []).extend(
            [
                {"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": percentage},
                {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": memory},
            ]
        )


def add_to_pod(pod: dict[str, Any], image: str) -> None:
    """Give a pod the node's daemon: its pipe, its shared memory, and a wait for it.

    CUDA runs without MPS, and so without limits, where no daemon answers; so a new pod must not be there first. A
    container whose manifest names its `command` waits itself, each time that it starts. Where one leaves its program
    to the image, an init container waits, and it would start again without: see docs/learn/04-mps.md.
    """
    mounts = [{"name": "mps-pipe", "mountPath": CLIENT_PIPE}, {"name": "mps-shm", "mountPath": "/dev/shm"}]
    pipe = {"name": "CUDA_MPS_PIPE_DIRECTORY", "value": CLIENT_PIPE}
    first = pod["containers"][0]
    for container in pod["containers"]:
        container.setdefault("volumeMounts", []).extend(mounts)
        container.setdefault("env", []).insert(0, pipe)
    # It is no client, but the policy of module 05 looks at every container that has the GPU.
    before = {
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": list(first["env"]),
        "securityContext": first["securityContext"],
        "resources": first["resources"],
    }
    program = {"name": "wait", "mountPath": WAIT_FOLDER}
    if all("command" in container for container in pod["containers"]):
        before |= {"name": "install-wait", "args": ["install", WAIT_FOLDER], "volumeMounts": [*mounts, program]}
        for container in pod["containers"]:
            container["command"] = [*WAIT_FIRST, *container["command"]]
            container["volumeMounts"].append({**program, "readOnly": True})
        pod.setdefault("volumes", []).append({"name": "wait", "emptyDir": {"sizeLimit": "64Mi"}})
    else:
        before |= {"name": "wait-for-mps", "args": ["wait"], "volumeMounts": mounts}
    # Before the pod's own, which may use the GPU as well.
    pod.setdefault("initContainers", []).insert(0, before)
    # Not made if missing: the daemon makes them, with modes that let clients of every user in.
    pod.setdefault("volumes", []).extend(
        [
            {"name": "mps-pipe", "hostPath": {"path": PIPE_FOLDER, "type": "Directory"}},
            {"name": "mps-shm", "hostPath": {"path": SHM_FOLDER, "type": "Directory"}},
        ]
    )
