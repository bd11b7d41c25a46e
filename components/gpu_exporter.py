"""Metrics of every GPU for Prometheus, with the pods that hold them."""

from collections.abc import Mapping
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
from pulumi import CustomTimeouts, ResourceOptions

from components.claims import claim, every_gpu
from components.cluster import GPU_NODE_SELECTOR, Cluster
from components.dra_driver import DraDriver
from components.mps_clients import CLIENT_PIPE, PIPE_FOLDER
from components.mps_daemon import MpsDaemon
from components.rbac import grant
from toolchain import versions

NAMESPACE = "gpu-metrics"
NAME = "gpu-exporter"
CLUSTER_ROLE = "dra-workshop-gpu-exporter"
PORT, PORT_NAME = 9400, "metrics"
POD_RESOURCES = "/var/lib/kubelet/pod-resources"
SOCKET = f"{POD_RESOURCES}/kubelet.sock"
LABELS = {"app": NAME}
EXPORTERS = ("nvml", "dcgm")
DCGM_EXPORTER_IMAGE = versions.DCGM_EXPORTER_IMAGE
# What both exporters publish, by DCGM's names: the type and a word on each for DCGM's own list of fields.
COUNTERS = {
    "DCGM_FI_DEV_SM_CLOCK": ("gauge", "clock of the SMs in MHz"),
    "DCGM_FI_DEV_MEM_CLOCK": ("gauge", "clock of the memory in MHz"),
    "DCGM_FI_DEV_GPU_TEMP": ("gauge", "temperature in degrees Celsius"),
    "DCGM_FI_DEV_POWER_USAGE": ("gauge", "power in W"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("counter", "energy in mJ since the driver was loaded"),
    "DCGM_FI_DEV_GPU_UTIL": ("gauge", "time in which a kernel ran in %"),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("gauge", "time in which memory was used in %"),
    "DCGM_FI_DEV_XID_ERRORS": ("gauge", "the last XID"),
    "DCGM_FI_DEV_FB_FREE": ("gauge", "free memory in MiB"),
    "DCGM_FI_DEV_FB_USED": ("gauge", "used memory in MiB"),
    "DCGM_FI_DEV_FB_TOTAL": ("gauge", "memory in MiB"),
}
COUNTERS_FOLDER = "/etc/dra-workshop"
# NVIDIA's reads slices, to tell a device's UUID from its name; ours claims, to leave out those that only look on.
READS = {
    "nvml": {"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["get"]},
    "dcgm": {"apiGroups": ["resource.k8s.io"], "resources": ["resourceslices"], "verbs": ["get", "list", "watch"]},
}


class GpuExporter(pulumi.ComponentResource):
    """Owns the DaemonSet of an exporter, the claim by which it sees every GPU, and what it may read of the API.

    `nvml` is the workshop's own exporter, `dcgm` NVIDIA's, which needs a real GPU; both publish `COUNTERS`. Ours adds
    the clients of the node's MPS daemon, and does not take an admin claim for a holder.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        driver: DraDriver,
        image: str,
        exporter: str,
        sharing: MpsDaemon | None,
        simulated: str | None,
        timeout_seconds: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`simulated` is the digest of the simulated GPUs' configuration, None for real ones.

        `sharing` is the MPS daemon whose clients are counted. Raises `ValueError` for an unknown exporter.
        """
        if exporter not in EXPORTERS:
            raise ValueError(f"exporter: {exporter!r} is none of the exporters; use {' or '.join(EXPORTERS)}")
        super().__init__("dra-workshop:gpu:GpuExporter", name, None, opts)
        self.namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={
                "name": NAMESPACE,
                "labels": {
                    # Its claim sees every GPU, those that others hold as well.
                    "resource.kubernetes.io/admin-access": "true",
                    # The kubelet's socket is a folder of the node; nothing is privileged. docs/security.md has the
                    # reasons.
                    "pod-security.kubernetes.io/enforce": "privileged",
                },
            },
            opts=cluster.inside(self, driver.ready),
        )
        account = k8s.core.v1.ServiceAccount(
            f"{name}-account",
            metadata={"name": NAME, "namespace": NAMESPACE},
            opts=cluster.inside(self, [self.namespace]),
        )
        binding = grant(
            f"{name}-role",
            cluster=cluster,
            parent=self,
            role=CLUSTER_ROLE,
            rules=[READS[exporter]],
            account=(NAMESPACE, NAME),
            depends_on=[account],
        )
        gpus = claim(f"{name}-gpus-claim", every_gpu(NAMESPACE, driver.shared), cluster.inside(self, [self.namespace]))
        needed: list[pulumi.Resource] = [binding, gpus, *(sharing.ready if sharing else [])]
        if exporter == "dcgm":
            needed.append(
                k8s.core.v1.ConfigMap(
                    f"{name}-counters",
                    metadata={"name": "counters", "namespace": NAMESPACE},
                    data={"counters.csv": counters_csv()},
                    opts=cluster.inside(self, [self.namespace]),
                )
            )
        options = cluster.inside(self, needed)
        # A pod keeps the claim that it was made with.
        options.replace_with = [gpus]
        timeout = f"{timeout_seconds}s"
        options.custom_timeouts = CustomTimeouts(create=timeout, update=timeout)
        spec: Any = daemon_set_spec(image, exporter, sharing is not None, simulated)
        self.daemon_set = k8s.apps.v1.DaemonSet(
            f"{name}-daemonset", metadata={"name": NAME, "namespace": NAMESPACE}, spec=spec, opts=options
        )
        # Every node's exporter tells of its own GPUs only, so there is nothing to balance.
        ports = [{"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME}]
        service: Any = {"clusterIP": "None", "selector": LABELS, "ports": ports}
        k8s.core.v1.Service(
            f"{name}-service",
            metadata={"name": NAME, "namespace": NAMESPACE, "labels": LABELS},
            spec=service,
            opts=cluster.inside(self, [self.namespace]),
        )
        self.register_outputs({"exporter": exporter, "port": PORT})


def counters_csv() -> str:
    """`COUNTERS` as NVIDIA's exporter reads them: field, type, help."""
    return "".join(f"{name}, {kind}, {words}\n" for name, (kind, words) in COUNTERS.items())


def daemon_set_spec(image: str, exporter: str, mps: bool, simulated: str | None) -> dict[str, Any]:
    """The DaemonSet's spec; `mps` lets our exporter ask the node's MPS daemon."""
    annotations = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    if simulated:
        # An exporter and its claim know the GPUs that were there when they started.
        annotations["dra-workshop/gpus"] = simulated
    container = _dcgm(image) if exporter == "dcgm" else _nvml(image, mps, simulated is not None)
    metadata = {"labels": LABELS, "annotations": annotations}
    return {"selector": {"matchLabels": LABELS}, "template": {"metadata": metadata, "spec": _pod_spec(container)}}


def _pod_spec(container: dict[str, Any]) -> dict[str, Any]:
    volumes: dict[str, dict[str, Any]] = {
        "pod-resources": {"hostPath": {"path": POD_RESOURCES, "type": "Directory"}},
        # Not made if missing: the daemon makes it. After a restart of the node the exporter waits for it.
        "mps-pipe": {"hostPath": {"path": PIPE_FOLDER, "type": "Directory"}},
        "counters": {"configMap": {"name": "counters"}},
    }
    mounted = [mount["name"] for mount in container["volumeMounts"]]
    return {
        "nodeSelector": GPU_NODE_SELECTOR,
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 5,
        "serviceAccountName": NAME,
        "automountServiceAccountToken": True,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "resourceClaims": [{"name": "gpus", "resourceClaimTemplateName": "every-gpu"}],
        "volumes": [{"name": name, **volumes[name]} for name in mounted],
    }


def _nvml(image: str, mps: bool, simulated: bool) -> dict[str, Any]:
    container = _container(image, "/healthz", memory=("64Mi", "256Mi"))
    container["command"] = [NAME]
    container["securityContext"]["readOnlyRootFilesystem"] = True
    container["env"] += [
        {"name": "POD_RESOURCES_SOCKET", "value": SOCKET},
        {"name": "GPU_SIMULATED", "value": str(simulated).lower()},
    ]
    if mps:
        container["env"].append({"name": "CUDA_MPS_PIPE_DIRECTORY", "value": CLIENT_PIPE})
        # It asks the daemon and is no client: it needs none of the memory that clients share.
        container["volumeMounts"].append({"name": "mps-pipe", "mountPath": CLIENT_PIPE, "readOnly": True})
    return container


def _dcgm(image: str) -> dict[str, Any]:
    # Upstream's chart adds SYS_ADMIN, which only profiling metrics (DCGM_FI_PROF_...) need; none of COUNTERS is one.
    # Its root stays writable, as upstream has it: DCGM writes beside its programs.
    container = _container(image, "/health", memory=("128Mi", "512Mi"))
    container["args"] = ["-f", f"{COUNTERS_FOLDER}/counters.csv"]
    container["env"] += [
        {"name": "DCGM_EXPORTER_LISTEN", "value": f":{PORT}"},
        {"name": "DCGM_EXPORTER_KUBERNETES", "value": "true"},
        {"name": "KUBERNETES_ENABLE_DRA", "value": "true"},
    ]
    container["volumeMounts"].append({"name": "counters", "mountPath": COUNTERS_FOLDER, "readOnly": True})
    return container


def _container(image: str, health: str, memory: tuple[str, str]) -> dict[str, Any]:
    """What both have; `memory` is what is requested, and the limit."""
    probe: Mapping[str, Any] = {"httpGet": {"path": health, "port": PORT_NAME}, "timeoutSeconds": 5}
    return {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "ports": [{"name": PORT_NAME, "containerPort": PORT}],
        "startupProbe": {**probe, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": {**probe, "periodSeconds": 10},
        "livenessProbe": {**probe, "periodSeconds": 30},
        # The kubelet's socket belongs to root, and only its owner may connect; that needs no capability.
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        "resources": {
            "requests": {"cpu": "1m", "memory": memory[0]},
            "limits": {"memory": memory[1]},
            "claims": [{"name": "gpus"}],
        },
        "volumeMounts": [{"name": "pod-resources", "mountPath": POD_RESOURCES, "readOnly": True}],
    }
