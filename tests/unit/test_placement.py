"""Where pods of a stack may be: on the node of that name, and on nodes whose taints they are told to tolerate."""

from functools import cache
from typing import Any

import pytest
import yaml

from components.manifests import MANIFESTS
from gpus.fleet import LABEL
from settings import Settings
from settings.blocks import GPU_TOLERATION
from tests.golden import stacks
from tests.golden.recorder import CHECKOUT, RELEASE, Recording

PODS = ("kubernetes:apps/v1:Deployment", "kubernetes:apps/v1:DaemonSet")
EVERY_TAINT = {"operator": "Exists"}
OF_CHART = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
OF_FLEET = {"key": LABEL, "operator": "Exists", "effect": "NoSchedule"}
OWN = {"key": "dedicated", "operator": "Equal", "value": "gpu"}
NODE = "a-node"  # whose GPUs the recorder publishes
STACKS: dict[str, dict[str, Any]] = {
    "workloads and MPS": {"modules": ["01", "02", "03", "04", "05"]},
    "shares": {"modules": ["01", "02", "04", "07", "08", "09"], "observability": {"prometheus": True}},
    "vllm": {
        "modules": ["01", "02", "04", "06"],
        "vllm": {"model": {"path": "/models/mine"}, "pythonEnvironment": "/opt/vllm"},
    },
}


@cache
def recorded(name: str, tolerations: bool) -> Recording:
    source = {"source": "host"} if name == "vllm" else {}
    gpu = {**source, "nodes": [{"name": NODE}], "tolerations": [OWN] if tolerations else []}
    kubeconfig = str(stacks.FOLDER / "kubeconfig.yaml")
    cluster = {"provider": "existing", "kubeconfig": kubeconfig, "context": "lab"}
    return stacks.record(Settings.parse({"cluster": cluster, "gpu": gpu, **STACKS[name]}, "test"))


def pods(recording: Recording) -> dict[str, dict[str, Any]]:
    made = {
        resource.name: resource.inputs["spec"]["template"]["spec"]
        for resource in recording.resources.values()
        if resource.type in PODS
    }
    assert made
    return made


@pytest.mark.parametrize("name", STACKS)
@pytest.mark.parametrize("own", [False, True])
def test_every_pod_tolerates_what_nvidias_plugin_does_and_what_the_stack_says(name: str, own: bool):
    for pod_name, pod in pods(recorded(name, own)).items():
        expected = [OF_CHART, OWN] if own else [OF_CHART]
        assert pod["tolerations"] in (expected, [EVERY_TAINT]), pod_name


def test_nvidias_plugin_keeps_its_own_toleration_beside_the_stacks():
    (release,) = recorded("shares", True).of_type(RELEASE)
    assert release.inputs["values"]["kubeletPlugin"]["tolerations"] == [OF_CHART, OWN]
    (release,) = recorded("shares", False).of_type(RELEASE)
    assert "tolerations" not in release.inputs["values"]["kubeletPlugin"]


def test_the_toleration_of_every_pod_is_that_of_nvidias_chart():
    assert GPU_TOLERATION.for_kubernetes == OF_CHART
    values = CHECKOUT / ".tools" / "charts" / "dra-driver-nvidia-gpu" / "values.yaml"
    if not values.exists():
        pytest.skip("set-up has not made the chart")
    assert yaml.safe_load(values.read_text())["kubeletPlugin"]["tolerations"] == [OF_CHART]


@pytest.mark.parametrize("name", STACKS)
def test_pods_are_bound_to_a_node_by_its_name_and_never_by_a_label(name: str):
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [NODE]}]}
    for pod_name, pod in pods(recorded(name, False)).items():
        assert "kubernetes.io/hostname" not in str(pod), pod_name
        if any("claims" in container.get("resources", {}) for container in pod["containers"]):
            by_node = pod.get("affinity", {}).get("nodeAffinity")
            required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
            assert by_node == required or pod["nodeSelector"] == {"dra-workshop/gpus": "true"}, pod_name


def test_volumes_of_a_node_name_no_node():
    # https://kubernetes.io/docs/concepts/storage/persistent-volumes/#node-affinity: a volume knows labels only.
    recording = recorded("vllm", False)
    volumes = recording.of_type("kubernetes:core/v1:PersistentVolume")
    assert len(volumes) == 2 and all("nodeAffinity" not in volume.inputs["spec"] for volume in volumes)


@pytest.mark.parametrize("file", sorted(MANIFESTS.rglob("examples/*.yaml")), ids=lambda file: file.stem)
def test_examples_run_on_tainted_nodes_too(file: Any):
    for document in yaml.safe_load_all(file.read_text()):
        if document["kind"] == "Pod":
            in_fleet = LABEL in document["spec"].get("nodeSelector", {})
            wanted = [OF_CHART, OF_FLEET] if in_fleet else [OF_CHART]
            assert document["spec"]["tolerations"] == wanted, document["metadata"]["name"]
