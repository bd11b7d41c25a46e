"""Module 08: who looks on at the GPUs, and what is to be seen."""

from components.admin_access import AdminAccess
from components.gpu_exporter import GpuExporter
from components.manifests import MANIFESTS
from components.mps_daemon import MpsDaemon
from components.prometheus import Prometheus
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    assert built.cluster, "module 08 requires 01"
    assert built.driver, "module 08 requires 02"
    simulated = built.gpus.digest if built.gpus else None
    AdminAccess(
        "admin-access",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["gpu-probe"],
        node=settings.gpu_nodes[0].node,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    exporter = GpuExporter(
        "gpu-exporter",
        cluster=built.cluster,
        driver=built.driver,
        image=built.images["dcgm-exporter" if settings.observability.exporter == "dcgm" else "gpu-agents"],
        exporter=settings.observability.exporter,
        sharing=built.sharing if isinstance(built.sharing, MpsDaemon) else None,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    if settings.observability.prometheus:
        Prometheus(
            "prometheus",
            cluster=built.cluster,
            prometheus_image=built.images["prometheus"],
            grafana_image=built.images["grafana"],
            dashboard=(MANIFESTS / module.name / "dashboard.json").read_text(),
            exporter=exporter,
            timeout_seconds=settings.timeouts.workload,
        )
    built.outputs["observability"] = {
        "exporter": settings.observability.exporter,
        "prometheus": settings.observability.prometheus,
    }
