"""The exporter, those who look on, Prometheus and Grafana, the taint keeper; what the dashboard asks for exists."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import admin_access, dra_driver, gpu_exporter, prometheus, taint_keeper
from components.admin_access import AdminAccess
from components.cluster import ExistingCluster
from components.dra_driver import DraDriver, DriverOptions, ExpectedGpus
from components.gpu_exporter import GpuExporter, exporter_documents
from components.manifests import MANIFESTS, by_kind, load, manifest
from components.mps_daemon import DaemonOptions, MpsDaemon
from components.pods import on_node, pod_of
from components.prometheus import Prometheus
from components.site import Site
from components.taint_keeper import TaintKeeper
from gpus.mps import Limits
from machine.images import Images
from settings import catalog
from tests.golden.recorder import CHECKOUT, Recording, run
from tests.golden.stacks import FOLDER

IMAGES = Images(
    "node:v1",
    {
        **{name: f"{name}:v1" for name in ("dra-driver", "mps-daemon", "gpu-agents")},
        "gpu-probe": "gpu-probe:v2",
        **{name: image.upstream for name, image in catalog.images().items() if image.upstream},
    },
)
DASHBOARD = MANIFESTS / "08-observability" / "dashboard.json"
NAMESPACE = "kubernetes:core/v1:Namespace"
LEVEL, ADMIN = "pod-security.kubernetes.io/enforce", "resource.kubernetes.io/admin-access"
# NVIDIA's driver, pkg/metrics/dra_requests.go of v0.5.0: name, type, labels. v0.4.1 has the same.
DRIVER = {
    "nvidia_dra_requests_total": ("counter", {"driver", "operation"}),
    "nvidia_dra_request_duration_seconds": ("histogram", {"driver", "operation"}),
    "nvidia_dra_requests_inflight": ("gauge", {"driver", "operation"}),
    "nvidia_dra_prepared_devices": ("gauge", {"node", "driver", "device_type"}),
    "nvidia_dra_node_prepare_errors_total": ("counter", {"driver", "error_type"}),
    "nvidia_dra_node_unprepare_errors_total": ("counter", {"driver", "error_type"}),
}
# Kubernetes, pkg/kubelet/metrics/metrics.go of v1.37.2.
KUBELET = {"dra_operations_duration_seconds": ("histogram", {"operation_name", "is_error"})}
# The exporter's own, beside those of NVML's readings: images/gpu-agents/gpu_agents/collector.py.
OURS = {
    "gpu_simulated": {"UUID"},
    "mps_up": {"Hostname"},
    "mps_servers": {"Hostname"},
    "mps_clients": {"UUID", "gpu", "Hostname"},
    "gpu_exporter_scrape_errors_total": {"source"},
}
# What the configuration of Prometheus adds to every series.
ADDED = {"node", "job", "instance", "le"}
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}


@pytest.fixture(scope="module")
def agents() -> Iterator[Any]:
    """The exporter's package, from its image's folder."""
    folder = str(CHECKOUT / "images" / "gpu-agents")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def exported(agents: Any) -> dict[str, set[str]]:
    """Metric -> labels, as the exporter's own code has them."""
    collector, gpus, pods = (agents(f"gpu_agents.{name}") for name in ("collector", "gpus", "pods"))
    gpu = gpus.Gpu(handle=None, index=0, minor=0, uuid="GPU-0", pci_bus_id="0", model="a GPU")
    holder = pods.Holder("namespace", "pod", "container", "namespace", "claim", "node", "gpu-0")
    made = collector.GpuCollector(hostname="node", pod_resources="", mps_pipe=False, simulated=False)
    labels = set(made._labels(gpu, holder))
    assert labels == set(made._labels(gpu, None))
    return {**dict.fromkeys([*(reading.name for reading in gpus.READINGS), gpus.XID], labels), **OURS}


def record(
    exporter: str = "nvml",
    simulated: str | None = "0123",
    mps: bool = True,
    shares: str | None = None,
    divided: bool = False,
) -> Recording:
    def program() -> None:
        cluster = ExistingCluster(
            "cluster", kubeconfig_file=FOLDER / "kubeconfig.yaml", context="lab", gpu_nodes=["a-node"]
        )
        driver = DraDriver(
            "dra-driver",
            cluster=cluster,
            gpus=None,
            options=DriverOptions(
                image="registry.example.com/dra-driver:v1",
                driver_root="/",
                feature_gates={},
                log_verbosity=4,
                timeout_seconds=60,
                consumable_shares=shares,
            ),
            expected=ExpectedGpus({"a-node": 0}),
        )
        site = Site(cluster, driver, IMAGES, ("a-node",), simulated, timeout_seconds=60)
        limits = Limits(active_thread_percentage=50, pinned_device_memory_limit="8Gi")
        daemon = MpsDaemon("mps-daemon", site=site, options=DaemonOptions(limits, classes={}))
        made = GpuExporter("gpu-exporter", site=site, exporter=exporter, daemon=daemon if mps else None)
        AdminAccess("admin-access", site=site)
        TaintKeeper("taint-keeper", site=site, divided_gpus=divided)
        Prometheus("prometheus", site=site, exporter=made)

    return run(program, "test")


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record()


def pod(recording: Recording, name: str) -> dict[str, Any]:
    return recording.resources[name].inputs["spec"]["template"]["spec"]


PODS = {
    "gpu-exporter-daemonset": "gpu-metrics",
    "admin-access-observer-deployment": "gpu-admin",
    "taint-keeper-deployment": "gpu-health",
    "prometheus-prometheus": "monitoring",
    "prometheus-grafana": "monitoring",
}


@pytest.mark.parametrize("name", PODS)
def test_pods_drop_every_capability_and_ask_for_what_they_need(recording: Recording, name: str):
    spec = pod(recording, name)
    assert recording.resources[name].inputs["metadata"]["namespace"] == PODS[name]
    assert not {"hostPID", "hostIPC", "hostNetwork", "initContainers"} & spec.keys()
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    context = container["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]} and context["allowPrivilegeEscalation"] is False
    assert not context.get("privileged")
    assert container["imagePullPolicy"] == "IfNotPresent"
    assert {"cpu", "memory"} <= container["resources"]["requests"].keys() and container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", sorted(PODS.keys() - {"gpu-exporter-daemonset"}))
def test_only_the_exporter_needs_more_than_a_restricted_namespace_allows(recording: Recording, name: str):
    levels = {r.inputs["metadata"]["name"]: r.inputs["metadata"]["labels"] for r in recording.of_type(NAMESPACE)}
    assert levels[PODS[name]][LEVEL] == "restricted"
    spec = pod(recording, name)
    assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] > 0
    assert not [volume for volume in spec.get("volumes", []) if "hostPath" in volume]


def test_only_those_who_look_on_may_have_admin_claims(recording: Recording):
    labelled = {
        r.inputs["metadata"]["name"] for r in recording.of_type(NAMESPACE) if ADMIN in r.inputs["metadata"]["labels"]
    }
    assert labelled == {"mps-system", "gpu-metrics", "gpu-admin"}
    looking_on = {
        r.inputs["metadata"]["namespace"]
        for r in recording.resources.values()
        if '"adminAccess": true' in json.dumps(r.inputs)
    }
    assert looking_on == labelled


# Claims of those who look on; the MPS daemon is one of them.
LOOK_ON = ("mps-daemon-gpus-claim", "gpu-exporter-gpus-claim", "admin-access-every-gpu-claim")
EVERY_GPU = {
    "adminAccess": True,
    "allocationMode": "All",
    "deviceClassName": "gpu.nvidia.com",
    "tolerations": [{"effect": "NoSchedule", "operator": "Exists"}, {"effect": "NoExecute", "operator": "Exists"}],
}


def asked(recording: Recording, name: str) -> dict[str, Any]:
    """What the only request of a claim template asks for."""
    (request,) = recording.resources[name].inputs["spec"]["spec"]["devices"]["requests"]
    return request["exactly"]


@pytest.mark.parametrize("name", LOOK_ON)
def test_who_looks_on_sees_gpus_that_failed_as_well(recording: Recording, name: str):
    assert asked(recording, name) == EVERY_GPU


@pytest.mark.parametrize("shares", ["memory", "unlimited", "8"])
def test_who_looks_on_asks_for_the_least_memory_where_claims_share_gpus(shares: str):
    # Kubernetes 1.37 allocates an admin claim only where what it asks for would fit: without a request, all memory.
    shared = record(shares=shares)
    for name in LOOK_ON:
        assert asked(shared, name) == {**EVERY_GPU, "capacity": {"requests": {"memory": "1Mi"}}}, name


def test_manifests_of_those_who_look_on_ask_for_the_same():
    files = ("mps-daemon.yaml", "3-gpu-exporter.yaml", "1-admin.yaml")
    claims = [by_kind(manifest(file))["ResourceClaimTemplate"] for file in files]
    assert len({claim["metadata"]["namespace"] for claim in claims}) == len(claims)
    for claim in claims:
        (request,) = claim["spec"]["spec"]["devices"]["requests"]
        assert request["exactly"] == EVERY_GPU


def test_names_that_checks_use_are_those_of_the_manifests():
    exporter = by_kind(manifest("3-gpu-exporter.yaml"))
    metadata, (port,) = exporter["DaemonSet"]["metadata"], exporter["Service"]["spec"]["ports"]
    assert (metadata["namespace"], metadata["name"]) == (gpu_exporter.NAMESPACE, gpu_exporter.NAME)
    assert exporter["DaemonSet"]["spec"]["selector"]["matchLabels"] == gpu_exporter.LABELS
    assert port["port"] == gpu_exporter.PORT
    keeper = by_kind(manifest("taint-keeper.yaml"))["Deployment"]["metadata"]
    assert (keeper["namespace"], keeper["name"]) == (taint_keeper.NAMESPACE, taint_keeper.NAME)
    admin = by_kind(manifest("1-admin.yaml"))["Deployment"]["metadata"]
    assert (admin["namespace"], admin["name"]) == (admin_access.NAMESPACE, admin_access.OBSERVER)
    assert by_kind(manifest("2-tenant.yaml"))["Namespace"]["metadata"]["name"] == admin_access.TENANT
    for program, port in (("prometheus", prometheus.PROMETHEUS_PORT), ("grafana", prometheus.GRAFANA_PORT)):
        service = by_kind(manifest(f"{program}.yaml"))["Service"]
        assert (service["metadata"]["namespace"], service["spec"]["ports"][0]["port"]) == (prometheus.NAMESPACE, port)
    (driver,) = manifest("dra-driver.yaml")
    assert driver["metadata"]["name"] == dra_driver.NAMESPACE


def test_exporter_reads_two_folders_of_the_node_and_writes_none(recording: Recording):
    spec = pod(recording, "gpu-exporter-daemonset")
    paths = {volume["name"]: volume["hostPath"] for volume in spec["volumes"]}
    assert {name: path["path"] for name, path in paths.items()} == {
        "pod-resources": "/var/lib/kubelet/pod-resources",
        "mps-pipe": "/run/dra-workshop/mps/pipe",
    }
    assert {path["type"] for path in paths.values()} == {"Directory"}
    (container,) = spec["containers"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_exporter_comes_after_the_daemon_that_makes_the_pipe(recording: Recording):
    needed = recording.resources["gpu-exporter-daemonset"].depends_on
    assert {"mps-daemon-limits", "gpu-exporter-gpus-claim", "gpu-exporter-role-binding"} <= set(needed)


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        variable["name"]: variable.get("value", variable.get("valueFrom")) for variable in spec["containers"][0]["env"]
    }


def test_exporter_is_told_what_it_cannot_know(recording: Recording):
    assert environment(pod(recording, "gpu-exporter-daemonset")) == {
        "NODE_NAME": {"fieldRef": {"fieldPath": "spec.nodeName"}},
        "POD_RESOURCES_SOCKET": "/var/lib/kubelet/pod-resources/kubelet.sock",
        "GPU_SIMULATED": "true",
        "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps",
    }


def test_exporter_without_a_daemon_of_the_node_has_no_pipe():
    spec = pod_of(exporter_documents("nvml", mps=False, gpus_digest=None)["DaemonSet"])
    assert "CUDA_MPS_PIPE_DIRECTORY" not in environment(spec) and environment(spec)["GPU_SIMULATED"] == "false"
    assert [volume["name"] for volume in spec["volumes"]] == ["pod-resources"]


def test_every_variable_is_one_that_the_exporter_reads(agents: Any, recording: Recording):
    told = agents("gpu_agents.exporter").ENVIRONMENT
    assert all(name in told for name in environment(pod(recording, "gpu-exporter-daemonset")))
    read = (CHECKOUT / "images/gpu-agents/gpu_agents/taint_keeper.py").read_text()
    assert all(f'"{name}"' in read for name in environment(pod(recording, "taint-keeper-deployment")))


def test_programs_are_those_of_the_image(recording: Recording):
    programs = {file.name for file in (CHECKOUT / "images/gpu-agents/bin").iterdir()}
    for name in ("gpu-exporter-daemonset", "taint-keeper-deployment"):
        (program,) = pod(recording, name)["containers"][0]["command"]
        assert program in programs


def test_other_simulated_gpus_restart_those_who_look_on():
    names = ("gpu-exporter-daemonset", "admin-access-observer-deployment")
    before, after = record(simulated="a"), record(simulated="b")
    for name in names:
        notes = [r.resources[name].inputs["spec"]["template"]["metadata"]["annotations"] for r in (before, after)]
        assert [note["dra-workshop/gpus"] for note in notes] == ["a", "b"]


def test_exporter_may_read_one_kind_of_object_and_nothing_else(recording: Recording):
    rules = recording.resources["gpu-exporter-role"].inputs["rules"]
    assert rules == [{"apiGroups": ["resource.k8s.io"], "resources": ["resourceclaims"], "verbs": ["get"]}]


def test_nvidias_exporter_publishes_the_same_names_without_a_capability(agents: Any, exported: dict[str, set[str]]):
    gpus = agents("gpu_agents.gpus")
    own = {reading.name: reading.kind for reading in gpus.READINGS} | {gpus.XID: "gauge"}
    text = by_kind(manifest("gpu-exporter-dcgm.yaml"))["ConfigMap"]["data"]["counters.csv"]
    lines = [line.split(", ") for line in text.splitlines()]
    assert {len(line) for line in lines} == {3} and {name: kind for name, kind, _ in lines} == own
    recording = record("dcgm", simulated=None)
    spec = pod(recording, "gpu-exporter-daemonset")
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["args"] == ["-f", "/etc/dra-workshop/counters.csv"]
    assert environment(spec)["KUBERNETES_ENABLE_DRA"] == "true"
    assert recording.resources["gpu-exporter-counters"].inputs["data"] == {"counters.csv": text}
    assert {volume["name"] for volume in spec["volumes"]} == {"pod-resources", "counters"}


def test_unknown_exporter_is_told_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"exporter: 'dcmg' is none of the exporters; use nvml or dcgm"):
        record("dcmg")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", r"is no JSON .*; give the JSON model of a Grafana dashboard"),
        ("[]", r"has no panels"),
        ('{"panels": []}', r"has no panels; give"),
    ],
)
def test_dashboard_that_is_none_is_told(text: str, problem: str):
    with pytest.raises(ValueError, match=problem):
        prometheus.check_dashboard(text)


@pytest.mark.parametrize("file", ["gpu-exporter-dcgm.yaml", "prometheus.yaml", "grafana.yaml"])
def test_upstreams_images_are_pinned(file: str):
    documents = by_kind(manifest(file))
    (container,) = pod_of(documents.get("DaemonSet") or documents["Deployment"])["containers"]
    image = container["image"]
    registry, _, rest = image.partition("/")
    assert "." in registry and re.fullmatch(r"[a-z0-9/-]+:v?\d+(\.\d+){2}[a-z0-9.-]*", rest)


def test_a_namespace_is_made_before_what_is_in_it_and_the_observer_last_of_its_own(recording: Recording):
    observer = recording.resources["admin-access-observer-deployment"]
    assert {"admin-access-gpu-admin-namespace", "admin-access-every-gpu-claim"} <= set(observer.depends_on)
    assert observer.options["replaceWith"] == ["admin-access-every-gpu-claim"]
    spec = pod(recording, observer.name)
    assert spec["affinity"] == on_node("a-node")
    assert spec["containers"][0]["image"] == "gpu-probe:v2"


def test_every_object_of_the_folder_is_made(recording: Recording):
    made = [r.inputs["metadata"]["name"] for r in recording.resources.values() if r.parent == "admin-access"]
    documents = load("08-observability", "1-admin.yaml", "2-tenant.yaml")
    assert sorted(made) == sorted(document["metadata"]["name"] for document in documents)


def test_tenant_may_do_nothing_to_namespaces(recording: Recording):
    rules = recording.resources["admin-access-tenant-role"].inputs["rules"]
    may = {resource for rule in rules for resource in rule["resources"]}
    assert may == {"pods", "pods/log", "events", "deployments", "resourceclaims", "resourceclaimtemplates"}
    assert "*" not in json.dumps(rules)
    bound = recording.resources["admin-access-tenant-rolebinding"].inputs
    assert bound["roleRef"]["name"] == "tenant"
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "tenant", "namespace": "tenant"}]


def test_keeper_may_make_rules_and_not_change_them(recording: Recording):
    rules = recording.resources["taint-keeper-role"].inputs["rules"]
    assert {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]} == {
        "resourceslices": {"list", "watch"},
        "devicetaintrules": {"get", "list", "create"},
        "clusterroles": {"get"},
    }
    (own,) = [rule for rule in rules if rule["resources"] == ["clusterroles"]]
    assert own["resourceNames"] == [taint_keeper.CLUSTER_ROLE]
    assert environment(pod(recording, "taint-keeper-deployment"))["OWNER_CLUSTER_ROLE"] == taint_keeper.CLUSTER_ROLE
    assert "taint-keeper-role-binding" in recording.resources["taint-keeper-deployment"].depends_on


def test_keeper_may_read_the_plugins_logs_where_mig_divides_gpus_and_nothing_else_of_them(recording: Recording):
    assert "taint-keeper-log-role" not in recording.resources
    assert taint_keeper.PLUGIN_NAMESPACE not in environment(pod(recording, "taint-keeper-deployment"))
    divided = record(divided=True)
    role = divided.resources["taint-keeper-log-role"].inputs
    assert role["metadata"]["namespace"] == dra_driver.NAMESPACE
    assert {resource: set(rule["verbs"]) for rule in role["rules"] for resource in rule["resources"]} == {
        "pods": {"list", "watch"},
        "pods/log": {"get"},
    }
    bound = divided.resources["taint-keeper-log-role-binding"].inputs
    assert (bound["metadata"]["namespace"], bound["roleRef"]["name"]) == (
        dra_driver.NAMESPACE,
        role["metadata"]["name"],
    )
    (account,) = bound["subjects"]
    assert account == {"kind": "ServiceAccount", "namespace": taint_keeper.NAMESPACE, "name": taint_keeper.NAME}
    assert environment(pod(divided, "taint-keeper-deployment"))["PLUGIN_NAMESPACE"] == dra_driver.NAMESPACE
    assert "taint-keeper-log-role-binding" in divided.resources["taint-keeper-deployment"].depends_on


def test_prometheus_may_read_pods_of_two_namespaces_and_metrics_of_nodes(recording: Recording):
    roles = [r for r in recording.resources.values() if r.parent == "prometheus" and r.type.endswith("Role")]
    found = {
        (role.inputs["metadata"].get("namespace"), resource): set(rule["verbs"])
        for role in roles
        for rule in role.inputs["rules"]
        for resource in rule["resources"]
    }
    read = {"get", "list", "watch"}
    assert found == {
        ("gpu-metrics", "pods"): read,
        ("dra-driver-nvidia-gpu", "pods"): read,
        (None, "nodes"): read,
        (None, "nodes/metrics"): {"get"},
    }
    assert "gpu-exporter-daemonset" in recording.resources["prometheus-namespace"].depends_on


def test_prometheus_scrapes_every_job_where_its_pods_are(recording: Recording):
    text = recording.resources["prometheus-prometheus-config"].inputs["data"]["prometheus.yml"]
    jobs = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    assert tuple(jobs) == prometheus.JOBS
    labels = recording.resources["gpu-exporter-daemonset"].inputs["spec"]["template"]["metadata"]["labels"]
    keep, address, _ = jobs["gpu-exporter"]["relabel_configs"]
    assert labels == {"app": keep["regex"]} and keep["source_labels"] == ["__meta_kubernetes_pod_label_app"]
    assert address["replacement"] == "$1:9400"
    # NVIDIA's chart names the port in its values, and none in its pods.
    keep, address, _ = jobs["dra-driver"]["relabel_configs"]
    assert keep["source_labels"] == ["__meta_kubernetes_pod_label_dra_driver_nvidia_gpu_component"]
    assert (keep["regex"], address["replacement"]) == ("kubelet-plugin", "$1:8080")


def test_nobody_can_log_in_to_grafana_or_is_its_administrator(recording: Recording):
    spec = pod(recording, "prometheus-grafana")
    settings = environment(spec)
    assert settings["GF_AUTH_BASIC_ENABLED"] == "false" and settings["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in settings if "PASSWORD" in name]
    assert spec["automountServiceAccountToken"] is False and "serviceAccountName" not in spec


def test_every_mounted_file_of_grafana_is_in_its_configuration(recording: Recording):
    data = recording.resources["prometheus-grafana-config"].inputs["data"]
    mounts = pod(recording, "prometheus-grafana")["containers"][0]["volumeMounts"]
    assert {mount["subPath"] for mount in mounts if mount["name"] == "config"} == data.keys()
    assert json.loads(data["gpus.json"]) == json.loads(DASHBOARD.read_text())
    (provider,) = yaml.safe_load(data["dashboards.yaml"])["providers"]
    assert f"{provider['options']['path']}/gpus.json" in {mount["mountPath"] for mount in mounts}
    (source,) = yaml.safe_load(data["datasources.yaml"])["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_changed_dashboard_is_another_pod_of_grafana_alone(monkeypatch: pytest.MonkeyPatch):
    notes = []
    for text in ('{"panels": [1]}', '{"panels": [2]}'):
        monkeypatch.setattr(Path, "read_text", _instead(DASHBOARD, text))
        made = record()
        monkeypatch.undo()
        templates = [
            made.resources[f"prometheus-{name}"].inputs["spec"]["template"] for name in ("prometheus", "grafana")
        ]
        notes.append([template["metadata"]["annotations"]["dra-workshop/config"] for template in templates])
    assert notes[0][0] == notes[1][0] and notes[0][1] != notes[1][1]


def _instead(file: Path, text: str) -> Any:
    original = Path.read_text
    return lambda self, *args, **kwargs: text if self == file else original(self, *args, **kwargs)


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def targets() -> list[dict[str, Any]]:
    return [target for panel in dashboard()["panels"] for target in panel["targets"]]


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that its matchers name) of a PromQL expression."""
    text = re.sub(r'"[^"]*"', '""', expression)  # what a label is compared with may look like anything
    text = re.sub(r"\[[^\]]*\]", "", text)
    text = re.sub(r"\b(?:by|without|on|ignoring)\s*\([^)]*\)", "", text)
    for name, after in re.findall(r"([a-zA-Z_:][\w:]*)\s*(\(|\{[^}]*\})?", text):
        if after != "(" and name not in WORDS:
            yield name, set(re.findall(r"(\w+)\s*[=!]", after))


def grouped(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    parts = re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)", expression)
    return {label.strip() for part in parts for label in part.split(",")}


def test_reader_of_expressions_finds_metrics_and_labels():
    expression = (
        'sum by (le, node) (rate(a_bucket{x="b_c{", y=~"$z"}[$__rate_interval])) / on (node) max(c:d) > 0 and e'
    )
    assert list(selectors(expression)) == [("a_bucket", {"x", "y"}), ("c:d", set()), ("e", set())]
    assert grouped(expression) == {"le", "node"}


def labels_of(metric: str, exported: dict[str, set[str]]) -> set[str]:
    """The labels of a metric that somebody publishes; fails for one that nobody does."""
    for published in (DRIVER, KUBELET):
        for name, (kind, labels) in published.items():
            if metric == name or (kind == "histogram" and re.fullmatch(rf"{name}_(bucket|sum|count)", metric)):
                return labels | ADDED
    assert metric in exported, f"nobody publishes {metric}"
    return exported[metric] | ADDED


def test_dashboard_asks_only_for_what_is_published(exported: dict[str, set[str]]):
    for target in targets():
        found = list(selectors(target["expr"]))
        assert found, target["expr"]
        for metric, matched in found:
            known = labels_of(metric, exported)
            assert matched | grouped(target["expr"]) <= known, f"{target['expr']}: labels of {metric} are {known}"


def test_legends_name_labels_that_are_left_after_grouping():
    for target in targets():
        named = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        left = grouped(target["expr"]) or {label for _, labels in selectors(target["expr"]) for label in labels}
        assert named <= left - {"le"}, target["expr"]


def test_a_metric_that_nobody_publishes_would_be_noticed(exported: dict[str, set[str]]):
    for wrong in ("DCGM_FI_DEV_FB_USE", "nvidia_dra_request_duration_seconds_total", "mps_client"):
        with pytest.raises(AssertionError, match=f"nobody publishes {wrong}"):
            labels_of(wrong, exported)


def test_dashboard_shows_what_the_module_measures():
    asked = {metric for target in targets() for metric, _ in selectors(target["expr"])}
    assert {
        *("DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_TOTAL", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_XID_ERRORS"),
        *("DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_GPU_TEMP", "mps_clients", "nvidia_dra_prepared_devices"),
        "nvidia_dra_request_duration_seconds_bucket",
    } <= asked


def test_dashboard_takes_its_data_source_from_a_variable(exported: dict[str, set[str]]):
    made = dashboard()
    assert "__inputs" not in made and "__requires" not in made
    variables = {variable["name"]: variable for variable in made["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(part["datasource"] == source for part in [*made["panels"], *targets(), variables["node"]])
    asked = re.fullmatch(r"label_values\((\w+), (\w+)\)", variables["node"]["query"]["query"])
    assert asked and asked[2] in labels_of(asked[1], exported)
    used = set(re.findall(r"\$(?!__)\{?(\w+)", json.dumps(made)))
    assert used == variables.keys()


def test_panels_have_names_of_their_own_and_do_not_overlap():
    panels = dashboard()["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
