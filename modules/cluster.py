"""Module 01: the cluster and its GPUs."""

from components.cluster import Cluster, ExistingCluster
from components.kind_cluster import KindCluster, KindOptions
from components.simulated_gpus import SimulatedGpus
from machine.gpus import discover_host
from machine.nvidia_driver import Mount
from modules.context import Context
from settings import Settings
from settings.catalog import Module


def build(module: Module, settings: Settings, context: Context) -> None:
    nodes, host_gpus = settings.gpu_nodes, discover_host(settings)
    if host_gpus:
        # Module 00 may be off, and a node without a driver would only be found out by the plugin.
        host_gpus.require()
        context.outputs["host"] = host_gpus.outputs
    if settings.cluster.provider == "kind":
        folders = [Mount(folder, place) for place, folder in settings.node_folders.items()]
        cluster: Cluster = KindCluster(
            "cluster",
            options=KindOptions(
                name=settings.cluster_name,
                workers=settings.cluster.workers,
                gpu_nodes=[node.node for node in nodes],
                pods_anywhere=bool(settings.gpu.tolerations),
                node_image=settings.cluster.node_image or context.images.node,
                filled_node_image=None if settings.cluster.node_image else context.images.filled_node,
                mounts=[*(host_gpus.mounts if host_gpus else ()), *folders],
                hidden_devices=host_gpus.hidden_devices if host_gpus else (),
            ),
            kubeconfig_file=settings.kubeconfig,
            load_images=context.images.to_load,
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
        counts = {node.node: (node.model or "", node.count or 0, node.mig) for node in nodes}
        context.add(SimulatedGpus("simulated-gpus", cluster=cluster, image=context.images["gpu-sim"], gpus=counts))
    context.outputs |= {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}
