"""Configurations of MPS that must be refused, but for those of memory."""

from typing import Any

from tests.unit.wrong_settings import Wrong

PERCENTAGE, MEMORY = "activeThreadPercentage", "pinnedDeviceMemoryLimit"


def mps(**block: Any) -> dict[str, Any]:
    return {"mps": block}


def small(**limits: Any) -> dict[str, Any]:
    return mps(classes={"small": limits})


def on_model(model: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"gpu": {"model": model}, **config}


def two_models(first: str, second: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"cluster": {"workers": 2}, "gpu": {"nodes": [{"model": first}, {"model": second}]}, **config}


SHAPE = (
    Wrong("mps that is a list", {"mps": []}, "mps", [], "must be a mapping of keys", "give a mapping"),
    Wrong(
        "unknown key of mps",
        mps(activeThreadPercent=50),
        "mps.activeThreadPercent",
        50,
        "is not a key of mps",
        'did you mean "activeThreadPercentage"?',
    ),
    Wrong(
        "unknown key of a class",
        small(perDevicePinnedMemoryLimit={}),
        "mps.classes.small.perDevicePinnedMemoryLimit",
        {},
        "is not a key of mps.classes.small",
        'did you mean "pinnedDeviceMemoryLimit"?',
    ),
    Wrong(
        "key like no other of a class",
        small(zzz=1),
        "mps.classes.small.zzz",
        1,
        "is not a key of mps.classes.small",
        "use one of activeThreadPercentage, pinnedDeviceMemoryLimit",
    ),
    Wrong(
        "classes that are a list",
        mps(classes=["small"]),
        "mps.classes",
        ["small"],
        "must be a mapping of keys",
        "give",
    ),
    Wrong(
        "class that is a number",
        mps(classes={"small": 20}),
        "mps.classes.small",
        20,
        "must be a mapping of keys",
        "give a mapping",
    ),
    Wrong(
        "unknown mode", mps(mode="node"), "mps.mode", "node", "must be 'daemon' or 'claim'", "set mps.mode to that or"
    ),
    Wrong("memory as a number", mps(**{MEMORY: 8}), f"mps.{MEMORY}", 8, "must be a text", "quote it, since YAML"),
)

PERCENTAGES = (
    *(
        Wrong(
            f"{value} % of {name}", config, key, value, rule, "give a percentage of a GPU's multiprocessors, 1 to 100"
        )
        for value, rule in ((0, "must be at least 1"), (101, "must be at most 100"))
        for name, config, key in (
            ("the threads", mps(**{PERCENTAGE: value}), f"mps.{PERCENTAGE}"),
            ("the threads for a class", small(**{PERCENTAGE: value}), f"mps.classes.small.{PERCENTAGE}"),
        )
    ),
    *(
        Wrong(f"percentage {value!r}", mps(**{PERCENTAGE: value}), f"mps.{PERCENTAGE}", value, rule, remedy)
        for value, rule, remedy in (
            ("50%", "must be a whole number", "write it without quotes and without a unit"),
            (33.3, "must be a whole number", "give a whole number"),
            (True, "must be a whole number", "give a whole number"),
        )
    ),
    *(
        Wrong(
            f"{value} % on {model}",
            on_model(model, small(**{PERCENTAGE: value})),
            f"mps.classes.small.{PERCENTAGE}",
            value,
            f"cannot be granted: {model} gives a client {granted} SMs or more",
            f"use at least {value + 1}",
        )
        for model, value, granted in (
            ("h100-80gb", 6, "8 of its 132"),
            ("b200-180gb", 5, "8 of its 148"),
            ("l40s", 1, "2 of its 142"),
            ("a100-40gb", 1, "2 of its 108"),
        )
    ),
    Wrong(
        "percentage for the first of two models only",
        two_models("b200-180gb", "h100-80gb", small(**{PERCENTAGE: 6})),
        f"mps.classes.small.{PERCENTAGE}",
        6,
        "cannot be granted: h100-80gb",
        "use at least 7",
    ),
    Wrong(
        "class with a larger percentage than the daemon's",
        small(**{PERCENTAGE: 51}),
        f"mps.classes.small.{PERCENTAGE}",
        51,
        "is above mps.activeThreadPercentage (50), which caps every client",
        "lower it or raise that",
    ),
    Wrong(
        "daemon's percentage below that of a class that nobody set",
        mps(**{PERCENTAGE: 19}),
        f"mps.classes.small.{PERCENTAGE}",
        20,
        "is above mps.activeThreadPercentage (19)",
        "lower it or raise that",
    ),
)

CLASSES = (
    *(
        Wrong(
            f"class name {name[:8]!r} of {len(name)} characters",
            mps(classes={"small": {}, name: {}}),
            "mps.classes",
            name,
            "must be at most 30 lower-case letters, digits and '-', since it becomes a label",
            "rename it",
        )
        for name in ("", "Small", "very_small", "-small", "small-", "smäll", "a.b", "s" * 31)
    ),
    Wrong(
        "class that is the daemon's own",
        mps(classes={"small": {}, "default": {}}),
        "mps.classes",
        "default",
        "is the class of the daemon's own limits",
        "rename it",
    ),
    *(
        Wrong(
            f"classes {classes}",
            mps(classes={name: {} for name in classes}),
            "mps.classes",
            classes,
            'has no class "small"',
            "module 05's limited client is of that class; add it",
        )
        for classes in ([], ["large", "tiny"])
    ),
)


def _gates(**gates: bool) -> dict[str, Any]:
    return {"driver": {"featureGates": gates}, **mps(mode="claim")}


OTHERS = (
    Wrong(
        "MPS by claim without its gate",
        _gates(MPSSupport=False),
        "driver.featureGates.MPSSupport",
        False,
        "is off, and NVIDIA's driver starts no MPS daemon without it",
        "drop it or set mps.mode to daemon",
    ),
    Wrong(
        "MPS by claim and dynamic MIG",
        _gates(DynamicMIG=True),
        "driver.featureGates.DynamicMIG",
        True,
        "and MPS by claim (gate MPSSupport) exclude each other in NVIDIA's driver",
        "switch it off or set mps.mode to daemon",
    ),
    *(
        Wrong(
            f"mps that no module of {', '.join(modules)} uses",
            {"modules": modules, **mps(**block)},
            "mps",
            block,
            "is set, but no module that uses it is on",
            'add "04" to modules or drop mps',
        )
        for modules, block in (
            (["00", "01"], {"mode": "claim"}),
            (["01", "02", "03"], {PERCENTAGE: 40, "classes": {"small": {MEMORY: "2Gi"}}}),
        )
    ),
    Wrong(
        "one GPU for modules 03 and 04",
        {"gpu": {"count": 1}},
        "gpu.count",
        1,
        "is too few: modules 03, 04 use 2 GPUs of the first node, one of which module 03 holds for itself",
        "give 2 or more, or switch one of them off",
    ),
    Wrong(
        "one GPU on the first of two nodes",
        {"cluster": {"workers": 2}, "gpu": {"count": 4, "nodes": [{"count": 1}, {}]}},
        "gpu.nodes[0].count",
        1,
        "is too few",
        "give 2 or more",
    ),
    Wrong(
        "one GPU on the first of two nodes by default",
        {"cluster": {"workers": 2}, "gpu": {"count": 1, "nodes": [{}, {"count": 4}]}},
        "gpu.count",
        1,
        "is too few",
        "give 2 or more",
    ),
    Wrong(
        "limited client without the others",
        {"modules": ["00", "01", "02", "05"]},
        "modules",
        "05",
        'needs "04" (Two pods on one GPU by MPS)',
        'add "04" or drop "05"',
    ),
)

WRONG = (*SHAPE, *PERCENTAGES, *CLASSES, *OTHERS)
