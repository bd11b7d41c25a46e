"""Module 00's look at a cluster of somebody else: what it can do, who gives its GPUs out, who may be on its nodes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from machine import cluster_prerequisites
from machine.cluster_prerequisites import look
from machine.findings import Finding
from machine.programs import Answer, run
from settings import Settings
from tests.golden.stacks import FOLDER, IMAGES

KUBECTL = f"kubectl --kubeconfig {FOLDER / 'kubeconfig.yaml'} --context lab"
NODE = "gpu-node-1"
OURS = [{"names": [ref]} for ref in IMAGES.to_load]


@dataclass
class Cluster:
    """Cluster as kubectl shows it. What is `off` is a field that its API server drops."""

    server: dict[str, str] = field(default_factory=lambda: {"major": "1", "minor": "37", "gitVersion": "v1.37.2"})
    served: dict[str, list[str]] = field(
        default_factory=lambda: {
            "resource.k8s.io/v1": [
                *("deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices", "devicetaintrules")
            ],
            "admissionregistration.k8s.io/v1": ["mutatingadmissionpolicies"],
        }
    )
    off: set[str] = field(default_factory=set)
    counters_in_one_slice: bool = False
    """True as before Kubernetes 1.35, with the gate DRAPartitionableDevices on."""
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: list[dict[str, Any]] = field(default_factory=list)
    daemon_sets: list[dict[str, Any]] = field(default_factory=list)
    classes: list[dict[str, Any]] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def node(self, name: str = NODE, **changes: Any) -> None:
        node = {
            "metadata": {"name": name, "labels": changes.pop("labels", {})},
            "spec": {"taints": changes.pop("taints", None)},
            "status": {"images": OURS, "capacity": {"cpu": "2"}, **changes},
        }
        self.nodes[name] = node

    def run(self, *argv: str, stdin: str = "") -> Answer:
        line = " ".join(argv)
        assert line.startswith(f"{KUBECTL} ")
        words = line.removeprefix(f"{KUBECTL} ")
        self.asked.append(words)
        for start, error in self.errors.items():
            if words.startswith(start):
                return Answer(1, "", error)
        if words.startswith("version"):
            return Answer(0, json.dumps({"serverVersion": self.server}), "")
        if words.startswith("get --raw /apis/"):
            names = self.served.get(words.removeprefix("get --raw /apis/"))
            answer = json.dumps({"resources": [{"name": name} for name in names or []]})
            return Answer(0, answer, "") if names else Answer(1, "", "the server could not find the requested resource")
        if words.startswith("create --dry-run=server"):
            return self.dry_run(stdin)
        lists = {"get nodes": list(self.nodes.values()), "get pods": self.pods, "get daemonsets": self.daemon_sets}
        lists["get deviceclasses"] = self.classes
        items = next(items for start, items in lists.items() if words.startswith(start))
        return Answer(0, json.dumps({"items": items}), "")

    def dry_run(self, stdin: str) -> Answer:
        """As the API server of Kubernetes 1.37.2 answers, and as it does with --emulated-version=1.35."""
        out, error = "", ""
        for text in stdin.split("---"):
            claim = json.loads(text)
            if claim["kind"] == "ResourceSlice":
                name, (device,) = claim["metadata"]["name"], claim["spec"]["devices"]
                if self.counters_in_one_slice and "consumesCounters" in device:
                    error += (
                        f'The ResourceSlice "{name}" is invalid: spec.devices[0].consumesCounters[0].counterSet: '
                        'Invalid value: "gpu": must reference a counterSet defined in the ResourceSlice\n'
                    )
                    continue
                claim["spec"]["devices"] = [{key: value for key, value in device.items() if key not in self.off}]
                out += json.dumps(claim, indent=4) + "\n"
                continue
            exactly = claim["spec"]["devices"]["requests"][0]["exactly"]
            kept = {key: value for key, value in exactly.items() if key not in self.off}
            if "adminAccess" in kept:
                name = claim["metadata"]["name"]
                error += (
                    f'The ResourceClaim "{name}" is invalid: spec.devices.requests[0].adminAccess: '
                    "Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label "
                    "on the containing namespace\n"
                )
                continue
            claim["spec"]["devices"]["requests"][0]["exactly"] = kept
            out += json.dumps(claim, indent=4) + "\n"
        return Answer(1 if error else 0, out, error)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    made.node()
    made.node("other")
    monkeypatch.setattr(cluster_prerequisites, "run", made.run)
    return made


EVERYTHING = ["00", "01", "02", "04", "07", "08", "09"]


def settings(modules: list[str] | None = None, **blocks: Any) -> Settings:
    block = {"provider": "existing", "kubeconfig": str(FOLDER / "kubeconfig.yaml"), "context": "lab"}
    gpu = {"nodes": [{"name": NODE}], **blocks.pop("gpu", {})}
    return Settings.parse({"modules": modules or ["00", "01", "02", "03"], "cluster": block, "gpu": gpu, **blocks}, "t")


def failed(modules: list[str] | None = None, **blocks: Any) -> list[Finding]:
    return [finding for finding in look(settings(modules, **blocks), IMAGES) if not finding.ok]


def test_cluster_that_has_everything_passes(cluster: Cluster):
    assert failed(EVERYTHING) == []


def test_only_what_the_modules_need_is_asked(cluster: Cluster):
    assert failed(["00", "01", "02", "03"]) == []
    assert not [words for words in cluster.asked if words.startswith(("create", "get --raw /apis/admission"))]


@pytest.mark.parametrize("missing", ["deviceclasses", "resourceslices", "all"])
def test_api_server_without_dra_is_refused_whatever_its_version(cluster: Cluster, missing: str):
    served = cluster.served["resource.k8s.io/v1"]
    cluster.served["resource.k8s.io/v1"] = [] if missing == "all" else [name for name in served if name != missing]
    cluster.errors["create"] = 'error: no matches for kind "ResourceClaim" in version "resource.k8s.io/v1"'
    (finding,) = failed(["00", "01", "02", "07"])
    assert finding.observed.startswith("Kubernetes v1.37.2 at context lab, which does not serve ")
    assert "of resource.k8s.io/v1" in finding.observed and "from v1.34 on" in finding.remedy


def test_emulated_version_is_named(cluster: Cluster):
    cluster.server["emulationMinor"] = "35"
    (finding,) = (finding for finding in look(settings(), IMAGES) if finding.name == "cluster")
    assert finding.ok and finding.observed == "Kubernetes v1.37.2 as 1.35 at context lab"


@pytest.mark.parametrize(
    ("field", "gate", "since", "modules"),
    [
        ("capacity", "DRAConsumableCapacity", "1.36", "module 07 (One GPU for many claims) needs it"),
        ("taints", "DRADeviceTaints", "1.36", "module 09 (Faults and what survives them) needs it"),
        ("adminAccess", "DRAAdminAccess", "1.34", "modules 04 (Two pods on one GPU by MPS), 08 (Admin access and"),
    ],
)
def test_gate_that_is_off_is_seen_by_the_field_that_is_dropped(
    cluster: Cluster, field: str, gate: str, since: str, modules: str
):
    cluster.off = {field}
    (finding,) = failed(EVERYTHING)
    assert finding.name == "api" and finding.observed.startswith(f"{gate} (")
    assert "is off in this cluster's API server" in finding.observed and modules in finding.observed
    assert f"from Kubernetes {since} on" in finding.remedy and "from modules" in finding.remedy


DYNAMIC = ["00", "01", "02", "10.6"]


def test_gpus_made_of_parts_are_asked_for_by_a_slice(cluster: Cluster):
    assert failed(DYNAMIC) == []
    cluster.off = {"consumesCounters"}
    (finding,) = failed(DYNAMIC)
    assert finding.observed == (
        "DRAPartitionableDevices (GPUs whose parts share what they are made of) is off in this cluster's API server, "
        "and module 10.6 (MIG devices made on demand) needs it"
    )
    assert finding.remedy.endswith("or drop 10.6 from modules")
    assert failed(["00", "01", "02", "03"]) == []


def test_older_form_of_gpus_made_of_parts_is_told_as_such(cluster: Cluster):
    cluster.counters_in_one_slice = True
    (finding,) = failed(DYNAMIC)
    assert "has an older form in this cluster's API server, and module 10.6" in finding.observed


def test_user_who_may_not_make_slices_is_told_so(cluster: Cluster):
    cluster.errors["create"] = 'Error from server (Forbidden): User "me" cannot create resource "resourceslices"'
    (finding,) = failed(DYNAMIC)
    assert 'User "me" cannot create' in finding.observed and "right to create ResourceSlices" in finding.remedy


def test_older_kubernetes_refuses_what_it_lacks_and_lets_the_rest_work(cluster: Cluster):
    cluster.off = {"capacity", "taints"}
    cluster.served["resource.k8s.io/v1"].remove("devicetaintrules")
    del cluster.served["admissionregistration.k8s.io/v1"]
    gates = [finding.observed.partition(" ")[0] for finding in failed(EVERYTHING)]
    assert sorted(gates) == ["DRAConsumableCapacity", "DRADeviceTaintRules", "DRADeviceTaints"]
    assert failed(["00", "01", "02", "03", "04", "05", "08"]) == []


def test_shares_that_a_stack_chooses_need_the_gate_without_module_07(cluster: Cluster):
    cluster.off = {"capacity"}
    (finding,) = failed(["00", "01", "02"], driver={"consumableShares": "memory"})
    assert "module 02 (NVIDIA's DRA driver) needs it" in finding.observed
    assert failed(["00", "01", "02"], driver={"consumableShares": "disabled"}) == []


def test_user_who_may_not_make_claims_is_told_so(cluster: Cluster):
    cluster.errors["create"] = 'Error from server (Forbidden): User "me" cannot create resource "resourceclaims"'
    (finding,) = failed(["00", "01", "02", "07"])
    assert 'User "me" cannot create' in finding.observed and "right to create ResourceClaims" in finding.remedy


DEDICATED = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("taint", "tolerations", "remedy"),
    [
        ({"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, [], None),
        (
            {"key": "nvidia.com/gpu", "effect": "NoExecute"},
            [],
            "add {key: nvidia.com/gpu, operator: Exists, effect: NoE",
        ),
        (DEDICATED, [], "add {key: dedicated, operator: Exists, effect: NoSchedule} to gpu.tolerations, or name other"),
        (DEDICATED, [{"key": "dedicated", "value": "gpu"}], None),
        (DEDICATED, [{"key": "dedicated", "value": "cpu"}], "to gpu.tolerations"),
        (DEDICATED, [{"key": "dedicated", "operator": "Exists", "effect": "NoExecute"}], "to gpu.tolerations"),
        (DEDICATED, [{"operator": "Exists"}], None),
        ({"key": "dedicated", "effect": "PreferNoSchedule"}, [], None),
        ({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, [], f"`kubectl uncordon {NODE}`"),
        (
            {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"},
            [],
            f"`kubectl describe node {NODE}` says why",
        ),
    ],
)
def test_taint_that_keeps_pods_away_is_named_with_the_key_that_lets_them(
    cluster: Cluster, taint: dict[str, str], tolerations: list[dict[str, str]], remedy: str | None
):
    cluster.node(taints=[taint])
    cluster.node("other", taints=[{"key": "elsewhere", "effect": "NoSchedule"}])
    found = failed(gpu={"tolerations": tolerations})
    assert [finding.name for finding in found] == (["taints"] if remedy else [])
    for finding in found:
        assert finding.observed.startswith(f"{NODE} has the taint {taint['key']}") and (remedy or "") in finding.remedy


def test_device_plugins_gpus_are_not_given_out_twice(cluster: Cluster):
    cluster.node(capacity={"nvidia.com/gpu": "2"})
    cluster.node("other", capacity={"nvidia.com/gpu": "8"})
    (finding,) = failed()
    assert finding.observed == f"{NODE} offers nvidia.com/gpu: 2, so a device plugin gives its GPUs out"
    # The kubelet keeps a 0 of a plugin that is gone.
    cluster.node(capacity={"nvidia.com/gpu": "0"})
    assert failed() == []


def pod(name: str, image: str, namespace: str = "kube-system", **labels: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": NODE, "containers": [{"image": image}]}}


def daemon_set(image: str, **spec: Any) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": image}], **spec}}
    return {"kind": "DaemonSet", "metadata": {"name": "d", "namespace": "n"}, "spec": {"template": template}}


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("nvcr.io/nvidia/k8s-device-plugin:v0.17.1", {}),
        ("gke.gcr.io/nvidia-gpu-device-plugin:1.0", {}),
        ("registry.example.com/mirror/plugin:v1", {"app.kubernetes.io/name": "nvidia-device-plugin"}),
        ("registry.example.com/mirror/plugin:v1", {"app": "nvidia-device-plugin-daemonset"}),
    ],
)
def test_device_plugin_on_a_node_is_named(cluster: Cluster, image: str, labels: dict[str, str]):
    cluster.pods = [pod("plugin-abc", image, **labels), pod("proxy", "kube-proxy:v1")]
    (finding,) = failed()
    assert (finding.name, finding.observed) == (
        "device plugin",
        f"Pod kube-system/plugin-abc, NVIDIA's device plugin, on {NODE}",
    )
    # Node by node: a large cluster's other pods are nobody's business.
    assert f"get pods --field-selector=spec.nodeName={NODE} --all-namespaces --output=json" in cluster.asked


def test_device_plugin_that_our_own_label_would_bring_is_named(cluster: Cluster):
    image, selector = "nvcr.io/nvidia/k8s-device-plugin:v0.17.1", {"nvidia.com/gpu.present": "true"}
    cluster.daemon_sets = [daemon_set(image, nodeSelector={"pool": "other"}), daemon_set("x:1", nodeSelector=selector)]
    assert failed() == []
    cluster.daemon_sets.append(daemon_set(image, affinity={"nodeAffinity": [{"key": "nvidia.com/gpu.present"}]}))
    (finding,) = failed()
    assert finding.observed.startswith("DaemonSet n/d, NVIDIA's device plugin, comes to nodes with the label")


def release(name: str | None, namespace: str | None) -> list[dict[str, Any]]:
    annotations = {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace} if name else {}
    return [
        {"metadata": {"name": "gpu.nvidia.com", "annotations": annotations}},
        {"metadata": {"name": "mig.nvidia.com"}},
    ]


OURS_RELEASE = ("dra-driver-nvidia-gpu", "dra-driver-nvidia-gpu")


def up(cluster: Cluster) -> None:
    cluster.node(labels={"dra-workshop/gpus": "true"})


@pytest.mark.parametrize(
    ("world", "whose", "remedy"),
    [
        (lambda c: None, ("gpu-dra", "nvidia"), "`helm uninstall --namespace nvidia gpu-dra`"),
        (lambda c: None, OURS_RELEASE, "`helm uninstall --namespace dra-driver-nvidia-gpu dra-driver-nvidia-gpu`"),
        (lambda c: None, (None, None), "`kubectl delete deviceclass gpu.nvidia.com`"),
        (up, ("gpu-dra", "nvidia"), "`helm uninstall --namespace nvidia gpu-dra`"),
        (up, OURS_RELEASE, None),
    ],
)
def test_driver_of_another_release_is_named_and_the_stacks_own_is_none(
    cluster: Cluster, world: Callable[[Cluster], None], whose: tuple[str | None, str | None], remedy: str | None
):
    world(cluster)
    cluster.classes = release(*whose)
    found = failed()
    assert [finding.name for finding in found] == (["dra driver"] if remedy else [])
    assert all(finding.remedy.startswith(f"{remedy} if nobody needs it") for finding in found)


def test_plugin_of_another_driver_is_named_and_the_stacks_own_is_none(cluster: Cluster):
    image = "registry.k8s.io/dra-driver-nvidia/dra-driver-nvidia-gpu:v0.5.0"
    cluster.pods = [pod("plugin", image, "dra-driver-nvidia-gpu"), pod("mine", image, "nvidia")]
    assert len(failed()) == 2
    up(cluster)
    (finding,) = failed()
    assert finding.observed == f"Pod nvidia/mine, another installation of NVIDIA's DRA driver, on {NODE}"


def test_node_that_the_cluster_lacks_is_named(cluster: Cluster):
    del cluster.nodes[NODE]
    (finding,) = failed()
    assert finding.observed == f"{NODE} is no node" and finding.remedy == "gpu.nodes must be some of other"


def test_image_that_no_registry_serves_must_be_on_the_node(cluster: Cluster):
    cluster.node(images=OURS[1:])
    (finding,) = failed()
    assert finding.observed == f"{IMAGES['dra-driver']} is not on {NODE}" and "name it under images" in finding.remedy


def test_node_that_cannot_list_all_its_images_is_trusted(cluster: Cluster):
    cluster.node(images=[{"names": [f"registry.example/{number}:v1"]} for number in range(50)])
    assert failed() == []


@pytest.mark.parametrize(
    ("command", "again", "error"),
    [
        ("version", "version", "connection refused"),
        ("get nodes", "get nodes", "Forbidden"),
        ("get daemonsets", "get daemonsets.apps --all-namespaces --output=json", "Forbidden"),
    ],
)
def test_cluster_that_does_not_answer_is_told_by_its_own_error(cluster: Cluster, command: str, again: str, error: str):
    cluster.errors[command] = f"E1127 something\n{error}\n"
    (finding,) = failed()
    assert finding.observed == error and finding.remedy == f"check it with `{KUBECTL} {again}`"


def test_findings_are_all_there_at_once(cluster: Cluster):
    cluster.off = {"capacity"}
    cluster.node(taints=[DEDICATED], capacity={"nvidia.com/gpu": "2"}, images=[])
    cluster.classes = release(None, None)
    names = {finding.name for finding in failed(["00", "01", "02", "07"])}
    assert names == {"api", "taints", "device plugin", "image", "dra driver"}


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (("sh", "-c", "cat; echo first >&2; echo last >&2; exit 3"), 3, "last"),
        (("sh", "-c", "exit 4"), 4, "exit 4"),
        (("no-such-program-here",), 127, "[Errno 2] No such file or directory: 'no-such-program-here'"),
    ],
)
def test_program_is_told_by_the_last_line_of_its_error(argv: tuple[str, ...], status: int, complaint: str):
    answer = run(*argv, stdin="in")
    assert (answer.status, answer.complaint, answer.ok) == (status, complaint, False)
    assert answer.out == ("in" if status == 3 else "")
