"""What no single value can break: how the parts of a configuration fit together, and the machine's names."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import modules as module_graph
from gpus.models import load_models
from settings.blocks import Cluster, Driver, Gpu, Observability
from settings.capacity import capacity_rules
from settings.host import host_rules
from settings.mps import mps_rules
from settings.problems import Problem, suggest
from settings.vllm import vllm_rules
from toolchain.paths import CHECKOUT

PROJECT = "dra-workshop"
GPU_MODELS = load_models()

# Kind appends "-control-plane" and "-worker9"; a node's name is a label value of at most 63 characters.
MAX_CLUSTER_NAME = 40
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")

# https://github.com/kubernetes-sigs/dra-driver-nvidia-gpu, pkg/featuregates/featuregates.go of each version.
_GATES_OF_0_4_1 = (
    "ComputeDomainCliques",
    "CrashOnNVLinkFabricErrors",
    "DeviceMetadata",
    "DynamicMIG",
    "IMEXDaemonsWithDNSNames",
    "MPSSupport",
    "NVMLDeviceHealthCheck",
    "PassthroughSupport",
    "TimeSlicingSettings",
)
_NEW_IN_0_5_0 = ("ConsumableShares", "DRAListTypeAttributes", "FabricManagerPartitioning", "HostManagedIMEXDaemon")
FEATURE_GATES = {"0.4.1": _GATES_OF_0_4_1, "0.5.0": tuple(sorted((*_GATES_OF_0_4_1, *_NEW_IN_0_5_0)))}
# Without it the driver taints no device.
HEALTH_MODULE, HEALTH_GATE = "09", "NVMLDeviceHealthCheck"
OBSERVABILITY_MODULE = "08"


def broken(blocks: dict[str, Any], stack: str) -> Iterator[Problem]:
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
        yield from _health_rules(driver, blocks.get("modules", ()))
    yield from host_rules(blocks)
    yield from mps_rules(blocks, GPU_MODELS)
    yield from capacity_rules(blocks, GPU_MODELS)
    if (observability := blocks.get("observability")) and "modules" in blocks:
        yield from _observability_rules(observability, blocks["modules"], gpu)
    yield from vllm_rules(blocks)
    if vllm := blocks.get("vllm"):
        for capability, ref in vllm.images.items():
            yield from _image_rules(f"vllm.images.{capability}", ref)
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
    name = default_name(stack) if cluster.name is None else cluster.name
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
        if (block.get("name") or default_name(other)) == name:
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
            yield Problem(key, model, "is no known GPU model", suggest(model, GPU_MODELS))
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
        if gate not in FEATURE_GATES[driver.version]:
            rule = f"is no feature gate of NVIDIA's driver v{driver.version}"
            yield Problem("driver.featureGates", gate, rule, suggest(gate, FEATURE_GATES[driver.version]))
    if gates.get("DynamicMIG"):
        for other in ("MPSSupport", "NVMLDeviceHealthCheck", "PassthroughSupport"):
            if gates.get(other):
                rule = "and DynamicMIG exclude each other in NVIDIA's driver"
                yield Problem("driver.featureGates", other, rule, "switch one of the two off")


def _health_rules(driver: Driver, modules: tuple[str, ...]) -> Iterator[Problem]:
    if HEALTH_MODULE not in modules:
        return
    if driver.feature_gates.get(HEALTH_GATE) is False:
        rule = 'is off, and module "09" needs it: without it the driver does not see that a GPU fails'
        yield Problem(f"driver.featureGates.{HEALTH_GATE}", False, rule, 'drop it or drop "09" from modules')
    for other in ("DynamicMIG", "PassthroughSupport"):
        if driver.feature_gates.get(other) and not driver.feature_gates.get(HEALTH_GATE):
            rule = f'and the health check (gate {HEALTH_GATE}, which module "09" needs) exclude each other'
            yield Problem(f"driver.featureGates.{other}", True, rule, 'switch it off or drop "09" from modules')


def _observability_rules(block: Observability, modules: tuple[str, ...], gpu: Gpu | None) -> Iterator[Problem]:
    if block.model_fields_set and OBSERVABILITY_MODULE not in modules:
        value = block.model_dump(by_alias=True, exclude_unset=True)
        rule = "is set, but the module that uses it is off"
        yield Problem("observability", value, rule, 'add "08" to modules or drop observability')
    if block.exporter == "dcgm" and gpu and gpu.source == "simulated":
        rule = "needs a real GPU: NVIDIA's DCGM talks to the kernel module, and a simulated GPU has none"
        yield Problem("observability.exporter", block.exporter, rule, "drop it or set gpu.source to host")


def _image_rules(key: str, ref: str) -> Iterator[Problem]:
    name, _, tag = ref.partition("@")[0].rpartition("/")[2].partition(":")
    if not re.fullmatch(r"[a-z0-9]+([._-]+[a-z0-9]+)*", name) or not re.fullmatch(r"[a-z0-9./:@_-]+", ref, re.I):
        yield Problem(key, ref, "is no image reference", "write registry/repository:tag")
    elif "@sha256:" not in ref and tag in ("", "latest"):
        yield Problem(key, ref, "is not pinned", "add a tag other than latest, or a digest")


def default_name(stack: str) -> str:
    """The name of a stack's Kind cluster unless its config has another."""
    return f"{PROJECT}-{stack}"
