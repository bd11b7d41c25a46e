"""vLLM server that shares its GPU through MPS, and the programs that measure it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi import CustomTimeouts, Input, Resource, ResourceOptions

from components.manifests import Document, by_kind, copied, manifest
from components.mps_clients import Mps, MpsByDaemon
from components.objects import register
from components.pods import merged, pod_of, remove_env, remove_volume, set_image, set_node, tolerate
from components.sharing import shared
from components.site import Site
from components.workload import Workload
from toolchain.paths import CHECKOUT

MODEL_FOLDER = "/models/model"
LOAD = "vllm-load"
LOADGEN = CHECKOUT / "images" / "loadgen"
# Arguments of the manifest that are for a model without weights. Nobody has a tokenizer for it, so prompts are token
# ids.
DUMMY_ARGS = ("--load-format=dummy", "--skip-tokenizer-init")


@dataclass(frozen=True)
class Model:
    """Model of a server: exactly one of `dummy`, `path`, `claim` and `hub` says where vLLM has it from.

    `dummy` is the content of config.json for a model of given dimensions; `path` a folder of the node.
    """

    served_name: str
    dummy: str | None = None
    path: str | None = None
    claim: str | None = None
    hub: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Environment:
    """Python environment with vLLM in a folder of the node; `path` is its own, where pods have it as well."""

    path: str
    node_path: str


@dataclass(frozen=True)
class Resources:
    """Share of its node that the server may use, and how long its start may take."""

    cpu: int
    memory: str
    startup_seconds: int
    shared_memory: str = "32Mi"


@dataclass(frozen=True)
class ServerOptions:
    """Everything that a stack says of its server."""

    image: str
    model: Model
    gpu_memory_utilization: Input[str]
    max_model_len: int
    resources: Resources
    extra_args: Sequence[str] = ()
    environment: Environment | None = None
    cache_claim: str | None = None


class VllmServer(pulumi.ComponentResource):
    """Owns the Deployment, its Service, the volumes of what it reads, and the programs that measure it.

    The namespace and its claim are those of the workload that it shares a GPU with. Volumes of the node come through
    PersistentVolumes, which a namespace of any Pod Security level may use.
    """

    def __init__(
        self,
        name: str,
        *,
        site: Site,
        server: ServerOptions,
        sharing: Mps,
        workload: Workload,
        opts: ResourceOptions | None = None,
    ) -> None:
        super().__init__("dra-workshop:workload:VllmServer", name, None, opts)
        self._name, self._site, self._workload = name, site, workload
        model, environment = server.model, server.environment
        needed: list[Resource] = [*sharing.ready, *workload.objects]
        if model.path:
            needed.append(self._volume("model.yaml", model.path))
        if environment:
            needed.append(self._volume("python-environment.yaml", environment.node_path))
        (load,) = manifest("load.yaml")
        load["data"] = {file.name: file.read_text() for file in sorted(LOADGEN.glob("*.py"))}
        needed.append(register(load, f"{name}-load", site.inside(self, workload.objects)))
        if model.dummy:
            (config,) = manifest("1-model.yaml")
            config["data"] = {"config.json": model.dummy}
            needed.append(register(config, f"{name}-model", site.inside(self, needed)))
        documents = by_kind(manifest("2-server.yaml"))
        deployment = configured(documents["Deployment"], server, site.node)
        if isinstance(sharing, MpsByDaemon):
            _add_shared_memory(pod_of(deployment), server.resources.shared_memory)
        deployment = shared(deployment, sharing)
        tolerate(deployment, site.tolerations)
        options = site.inside(self, needed)
        seconds = f"{server.resources.startup_seconds + site.timeout_seconds}s"
        options.custom_timeouts = CustomTimeouts(create=seconds, update=seconds)
        options.replace_with = [workload.claims["shared-gpu"]]
        needed.append(register(deployment, f"{name}-server", options))
        register(documents["Service"], f"{name}-service", site.inside(self, needed))
        self.register_outputs({"model": model.served_name})

    def _volume(self, file: str, folder: str) -> Resource:
        """Register a volume for a folder of the node, and the claim by which pods may read it; returns the claim."""
        documents = by_kind(manifest(file))
        volume, claim = documents["PersistentVolume"], documents["PersistentVolumeClaim"]
        volume["spec"]["hostPath"]["path"] = folder
        prefix = f"{self._name}-{claim['metadata']['name']}"
        folder_volume = register(volume, f"{prefix}-volume", self._site.inside(self, self._workload.objects))
        return register(claim, f"{prefix}-claim", self._site.inside(self, [folder_volume]))


def configured(deployment: Document, server: ServerOptions, node: str) -> Document:
    """New Deployment with what the manifest cannot know; sharing comes after it, since that adds to its command."""
    deployment = copied(deployment)
    set_image(deployment, server.image)
    set_node(deployment, node)
    pod = pod_of(deployment)
    (container,) = pod["containers"]
    container["args"] = arguments(container["args"], server)
    probe = container["startupProbe"]
    probe["failureThreshold"] = -(-server.resources.startup_seconds // probe["periodSeconds"])
    container["resources"]["requests"]["cpu"] = str(server.resources.cpu)
    container["resources"]["limits"]["memory"] = server.resources.memory
    if server.model.hub:
        # vLLM loads it into its cache.
        remove_volume(pod, "model")
        remove_env(container, "HF_HUB_OFFLINE")
    elif not server.model.dummy:
        _add(pod, "model.yaml", server.model.claim)
    if server.environment:
        _use_environment(pod, server.environment.path)
    if server.cache_claim:
        _add(pod, "cache.yaml", server.cache_claim)
    return deployment


def arguments(args: Sequence[str], server: ServerOptions) -> list[Input[str]]:
    """Arguments of the manifest with the stack's values and model, and its own ones after them."""
    model, utilization = server.model, server.gpu_memory_utilization
    values: dict[str, Input[str]] = {
        "--served-model-name": f"--served-model-name={model.served_name}",
        "--max-model-len": f"--max-model-len={server.max_model_len}",
        "--gpu-memory-utilization": f"--gpu-memory-utilization={utilization}"
        if isinstance(utilization, str)
        else pulumi.Output.concat("--gpu-memory-utilization=", utilization),
    }
    if not model.dummy:
        args = [model.hub or MODEL_FOLDER, *(arg for arg in args[1:] if arg not in DUMMY_ARGS)]
    revision = [f"--revision={model.revision}"] if model.hub else []
    return [*(values.get(arg.partition("=")[0], arg) for arg in args), *revision, *server.extra_args]


def _add(pod: dict[str, Any], file: str, claim: str | None = None) -> dict[str, Any]:
    """Add the mounts and volumes of a PodTemplate to a pod, with another claim if one is given; returns the added."""
    model = pod_of(by_kind(manifest(file))["PodTemplate"])
    (container,), (added,), (volume,) = pod["containers"], model["containers"], model["volumes"]
    if claim:
        volume["persistentVolumeClaim"]["claimName"] = claim
    container["volumeMounts"] = merged(container["volumeMounts"], added["volumeMounts"])
    pod["volumes"] = merged(pod["volumes"], [volume])
    return added


def _add_shared_memory(pod: dict[str, Any], size: str) -> None:
    """Give the server a /dev/shm of its own, of that size."""
    _add(pod, "shared-memory.yaml")
    pod["volumes"][-1]["emptyDir"]["sizeLimit"] = size


def _use_environment(pod: dict[str, Any], path: str) -> None:
    """Start the server with the Python of an environment at that path."""
    added = _add(pod, "python-environment.yaml")
    (container,), (mount,), (variable,) = pod["containers"], added["volumeMounts"], added["env"]
    variable["value"] = variable["value"].replace(mount["mountPath"], path)
    mount["mountPath"] = path
    container["env"].append(variable)
    container["command"] = [f"{path}/bin/python", *container["command"][1:]]
