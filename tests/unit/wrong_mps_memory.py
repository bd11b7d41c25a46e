"""Limits of MPS on memory that must be refused."""

from tests.unit.wrong_mps import MEMORY, mps, on_model, small, two_models
from tests.unit.wrong_settings import Wrong

PER_DEVICE = "perDevicePinnedMemoryLimit"

MEMORIES = (
    *(
        Wrong(
            f"memory {text!r}",
            mps(**{MEMORY: text}),
            f"mps.{MEMORY}",
            text,
            "is no quantity of memory",
            "write it like 8Gi or 512Mi",
        )
        for text in ("", "lots", "8Gb", "8 Gi", "8gi", "-8Gi", "+8Gi", "0x8", "8Gi\n")
    ),
    *(
        Wrong(
            f"memory {text} that is no number of MiB",
            mps(**{MEMORY: text}),
            f"mps.{MEMORY}",
            text,
            "is not a whole number of MiB, which MPS counts in",
            "write it in Mi or Gi",
        )
        for text in ("8000000000", "8G", "8192.5Mi", "8388609Ki")
    ),
    *(
        Wrong(
            f"{text} of memory for a class",
            small(**{MEMORY: text}),
            f"mps.classes.small.{MEMORY}",
            text,
            "rounds to 0 MiB",
            "write it in Mi or Gi",
        )
        for text in ("0", "0Gi", "512", "1000000", "1023Ki", "0.5Mi")
    ),
    *(
        Wrong(
            f"{text} on {model}",
            on_model(model, mps(**{MEMORY: text})),
            f"mps.{MEMORY}",
            text,
            f"is more than the {memory} MiB of {model}",
            "lower it",
        )
        for model, text, memory in (
            ("h100-80gb", "81560Mi", 81559),
            ("l40s", "45Gi", 46068),
            ("a100-40gb", "1Ti", 40960),
        )
    ),
    Wrong(
        "memory that only the first of two models has",
        two_models("h100-80gb", "rtx-4090", mps(**{MEMORY: "24Gi"})),
        f"mps.{MEMORY}",
        "24Gi",
        "is more than the 24564 MiB of rtx-4090",
        "lower it",
    ),
    Wrong(
        "no more memory than the context takes",
        mps(**{MEMORY: "271Mi"}, classes={"small": {MEMORY: "128Mi"}}),
        f"mps.{MEMORY}",
        "271Mi",
        "leaves nothing: on h100-80gb a client's context alone takes 271 MiB at 50 %",
        "use more than 271Mi or a smaller thread percentage",
    ),
    Wrong(
        "no more memory for a class than its context takes",
        small(**{MEMORY: "124Mi"}),
        f"mps.classes.small.{MEMORY}",
        "124Mi",
        "leaves nothing: on h100-80gb a client's context alone takes 124 MiB at 20 %",
        "use more than 124Mi",
    ),
    Wrong(
        "class with more memory than the daemon's",
        small(**{MEMORY: "8193Mi"}),
        f"mps.classes.small.{MEMORY}",
        "8193Mi",
        "is above mps.pinnedDeviceMemoryLimit (8Gi), which caps every client",
        "lower it or raise that",
    ),
    *(
        Wrong(
            f"three clients that {model} cannot hold",
            on_model(model, mps(**{MEMORY: text})),
            f"mps.{MEMORY}",
            text,
            f"the limits of the 3 clients that share a GPU add up to {total} MiB, and {model} has {memory}",
            "lower it",
        )
        for model, text, total, memory in (
            ("h100-80gb", "40Gi", 82944, 81559),
            ("rtx-4090", "12Gi", 25600, 24564),
        )
    ),
)

# Below whatever one GPU may have here, so that only its own limit is wrong.
SMALLEST = {"activeThreadPercentage": 7, "pinnedDeviceMemoryLimit": "80Mi"}
TWO_OF_ONE_GPU = Wrong(
    "two limits for the claim's only GPU",
    mps(mode="claim", **{PER_DEVICE: {"0": "4Gi", "GPU-8520a02a-9dda-586d-8a8d-9486980b18e6": "4Gi"}}),
    f"mps.{PER_DEVICE}",
    ["0", "GPU-8520a02a-9dda-586d-8a8d-9486980b18e6"],
    "names more than one GPU, and the claim has one",
    "keep one of them",
)
PER_DEVICES = (
    Wrong(
        "memory of one GPU as a number",
        mps(**{PER_DEVICE: {"0": 8}}),
        f"mps.{PER_DEVICE}.0",
        8,
        "must be a text",
        "quote it, since YAML reads it as a number",
    ),
    Wrong(
        "limit of one GPU by the node's daemon",
        mps(**{PER_DEVICE: {"0": "4Gi"}}),
        f"mps.{PER_DEVICE}",
        {"0": "4Gi"},
        "is for MPS by claim",
        "drop it or set mps.mode to claim",
    ),
    *(
        Wrong(
            f"limit of GPU {key!r}",
            mps(mode="claim", **{PER_DEVICE: {key: "4Gi"}}),
            f"mps.{PER_DEVICE}",
            key,
            "names no GPU",
            'use its index ("0") or UUID ("GPU-...")',
        )
        for key in ("", "gpu-0", "-1", "1.0", "GPU-8520a02a", "GPU-8520A02A-9DDA-586D-8A8D-9486980B18E6", "100")
    ),
    *(
        Wrong(
            f"limit of GPU {key} of the only one in the claim",
            mps(mode="claim", **{PER_DEVICE: {key: "4Gi"}}),
            f"mps.{PER_DEVICE}",
            key,
            "is the index of no GPU: NVIDIA's driver counts those of the claim, which has one",
            'use "0"',
        )
        for key in ("1", "16")
    ),
    *(
        Wrong(
            f"{text} for one GPU",
            mps(mode="claim", classes={"small": SMALLEST}, **{PER_DEVICE: {"0": text}}),
            f"mps.{PER_DEVICE}.0",
            text,
            rule,
            remedy,
        )
        for text, rule, remedy in (
            ("lots", "is no quantity of memory", "write it like 8Gi or 512Mi"),
            ("100Gi", "is more than the 81559 MiB of h100-80gb", "lower it"),
            ("4096", "rounds to 0 MiB", "write it in Mi or Gi"),
            ("271Mi", "leaves nothing: on h100-80gb a client's context alone takes 271 MiB at 50 %", "more than 271Mi"),
        )
    ),
)

WRONG = (*MEMORIES, *PER_DEVICES, TWO_OF_ONE_GPU)
