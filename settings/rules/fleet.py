"""Rules of the block `fleet`: what its nodes are copies of, and whose cluster they may be in."""

from collections.abc import Iterator, Mapping

from gpus.fleet import MIG
from gpus.mig import EMPTY
from gpus.models import GPU_MODELS
from settings import catalog, plan
from settings.blocks import Cluster, Draft, Fleet, Gpu, GpuNode
from settings.problems import Problem, suggest

MODULE = catalog.FLEET.number


def fleet_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the block; looks at other blocks where they are well-formed."""
    fleet, gpu = draft.block(Fleet), draft.gpu
    if fleet is None or draft.modules is None or MODULE not in draft.modules:
        return
    if draft.cluster:
        yield from _cluster_rules(fleet, draft.cluster)
    if gpu is None:
        return
    if gpu.source == "host":
        rule = "makes nodes with GPUs that are not there, which have to be copies of simulated ones"
        yield Problem("modules", MODULE, rule, f'set gpu.source to simulated or drop "{MODULE}"')
        return
    gates = plan.certain_gates(draft.driver, draft.modules) if draft.driver else {}
    if gates.get(plan.DYNAMIC_MIG):
        yield from _kind_rules(fleet, gpu, dynamic=True)
    elif any(any(layouts or ()) for layouts in (gpu.mig, *(node.mig for node in gpu.nodes))):
        rule = "copies GPUs that are whole, or that NVIDIA's driver divides on demand, and a MIG layout divides some"
        remedy = f'drop mig of gpu and gpu.nodes, or drop "{MODULE}"; the gate {plan.DYNAMIC_MIG} makes parts on demand'
        yield Problem("modules", MODULE, rule, remedy)
    else:
        yield from _kind_rules(fleet, gpu, dynamic=False)
    if (others := sum(fleet.mix.values())) > fleet.nodes:
        rule = f"are {others} nodes, and fleet.nodes is {fleet.nodes}"
        yield Problem("fleet.mix", fleet.mix, rule, "lower them or raise that")


def _cluster_rules(fleet: Fleet, cluster: Cluster) -> Iterator[Problem]:
    key, allowed = "fleet.existingCluster", fleet.existing_cluster
    if cluster.provider == "kind":
        if allowed is not None:
            yield Problem(key, allowed, "is for an existing cluster; a Kind cluster is the stack's own", "drop it")
    elif allowed is None:
        rule = f"adds {fleet.nodes} nodes that are only objects to the cluster, which everybody there sees"
        remedy = f'set {key} to the context\'s name to allow it, or drop "{MODULE}"'
        yield Problem("modules", MODULE, rule, remedy)
    elif cluster.context is not None and allowed != cluster.context:
        rule = f"is not the context of the stack's cluster, which is {cluster.context}"
        yield Problem(key, allowed, rule, "name the context that may have these nodes, or use another cluster")


def _kind_rules(fleet: Fleet, gpu: Gpu, *, dynamic: bool) -> Iterator[Problem]:
    """Problems of the kinds of nodes that the block names; `dynamic` is whether the driver publishes parts of GPUs."""
    entries = [(each.model or gpu.model, each) for each in gpu.nodes or (GpuNode(),)]
    kinds = [
        (plan.fleet_kind(model, gpu.mig if each.mig is None else each.mig, dynamic=dynamic), each.count or gpu.count)
        for model, each in entries
        if model in GPU_MODELS
    ]
    # The first node of a kind is the one that is copied.
    counts = dict(reversed(kinds))
    # What is wrong with the model of a GPU node is said of gpu.model.
    asked = {"fleet.model": fleet.model, **{f"fleet.mix.{kind}": kind for kind in fleet.mix}}
    for key, kind in asked.items():
        if kind is not None and kind not in counts:
            yield _unknown(key, kind, counts, dynamic=dynamic)
    most = fleet.model or (kinds[0][0] if kinds else "")
    for kind in dict.fromkeys((most, *fleet.mix)):
        if fleet.gpus_per_node is not None and fleet.gpus_per_node > counts.get(kind, fleet.gpus_per_node):
            rule = f"is more than the {counts[kind]} GPUs of the stack's node with {kind}, which is copied"
            yield Problem("fleet.gpusPerNode", fleet.gpus_per_node, rule, "lower it or raise that node's count")
    if most in fleet.mix:
        yield Problem(f"fleet.mix.{most}", fleet.mix[most], "is the kind that all other nodes have", "drop it")


def _unknown(key: str, kind: str, counts: Mapping[str, int], *, dynamic: bool) -> Problem:
    """Problem of a kind that no GPU node of the stack has."""
    model, in_parts = kind.removesuffix(MIG), kind.endswith(MIG)
    if model not in GPU_MODELS:
        return Problem(key, kind, "is no known GPU model", suggest(kind, [*GPU_MODELS, *counts]))
    if not in_parts and f"{model}{MIG}" in counts:
        rule = f"has whole GPUs, and with the gate {plan.DYNAMIC_MIG} the stack's node publishes their parts too"
        return Problem(key, kind, rule, f"write {model}{MIG}, or switch that gate off")
    if in_parts and model in counts:
        rule = "has GPUs in parts, and the stack's node with that model publishes whole ones only"
        remedy = f"set driver.featureGates.{plan.DYNAMIC_MIG} to true, or write {model}"
        if not GPU_MODELS[model].mig_profiles:
            rule, remedy = "has GPUs in parts, and that model has no MIG", f"write {model}"
        elif dynamic:
            remedy = f"give that node mig: [{EMPTY}] in gpu.nodes, or write {model}"
        return Problem(key, kind, rule, remedy)
    rule = "is the model of no GPU node of the stack, and a fleet's nodes are copies of these"
    return Problem(key, kind, rule, "add a worker of that model to gpu.nodes, or use another")
