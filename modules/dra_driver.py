"""Module 02: NVIDIA's DRA driver."""

from components.dra_driver import DraDriver
from machine.gpus import discover_host, driver_root
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 02 requires 01"
    found = discover_host(settings)
    count = len(found.published) if found else 0
    built.driver = DraDriver(
        "dra-driver",
        cluster=built.cluster,
        gpus=built.gpus,
        image=built.images["dra-driver"],
        driver_root=driver_root(settings),
        version=settings.driver.version,
        feature_gates=settings.feature_gates,
        consumable_shares=None if settings.consumable_shares == "disabled" else settings.consumable_shares,
        log_verbosity=settings.driver.log_verbosity,
        expected_gpus={node.node: node.count or count for node in settings.gpu_nodes},
        timeout_seconds=settings.timeouts.driver,
        only_gpus=[gpu.uuid for gpu in found.chosen] if found and found.excluded else [],
    )
    built.outputs |= {
        "gpus": built.driver.gpus,
        "clusterUid": built.driver.cluster_uid,
        "driver": {"version": settings.driver.version, "consumableShares": settings.consumable_shares},
    }
