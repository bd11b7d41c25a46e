"""Prometheus and Grafana for the GPUs' metrics."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml
from pulumi import CustomTimeouts, Resource, ResourceOptions

from components import dra_driver, gpu_exporter
from components.cluster import Cluster
from components.gpu_exporter import GpuExporter
from components.rbac import grant
from toolchain import versions

NAMESPACE = "monitoring"
PROMETHEUS_IMAGE, GRAFANA_IMAGE = versions.PROMETHEUS_IMAGE, versions.GRAFANA_IMAGE
PROMETHEUS, PROMETHEUS_PORT = "prometheus", 9090
GRAFANA, GRAFANA_PORT = "grafana", 3000
PLUGIN_PORT = 8080
SCRAPE_INTERVAL = "15s"
ROLE = "dra-workshop-prometheus"
DATASOURCE = "prometheus"
FOLDER = "/etc/dra-workshop/dashboards"
# Jobs by name; the dashboard and the checks know them.
JOBS = ("gpu-exporter", "dra-driver", "kubelet")
# Where a pod may be found, by its job: namespace, label, port.
PODS = {
    "gpu-exporter": (gpu_exporter.NAMESPACE, ("app", gpu_exporter.NAME), gpu_exporter.PORT),
    "dra-driver": (dra_driver.NAMESPACE, ("dra-driver-nvidia-gpu-component", "kubelet-plugin"), PLUGIN_PORT),
}
TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
# Nobody logs in: whoever reaches the port may look, and there is no administrator whose password could be known.
GRAFANA_SETTINGS = {
    "GF_AUTH_ANONYMOUS_ENABLED": "true",
    "GF_AUTH_ANONYMOUS_ORG_ROLE": "Viewer",
    "GF_AUTH_BASIC_ENABLED": "false",
    "GF_AUTH_DISABLE_LOGIN_FORM": "true",
    "GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION": "true",
    # Nothing is asked of, or told to, sites outside the cluster.
    "GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES": "false",
    "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
    "GF_ANALYTICS_REPORTING_ENABLED": "false",
    "GF_NEWS_NEWS_FEED_ENABLED": "false",
    "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    "GF_PLUGINS_PUBLIC_KEY_RETRIEVAL_DISABLED": "true",
    "GF_SECURITY_DISABLE_GRAVATAR": "true",
}


class Prometheus(pulumi.ComponentResource):
    """Owns a Prometheus that scrapes the exporter, NVIDIA's driver and the kubelets, and a Grafana with a dashboard.

    For a workshop: one replica of each, what they keep is gone with their pods, and there is no alert.
    """

    def __init__(
        self,
        name: str,
        *,
        cluster: Cluster,
        prometheus_image: str,
        grafana_image: str,
        dashboard: str,
        exporter: GpuExporter,
        timeout_seconds: int,
        opts: ResourceOptions | None = None,
    ) -> None:
        """`dashboard` is Grafana's JSON as text. Raises `ValueError` if it is no dashboard."""
        _check(dashboard)
        super().__init__("dra-workshop:monitoring:Prometheus", name, None, opts)
        self.cluster, self.timeout = cluster, f"{timeout_seconds}s"
        # The exporter's namespace is one of those that Prometheus is let into.
        self.namespace = k8s.core.v1.Namespace(
            f"{name}-namespace",
            metadata={"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            opts=cluster.inside(self, [exporter.daemon_set]),
        )
        self._serve(
            name,
            PROMETHEUS,
            PROMETHEUS_PORT,
            {"prometheus.yml": yaml.safe_dump(scrape_config(), sort_keys=False)},
            prometheus_container(prometheus_image),
            ["data"],
            65534,
            self._access(name),
        )
        files = {
            "datasources.yaml": yaml.safe_dump(datasource(), sort_keys=False),
            "dashboards.yaml": yaml.safe_dump(dashboards(), sort_keys=False),
            "gpus.json": dashboard,
        }
        self._serve(
            name, GRAFANA, GRAFANA_PORT, files, grafana_container(grafana_image), ["data", "logs", "tmp"], 472, []
        )
        self.register_outputs({"prometheus": PROMETHEUS_PORT, "grafana": GRAFANA_PORT})

    def _access(self, name: str) -> list[Resource]:
        """What Prometheus may read: the pods of two namespaces, the list of nodes, and the kubelets' metrics."""
        account = k8s.core.v1.ServiceAccount(
            f"{name}-account",
            metadata={"name": PROMETHEUS, "namespace": NAMESPACE},
            opts=self.cluster.inside(self, [self.namespace]),
        )
        pods = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
        nodes = [
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
            # Not nodes/proxy, which would let it run commands in every pod.
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
        ]
        where = {f"{name}-{job}-role": (namespace, pods) for job, (namespace, _, _) in PODS.items()}
        return [
            grant(
                resource,
                cluster=self.cluster,
                parent=self,
                role=ROLE,
                rules=rules,
                account=(NAMESPACE, PROMETHEUS),
                namespace=namespace,
                depends_on=[account],
            )
            for resource, (namespace, rules) in {**where, f"{name}-role": (None, nodes)}.items()
        ]

    def _serve(
        self,
        name: str,
        program: str,
        port: int,
        files: Mapping[str, str],
        container: dict[str, Any],
        scratch: Sequence[str],
        user: int,
        access: Sequence[Resource],
    ) -> None:
        """A ConfigMap, a Deployment that reads it, and a Service; with `access` the pod uses its account."""
        config = k8s.core.v1.ConfigMap(
            f"{name}-{program}-config",
            metadata={"name": program, "namespace": NAMESPACE},
            data=dict(files),
            opts=self.cluster.inside(self, [self.namespace]),
        )
        options = self.cluster.inside(self, [config, *access])
        options.custom_timeouts = CustomTimeouts(create=self.timeout, update=self.timeout)
        labels = {"app": program}
        pod = {
            "automountServiceAccountToken": bool(access),
            **({"serviceAccountName": PROMETHEUS} if access else {}),
            "terminationGracePeriodSeconds": 10,
            # Their own users in the images; the group may write to the volumes.
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": user,
                "fsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "config", "configMap": {"name": program}},
                *({"name": folder, "emptyDir": {"sizeLimit": "2Gi"}} for folder in scratch),
            ],
        }
        # Neither reads its configuration anew by itself, so other files are other pods.
        digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12]
        metadata = {"labels": labels, "annotations": {"dra-workshop/config": digest}}
        spec: Any = {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": metadata, "spec": pod},
        }
        k8s.apps.v1.Deployment(
            f"{name}-{program}", metadata={"name": program, "namespace": NAMESPACE}, spec=spec, opts=options
        )
        service: Any = {"selector": labels, "ports": [{"name": "http", "port": port, "targetPort": "http"}]}
        k8s.core.v1.Service(
            f"{name}-{program}-service",
            metadata={"name": program, "namespace": NAMESPACE, "labels": labels},
            spec=service,
            opts=self.cluster.inside(self, [self.namespace]),
        )


def _check(dashboard: str) -> None:
    remedy = "give the JSON model of a Grafana dashboard, such as manifests/08-observability/dashboard.json"
    try:
        found = json.loads(dashboard)
    except json.JSONDecodeError as error:
        raise ValueError(f"dashboard: is no JSON ({error}); {remedy}") from error
    if not isinstance(found, dict) or not found.get("panels"):
        raise ValueError(f"dashboard: has no panels; {remedy}")


def scrape_config() -> dict[str, Any]:
    """Prometheus' configuration: a job for each of `JOBS`."""
    node = {"source_labels": ["__meta_kubernetes_pod_node_name"], "target_label": "node"}
    pods = [
        {
            "job_name": job,
            "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
            "relabel_configs": [
                {
                    "source_labels": [f"__meta_kubernetes_pod_label_{key.replace('-', '_')}"],
                    "regex": value,
                    "action": "keep",
                },
                # The driver's pods name no port; targets that become the same are scraped once.
                {
                    "source_labels": ["__meta_kubernetes_pod_ip"],
                    "target_label": "__address__",
                    "replacement": f"$1:{port}",
                },
                node,
            ],
        }
        for job, (namespace, (key, value), port) in PODS.items()
    ]
    kubelet = {
        "job_name": "kubelet",
        "scheme": "https",
        "authorization": {"credentials_file": TOKEN_FILE},
        # A kubelet's certificate is its own unless the cluster signs those: then give its authority instead.
        "tls_config": {"insecure_skip_verify": True},
        "kubernetes_sd_configs": [{"role": "node"}],
        "relabel_configs": [{"source_labels": ["__meta_kubernetes_node_name"], "target_label": "node"}],
        # Of thousands of series those of DRA.
        "metric_relabel_configs": [{"source_labels": ["__name__"], "regex": "dra_.*", "action": "keep"}],
    }
    return {"global": {"scrape_interval": SCRAPE_INTERVAL}, "scrape_configs": [*pods, kubelet]}


def datasource() -> dict[str, Any]:
    """Grafana's only data source."""
    source = {
        "name": "Prometheus",
        "uid": DATASOURCE,
        "type": "prometheus",
        "access": "proxy",
        "url": f"http://{PROMETHEUS}:{PROMETHEUS_PORT}",
        "isDefault": True,
        "editable": False,
        "jsonData": {"timeInterval": SCRAPE_INTERVAL},
    }
    return {"apiVersion": 1, "datasources": [source]}


def dashboards() -> dict[str, Any]:
    """Where Grafana finds its dashboards."""
    provider = {"name": "dra-workshop", "type": "file", "allowUiUpdates": False, "options": {"path": FOLDER}}
    return {"apiVersion": 1, "providers": [provider]}


def prometheus_container(image: str) -> dict[str, Any]:
    """Prometheus, whose data lasts as long as its pod."""
    return {
        "name": PROMETHEUS,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/prometheus",
            "--storage.tsdb.retention.time=1d",
            "--storage.tsdb.retention.size=1GB",
        ],
        "ports": [{"name": "http", "containerPort": PROMETHEUS_PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/-/healthy", "port": "http"}, "periodSeconds": 30},
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [
            {"name": "config", "mountPath": "/etc/prometheus", "readOnly": True},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }


def grafana_container(image: str) -> dict[str, Any]:
    """Grafana with what it is to show, and nothing to change."""
    provisioning = "/etc/grafana/provisioning"
    files = {
        "datasources.yaml": f"{provisioning}/datasources/datasources.yaml",
        "dashboards.yaml": f"{provisioning}/dashboards/dashboards.yaml",
        "gpus.json": f"{FOLDER}/gpus.json",
    }
    return {
        "name": GRAFANA,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "env": [{"name": key, "value": value} for key, value in GRAFANA_SETTINGS.items()],
        "ports": [{"name": "http", "containerPort": GRAFANA_PORT}],
        "readinessProbe": {"httpGet": {"path": "/api/health", "port": "http"}, "periodSeconds": 5},
        "livenessProbe": {"httpGet": {"path": "/api/health", "port": "http"}, "periodSeconds": 30},
        "securityContext": CONTAINER_SECURITY,
        "resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "volumeMounts": [
            *({"name": "config", "mountPath": path, "subPath": key, "readOnly": True} for key, path in files.items()),
            {"name": "data", "mountPath": "/var/lib/grafana"},
            {"name": "logs", "mountPath": "/var/log/grafana"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
