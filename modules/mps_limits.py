"""Module 05: the limits of MPS, and who wins."""

from components.manifests import load
from components.mps_policy import MpsPolicy, class_parameters
from components.site import Site
from components.workload import Dependencies, Workload
from modules.consumable_capacity import most_memory_mib
from modules.context import Context, SharedGpu
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    site, shared_gpu = context.get(Site), context.get(SharedGpu)
    policy = MpsPolicy(
        "mps-policy",
        site=site,
        documents=load(module.name, "policy.yaml", "class.yaml"),
        classes=class_parameters(shared_gpu.mps, most_memory_mib(settings, context)),
        daemon_image=site.images["mps-daemon"] if shared_gpu.daemon else None,
        pipe_namespaces=settings.mps_plan.pipe_namespaces,
    )
    Workload(
        "limited-client",
        site=site,
        documents=load(module.name, "limited.yaml"),
        sharing=shared_gpu.mps,
        depends_on=Dependencies([shared_gpu.workload], policy.objects),
    )
