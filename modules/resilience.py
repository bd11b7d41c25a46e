"""Module 09: what keeps new pods off a GPU that broke. Its checks make the faults."""

from components.taint_keeper import TaintKeeper
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 09 requires 01"
    assert built.driver, "module 09 requires 02"
    TaintKeeper(
        "taint-keeper",
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-agents"],
        timeout_seconds=settings.timeouts.workload,
    )
