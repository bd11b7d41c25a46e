"""Module 08: access to every GPU for those who look on, and metrics."""

from components.admin_access import AdminAccess
from components.gpu_exporter import GpuExporter
from components.prometheus import Prometheus
from components.site import Site
from modules.context import Context, SharedGpu
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    site, shared_gpu, observability = context.get(Site), context.find(SharedGpu), settings.observability
    AdminAccess("admin-access", site=site)
    exporter = GpuExporter(
        "gpu-exporter",
        site=site,
        exporter=observability.exporter,
        daemon=shared_gpu.daemon if shared_gpu else None,
    )
    if observability.prometheus:
        Prometheus("prometheus", site=site, exporter=exporter, grafana=observability.grafana)
    context.outputs["observability"] = {
        "exporter": observability.exporter,
        "prometheus": observability.prometheus,
        "grafana": observability.grafana,
    }
