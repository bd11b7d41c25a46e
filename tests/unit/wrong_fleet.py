"""Fleets that must be refused: copies of what is not there, and nodes in somebody else's cluster."""

from typing import Any

from tests.unit.wrong_settings import Wrong

BASE = ["01", "02", "12"]
EXISTING = {"provider": "existing", "kubeconfig": "<tmp>/good", "context": "lab"}
TWO = {"workers": 2}


def fleet(**block: Any) -> dict[str, Any]:
    """Config of a stack with one node of L40S and one of H100, 4 GPUs each."""
    gpu = {"count": 4, "nodes": [{"model": "l40s"}, {"model": "h100-80gb"}]}
    return {"modules": BASE, "cluster": TWO, "gpu": gpu, "fleet": block}


def dynamic(*nodes: dict[str, Any], **block: Any) -> dict[str, Any]:
    """Config of a stack with these GPU nodes whose driver makes MIG devices on demand."""
    driver = {"featureGates": {"DynamicMIG": True}}
    return {"modules": BASE, "cluster": TWO, "gpu": {"nodes": list(nodes)}, "driver": driver, "fleet": block}


def existing(**block: Any) -> dict[str, Any]:
    return {"modules": BASE, "cluster": EXISTING, "gpu": {"nodes": [{"name": "a"}]}, "fleet": block}


WRONG = (
    Wrong("no node", fleet(nodes=0), "fleet.nodes", 0, "must be at least 1", "use a value in that range"),
    Wrong("more nodes than were measured", fleet(nodes=1001), "fleet.nodes", 1001, "must be at most 1000", "use a"),
    Wrong("mix that is a list", fleet(mix=["l40s"]), "fleet.mix", ["l40s"], "must be a mapping", "give a mapping"),
    Wrong("no node of a model", fleet(mix={"l40s": 0}), "fleet.mix.l40s", 0, "must be at least 1", "use a value"),
    Wrong(
        "fleet of an unknown model", fleet(model="h100"), "fleet.model", "h100", "is no known GPU model", "did you mean"
    ),
    Wrong(
        "model that no node has",
        fleet(model="b200-180gb"),
        "fleet.model",
        "b200-180gb",
        "is the model of no GPU node of the stack",
        "add a worker of that model to gpu.nodes",
    ),
    Wrong(
        "mix with a model that no node has",
        fleet(mix={"rtx-4090": 2}),
        "fleet.mix.rtx-4090",
        "rtx-4090",
        "is the model of no GPU node of the stack",
        "or use another",
    ),
    Wrong(
        "mix with the model of all others",
        fleet(mix={"l40s": 2}),
        "fleet.mix.l40s",
        2,
        "is the kind that all other nodes have",
        "drop it",
    ),
    Wrong(
        "parts without the gate",
        fleet(mix={"h100-80gb/mig": 2}),
        "fleet.mix.h100-80gb/mig",
        "h100-80gb/mig",
        "the stack's node with that model publishes whole ones only",
        "set driver.featureGates.DynamicMIG to true, or write h100-80gb",
    ),
    Wrong(
        "whole GPUs with the gate",
        dynamic({"model": "l40s"}, {"model": "h100-80gb"}, mix={"h100-80gb": 2}),
        "fleet.mix.h100-80gb",
        "h100-80gb",
        "with the gate DynamicMIG the stack's node publishes their parts too",
        "write h100-80gb/mig, or switch that gate off",
    ),
    Wrong(
        "parts of a model without MIG",
        dynamic({"model": "h100-80gb"}, {"model": "l40s"}, mix={"l40s/mig": 2}),
        "fleet.mix.l40s/mig",
        "l40s/mig",
        "has GPUs in parts, and that model has no MIG",
        "write l40s",
    ),
    Wrong(
        "parts of an Ampere whose MIG mode is off",
        dynamic({"model": "h100-80gb"}, {"model": "a100-80gb"}, mix={"a100-80gb/mig": 2}),
        "fleet.mix.a100-80gb/mig",
        "a100-80gb/mig",
        "publishes whole ones only",
        "give that node mig: [empty] in gpu.nodes, or write a100-80gb",
    ),
    Wrong(
        "copies of a fixed layout",
        {"modules": BASE, "gpu": {"mig": [["1g.10gb"]]}},
        "modules",
        "12",
        "and a MIG layout divides some",
        "drop mig of gpu and gpu.nodes",
    ),
    Wrong(
        "mix of more nodes than there are",
        fleet(nodes=3, mix={"h100-80gb": 4}),
        "fleet.mix",
        {"h100-80gb": 4},
        "are 4 nodes, and fleet.nodes is 3",
        "lower them or raise that",
    ),
    Wrong(
        "more GPUs than the node that is copied has",
        fleet(gpusPerNode=8),
        "fleet.gpusPerNode",
        8,
        "is more than the 4 GPUs of the stack's node with l40s, which is copied",
        "lower it or raise that node's count",
    ),
    Wrong(
        "copies of a real GPU",
        {"modules": BASE, "gpu": {"source": "host"}},
        "modules",
        "12",
        "which have to be copies of simulated ones",
        'set gpu.source to simulated or drop "12"',
    ),
    Wrong(
        "nodes in a cluster of somebody else",
        existing(),
        "modules",
        "12",
        "adds 100 nodes that are only objects to the cluster",
        "set fleet.existingCluster to the context's name to allow it",
    ),
    Wrong(
        "nodes allowed in another cluster",
        existing(existingCluster="production"),
        "fleet.existingCluster",
        "production",
        "is not the context of the stack's cluster, which is lab",
        "name the context that may have these nodes",
    ),
    Wrong(
        "leave for a cluster of the stack's own",
        fleet(existingCluster="lab"),
        "fleet.existingCluster",
        "lab",
        "is for an existing cluster",
        "drop it",
    ),
    Wrong(
        "fleet without its module",
        {"modules": ["01"], "fleet": {"nodes": 5}},
        "fleet",
        {"nodes": 5},
        "is set, but the module that uses it is off",
        'add "12" to modules',
    ),
)
