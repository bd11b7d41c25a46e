"""Modules 00, 01 and 02: what the machine has to have, the cluster with its GPUs, and NVIDIA's DRA driver."""

from typing import TYPE_CHECKING

import pulumi

from components.cluster import Cluster, ExistingCluster
from components.dra_driver import DraDriver
from components.kind_cluster import KindCluster
from components.simulated_gpus import SimulatedGpus
from modules import vllm
from modules.gpus import driver_root, host
from modules.module import Built, Module

if TYPE_CHECKING:
    from settings import Settings


def check_prerequisites(module: Module, settings: "Settings", built: Built) -> None:
    # Imported here: the checks call the tools that they check, and nothing else needs them.
    from machine import prerequisites

    for finding in prerequisites.require(settings, built.images):
        pulumi.log.warn(f"{finding.name}: {finding.seen}; {finding.remedy}")


def build_cluster(module: Module, settings: "Settings", built: Built) -> None:
    nodes, found = settings.gpu_nodes, host(settings)
    if found:
        # Module 00 may be off, and a node without a driver would only be found out by the plugin.
        found.require()
        built.outputs["host"] = found.outputs
    if settings.cluster.provider == "kind":
        cluster: Cluster = KindCluster(
            "cluster",
            cluster_name=settings.cluster_name,
            workers=settings.cluster.workers,
            gpu_nodes=[node.node for node in nodes],
            node_image=settings.cluster.node_image or built.images.node,
            kubeconfig_file=settings.kubeconfig,
            load_images=[*built.images.to_load, *vllm.images_to_load(settings)],
            timeout_seconds=settings.timeouts.cluster,
            mounts=[*(found.mounts if found else ()), *vllm.mounts(settings)],
            hidden_devices=found.hidden_devices if found else (),
        )
    else:
        cluster = ExistingCluster(
            "cluster",
            kubeconfig_file=settings.kubeconfig,
            context=settings.context,
            gpu_nodes=[node.node for node in nodes],
        )
    built.cluster = cluster
    if settings.gpu.source == "simulated":
        counts = {node.node: (node.model or "", node.count or 0) for node in nodes}
        built.gpus = SimulatedGpus("simulated-gpus", cluster=cluster, image=built.images.gpu_sim, gpus=counts)
    built.outputs |= {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}


def build_driver(module: Module, settings: "Settings", built: Built) -> None:
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
