"""Module 02: NVIDIA's DRA driver."""

from typing import TYPE_CHECKING

from components.dra_driver import DraDriver
from modules.gpus import driver_root, host
from modules.module import Built, Module

if TYPE_CHECKING:
    from settings import Settings


def build(module: Module, settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 02 requires 01"
    found = host(settings)
    count = len(found.published) if found else 0
    built.driver = DraDriver(
        "dra-driver",
        cluster=built.cluster,
        gpus=built.gpus,
        image=built.images.dra_driver,
        driver_root=driver_root(settings),
        version=settings.driver.version,
        feature_gates=feature_gates(settings),
        consumable_shares=None if settings.consumable_shares == "disabled" else settings.consumable_shares,
        log_verbosity=settings.driver.log_verbosity,
        expected_gpus={node.node: node.count or count for node in settings.gpu_nodes},
        timeout_seconds=settings.timeouts.driver,
        only_gpus=[gpu.uuid for gpu in found.chosen] if found and found.others else [],
    )
    built.outputs |= {
        "gpus": built.driver.gpus,
        "clusterUid": built.driver.cluster_uid,
        "driver": {"version": settings.driver.version, "consumableShares": settings.consumable_shares},
    }


def feature_gates(settings: "Settings") -> dict[str, bool]:
    """The gates of NVIDIA's driver: those that the modules need, and the stack's own choices over them."""
    gates = {}
    if "04" in settings.modules:
        # MPS by claim keeps the driver from dynamic MIG and consumable shares, so it is on only where it is used.
        gates = {"MPSSupport": True} if settings.mps.mode == "claim" else {}
        # Whenever a claim ends, it sets compute mode and time slice of the claim's GPUs, whoever set them otherwise.
        if settings.gpu.source == "simulated" or settings.gpu.allow_compute_mode_change:
            gates["TimeSlicingSettings"] = True
    if settings.consumable_shares != "disabled":
        gates["ConsumableShares"] = True
    if "09" in settings.modules:
        gates["NVMLDeviceHealthCheck"] = True
    return {**gates, **settings.driver.feature_gates}
