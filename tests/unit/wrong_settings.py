"""Configurations that must be refused, each with what its message has to say."""

from dataclasses import dataclass
from typing import Any

from toolchain.versions import DRA_DRIVERS


@dataclass(frozen=True)
class Wrong:
    """One wrong configuration: the key, the value, the rule and the remedy that its only problem names.

    `<tmp>` stands for a folder that holds the kubeconfigs which test_settings.py writes.
    """

    name: str
    config: dict[str, Any]
    key: str
    value: Any
    rule: str
    remedy: str


def _gates(*names: str) -> dict[str, Any]:
    return {"driver": {"featureGates": dict.fromkeys(names, True)}}


SHAPE = (
    Wrong("unknown key", {"custer": {}}, "custer", {}, "is not a key of this project", 'did you mean "cluster"?'),
    Wrong("key like no other", {"zzz": 1}, "zzz", 1, "is not a key of this project", "use one of cluster, gpu, driver"),
    Wrong(
        "unknown key in a block",
        {"cluster": {"worker": 2}},
        "cluster.worker",
        2,
        "is not a key of cluster",
        'did you mean "workers"?',
    ),
    Wrong(
        "snake case instead of camel case",
        {"driver": {"feature_gates": {}}},
        "driver.feature_gates",
        {},
        "is not a key of driver",
        'did you mean "featureGates"?',
    ),
    Wrong(
        "unknown key in a node",
        {"gpu": {"nodes": [{"cuont": 1}]}},
        "gpu.nodes[0].cuont",
        1,
        "is not a key of gpu.nodes[0]",
        'did you mean "count"?',
    ),
    Wrong("block that is a number", {"cluster": 5}, "cluster", 5, "must be a mapping of keys", "give a mapping"),
    Wrong("block that is null", {"gpu": None}, "gpu", None, "must be a mapping of keys", "give a mapping"),
    Wrong("nodes that are a mapping", {"gpu": {"nodes": {}}}, "gpu.nodes", {}, "must be a list", "give a list"),
    Wrong("node that is a name", {"gpu": {"nodes": ["a"]}}, "gpu.nodes[0]", "a", "must be a mapping of keys", "give"),
    Wrong("text for a number", {"gpu": {"count": "two"}}, "gpu.count", "two", "must be a whole number", "quotes"),
    Wrong(
        "unit in a number",
        {"timeouts": {"cluster": "240s"}},
        "timeouts.cluster",
        "240s",
        "must be a whole number",
        "write it without quotes and without a unit",
    ),
    Wrong("part of a GPU", {"gpu": {"count": 1.5}}, "gpu.count", 1.5, "must be a whole number", "give a whole number"),
    Wrong(
        "true for a number", {"cluster": {"workers": True}}, "cluster.workers", True, "must be a whole number", "give"
    ),
    Wrong(
        "number for a name",
        {"cluster": {"name": 7}},
        "cluster.name",
        7,
        "must be a text",
        "quote it, since YAML reads it as a number",
    ),
    Wrong(
        "yes for a name",
        {"cluster": {"name": True}},
        "cluster.name",
        True,
        "must be a text",
        "quote it, since YAML reads it as true or false",
    ),
    Wrong("list for a name", {"cluster": {"name": []}}, "cluster.name", [], "must be a text", "give a text"),
    Wrong(
        "text for a switch",
        {"driver": {"featureGates": {"MPSSupport": "on"}}},
        "driver.featureGates.MPSSupport",
        "on",
        "must be true or false",
        "give true or false",
    ),
    Wrong(
        "gates that are a list",
        {"driver": {"featureGates": ["MPSSupport"]}},
        "driver.featureGates",
        ["MPSSupport"],
        "must be a mapping of keys",
        "give a mapping",
    ),
    Wrong(
        "unknown provider",
        {"cluster": {"provider": "minikube"}},
        "cluster.provider",
        "minikube",
        "must be 'kind' or 'existing'",
        "set cluster.provider to that or drop it",
    ),
    Wrong("unknown source", {"gpu": {"source": "real"}}, "gpu.source", "real", "must be 'simulated' or 'host'", "drop"),
    Wrong("another driver", {"driver": {"version": "0.4.0"}}, "driver.version", "0.4.0", "must be '0.5.0'", "drop it"),
)

RANGES = (
    Wrong(
        "workers below 0", {"cluster": {"workers": -1}}, "cluster.workers", -1, "must be at least 0", "use 0 (GPUs on"
    ),
    Wrong("9 workers", {"cluster": {"workers": 9}}, "cluster.workers", 9, "must be at most 8", "to 8"),
    Wrong("no GPU", {"gpu": {"count": 0}}, "gpu.count", 0, "must be at least 1", "give each node 1 to 16 GPUs"),
    Wrong("17 GPUs", {"gpu": {"count": 17}}, "gpu.count", 17, "must be at most 16", "use more workers for more"),
    Wrong(
        "17 GPUs on one node",
        {"gpu": {"nodes": [{"count": 17}]}},
        "gpu.nodes[0].count",
        17,
        "must be at most 16",
        "use more workers for more",
    ),
    Wrong(
        "verbosity 11",
        {"driver": {"logVerbosity": 11}},
        "driver.logVerbosity",
        11,
        "must be at most 10",
        "in that range",
    ),
    *(
        Wrong(
            f"{name} in {value} s", {"timeouts": {name: value}}, f"timeouts.{name}", value, rule, "between 10 and 3600"
        )
        for name, value, rule in (
            ("cluster", 9, "must be at least 10"),
            ("driver", 3601, "must be at most 3600"),
            ("workload", 0, "must be at least 10"),
        )
    ),
)

MODULES = (
    Wrong(
        "missing requirement",
        {"modules": ["00", "02"]},
        "modules",
        "02",
        'needs "01" (Cluster and GPUs)',
        'add "01" or drop "02"',
    ),
    Wrong("unknown module", {"modules": ["99"]}, "modules", "99", "is no module", "use some of 00, 01, 02, 03"),
    Wrong("module without its zero", {"modules": ["1"]}, "modules", "1", "is no module", "use some of 00, 01"),
    Wrong(
        "module twice", {"modules": ["01", "01"]}, "modules", "01", "is there more than once", "name each module once"
    ),
    Wrong(
        "unquoted module", {"modules": ["00", 3]}, "modules[1]", 3, "must be a text", "quote it, since YAML reads it"
    ),
    Wrong("unquoted half module", {"modules": [6.5]}, "modules[0]", 6.5, "must be a text", "quote it, since YAML"),
    Wrong("no modules", {"modules": []}, "modules", [], "switches nothing on", 'name at least one, such as ["00"'),
    Wrong("modules in one text", {"modules": "00,01"}, "modules", "00,01", "must be a list", "give a list"),
    Wrong("modules null", {"modules": None}, "modules", None, "must be a list", "give a list"),
)

DRIVER = (
    Wrong(
        "unknown gate",
        _gates("MPSSuport"),
        "driver.featureGates",
        "MPSSuport",
        "is no feature gate of NVIDIA's driver v0.5.0",
        'did you mean "MPSSupport"?',
    ),
    *(
        Wrong(
            f"gates {gate} and DynamicMIG",
            _gates("DynamicMIG", gate),
            "driver.featureGates",
            gate,
            "and DynamicMIG exclude each other",
            "switch one of the two off",
        )
        for gate in ("MPSSupport", "NVMLDeviceHealthCheck")
    ),
    *(
        Wrong(
            f"{name}, driver {version}",
            {"driver": {"version": version, "featureGates": gates}},
            "driver.featureGates",
            gate,
            rule,
            remedy,
        )
        for version in DRA_DRIVERS
        for name, gates, gate, rule, remedy in (
            (
                "metadata with passthrough that is off",
                {"DeviceMetadata": True, "PassthroughSupport": False},
                "DeviceMetadata",
                "requires PassthroughSupport",
                "switch DeviceMetadata off",
            ),
            (
                "metadata alone",
                {"DeviceMetadata": True},
                "DeviceMetadata",
                "requires PassthroughSupport",
                "switch DeviceMetadata off",
            ),
            (
                "cliques without DNS names",
                {"IMEXDaemonsWithDNSNames": False},
                "ComputeDomainCliques",
                "requires IMEXDaemonsWithDNSNames",
                "drop that, or switch ComputeDomainCliques off",
            ),
        )
    ),
)

IMAGES = (
    *(
        Wrong(f"image {ref!r}", {"images": {key: ref}}, f"images.{key}", ref, "is not pinned", "add a tag other than")
        for key, ref in (
            ("draDriver", "registry.example.com:5000/driver"),
            ("gpuSim", "registry.example.com/sim:latest"),
        )
    ),
    *(
        Wrong(f"image {ref!r}", {"images": {"gpuProbe": ref}}, "images.gpuProbe", ref, "is no image reference", "write")
        for ref in ("", "Probe:1", "a b:1", "probe:1;reboot", "registry.example.com/:1")
    ),
    Wrong(
        "node image", {"cluster": {"nodeImage": "node"}}, "cluster.nodeImage", "node", "is not pinned", "or a digest"
    ),
)

WRONG = (*SHAPE, *RANGES, *MODULES, *DRIVER, *IMAGES)
