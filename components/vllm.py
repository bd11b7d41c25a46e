"""A vLLM server that shares its GPU through MPS, and what measures it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, Input, Resource, ResourceOptions

from components.cluster import Cluster
from components.manifests import load
from components.mps_clients import MpsSharing
from toolchain import versions
from toolchain.paths import CHECKOUT

VLLM_IMAGE = versions.VLLM_IMAGE
PORT = 8000
# Where a folder of the host is in a Kind node; elsewhere nodes have it at its own path.
NODE_MODEL, NODE_ENVIRONMENT = "/dra-workshop/vllm/model", "/dra-workshop/vllm/environment"
MODEL_FOLDER, DUMMY_FOLDER = "/models/model", "/models/dummy"
LOAD = "vllm-load"
PROBE_SECONDS = 5
LOADGEN = CHECKOUT / "images" / "loadgen"
KINDS = {"ConfigMap": k8s.core.v1.ConfigMap, "Service": k8s.core.v1.Service}


@dataclass(frozen=True)
class Model:
    """Where vLLM has its model from: exactly one of the first four.

    `dummy` is the content of config.json for a model of given dimensions; `path` a folder of the node.
    """

    served_name: str
    dummy: str | None = None
    path: str | None = None
    claim: str | None = None
    hub: str | None = None
    revision: str | None = None

    @property
    def args(self) -> list[str]:
        """What vLLM is told of it."""
        if self.hub:
            return [self.hub, f"--revision={self.revision}"]
        if self.dummy:
            # Nobody has a tokenizer for it, so prompts are token ids.
            return [DUMMY_FOLDER, "--load-format=dummy", "--skip-tokenizer-init"]
        return [MODEL_FOLDER]

    @property
    def mount(self) -> dict[str, Any] | None:
        """Where the container has it; None for a hub's, which vLLM loads into its cache."""
        if self.hub:
            return None
        return {"name": "model", "mountPath": DUMMY_FOLDER if self.dummy else MODEL_FOLDER, "readOnly": True}

    @property
    def volume(self) -> dict[str, Any] | None:
        if self.hub:
            return None
        if self.dummy:
            return {"name": "model", "configMap": {"name": "vllm-model"}}
        claim = {"claimName": self.claim or "vllm-model", "readOnly": True}
        return {"name": "model", "persistentVolumeClaim": claim}


@dataclass(frozen=True)
class Environment:
    """A Python environment with vLLM in a folder of the node; `path` is its own, where pods have it as well."""

    path: str
    node_path: str


@dataclass(frozen=True)
class Resources:
    """What the server may use of its node, and how long its start may take."""

    cpu: int
    memory: str
    startup_seconds: int


class VllmServer(pulumi.ComponentResource):
    """Owns the Deployment, its Service, the volumes of what it reads, and the programs that measure it.

    The namespace, its claim and the way of sharing are module 04's. Volumes of the node come through PersistentVolumes,
    which a namespace of any Pod Security level may use.
    """

    def __init__(
        self,
        name: str,
        *,
        manifests: str,
        cluster: Cluster,
        image: str,
        node: str,
        sharing: MpsSharing,
        model: Model,
        utilization: Input[str],
        max_model_len: int,
        resources: Resources,
        extra_args: Sequence[str],
        claims: Mapping[str, Resource],
        depends_on: Sequence[Resource],
        timeout_seconds: int,
        environment: Environment | None = None,
        cache_claim: str | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`utilization` is gpu_memory_utilization; `claims` are module 04's, by their names in the cluster."""
        super().__init__("dra-workshop:workload:VllmServer", name, None, opts)
        self._name, self._cluster, self._node = name, cluster, node
        needed: list[Resource] = [*sharing.ready, *depends_on]
        folders = {"vllm-model": model.path, "vllm-environment": environment.node_path if environment else None}
        for volume, folder in folders.items():
            if folder:
                needed.append(self._volume(volume, folder, depends_on))
        needed.append(
            k8s.core.v1.ConfigMap(
                f"{name}-load",
                metadata={"name": LOAD, "namespace": "mps"},
                data={file.name: file.read_text() for file in sorted(LOADGEN.glob("*.py"))},
                opts=cluster.inside(self, depends_on),
            )
        )
        args: list[Input[str]] = [
            model.args[0],
            f"--served-model-name={model.served_name}",
            f"--port={PORT}",
            f"--max-model-len={max_model_len}",
            pulumi.Output.concat("--gpu-memory-utilization=", utilization)
            if not isinstance(utilization, str)
            else f"--gpu-memory-utilization={utilization}",
            *model.args[1:],
            *extra_args,
        ]
        for document in load(manifests):
            kind = document["kind"]
            options = cluster.inside(self, needed)
            if kind == "Deployment":
                _fit(document, image, node, args, model, environment, resources, cache_claim)
                sharing.share(document)
                # What comes before it computes nothing.
                for first in document["spec"]["template"]["spec"].get("initContainers", []):
                    first["resources"] = {**first["resources"], "requests": {"cpu": "1m", "memory": "16Mi"}}
                seconds = f"{resources.startup_seconds + timeout_seconds}s"
                options.custom_timeouts = CustomTimeouts(create=seconds, update=seconds)
                options.replace_with = [claims["shared-gpu"]]
                needed.append(k8s.apps.v1.Deployment(f"{name}-server", **_fields(document), opts=options))
                continue
            if kind == "ConfigMap":
                if not model.dummy:
                    continue
                document["data"] = {"config.json": model.dummy}
            suffix = "service" if kind == "Service" else "model"
            needed.append(KINDS[kind](f"{name}-{suffix}", **_fields(document), opts=options))
        self.register_outputs({"model": model.served_name})

    def _volume(self, volume: str, folder: str, depends_on: Sequence[Resource]) -> Resource:
        """A claim for a folder of the node that pods may read."""
        size: Any = {"storage": "1Gi"}  # asked for and given; nobody measures a folder
        on_node = {"key": "kubernetes.io/hostname", "operator": "In", "values": [self._node]}
        spec: Any = {
            "capacity": size,
            "accessModes": ["ReadOnlyMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "",
            "hostPath": {"path": folder, "type": "Directory"},
            "claimRef": {"namespace": "mps", "name": volume},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [on_node]}]}},
        }
        wanted: Any = {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": f"dra-workshop-{volume}",
            "resources": {"requests": size},
        }
        made = k8s.core.v1.PersistentVolume(
            f"{self._name}-{volume}-volume",
            metadata={"name": f"dra-workshop-{volume}"},
            spec=spec,
            opts=self._cluster.inside(self, depends_on),
        )
        return k8s.core.v1.PersistentVolumeClaim(
            f"{self._name}-{volume}-claim",
            metadata={"name": volume, "namespace": "mps"},
            spec=wanted,
            opts=self._cluster.inside(self, [made]),
        )


def _fields(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in ("apiVersion", "kind")}


def _fit(
    document: dict[str, Any],
    image: str,
    node: str,
    args: Sequence[Input[str]],
    model: Model,
    environment: Environment | None,
    resources: Resources,
    cache_claim: str | None,
) -> None:
    """What a manifest cannot know."""
    pod = document["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    pod["nodeSelector"] = {"kubernetes.io/hostname": node}
    container |= {"image": image, "args": list(args)}
    container["startupProbe"]["failureThreshold"] = -(-resources.startup_seconds // PROBE_SECONDS)
    container["resources"]["requests"]["cpu"] = str(resources.cpu)
    container["resources"]["limits"]["memory"] = resources.memory
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    # With MPS /dev/shm is the one that client and daemon share: the stack's, or that of NVIDIA's driver for a claim,
    # which a volume of the pod would hide.
    for name in ("shm", "model"):
        del mounts[name], volumes[name]
    if model.mount and model.volume:
        mounts["model"], volumes["model"] = model.mount, model.volume
    if model.hub:
        container["env"] = [entry for entry in container["env"] if entry["name"] != "HF_HUB_OFFLINE"]
    if environment:
        # At its own path, which its programs were installed with.
        mounts["environment"] = {"name": "environment", "mountPath": environment.path, "readOnly": True}
        claim = {"claimName": "vllm-environment", "readOnly": True}
        volumes["environment"] = {"name": "environment", "persistentVolumeClaim": claim}
        container["command"] = [f"{environment.path}/bin/python", *container["command"][1:]]
        container["env"].append({"name": "PATH", "value": f"{environment.path}/bin:/usr/local/bin:/usr/bin:/bin"})
    if cache_claim:
        volumes["cache"] = {"name": "cache", "persistentVolumeClaim": {"claimName": cache_claim}}
    container["volumeMounts"], pod["volumes"] = list(mounts.values()), list(volumes.values())
