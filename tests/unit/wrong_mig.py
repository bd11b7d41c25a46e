"""MIG layouts that must be refused: by the model, by NVIDIA's driver, by the modules that are on."""

from typing import Any

from tests.unit.wrong_settings import Wrong

A100 = "a100-pcie-40gb"
BASE = ["00", "01", "02"]


def laid(*layouts: Any, modules: tuple[str, ...] = (), **blocks: Any) -> dict[str, Any]:
    """Config of a stack whose GPUs are A100s with these layouts."""
    return {"modules": [*BASE, *modules], "gpu": {"model": A100, "mig": list(layouts)}, **blocks}


def gates(**gates: bool) -> dict[str, Any]:
    return {"driver": {"featureGates": gates}}


LAYOUTS = (
    Wrong("layout that is a number", laid(7), "gpu.mig[0]", 7, "is no layout of a GPU", "give a list of MIG profiles"),
    Wrong("layout with a number", laid([3]), "gpu.mig[0]", [3], "is no layout of a GPU", "[] for MIG off, or empty"),
    Wrong(
        "layouts that are a text", laid() | {"gpu": {"mig": "empty"}}, "gpu.mig", "empty", "must be a list", "give a"
    ),
    Wrong(
        "profile of another model",
        laid(["1g.18gb"]),
        "gpu.mig[0]",
        ["1g.18gb"],
        'MIG profile "1g.18gb" is not one of a100-pcie-40gb\'s (1g.5gb, 1g.5gb+me,',
        "choose one of these",
    ),
    Wrong(
        "model without MIG",
        {"modules": BASE, "gpu": {"model": "l40s", "mig": [["1g.5gb"]]}},
        "gpu.mig[0]",
        ["1g.5gb"],
        "(none: the model has no MIG)",
        "choose one of these",
    ),
    Wrong(
        "place that the profile has not",
        laid(["3g.20gb@1"]),
        "gpu.mig[0]",
        ["3g.20gb@1"],
        "must be one of 3g.20gb@0, 3g.20gb@4",
        "correct the placement",
    ),
    Wrong(
        "instances that overlap",
        laid([], ["4g.20gb@0", "2g.10gb@2"]),
        "gpu.mig[1]",
        ["4g.20gb@0", "2g.10gb@2"],
        "overlaps an earlier entry",
        "move or remove one of the two",
    ),
    Wrong(
        "more instances than there are of a profile",
        laid(["4g.20gb", "4g.20gb"]),
        "gpu.mig[0]",
        ["4g.20gb", "4g.20gb"],
        "has 1 of this profile",
        "remove one",
    ),
    Wrong(
        "more compute slices than the GPU has",
        laid(["4g.20gb", "3g.20gb", "1g.5gb"]),
        "gpu.mig[0]",
        ["4g.20gb", "3g.20gb", "1g.5gb"],
        "makes 8 compute slices of 7",
        "remove or shrink an entry",
    ),
    Wrong(
        "layouts of more GPUs than the node has",
        {
            "modules": BASE,
            "cluster": {"workers": 2},
            "gpu": {"model": A100, "nodes": [{}, {"count": 1, "mig": [[], ["7g.40gb"]]}]},
        },
        "gpu.nodes[1].mig",
        [[], ["7g.40gb"]],
        "has layouts of 2 GPUs, and the node has 1",
        "remove some, or raise count",
    ),
)
DRIVER = (
    Wrong(
        "nothing to publish",
        laid("empty"),
        "gpu.mig[0]",
        "empty",
        "of which NVIDIA's driver publishes nothing",
        "or set the gate DynamicMIG",
    ),
    Wrong(
        "instances that the driver would destroy",
        laid([], ["7g.40gb"], **gates(DynamicMIG=True)),
        "gpu.mig[1]",
        ["7g.40gb"],
        "which NVIDIA's driver destroys when it starts with the gate DynamicMIG",
        "use empty or [], or switch that gate off",
    ),
    Wrong(
        "more devices than can be tainted",
        {
            "modules": BASE,
            "gpu": {"model": A100, "count": 10, "mig": [["1g.5gb"] * 7] * 10},
            **gates(NVMLDeviceHealthCheck=True),
        },
        "gpu.mig",
        [["1g.5gb"] * 7] * 10,
        "makes 70 devices of the node, and with the gate NVMLDeviceHealthCheck it can have 64",
        "use fewer instances",
    ),
    Wrong(
        "more devices than can be tainted, with a module that switches the gate on",
        {
            "modules": [*BASE, "10.1", "10.3"],
            "gpu": {"model": A100, "count": 10, "mig": [["1g.5gb"] * 7] * 10},
        },
        "gpu.mig",
        [["1g.5gb"] * 7] * 10,
        "makes 70 devices of the node, and with the gate NVMLDeviceHealthCheck it can have 64",
        "use fewer instances",
    ),
    Wrong(
        "layout of a real GPU of an existing cluster",
        {
            "modules": BASE,
            "gpu": {"source": "host", "mig": [["7g.40gb"]], "nodes": [{"name": "a"}]},
            "cluster": {"provider": "existing", "context": "lab", "kubeconfig": "<tmp>/good"},
        },
        "gpu.mig",
        [["7g.40gb"]],
        "is compared with the GPUs of this machine, and on an existing cluster they are elsewhere",
        "drop it",
    ),
    Wrong(
        "layout of a real GPU that is no layout",
        {"modules": BASE, "gpu": {"source": "host", "mig": [["7g.40gb", "half"]]}},
        "gpu.mig[0]",
        ["7g.40gb", "half"],
        "has an entry that is no GPU instance",
        "write 'half' as PROFILE or PROFILE@START",
    ),
    Wrong(
        "layout of a real GPU of one node",
        {"modules": BASE, "gpu": {"source": "host", "nodes": [{"mig": [["7g.40gb"]]}]}},
        "gpu.nodes[0].mig",
        [["7g.40gb"]],
        "is for simulated GPUs: the host's are those of one node",
        "drop it, and set gpu.mig",
    ),
)
MODULES = (
    Wrong(
        "whole GPUs for a module",
        laid(["7g.40gb"], modules=("03",)),
        "modules",
        "03",
        "is for whole GPUs, and gpu.mig divides some",
        'drop gpu.mig, or drop "03" from modules',
    ),
    Wrong(
        "module of MIG without MIG",
        {"modules": [*BASE, "10.1"]},
        "modules",
        "10.1",
        "needs MIG devices, and no GPU has some",
        "lay some out in gpu.mig",
    ),
    Wrong(
        "module of MIG on real GPUs",
        {"modules": [*BASE, "10.1"], "gpu": {"source": "host"}},
        "modules",
        "10.1",
        "needs simulated GPUs: which MIG devices it gets follows from a layout that the stack makes",
        "set gpu.source to simulated",
    ),
)

DYNAMIC = (
    Wrong(
        "MIG devices on demand of a model that nobody knows",
        {"modules": [*BASE, "10.6"], "gpu": {"model": "h1000"}},
        "gpu.model",
        "h1000",
        "is no known GPU model",
        "",
    ),
    Wrong(
        "MIG devices on demand of a model without MIG",
        {"modules": [*BASE, "10.6"], "gpu": {"model": "l40s"}},
        "modules",
        "10.6",
        "and l40s, the first node's model, has no MIG",
        "choose another gpu.model",
    ),
    Wrong(
        "MIG devices on demand of an Ampere GPU with MIG off",
        laid(modules=("10.6",)),
        "gpu.mig",
        [],
        "and of Ampere NVIDIA's driver does not switch it",
        "begin the list with empty",
    ),
    Wrong(
        "MIG devices on demand beside instances",
        laid("empty", ["7g.40gb"], modules=("10.6",)),
        "gpu.mig[1]",
        ["7g.40gb"],
        "which NVIDIA's driver destroys when it starts with the gate DynamicMIG",
        "use empty or []",
    ),
    Wrong(
        "MIG devices on demand of real GPUs",
        {"modules": [*BASE, "10.6"], "gpu": {"source": "host", "allowMigChange": True}},
        "modules",
        "10.6",
        "needs a driver that may switch MIG mode and destroy MIG devices: simulated GPUs only",
        "set gpu.source to simulated",
    ),
    Wrong(
        "MIG devices on demand beside a module of fixed ones",
        laid("empty", modules=("10.1", "10.6")),
        "modules",
        "10.1",
        "needs MIG devices, and no GPU has some",
        "lay some out in gpu.mig",
    ),
)

LOG = (
    Wrong(
        "a log of the driver that does not say what module 10.3 reads in it",
        laid(["3g.20gb@4", "4g.20gb"], modules=("10.1", "10.3"), driver={"logVerbosity": 5}),
        "driver.logVerbosity",
        5,
        'is too low for module "10.3", which reads in the log what the driver says from 6 on',
        'set it to 6, or drop it or "10.3"',
    ),
)

BY_CLAIM = {"mode": "claim"}
MPS = (
    Wrong(
        "MPS of MIG devices by the node's daemon",
        laid(["3g.20gb@4", "4g.20gb"], modules=("10.1", "10.4")),
        "mps.mode",
        "daemon",
        'has no daemon for MIG devices, and module "10.4" shares some',
        'set it to claim or drop "10.4" from modules',
    ),
    Wrong(
        "MPS of MIG devices beside shares",
        laid(["3g.20gb@4", "4g.20gb"], modules=("10.1", "10.4"), mps=BY_CLAIM, driver={"consumableShares": "memory"}),
        "driver.consumableShares",
        "memory",
        "NVIDIA's driver refuses its own MPS beside shares",
        'drop it or drop "10.4" from modules',
    ),
    Wrong(
        "no MIG device left for a module",
        laid(["7g.40gb"], modules=("10.1", "10.4"), mps=BY_CLAIM),
        "modules",
        "10.4",
        "needs a MIG device of its own, and the layouts have 1 for all modules",
        "add an instance to gpu.mig or drop a module",
    ),
    Wrong(
        "more memory than the MIG device has",
        laid(["3g.20gb@4", "1g.5gb"], modules=("10.1", "10.4"), mps={**BY_CLAIM, "pinnedDeviceMemoryLimit": "8Gi"}),
        "mps.pinnedDeviceMemoryLimit",
        "8Gi",
        "is more than the 4864 MiB of 1g.5gb of a100-pcie-40gb",
        "lower it",
    ),
)

WRONG = (*LAYOUTS, *DRIVER, *MODULES, *DYNAMIC, *LOG, *MPS)
