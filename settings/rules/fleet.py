"""Rules of the block `fleet`: what its nodes are copies of, and whose cluster they may be in."""

from collections.abc import Iterator

from gpus.models import GPU_MODELS
from settings import catalog
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
    yield from _model_rules(fleet, gpu)
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


def _model_rules(fleet: Fleet, gpu: Gpu) -> Iterator[Problem]:
    entries = gpu.nodes or (GpuNode(),)
    # The first node of a model is the one that is copied.
    counts = {entry.model or gpu.model: entry.count or gpu.count for entry in reversed(entries)}
    most = fleet.model or entries[0].model or gpu.model
    models = {"fleet.model": most, **{f"fleet.mix.{model}": model for model in fleet.mix}}
    for key, model in models.items():
        if model not in GPU_MODELS:
            # What is wrong with the default is said of gpu.model.
            if key != "fleet.model" or fleet.model is not None:
                yield Problem(key, model, "is no known GPU model", suggest(model, GPU_MODELS))
        elif model not in counts:
            rule = "is the model of no GPU node of the stack, and a fleet's nodes are copies of these"
            yield Problem(key, model, rule, "add a worker of that model to gpu.nodes, or use another")
        elif fleet.gpus_per_node is not None and fleet.gpus_per_node > counts[model]:
            rule = f"is more than the {counts[model]} GPUs of the stack's node with {model}, which is copied"
            yield Problem("fleet.gpusPerNode", fleet.gpus_per_node, rule, "lower it or raise that node's count")
    if most in fleet.mix:
        yield Problem(f"fleet.mix.{most}", fleet.mix[most], "is the model that all other nodes have", "drop it")
