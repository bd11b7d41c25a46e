"""Module 02: NVIDIA's DRA driver."""

from typing import TYPE_CHECKING

from components.cluster import Cluster
from components.dra_driver import DraDriver, DriverOptions, ExpectedGpus
from components.simulated_gpus import SimulatedGpus
from components.site import Site
from modules.context import Context
from modules.gpus import driver_root, host
from modules.module import Module

if TYPE_CHECKING:
    from settings import Settings


def build(module: Module, settings: "Settings", context: Context) -> None:
    cluster, simulated_gpus, host_gpus = context.get(Cluster), context.find(SimulatedGpus), host(settings)
    count = len(host_gpus.published) if host_gpus else 0
    driver = DraDriver(
        "dra-driver",
        cluster=cluster,
        gpus=simulated_gpus,
        options=DriverOptions(
            image=context.images.dra_driver,
            driver_root=driver_root(settings),
            feature_gates=feature_gates(settings),
            log_verbosity=settings.driver.log_verbosity,
            timeout_seconds=settings.timeouts.driver,
            version=settings.driver.version,
            consumable_shares=None if settings.consumable_shares == "disabled" else settings.consumable_shares,
        ),
        expected=ExpectedGpus(
            counts={node.node: node.count or count for node in settings.gpu_nodes},
            only_uuids=[gpu.uuid for gpu in host_gpus.chosen] if host_gpus and host_gpus.others else [],
        ),
    )
    context.add(
        Site(
            cluster=cluster,
            driver=driver,
            images=context.images,
            gpu_nodes=tuple(node.node for node in settings.gpu_nodes),
            gpus_digest=simulated_gpus.digest if simulated_gpus else None,
            timeout_seconds=settings.timeouts.workload,
        )
    )
    context.outputs |= {
        "gpus": driver.gpus,
        "clusterUid": driver.cluster_uid,
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
