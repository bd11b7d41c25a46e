"""Module 08: who looks on at the GPUs, and what is to be seen."""

from typing import TYPE_CHECKING

from components.admin_access import AdminAccess
from components.gpu_exporter import DCGM_EXPORTER_IMAGE, GpuExporter
from components.manifests import MANIFESTS
from components.mps_daemon import MpsDaemon
from components.prometheus import GRAFANA_IMAGE, PROMETHEUS_IMAGE, Prometheus
from modules.module import Built, Module

if TYPE_CHECKING:
    from settings import Settings


def build(module: Module, settings: "Settings", built: Built) -> None:
    assert built.cluster, "module 08 requires 01"
    assert built.driver, "module 08 requires 02"
    simulated = built.gpus.digest if built.gpus else None
    AdminAccess(
        "admin-access",
        manifests=module.name,
        cluster=built.cluster,
        driver=built.driver,
        image=built.images.gpu_probe,
        node=settings.gpu_nodes[0].node,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    dcgm = settings.images.dcgm_exporter or DCGM_EXPORTER_IMAGE
    exporter = GpuExporter(
        "gpu-exporter",
        cluster=built.cluster,
        driver=built.driver,
        image=dcgm if settings.observability.exporter == "dcgm" else built.images.gpu_agents,
        exporter=settings.observability.exporter,
        sharing=built.sharing if isinstance(built.sharing, MpsDaemon) else None,
        simulated=simulated,
        timeout_seconds=settings.timeouts.workload,
    )
    if settings.observability.prometheus:
        Prometheus(
            "prometheus",
            cluster=built.cluster,
            prometheus_image=settings.images.prometheus or PROMETHEUS_IMAGE,
            grafana_image=settings.images.grafana or GRAFANA_IMAGE,
            dashboard=(MANIFESTS / module.name / "dashboard.json").read_text(),
            exporter=exporter,
            timeout_seconds=settings.timeouts.workload,
        )
    built.outputs["observability"] = {
        "exporter": settings.observability.exporter,
        "prometheus": settings.observability.prometheus,
    }
