"""The workshop's modules: number, title, what each requires and what it builds.

The only place that knows their order. Components know no numbers, and a module that is switched off
registers nothing.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pulumi

from machine.images import Images
from modules import (
    cluster,
    consumable_capacity,
    dra_driver,
    mps,
    mps_limits,
    observability,
    prerequisites,
    resilience,
    vllm,
    vllm_experiment,
    workloads,
)
from modules.dra_driver import feature_gates
from modules.gpus import driver_root, gpu_model, host
from modules.module import Built, Module
from modules.mps import mps_outputs

if TYPE_CHECKING:
    from settings import Settings

__all__ = [
    "DEFAULT",
    "MODULES",
    "UPSTREAM_IMAGES",
    "Module",
    "build",
    "driver_root",
    "feature_gates",
    "gpu_model",
    "host",
    "images_of",
    "in_order",
    "known",
    "mps_outputs",
]

# Those that set-up makes none of; their components know which are meant.
UPSTREAM_IMAGES = ("dcgm_exporter", "prometheus", "grafana", "vllm")
DEFAULT = ("00", "01", "02", "03", "04", "05")

MODULES = {
    module.number: module
    for module in (
        Module("00", "prerequisites", "Prerequisites", (), prerequisites.build),
        Module("01", "cluster", "Cluster and GPUs", (), cluster.build),
        Module("02", "dra-driver", "NVIDIA's DRA driver", ("01",), dra_driver.build),
        Module("03", "workloads", "Exclusive GPUs by claim", ("01", "02"), workloads.build),
        Module("04", "mps", "Two pods on one GPU by MPS", ("01", "02"), mps.build),
        Module("05", "mps-limits", "Limits of MPS, and who wins", ("01", "02", "04"), mps_limits.build),
        Module("06", "vllm", "vLLM under a limit", ("01", "02", "04"), vllm.build),
        Module("06.5", "vllm-experiment", "vLLM by thread percentage", ("01", "02", "04", "06"), vllm_experiment.build),
        Module("07", "consumable-capacity", "One GPU for many claims", ("01", "02"), consumable_capacity.build),
        Module("08", "observability", "Admin access and metrics", ("01", "02"), observability.build),
        Module("09", "resilience", "Faults and what survives them", ("01", "02"), resilience.build),
    )
}


def known(numbers: Iterable[str]) -> list[Module]:
    """The modules of `numbers`, in order, without what is no module."""
    wanted = set(numbers)
    return [module for number, module in MODULES.items() if number in wanted]


def in_order(numbers: Iterable[str]) -> tuple[str, ...]:
    """`numbers` in the order in which they are built."""
    return tuple(module.number for module in known(numbers))


def images_of(settings: "Settings") -> Images:
    """The images that the stack runs: those that set-up made, but for its own choices."""
    overrides = settings.images.model_dump(exclude_none=True, exclude=set(UPSTREAM_IMAGES))
    if settings.gpu.source == "host":
        overrides["gpu_sim"] = ""  # nothing runs it, so nothing has to load it
    if "04" not in settings.modules or settings.mps.mode == "claim":
        overrides["mps_daemon"] = ""  # NVIDIA's driver runs its own
    if "09" not in settings.modules and ("08" not in settings.modules or settings.observability.exporter == "dcgm"):
        overrides["gpu_agents"] = ""
    return Images.made_by_setup(overrides, settings.driver.version)


def build(settings: "Settings", images: Images) -> dict[str, Any]:
    """Build the modules that are on, each after what it requires; returns the stack's outputs."""
    built = Built(images)
    for module in known(settings.modules):
        pulumi.log.debug(f"module {module.number}: {module.title}")
        module.build(module, settings, built)
    stack = "" if settings.stack == "phase1" else f" STACK={settings.stack}"
    return {**built.outputs, "modules": list(settings.modules), "next": f"make verify{stack}"}
