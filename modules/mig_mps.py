"""Module 10.4: a MIG device for two pods, by MPS."""

from components.manifests import load
from components.mps_clients import MpsByClaim
from components.site import Site
from components.workload import Dependencies, Workload
from modules.context import Context, MigNamespace
from modules.gpus import mig_devices_for
from modules.mps import mps_outputs
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    (device,), (slice_,) = mig_devices_for(module, settings), settings.mig_slices(module)
    Workload(
        "mig-clients",
        site=context.get(Site),
        documents=load(module.name, "clients.yaml"),
        gpu=device,
        sharing=MpsByClaim(settings.mps_plan.limits, {}),
        depends_on=Dependencies(resources=context.get(MigNamespace).workload.objects[:1]),
    )
    context.outputs["mps"] = mps_outputs(settings, slice_.part)
