"""Module 02: NVIDIA's DRA driver."""

from components.cluster import Cluster
from components.dra_driver import DraDriver, DriverOptions, ExpectedGpus
from components.simulated_gpus import SimulatedGpus
from components.site import Site
from gpus.mig import Layout
from machine.gpus import discover_host, driver_root
from modules.context import Context
from settings import Settings
from settings.catalog import Module
from settings.plan import DISABLED


def build(module: Module, settings: Settings, context: Context) -> None:
    cluster, simulated_gpus, host_gpus = context.get(Cluster), context.find(SimulatedGpus), discover_host(settings)
    count = len(host_gpus.published) if host_gpus else 0
    tolerations = tuple(toleration.for_kubernetes for toleration in settings.gpu.tolerations)
    driver = DraDriver(
        "dra-driver",
        cluster=cluster,
        gpus=simulated_gpus,
        options=DriverOptions(
            image=context.images["dra-driver"],
            driver_root=driver_root(settings),
            feature_gates=settings.feature_gates,
            log_verbosity=settings.log_verbosity,
            timeout_seconds=settings.timeouts.driver,
            version=settings.driver.version,
            consumable_shares=None if settings.consumable_shares == DISABLED else settings.consumable_shares,
            tolerations=tolerations,
        ),
        expected=ExpectedGpus(
            counts={
                node.node: len(node.whole_gpus) if node.mig else node.count or count for node in settings.gpu_nodes
            },
            mig={
                node.node: [slice_.device_name for slice_ in node.slices] for node in settings.gpu_nodes if node.slices
            },
            only_uuids=[gpu.uuid for gpu in host_gpus.chosen] if host_gpus and host_gpus.excluded else [],
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
            tolerations=tolerations,
        )
    )
    if driver.mig_devices is not None:
        context.outputs |= {"migDevices": driver.mig_devices, "mig": mig_outputs(settings)}
    context.outputs |= {
        "gpus": driver.gpus,
        "clusterUid": driver.cluster_uid,
        "driver": {"version": settings.driver.version, "consumableShares": settings.consumable_shares},
    }


def mig_outputs(settings: Settings) -> dict[str, list[str]]:
    """Layout of each node's GPUs in words; a preview shows how it changes."""
    return {
        node.node: [layout_words(node.mig[index] if index < len(node.mig) else ()) for index in range(node.count or 0)]
        for node in settings.gpu_nodes
    }


def layout_words(layout: Layout) -> str:
    """Layout of one GPU in words."""
    return layout if isinstance(layout, str) else ", ".join(layout) or "whole"
