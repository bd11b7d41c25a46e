"""Module 10.5: from a MIG device to the container that has it."""

from components.gpu_exporter import GpuExporter
from components.prometheus import Prometheus
from components.site import Site
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    """What is traced are the tenants of the other modules."""
    site, observability = context.get(Site), settings.observability
    exporter = GpuExporter("gpu-exporter", site=site, exporter="slices")
    if observability.prometheus:
        Prometheus("prometheus", site=site, exporter=exporter, grafana=observability.grafana)
