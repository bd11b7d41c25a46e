"""Module 01: the cluster and its GPUs."""

from components.cluster import Cluster, ExistingCluster
from components.kind_cluster import KindCluster
from components.simulated_gpus import SimulatedGpus
from machine.gpus import discover_host
from machine.nvidia_driver import Mount
from modules.module import Built, Module
from settings import Settings


def build(module: Module, settings: Settings, built: Built) -> None:
    nodes, found = settings.gpu_nodes, discover_host(settings)
    if found:
        # Module 00 may be off, and a node without a driver would only be found out by the plugin.
        found.require()
        built.outputs["host"] = found.outputs
    if settings.cluster.provider == "kind":
        folders = [Mount(folder, place) for place, folder in settings.node_folders.items()]
        cluster: Cluster = KindCluster(
            "cluster",
            cluster_name=settings.cluster_name,
            workers=settings.cluster.workers,
            gpu_nodes=[node.node for node in nodes],
            node_image=settings.cluster.node_image or built.images.node,
            kubeconfig_file=settings.kubeconfig,
            load_images=built.images.to_load,
            timeout_seconds=settings.timeouts.cluster,
            mounts=[
                *(found.mounts if found else ()),
                *folders,
            ],
            hidden_devices=found.hidden_devices if found else (),
        )
    else:
        cluster = ExistingCluster(
            "cluster",
            kubeconfig_file=settings.kubeconfig,
            context=settings.context,
            gpu_nodes=[node.node for node in nodes],
        )
    built.cluster = cluster
    if settings.gpu.source == "simulated":
        counts = {node.node: (node.model or "", node.count or 0) for node in nodes}
        built.gpus = SimulatedGpus("simulated-gpus", cluster=cluster, image=built.images["gpu-sim"], gpus=counts)
    built.outputs |= {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}
