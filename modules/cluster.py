"""Module 01: the cluster and its GPUs."""

from typing import TYPE_CHECKING

from components.cluster import Cluster, ExistingCluster
from components.kind_cluster import KindCluster, KindOptions
from components.simulated_gpus import SimulatedGpus
from modules import vllm
from modules.context import Context
from modules.gpus import host
from modules.module import Module

if TYPE_CHECKING:
    from settings import Settings


def build(module: Module, settings: "Settings", context: Context) -> None:
    nodes, host_gpus = settings.gpu_nodes, host(settings)
    if host_gpus:
        # Module 00 may be off, and a node without a driver would only be found out by the plugin.
        host_gpus.require()
        context.outputs["host"] = host_gpus.outputs
    if settings.cluster.provider == "kind":
        cluster: Cluster = KindCluster(
            "cluster",
            options=KindOptions(
                name=settings.cluster_name,
                workers=settings.cluster.workers,
                gpu_nodes=[node.node for node in nodes],
                node_image=settings.cluster.node_image or context.images.node,
                mounts=[*(host_gpus.mounts if host_gpus else ()), *vllm.mounts(settings)],
                hidden_devices=host_gpus.hidden_devices if host_gpus else (),
            ),
            kubeconfig_file=settings.kubeconfig,
            load_images=[*context.images.to_load, *vllm.images_to_load(settings)],
            timeout_seconds=settings.timeouts.cluster,
        )
    else:
        cluster = ExistingCluster(
            "cluster",
            kubeconfig_file=settings.kubeconfig,
            context=settings.context,
            gpu_nodes=[node.node for node in nodes],
        )
    context.add(cluster)
    if settings.gpu.source == "simulated":
        counts = {node.node: (node.model or "", node.count or 0) for node in nodes}
        context.add(SimulatedGpus("simulated-gpus", cluster=cluster, image=context.images.gpu_sim, gpus=counts))
    context.outputs |= {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}
