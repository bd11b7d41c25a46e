"""Prometheus and Grafana for the GPUs' metrics."""

import hashlib
import json

import pulumi
from pulumi import Resource, ResourceOptions

from components import dra_driver, gpu_exporter
from components.gpu_exporter import GpuExporter
from components.manifests import Document, by_kind, find, manifest
from components.objects import register
from components.pods import annotate, set_image, tolerate
from components.site import Site

NAMESPACE = "monitoring"
PROMETHEUS, PROMETHEUS_PORT = "prometheus", 9090
GRAFANA, GRAFANA_PORT = "grafana", 3000
PLUGIN_PORT = 8080
# Jobs by name; the dashboard and the checks know them.
JOBS = ("gpu-exporter", "dra-driver", "kubelet")
# Names of the roles by the namespace where they hold.
ROLE_NAMES = {
    gpu_exporter.NAMESPACE: "gpu-exporter-role",
    dra_driver.NAMESPACE: "dra-driver-role",
    None: "role",
}
# Neither program reads its configuration anew by itself, so other files are other pods.
CONFIG_ANNOTATION = "dra-workshop/config"


class Prometheus(pulumi.ComponentResource):
    """Owns a Prometheus that scrapes the exporter, NVIDIA's driver and the kubelets, and on request a Grafana with a
    dashboard.

    For a workshop: one replica of each, what they keep is gone with their pods, and there is no alert.
    """

    def __init__(
        self,
        name: str,
        *,
        site: Site,
        exporter: GpuExporter,
        grafana: bool,
        opts: ResourceOptions | None = None,
    ) -> None:
        """Raises `ValueError` if the dashboard is none."""
        dashboard = find("dashboard.json").read_text()
        check_dashboard(dashboard)
        super().__init__("dra-workshop:monitoring:Prometheus", name, None, opts)
        self._name, self._site = name, site
        prometheus = by_kind(manifest("prometheus.yaml"))
        # The exporter's namespace is one of those that Prometheus is let into.
        self.namespace = register(
            prometheus["Namespace"], f"{name}-namespace", site.inside(self, [exporter.daemon_set])
        )
        account = register(prometheus["ServiceAccount"], f"{name}-account", site.inside(self, [self.namespace]))
        self._serve(PROMETHEUS, prometheus, self._access(account))
        if grafana:
            documents = by_kind(manifest("grafana.yaml"))
            documents["ConfigMap"]["data"]["gpus.json"] = dashboard
            self._serve(GRAFANA, documents)
        self.register_outputs({"prometheus": PROMETHEUS_PORT, "grafana": GRAFANA_PORT if grafana else None})

    def _access(self, account: Resource) -> list[Resource]:
        """Register the roles of Prometheus; returns their bindings, each of which comes after its role in the file."""
        bindings, roles = [], {}
        for document in manifest("prometheus-access.yaml"):
            namespace = document["metadata"].get("namespace")
            resource_name = f"{self._name}-{ROLE_NAMES[namespace]}"
            if document["kind"].endswith("Binding"):
                options = self._site.inside(self, [roles[namespace], account])
                bindings.append(register(document, f"{resource_name}-binding", options))
            else:
                roles[namespace] = register(document, resource_name, self._site.inside(self, [account]))
        return bindings

    def _serve(self, program: str, documents: dict[str, Document], access: list[Resource] | None = None) -> None:
        """Register a ConfigMap, a Deployment that reads it, and a Service."""
        config, deployment = documents["ConfigMap"], documents["Deployment"]
        set_image(deployment, self._site.images[program])
        tolerate(deployment, self._site.tolerations)
        digest = hashlib.sha256(json.dumps(config["data"], sort_keys=True).encode()).hexdigest()[:12]
        annotate(deployment, CONFIG_ANNOTATION, digest)
        inside = self._site.inside(self, [self.namespace])
        options = self._site.inside(self, [register(config, f"{self._name}-{program}-config", inside), *(access or [])])
        options.custom_timeouts = self._site.rollout
        register(deployment, f"{self._name}-{program}", options)
        register(documents["Service"], f"{self._name}-{program}-service", self._site.inside(self, [self.namespace]))


def check_dashboard(dashboard: str) -> None:
    """Raise `ValueError` where the text is no JSON of a Grafana dashboard."""
    remedy = "give the JSON model of a Grafana dashboard, such as the dashboard.json of manifests/"
    try:
        model = json.loads(dashboard)
    except json.JSONDecodeError as error:
        raise ValueError(f"dashboard: is no JSON ({error}); {remedy}") from error
    if not isinstance(model, dict) or not model.get("panels"):
        raise ValueError(f"dashboard: has no panels; {remedy}")
