"""Module 03: GPUs that one pod has alone, by a claim."""

from components.workload import Workload
from modules.gpus import uuid_for
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 03 requires 01"
    assert built.driver, "module 03 requires 02"
    built.exclusive = Workload(
        "exclusive-gpu",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-probe"],
        # Both want the same GPU, so that the second waits for what the first holds, whatever else is free.
        node=settings.gpu_nodes[0].node,
        gpu=uuid_for(module, settings, built),
        timeout_seconds=settings.timeouts.workload,
    )
