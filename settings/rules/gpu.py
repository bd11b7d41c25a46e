"""Rules of the block `gpu`: models, counts, and the nodes that have GPUs."""

import re
from collections.abc import Iterator

from gpus.models import GPU_MODELS
from settings import catalog
from settings.blocks import Cluster, Draft, Gpu
from settings.problems import Problem, suggest

DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def gpu_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the block, and of its nodes where the block `cluster` is well-formed."""
    if draft.gpu is None:
        return
    yield from _gpu_rules(draft.gpu)
    for row in catalog.rows(draft.modules or ()):
        if row.needs_real_gpu and draft.gpu.source == "simulated":
            rule = "runs CUDA code, and a simulated GPU runs none"
            yield Problem("modules", row.number, rule, f'set gpu.source to host or drop "{row.number}"')
    if draft.cluster is not None:
        yield from _node_rules(draft.cluster, draft.gpu)


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
    for index, toleration in enumerate(gpu.tolerations):
        key, value = f"gpu.tolerations[{index}]", toleration.for_kubernetes
        if toleration.operator == "Equal" and toleration.key is None:
            rule = "names no taint"
            yield Problem(key, value, rule, "give the taint's key, or `operator: Exists` alone for every taint")
        if toleration.operator == "Exists" and toleration.value is not None:
            rule = "has a value, which the operator Exists does not look at"
            yield Problem(key, value, rule, "drop the value, or use the operator Equal")
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
