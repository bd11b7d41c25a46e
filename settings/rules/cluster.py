"""Rules of the block `cluster`: a Kind cluster of the stack's own, or an existing one and its kubeconfig."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from settings import kubeconfig
from settings.blocks import Cluster, Draft
from settings.problems import Problem
from settings.project import PROJECT, default_name
from settings.rules.images import image_rules
from toolchain.paths import CHECKOUT

# Kind appends "-control-plane" and "-worker9"; a node's name is a label value of at most 63 characters.
MAX_CLUSTER_NAME = 40
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def cluster_rules(draft: Draft, stack: str) -> Iterator[Problem]:
    """Problems of the block, for the stack of that name."""
    if draft.cluster is None:
        return
    if draft.cluster.provider == "kind":
        yield from _kind_rules(draft.cluster, stack)
    else:
        yield from _existing_rules(draft.cluster)


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
        yield from image_rules("cluster.nodeImage", cluster.node_image)


# libyaml's takes a tenth of the time, which counts where each update reads every stack's file; not every PyYAML has it.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _other_stack_with(name: str, stack: str) -> str | None:
    """The stack of this checkout, if any, whose config names the same Kind cluster."""
    for file in sorted((CHECKOUT / "stacks").glob("Pulumi.*.yaml")):
        other = file.name.removeprefix("Pulumi.").removesuffix(".yaml")
        if other == stack:
            continue
        try:
            config = (yaml.load(file.read_text(), LOADER) or {}).get("config") or {}
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
        content = kubeconfig.read(path)
    except kubeconfig.KubeconfigError as error:
        yield Problem(key, text, f"cannot be read as a kubeconfig ({error})", "check it with `kubectl config view`")
        return
    contexts = [str(entry["name"]) for entry in content["contexts"]]
    if context in contexts:
        for name, file in kubeconfig.missing_files(content, context):
            rule = f"names the file {file} as {name} of the context, which is not there or not for you to read"
            yield Problem(key, text, rule, "put the file there, or write the kubeconfig anew by the cluster's own tool")
    elif context is not None:
        known = f"it has {', '.join(contexts)}" if contexts else "it has none"
        yield Problem("cluster.context", context, "is not a context of the kubeconfig", known)
