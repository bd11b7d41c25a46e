"""Module 05: the limits of MPS, and who wins."""

from components.mps_policy import MpsPolicy
from components.workload import Workload
from modules.consumable_capacity import most_memory_mib
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 05 requires 01"
    assert built.driver, "module 05 requires 02"
    assert built.sharing and built.shared, "module 05 requires 04"
    policy = MpsPolicy(
        "mps-policy",
        cluster=built.cluster,
        manifests=module.name,
        limits=built.sharing.limits,
        classes=built.sharing.classes,
        pipe="node" if settings.mps.mode == "daemon" else "claim",
        most_memory_mib=most_memory_mib(settings, built),
    )
    Workload(
        "limited-client",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-probe"],
        node=settings.gpu_nodes[0].node,
        sharing=built.sharing,
        after=[built.shared],
        depends_on=policy.objects,
        timeout_seconds=settings.timeouts.workload,
    )
