"""Configurations of clusters and their GPUs that must be refused."""

from typing import Any

from tests.unit.wrong_settings import Wrong


def _existing(**changes: Any) -> dict[str, Any]:
    cluster = {"provider": "existing", "kubeconfig": "<tmp>/good", "context": "lab"} | changes
    return {
        "cluster": {key: value for key, value in cluster.items() if value is not None},
        "gpu": {"nodes": [{"name": "gpu-node-1"}]},
    }


def _existing_gpu(**gpu: Any) -> dict[str, Any]:
    return _existing() | {"gpu": gpu}


def _host(workers: int = 1, **changes: Any) -> dict[str, Any]:
    return {"cluster": {"workers": workers}, "gpu": {"source": "host", "driverRoot": "/usr"} | changes}


KIND = (
    *(
        Wrong(f"cluster name {name!r}", {"cluster": {"name": name}}, "cluster.name", name, "lower-case", "rename it")
        for name in ("Workshop", "work_shop", "-workshop", "workshop-", "work.shop", "work shop", "")
    ),
    Wrong(
        "cluster name of 41 characters",
        {"cluster": {"name": "a" * 41}},
        "cluster.name",
        "a" * 41,
        "has 41 characters, at most 40 fit",
        "shorten it",
    ),
    Wrong(
        "cluster name of another stack",
        {"cluster": {"name": "taken"}},
        "cluster.name",
        "taken",
        'is the cluster of stack "other" as well',
        "give each stack a cluster of its own",
    ),
    Wrong(
        "cluster name that another stack has by default",
        {"cluster": {"name": "dra-workshop-plain"}},
        "cluster.name",
        "dra-workshop-plain",
        'is the cluster of stack "plain" as well',
        "give each stack a cluster of its own",
    ),
    Wrong(
        "kubeconfig on kind",
        {"cluster": {"kubeconfig": "/k"}},
        "cluster.kubeconfig",
        "/k",
        "is for an existing cluster",
        "drop it or set cluster.provider to existing",
    ),
    Wrong(
        "context on kind",
        {"cluster": {"context": "lab"}},
        "cluster.context",
        "lab",
        "is for an existing cluster",
        "drop it or set cluster.provider to existing",
    ),
)

EXISTING = (
    Wrong("name of an existing cluster", _existing(name="a"), "cluster.name", "a", "is for a Kind cluster", "drop it"),
    Wrong(
        "node image of an existing cluster",
        _existing(nodeImage="n:1"),
        "cluster.nodeImage",
        "n:1",
        "is for a Kind cluster",
        "set cluster.provider to kind",
    ),
    Wrong(
        "workers of an existing cluster",
        _existing(workers=1),
        "cluster.workers",
        1,
        "has its nodes already",
        "name the nodes to use in gpu.nodes",
    ),
    Wrong(
        "no kubeconfig",
        _existing(kubeconfig=None),
        "cluster.kubeconfig",
        None,
        "is missing for an existing cluster",
        "name the kubeconfig file",
    ),
    Wrong(
        "no context",
        _existing(context=None),
        "cluster.context",
        None,
        "the current one is never used",
        "name the context",
    ),
    Wrong(
        "context that is not there",
        _existing(context="nowhere"),
        "cluster.context",
        "nowhere",
        "is not a context of the kubeconfig",
        "it has lab, 7",
    ),
    Wrong(
        "kubeconfig without contexts",
        _existing(kubeconfig="<tmp>/empty"),
        "cluster.context",
        "lab",
        "is not a context of the kubeconfig",
        "it has none",
    ),
    Wrong(
        "relative kubeconfig",
        _existing(kubeconfig="kube/config"),
        "cluster.kubeconfig",
        "kube/config",
        "must be an absolute path",
        "write it in full",
    ),
    Wrong(
        "kubeconfig that is not there",
        _existing(kubeconfig="<tmp>/none"),
        "cluster.kubeconfig",
        "<tmp>/none",
        "is not a file",
        "name the cluster's kubeconfig file",
    ),
    *(
        Wrong(
            f"kubeconfig that is {file}",
            _existing(kubeconfig=f"<tmp>/{file}"),
            "cluster.kubeconfig",
            f"<tmp>/{file}",
            f"cannot be read as a kubeconfig ({cause}",
            "check it with `kubectl config view`",
        )
        for file, cause in (
            ("unreadable", "PermissionError: "),
            ("binary", "UnicodeDecodeError: "),
            ("not-yaml", "ParserError: while parsing a flow node)"),
            ("something-else", "KeyError: 'contexts')"),
            ("a-text", "TypeError: "),
        )
    ),
    Wrong("no named node", _existing_gpu(), "gpu.nodes", [], "only named nodes are touched", "name the nodes to use"),
    Wrong(
        "node without a name",
        _existing_gpu(nodes=[{"name": "a"}, {"count": 1}]),
        "gpu.nodes",
        2,
        "entries, of which some have no name",
        "name each node",
    ),
    Wrong(
        "node twice",
        _existing_gpu(nodes=[{"name": "a"}, {"name": "a"}]),
        "gpu.nodes[].name",
        "a",
        "is there more than once",
        "name each node once",
    ),
    *(
        Wrong(
            f"node name {name[:12]!r}",
            _existing_gpu(nodes=[{"name": name}]),
            "gpu.nodes[].name",
            name,
            "is no name that Kubernetes gives a node",
            "kubectl get nodes",
        )
        for name in ("Node_1", "", "node..1", "n" * 254)
    ),
)

GPUS = (
    Wrong("unknown model", {"gpu": {"model": "h100"}}, "gpu.model", "h100", "is no known GPU model", '"h100-80gb"?'),
    Wrong(
        "model like no other",
        {"gpu": {"model": "voodoo"}},
        "gpu.model",
        "voodoo",
        "is no known GPU model",
        "use one of a100-40gb, a100-80gb",
    ),
    *(
        Wrong(
            f"node's model {model!r}",
            {"gpu": {"nodes": [{"model": model}]}},
            "gpu.nodes[0].model",
            model,
            "is no known GPU model",
            remedy,
        )
        for model, remedy in (("l40", 'did you mean "l40s"?'), ("", "use one of"))
    ),
    Wrong(
        "more node entries than workers",
        {"gpu": {"nodes": [{"count": 2}, {"count": 3}]}},
        "gpu.nodes",
        2,
        "entries do not fit 1 GPU node (cluster.workers: 1)",
        "give one entry for each, or none",
    ),
    Wrong(
        "fewer node entries than workers",
        {"cluster": {"workers": 3}, "gpu": {"nodes": [{"count": 2}]}},
        "gpu.nodes",
        1,
        "entries do not fit 3 GPU nodes (cluster.workers: 3)",
        "give one entry for each, or none",
    ),
    Wrong(
        "node name on kind",
        {"gpu": {"nodes": [{"name": "gpu-node-1"}]}},
        "gpu.nodes[].name",
        "gpu-node-1",
        "kind names its nodes",
        "the entries are the workers in order",
    ),
    Wrong("model of the host", _host(model="l40s"), "gpu.model", "l40s", "the host has its own", "set gpu.source"),
    Wrong("count of the host", _host(count=1), "gpu.count", 1, "the host has its own", "set gpu.source to simulated"),
    Wrong(
        "count of a node of the host",
        _host(nodes=[{"count": 1}]),
        "gpu.nodes[0].count",
        1,
        "the host has its own",
        "drop it",
    ),
    Wrong(
        "relative driver root", _host(driverRoot="usr"), "gpu.driverRoot", "usr", "must be an absolute path", "in full"
    ),
    Wrong(
        "toleration of no taint",
        {"gpu": {"tolerations": [{"key": "a"}, {"value": "gpu"}]}},
        "gpu.tolerations[1]",
        {"operator": "Equal", "value": "gpu"},
        "names no taint",
        "give the taint's key, or `operator: Exists` alone for every taint",
    ),
    Wrong(
        "toleration whose value is not looked at",
        {"gpu": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        "gpu.tolerations[0]",
        {"key": "a", "operator": "Exists", "value": "b"},
        "has a value, which the operator Exists does not look at",
        "drop the value, or use the operator Equal",
    ),
    Wrong(
        "toleration with another operator",
        {"gpu": {"tolerations": [{"key": "a", "operator": "In"}]}},
        "gpu.tolerations[0].operator",
        "In",
        "must be 'Exists' or 'Equal'",
        "drop it for the default",
    ),
    Wrong("host's GPUs for two", _host(workers=2), "cluster.workers", 2, "several nodes the same GPUs", "use 0 or 1"),
    Wrong(
        "driver root of simulated GPUs",
        {"gpu": {"driverRoot": "/usr"}},
        "gpu.driverRoot",
        "/usr",
        "the simulated driver root has a fixed place",
        "set gpu.source to host",
    ),
)

WRONG = (*KIND, *EXISTING, *GPUS)
