"""The stack's configuration, typed and checked; the only reader of Pulumi's config.

Field names are those of the YAML. Every problem is collected before any is reported, so that one
run tells all of them, each with the key, the value, the rule and the remedy.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pulumi
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

import modules as module_graph
from gpu_models import MAX_GPUS_PER_NODE, load_models

PROJECT = "dra-workshop"
CHECKOUT = Path(__file__).resolve().parent
GPU_MODELS = load_models()

# Kind appends "-control-plane" and "-worker9"; a node's name is a label value of at most 63 characters.
MAX_CLUSTER_NAME = 40
MAX_WORKERS = 8
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu/blob/v0.5.0/pkg/featuregates/featuregates.go
FEATURE_GATES = (
    "ComputeDomainCliques",
    "ConsumableShares",
    "CrashOnNVLinkFabricErrors",
    "DeviceMetadata",
    "DynamicMIG",
    "FabricManagerPartitioning",
    "IMEXDaemonsWithDNSNames",
    "MPSSupport",
    "NVMLDeviceHealthCheck",
    "PassthroughSupport",
    "TimeSlicingSettings",
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the configuration."""

    key: str
    value: Any
    rule: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {json.dumps(self.value, default=str)} {self.rule}; {self.remedy}"


class SettingsError(Exception):
    """The configuration cannot be used; `problems` has all that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the stack's config:\n" + "\n".join(f"  {problem}" for problem in problems))


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, alias_generator=to_camel)


class Cluster(_Block):
    """Where the workshop runs: a Kind cluster of its own, or an existing cluster."""

    provider: Literal["kind", "existing"] = "kind"
    name: str | None = None
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] = 1
    node_image: str | None = None
    kubeconfig: str | None = None
    context: str | None = None


class GpuNode(_Block):
    """What differs on one GPU node: on Kind the workers in order, on an existing cluster named nodes."""

    name: str | None = None
    model: str | None = None
    count: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] | None = None


class Gpu(_Block):
    """The GPUs: simulated ones of a model, or the host's."""

    source: Literal["simulated", "host"] = "simulated"
    model: str = "h100-80gb"
    count: Annotated[int, Field(ge=1, le=MAX_GPUS_PER_NODE)] = 2
    nodes: tuple[GpuNode, ...] = ()
    driver_root: str | None = None


class Driver(_Block):
    """NVIDIA's DRA driver: version, feature gates, log verbosity."""

    version: Literal["0.5.0"] = "0.5.0"
    feature_gates: dict[str, bool] = {}
    log_verbosity: Annotated[int, Field(ge=0, le=10)] = 4


class Images(_Block):
    """References to use instead of those that set-up made, for a cluster that pulls from a registry."""

    dra_driver: str | None = None
    gpu_sim: str | None = None
    gpu_probe: str | None = None


class Timeouts(_Block):
    """How long to wait, in seconds: for Kind's cluster, the driver's GPUs, a workload."""

    cluster: Annotated[int, Field(ge=10, le=3600)] = 240
    driver: Annotated[int, Field(ge=10, le=3600)] = 180
    workload: Annotated[int, Field(ge=10, le=3600)] = 120


BLOCKS: dict[str, Any] = {
    "cluster": Cluster,
    "gpu": Gpu,
    "driver": Driver,
    "images": Images,
    "timeouts": Timeouts,
    "modules": tuple[str, ...],
}
# A sequence is a tuple here, and a list in YAML and JSON, which pydantic's strict mode tells apart.
ADAPTERS = {name: TypeAdapter(block) for name, block in BLOCKS.items()}


@dataclass(frozen=True)
class NodeGpus:
    """The GPUs that one node is to have. `model` and `count` are None where they are the host's."""

    node: str
    model: str | None
    count: int | None


@dataclass(frozen=True)
class Settings:
    """What one stack is to be, complete and consistent."""

    stack: str
    modules: tuple[str, ...]
    cluster: Cluster
    gpu: Gpu
    driver: Driver
    images: Images
    timeouts: Timeouts

    @classmethod
    def from_pulumi(cls) -> "Settings":
        """Read the current stack's config. Raises `SettingsError` with every problem found."""
        prefix = f"{PROJECT}:"
        raw: dict[str, Any] = {}
        for key, text in pulumi.runtime.get_config_env().items():
            if key.startswith(prefix):
                raw[key.removeprefix(prefix)] = _decode(text)
        return cls.parse(raw, pulumi.get_stack())

    @classmethod
    def parse(cls, raw: Mapping[str, Any], stack: str) -> "Settings":
        """Check `raw` (block name -> plain data). Raises `SettingsError` with every problem found."""
        problems = [
            Problem(key, raw[key], "is not a key of this project", _suggest(key, BLOCKS))
            for key in raw
            if key not in BLOCKS
        ]
        blocks: dict[str, Any] = {}
        for name, adapter in ADAPTERS.items():
            # Modules have no default in the model: Pulumi.yaml declares theirs, where readers look for it.
            default: Any = list(module_graph.DEFAULT) if name == "modules" else {}
            try:
                blocks[name] = adapter.validate_json(json.dumps(raw.get(name, default)))
            except ValidationError as error:
                problems += (_explain(name, detail) for detail in error.errors())
        problems += _rules(blocks, stack)
        if problems:
            raise SettingsError(problems)
        blocks["modules"] = module_graph.in_order(blocks["modules"])
        return cls(stack=stack, **blocks)

    @property
    def cluster_name(self) -> str:
        """The Kind cluster's name, or the context of an existing one."""
        return self.cluster.context or self.cluster.name or _default_name(self.stack)

    @property
    def kubeconfig(self) -> Path:
        """The kubeconfig file: of the user's cluster, or the one that the Kind cluster's creation writes."""
        if self.cluster.kubeconfig:
            return Path(self.cluster.kubeconfig).expanduser()
        return CHECKOUT / ".state" / self.stack / "kubeconfig"

    @property
    def context(self) -> str:
        """The context of the kubeconfig to use; never the current one."""
        return self.cluster.context or f"kind-{self.cluster_name}"

    @property
    def gpu_nodes(self) -> tuple[NodeGpus, ...]:
        """The nodes that have GPUs, in order."""
        names = [node.name for node in self.gpu.nodes if node.name]
        if self.cluster.provider == "kind":
            names = kind_gpu_nodes(self.cluster_name, self.cluster.workers)
        overrides = self.gpu.nodes or (GpuNode(),) * len(names)
        if self.gpu.source == "host":
            return tuple(NodeGpus(name, None, None) for name in names)
        return tuple(
            NodeGpus(name, override.model or self.gpu.model, override.count or self.gpu.count)
            for name, override in zip(names, overrides, strict=True)
        )


def kind_gpu_nodes(cluster: str, workers: int) -> list[str]:
    """Kind's names of the nodes that have GPUs: the workers, or the control plane where there is none."""
    if workers == 0:
        return [f"{cluster}-control-plane"]
    return [f"{cluster}-worker{'' if number == 1 else number}" for number in range(1, workers + 1)]


def _default_name(stack: str) -> str:
    return f"{PROJECT}-{stack}"


def _decode(text: str) -> Any:
    """Pulumi hands plain strings over as they are and everything else as JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _suggest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else f"use one of {', '.join(known)}"


def _explain(block: str, detail: Any) -> Problem:
    """Turn one of pydantic's findings into ours."""
    path, kind, context = detail["loc"], detail["type"], detail.get("ctx", {})
    key, value = block, detail["input"]
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}"
    if kind == "extra_forbidden":
        where = key.removesuffix(f".{path[-1]}")
        return Problem(key, value, f"is not a key of {where}", _suggest(str(path[-1]), _keys(block, path[:-1])))
    if kind == "literal_error":
        return Problem(key, value, f"must be {context['expected']}", f"set {key} to that or drop it for the default")
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Problem(key, value, f"must be {bound}", _range_remedy(key))
    names = {"int": "a whole number", "string": "a text", "bool": "true or false", "dict": "a mapping of keys"}
    names |= {"tuple": "a list", "model": "a mapping of keys"}
    wanted = names.get(kind.partition("_")[0], detail["msg"])
    remedy = f"give {wanted}"
    if wanted == "a text" and isinstance(value, bool | int | float):
        remedy = f"quote it, since YAML reads it as {'true or false' if isinstance(value, bool) else 'a number'}"
    if wanted == "a whole number" and isinstance(value, str):
        remedy = "write it without quotes and without a unit"
    return Problem(key, value, f"must be {wanted}", remedy)


def _range_remedy(key: str) -> str:
    if key.startswith("timeouts"):
        return "give seconds between 10 and 3600"
    if key.endswith("count"):
        return f"give each node 1 to {MAX_GPUS_PER_NODE} GPUs and use more workers for more"
    if key.endswith("workers"):
        return f"use 0 (GPUs on the control plane) to {MAX_WORKERS}"
    return "use a value in that range"


def _keys(block: str, path: tuple[Any, ...]) -> list[str]:
    model = GpuNode if block == "gpu" and "nodes" in path else BLOCKS[block]
    return [field.alias or name for name, field in model.model_fields.items()]


def _rules(blocks: dict[str, Any], stack: str) -> Iterator[Problem]:
    """What no single value can break; each rule looks at the blocks that are well-formed."""
    cluster, gpu = blocks.get("cluster"), blocks.get("gpu")
    if "modules" in blocks:
        yield from _module_rules(blocks["modules"])
    if cluster and cluster.provider == "kind":
        yield from _kind_rules(cluster, stack)
    if cluster and cluster.provider == "existing":
        yield from _existing_rules(cluster)
    if gpu:
        yield from _gpu_rules(gpu)
    if cluster and gpu:
        yield from _node_rules(cluster, gpu)
    if driver := blocks.get("driver"):
        yield from _driver_rules(driver)
    if images := blocks.get("images"):
        for name, ref in images.model_dump(by_alias=True, exclude_none=True).items():
            yield from _image_rules(f"images.{name}", ref)


def _module_rules(numbers: tuple[str, ...]) -> Iterator[Problem]:
    for number in sorted(set(numbers)):
        if numbers.count(number) > 1:
            yield Problem("modules", number, "is there more than once", "name each module once")
        if number not in module_graph.MODULES:
            yield Problem("modules", number, "is no module", f"use some of {', '.join(module_graph.MODULES)}")
    for module in module_graph.known(numbers):
        for needed in module.requires:
            if needed not in numbers:
                title = module_graph.MODULES[needed].title
                rule, remedy = f'needs "{needed}" ({title})', f'add "{needed}" or drop "{module.number}"'
                yield Problem("modules", module.number, rule, remedy)
    if not numbers:
        yield Problem("modules", [], "switches nothing on", 'name at least one, such as ["00", "01", "02", "03"]')


def _kind_rules(cluster: Cluster, stack: str) -> Iterator[Problem]:
    name = _default_name(stack) if cluster.name is None else cluster.name
    key = "cluster.name (from the stack's name)" if cluster.name is None else "cluster.name"
    if not DNS_LABEL.fullmatch(name):
        rule = "must be lower-case letters, digits and '-', and neither start nor end with '-'"
        yield Problem(key, name, rule, "Kubernetes names nodes after it; rename it")
    elif len(name) > MAX_CLUSTER_NAME:
        yield Problem(key, name, f"has {len(name)} characters, at most {MAX_CLUSTER_NAME} fit", "shorten it")
    elif other := _other_stack_with(name, stack):
        yield Problem(key, name, f'is the cluster of stack "{other}" as well', "give each stack a cluster of its own")
    for field, value in (("kubeconfig", cluster.kubeconfig), ("context", cluster.context)):
        if value is not None:
            rule = "is for an existing cluster; a Kind cluster gets its own"
            yield Problem(f"cluster.{field}", value, rule, "drop it or set cluster.provider to existing")
    if cluster.node_image is not None:
        yield from _image_rules("cluster.nodeImage", cluster.node_image)


def _other_stack_with(name: str, stack: str) -> str | None:
    """The stack of this checkout, if any, whose config names the same Kind cluster."""
    for file in sorted((CHECKOUT / "stacks").glob("Pulumi.*.yaml")):
        other = file.name.removeprefix("Pulumi.").removesuffix(".yaml")
        if other == stack:
            continue
        try:
            config = (yaml.safe_load(file.read_text()) or {}).get("config") or {}
            block = config.get(f"{PROJECT}:cluster") or {}
            provider = block.get("provider")
        except (yaml.YAMLError, AttributeError):
            continue  # whoever uses that stack is told what is wrong with its file
        if provider == "existing":
            continue
        if (block.get("name") or _default_name(other)) == name:
            return other
    return None


def _existing_rules(cluster: Cluster) -> Iterator[Problem]:
    for field, value in (("name", cluster.name), ("nodeImage", cluster.node_image)):
        if value is not None:
            rule = "is for a Kind cluster; this one exists already"
            yield Problem(f"cluster.{field}", value, rule, "drop it or set cluster.provider to kind")
    if "workers" in cluster.model_fields_set:
        rule = "is for a Kind cluster; this one has its nodes already"
        yield Problem("cluster.workers", cluster.workers, rule, "drop it and name the nodes to use in gpu.nodes")
    if cluster.kubeconfig is None:
        yield Problem("cluster.kubeconfig", None, "is missing for an existing cluster", "name the kubeconfig file")
    if cluster.context is None:
        rule = "is missing for an existing cluster; the current one is never used"
        yield Problem("cluster.context", None, rule, "name the context")
    if cluster.kubeconfig is not None:
        yield from _kubeconfig_rules(cluster.kubeconfig, cluster.context)


def _kubeconfig_rules(text: str, context: str | None) -> Iterator[Problem]:
    path, key = Path(text).expanduser(), "cluster.kubeconfig"
    if not path.is_absolute():
        yield Problem(key, text, "must be an absolute path", "stacks may be run from any folder; write it in full")
        return
    if not path.is_file():
        yield Problem(key, text, "is not a file", "name the cluster's kubeconfig file")
        return
    try:
        content = yaml.safe_load(path.read_text())
        contexts = [str(entry["name"]) for entry in content["contexts"]]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        cause = str(error).partition("\n")[0]
        rule = f"cannot be read as a kubeconfig ({type(error).__name__}: {cause})"
        yield Problem(key, text, rule, "check it with `kubectl config view`")
        return
    if context is not None and context not in contexts:
        known = f"it has {', '.join(contexts)}" if contexts else "it has none"
        yield Problem("cluster.context", context, "is not a context of the kubeconfig", known)


def _gpu_rules(gpu: Gpu) -> Iterator[Problem]:
    models = [("gpu.model", gpu.model)]
    models += [
        (f"gpu.nodes[{index}].model", node.model) for index, node in enumerate(gpu.nodes) if node.model is not None
    ]
    for key, model in models:
        if model not in GPU_MODELS:
            yield Problem(key, model, "is no known GPU model", _suggest(model, GPU_MODELS))
    if gpu.source == "host":
        for field in sorted({"model", "count"} & gpu.model_fields_set):
            rule = "is for simulated GPUs; the host has its own"
            yield Problem(f"gpu.{field}", getattr(gpu, field), rule, "drop it or set gpu.source to simulated")
        for index, node in enumerate(gpu.nodes):
            for field in sorted({"model", "count"} & node.model_fields_set):
                rule = "is for simulated GPUs; the host has its own"
                yield Problem(f"gpu.nodes[{index}].{field}", getattr(node, field), rule, "drop it")
    if gpu.driver_root is not None and gpu.source == "simulated":
        rule = "is for the host's GPUs; the simulated driver root has a fixed place"
        yield Problem("gpu.driverRoot", gpu.driver_root, rule, "drop it or set gpu.source to host")
    if gpu.driver_root is not None and not gpu.driver_root.startswith("/"):
        rule = "must be an absolute path"
        yield Problem("gpu.driverRoot", gpu.driver_root, rule, "write it in full")


def _node_rules(cluster: Cluster, gpu: Gpu) -> Iterator[Problem]:
    names = [node.name for node in gpu.nodes if node.name is not None]
    for name in names:
        if not DNS_SUBDOMAIN.fullmatch(name) or len(name) > 253:
            yield Problem(
                "gpu.nodes[].name", name, "is no name that Kubernetes gives a node", "see `kubectl get nodes`"
            )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("gpu.nodes[].name", name, "is there more than once", "name each node once")
    if cluster.provider == "kind":
        for name in names:
            rule = "cannot be chosen, since kind names its nodes"
            yield Problem("gpu.nodes[].name", name, rule, "drop it: the entries are the workers in order")
        expected = max(cluster.workers, 1)
        if gpu.nodes and len(gpu.nodes) != expected:
            where = f"{expected} GPU node{'s' if expected > 1 else ''} (cluster.workers: {cluster.workers})"
            rule = f"entries do not fit {where}"
            yield Problem("gpu.nodes", len(gpu.nodes), rule, "give one entry for each, or none")
        if gpu.source == "host" and gpu.driver_root is None:
            rule = "is missing: a Kind node sees only what is mounted into it"
            yield Problem("gpu.driverRoot", None, rule, "name the folder with the driver's bin and lib64")
        if gpu.source == "host" and cluster.workers > 1:
            rule = "would give several nodes the same GPUs of the host"
            yield Problem("cluster.workers", cluster.workers, rule, "use 0 or 1")
    elif not gpu.nodes:
        rule = "is empty, and on an existing cluster only named nodes are touched"
        yield Problem("gpu.nodes", [], rule, "name the nodes to use, such as [{name: gpu-node-1}]")
    elif len(names) < len(gpu.nodes):
        yield Problem("gpu.nodes", len(gpu.nodes), "entries, of which some have no name", "name each node")


def _driver_rules(driver: Driver) -> Iterator[Problem]:
    gates = driver.feature_gates
    for gate in gates:
        if gate not in FEATURE_GATES:
            rule = f"is no feature gate of NVIDIA's driver v{driver.version}"
            yield Problem("driver.featureGates", gate, rule, _suggest(gate, FEATURE_GATES))
    if gates.get("DynamicMIG"):
        for other in ("MPSSupport", "NVMLDeviceHealthCheck", "PassthroughSupport"):
            if gates.get(other):
                rule = "and DynamicMIG exclude each other in NVIDIA's driver"
                yield Problem("driver.featureGates", other, rule, "switch one of the two off")


def _image_rules(key: str, ref: str) -> Iterator[Problem]:
    name, _, tag = ref.partition("@")[0].rpartition("/")[2].partition(":")
    if not re.fullmatch(r"[a-z0-9]+([._-]+[a-z0-9]+)*", name) or not re.fullmatch(r"[a-z0-9./:@_-]+", ref, re.I):
        yield Problem(key, ref, "is no image reference", "write registry/repository:tag")
    elif "@sha256:" not in ref and tag in ("", "latest"):
        yield Problem(key, ref, "is not pinned", "add a tag other than latest, or a digest")
