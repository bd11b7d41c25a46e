"""Exporter of every GPU's metrics for Prometheus, with the pods that hold them."""

import pulumi
from pulumi import ResourceOptions

from components.claims import request_least_memory
from components.manifests import Document, by_kind, manifest
from components.mps_daemon import MpsDaemon
from components.objects import register
from components.pods import annotate_gpus, pod_of, remove_env, remove_volume, set_env, set_image, set_volume_path
from components.site import Site
from machine.nvidia_driver import capabilities_folder

NAMESPACE = "gpu-metrics"
NAME = "gpu-exporter"
PORT = 9400
LABELS = {"app": NAME}
EXPORTERS = ("nvml", "dcgm", "slices")
CLAIM = "ResourceClaimTemplate"


class GpuExporter(pulumi.ComponentResource):
    """Owns the DaemonSet of an exporter, the claim by which it sees every GPU, and what it may read of the API.

    `nvml` is the workshop's own exporter, `dcgm` NVIDIA's, which needs a real GPU; both publish the same counters. Ours
    adds the clients of the node's MPS daemon, and does not take an admin claim for a holder. `slices` is ours without a
    claim: it tells of MIG devices, which no admin claim may have, what their ResourceSlices say.
    """

    def __init__(
        self,
        name: str,
        *,
        site: Site,
        exporter: str,
        daemon: MpsDaemon | None = None,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`daemon` has the clients to be counted.

        Raises `ValueError` for an unknown exporter.
        """
        if exporter not in EXPORTERS:
            raise ValueError(f"exporter: {exporter!r} is none of the exporters; use {' or '.join(EXPORTERS)}")
        super().__init__("dra-workshop:gpu:GpuExporter", name, None, opts)
        documents = exporter_documents(exporter, mps=daemon is not None, gpus_digest=site.gpus_digest)
        set_image(documents["DaemonSet"], site.images["dcgm-exporter" if exporter == "dcgm" else "gpu-agents"])
        self.namespace = register(documents["Namespace"], f"{name}-namespace", site.inside(self, site.driver.ready))
        account = register(documents["ServiceAccount"], f"{name}-account", site.inside(self, [self.namespace]))
        role = register(documents["ClusterRole"], f"{name}-role", site.inside(self, [account]))
        binding = register(documents["ClusterRoleBinding"], f"{name}-role-binding", site.inside(self, [role, account]))
        gpus: list[pulumi.Resource] = []
        if CLAIM in documents:
            if site.driver.shared:
                request_least_memory(documents[CLAIM])
            gpus = [register(documents[CLAIM], f"{name}-gpus-claim", site.inside(self, [self.namespace]))]
        needed: list[pulumi.Resource] = [binding, *gpus, *(daemon.ready if daemon else [])]
        if "ConfigMap" in documents:
            needed.append(register(documents["ConfigMap"], f"{name}-counters", site.inside(self, [self.namespace])))
        options = site.inside(self, needed)
        # A pod keeps the claim that it was made with.
        options.replace_with = gpus
        options.custom_timeouts = site.rollout
        self.daemon_set = register(documents["DaemonSet"], f"{name}-daemonset", options)
        register(documents["Service"], f"{name}-service", site.inside(self, [self.namespace]))
        self.register_outputs({"exporter": exporter, "port": PORT})


def exporter_documents(exporter: str, *, mps: bool, gpus_digest: str | None) -> dict[str, Document]:
    """Documents of an exporter by their kind; `mps` lets ours ask the node's MPS daemon."""
    documents = by_kind(manifest("3-gpu-exporter.yaml"))
    simulated = gpus_digest is not None
    if exporter == "dcgm":
        documents |= by_kind(manifest("gpu-exporter-dcgm.yaml"))
    elif exporter == "slices":
        documents |= by_kind(manifest("gpu-exporter-slices.yaml"))
        del documents[CLAIM]
        set_volume_path(pod_of(documents["DaemonSet"]), "capabilities", capabilities_folder(simulated))
    if exporter != "dcgm":
        pod = pod_of(documents["DaemonSet"])
        (container,) = pod["containers"]
        set_env(container, "GPU_SIMULATED", str(simulated).lower())
        if not mps and exporter == "nvml":
            remove_env(container, "CUDA_MPS_PIPE_DIRECTORY")
            remove_volume(pod, "mps-pipe")
    if exporter != "slices":
        # NVML knows the GPUs of its start; a ResourceSlice is read at each scrape.
        annotate_gpus(documents["DaemonSet"], gpus_digest)
    return documents
