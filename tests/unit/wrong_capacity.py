"""Configurations of consumable capacity, observability and health that must be refused."""

from typing import Any

from tests.unit.wrong_settings import Wrong

PHASE2 = ["00", "01", "02", "04", "07"]


def on(*more: str, drop: tuple[str, ...] = (), **blocks: Any) -> dict[str, Any]:
    return {"modules": [number for number in sorted({*PHASE2, *more}) if number not in drop], **blocks}


def asks(**requests: Any) -> dict[str, Any]:
    return {"consumableCapacity": {"requests": requests}}


SHARES, GATES = "driver.consumableShares", "driver.featureGates"
SHAPE = (
    *(
        Wrong(
            f"shares that are {value!r}",
            on(driver={"consumableShares": value}),
            SHARES,
            value,
            "must be memory, unlimited, disabled or a number of shares, at least 1",
            "give one of them",
        )
        for value in (0, -1, True, "4", "all", 1.5, ["memory"], {"memory": 1})
    ),
    Wrong(
        "unknown key of consumableCapacity",
        on(consumableCapacity={"enforce": "mps"}),
        "consumableCapacity.enforce",
        "mps",
        "is not a key of consumableCapacity",
        'did you mean "enforcement"?',
    ),
    Wrong(
        "unknown request",
        on(**asks(tiny="1Gi")),
        "consumableCapacity.requests.tiny",
        "1Gi",
        "is not a key of consumableCapacity.requests",
        "use one of small, medium, large, waiting",
    ),
    Wrong(
        "unknown enforcement",
        on(consumableCapacity={"enforcement": "driver"}),
        "consumableCapacity.enforcement",
        "driver",
        "must be 'mps' or 'none'",
        "set consumableCapacity.enforcement to that or drop it",
    ),
    Wrong(
        "request as a number",
        on(**asks(small=8)),
        "consumableCapacity.requests.small",
        8,
        "must be a text",
        "quote it, since YAML",
    ),
    Wrong(
        "unknown driver version",
        {"driver": {"version": "0.3.0"}},
        "driver.version",
        "0.3.0",
        "must be '0.5.0' or '0.4.1'",
        "set driver.version to that or",
    ),
    Wrong(
        "unknown exporter",
        on("08", observability={"exporter": "prometheus"}),
        "observability.exporter",
        "prometheus",
        "must be 'nvml' or 'dcgm'",
        "set observability.exporter to that or",
    ),
    Wrong(
        "Grafana without Prometheus",
        on("08", observability={"grafana": True}),
        "observability.grafana",
        True,
        "needs Prometheus, whose metrics it shows",
        "set observability.prometheus to true, or drop it",
    ),
    Wrong(
        "prometheus that is a text",
        on("08", observability={"prometheus": "yes"}),
        "observability.prometheus",
        "yes",
        "must be true or false",
        "give true or false",
    ),
)

DRIVER = (
    Wrong(
        "shares in a driver that has none",
        on(driver={"version": "0.4.1"}),
        "driver.version",
        "0.4.1",
        "of the driver has no consumable shares",
        'use 0.5.0, or drop "07"',
    ),
    Wrong(
        "gate of a later driver",
        {"driver": {"version": "0.4.1", "featureGates": {"ConsumableShares": False}}},
        GATES,
        "ConsumableShares",
        "is no feature gate of NVIDIA's driver v0.4.1",
        "use one of ComputeDomainCliques",
    ),
    Wrong(
        "gate of consumable shares without any",
        {"driver": {"featureGates": {"ConsumableShares": True}}},
        f"{GATES}.ConsumableShares",
        True,
        "has no effect by itself",
        "drop it and set driver.consumableShares",
    ),
    Wrong(
        "shares whose gate is off",
        on(driver={"featureGates": {"ConsumableShares": False}}),
        f"{GATES}.ConsumableShares",
        False,
        "is off, and the driver shares nothing without it (driver.consumableShares: memory)",
        "drop it",
    ),
    Wrong(
        "shares beside the driver's own MPS",
        on(mps={"mode": "claim"}),
        "mps.mode",
        "claim",
        "and consumable shares (memory) exclude each other",
        "set it to daemon, or set driver.consumableShares to disabled",
    ),
    Wrong(
        "number of shares beside an exclusive claim",
        on("03", driver={"consumableShares": 8}),
        SHARES,
        "8",
        "lets several claims have one GPU, and module 03 shows that a claim has it for itself",
        'set it to disabled, or drop "03"',
    ),
    Wrong(
        "module 07 beside an exclusive claim",
        on("03"),
        SHARES,
        "memory",
        "lets several claims have one GPU, and module 03 shows",
        'set it to disabled, or drop "03"',
    ),
    Wrong(
        "unlimited shares beside an exclusive claim",
        on("03", driver={"consumableShares": "unlimited"}),
        SHARES,
        "unlimited",
        "lets several claims have one GPU",
        'set it to disabled, or drop "03"',
    ),
    Wrong(
        "too few shares for the modules",
        on(driver={"consumableShares": 4}),
        SHARES,
        4,
        "is too few: 4 claims of the modules share one GPU, and each takes a share; one has to be left",
        "use at least 5",
    ),
    Wrong(
        "too few shares for module 07 alone",
        on(drop=("04",), driver={"consumableShares": 2}),
        SHARES,
        2,
        "is too few: 3 claims of the modules share one GPU",
        "use at least 3",
    ),
    Wrong(
        "too few GPUs for claims that share none",
        on(driver={"consumableShares": "disabled"}, gpu={"count": 1}),
        "gpu.count",
        1,
        "is too few: modules 04, 07 use 2 GPUs of the first node",
        "give 2 or more",
    ),
    Wrong(
        "health check that is off",
        on("09", driver={"featureGates": {"NVMLDeviceHealthCheck": False}}),
        f"{GATES}.NVMLDeviceHealthCheck",
        False,
        'is off, and module "09" needs it',
        'drop it or drop "09"',
    ),
    Wrong(
        "dynamic MIG beside the health check",
        on("09", driver={"featureGates": {"DynamicMIG": True}}),
        f"{GATES}.DynamicMIG",
        True,
        "and the health check (gate NVMLDeviceHealthCheck",
        "switch it off or drop",
    ),
)

USE = (
    Wrong(
        "capacity without its module",
        asks(small="1Gi"),
        "consumableCapacity",
        {"requests": {"small": "1Gi"}},
        "is set, but the module that uses it is off",
        'add "07" to modules or drop consumableCapacity',
    ),
    Wrong(
        "observability without its module",
        {"observability": {"prometheus": True}},
        "observability",
        {"prometheus": True},
        "is set, but no module that uses it is on",
        'add "08" to modules or drop observability',
    ),
    Wrong(
        "DCGM on a simulated GPU",
        on("08", observability={"exporter": "dcgm"}),
        "observability.exporter",
        "dcgm",
        "needs a real GPU",
        "drop it or set gpu.source to host",
    ),
    Wrong(
        "enforcement without the daemon",
        on(drop=("04",), consumableCapacity={"enforcement": "mps"}),
        "consumableCapacity.enforcement",
        "mps",
        'needs the MPS daemon of module "04"',
        'add "04" to modules or set it to none',
    ),
    Wrong(
        "enforcement of what is not shared",
        on(consumableCapacity={"enforcement": "mps"}, driver={"consumableShares": "disabled"}),
        "consumableCapacity.enforcement",
        "mps",
        "has nothing to hold to",
        "drop it, or set driver.consumableShares to memory",
    ),
    Wrong(
        "class of module 07's pods",
        {"mps": {"classes": {"small": {}, "consumable-capacity": {}}}},
        "mps.classes",
        "consumable-capacity",
        "is the class of module 07's pods",
        "rename it",
    ),
)

MEMORY = (
    *(
        Wrong(
            f"request of {text}",
            on(**asks(medium=text)),
            "consumableCapacity.requests.medium",
            text,
            rule,
            remedy,
        )
        for text, rule, remedy in (
            ("lots", "is no quantity of memory", "write it like 8Gi or 512Mi"),
            ("-1Gi", "is no quantity of memory", "write it like 8Gi or 512Mi"),
            ("1G", "is not a whole number of MiB", "write it in Mi or Gi"),
            ("1500Ki", "is not a whole number of MiB", "write it in Mi or Gi"),
            ("0Gi", "rounds to 0 MiB", "write it in Mi or Gi"),
            ("200Gi", "is more than the 81559 MiB of h100-80gb", "lower it"),
        )
    ),
    Wrong(
        "requests that do not fit beside module 04's clients",
        on(**asks(small="20Gi", medium="20Gi", large="30Gi")),
        "consumableCapacity.requests",
        {"small": "20480Mi", "medium": "20480Mi", "large": "30720Mi"},
        "add up to 71680 MiB, and h100-80gb has 81559 MiB, of which module 04's clients take 17408",
        "lower them, or mps.pinnedDeviceMemoryLimit",
    ),
    Wrong(
        "requests that do not fit an empty GPU",
        on(drop=("04",), **asks(small="30Gi", medium="30Gi", large="30Gi")),
        "consumableCapacity.requests",
        {"small": "30720Mi", "medium": "30720Mi", "large": "30720Mi"},
        "add up to 92160 MiB, and h100-80gb has 81559 MiB",
        "lower them",
    ),
    Wrong(
        "waiting one that would fit",
        on(**asks(waiting="1Gi")),
        "consumableCapacity.requests.waiting",
        "1024Mi",
        "would leave room for the one that is to wait",
        "raise it, or raise the others",
    ),
    Wrong(
        "request that a context takes",
        on(**asks(small="128Mi", waiting="40Gi")),
        "consumableCapacity.requests.small",
        "128Mi",
        "leaves nothing: on h100-80gb a client's context alone takes 271 MiB at 50 %",
        "use more than 271Mi",
    ),
)

WRONG = (*SHAPE, *DRIVER, *USE, *MEMORY)
