"""Look before a stack is taken from a cluster: whose pods hold GPUs, and what is left where nothing answers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.commands import destroy_guard, left_behind
from machine import docker_engine, ownership
from machine.ownership import ApiServer, Holder, UnreachableError
from modules.changes import ChangeError, refuse
from settings import Settings

MARK = {ownership.OWNER_ANNOTATION: "guest"}
SERVER = ApiServer("/kubeconfig", "lab")


def claim(namespace: str, name: str, *pods: str, driver: str = "gpu.nvidia.com") -> dict[str, Any]:
    results = [{"driver": driver, "pool": "node-1", "device": "gpu-0"}]
    status = {
        "allocation": {"devices": {"results": results}},
        "reservedFor": [{"resource": "pods", "name": pod} for pod in pods],
    }
    return {"metadata": {"namespace": namespace, "name": name}, "status": status}


def owned(name: str, kind: str = "", by: str = "", **annotations: str) -> dict[str, Any]:
    owners = [{"kind": kind, "name": by, "controller": True}] if by else []
    return {"metadata": {"name": name, "annotations": annotations, "ownerReferences": owners}}


CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"
CLUSTER: dict[str, list[dict[str, Any]]] = {
    CLAIMS: [
        claim("workloads", "holder-gpu", "holder-1"),
        claim("mps-system", "daemon-gpus", "mps-daemon-1"),
        claim("workloads", "visitor-gpu", "visitor"),
        claim("lab", "shared-gpu", "first", "second"),
        claim("lab", "by-job", "batch-1"),
        claim("net", "card", "router", driver="net.example.com"),
        claim("lab", "idle"),
        {"metadata": {"namespace": "lab", "name": "waiting"}},
    ],
    "/api/v1/namespaces/workloads/pods": [owned("holder-1", "ReplicaSet", "holder"), owned("visitor")],
    "/apis/apps/v1/namespaces/workloads/replicasets": [owned("holder", "Deployment", "holder", **MARK)],
    "/api/v1/namespaces/mps-system/pods": [owned("mps-daemon-1", "DaemonSet", "mps-daemon")],
    "/apis/apps/v1/namespaces/mps-system/daemonsets": [owned("mps-daemon", **MARK)],
    "/api/v1/namespaces/lab/pods": [
        owned("first"),
        owned("second", "ReplicaSet", "other"),
        owned("batch-1", "Job", "batch"),
    ],
    "/apis/apps/v1/namespaces/lab/replicasets": [owned("other", **{ownership.OWNER_ANNOTATION: "another-stack"})],
}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[dict[str, Any]]]:
    """A cluster with the stack's pods, and others': plain ones, another stack's and a Job's."""
    objects = {path: list(items) for path, items in CLUSTER.items()}
    monkeypatch.setattr(ApiServer, "get", lambda self, path: {"items": objects[path]})
    monkeypatch.delenv(ownership.FORCE, raising=False)
    return objects


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(self: ApiServer, path: str) -> Any:
        raise UnreachableError("context deadline exceeded")

    monkeypatch.setattr(ApiServer, "get", get)


def test_pods_that_the_stack_did_not_make_are_strangers_in_its_own_namespaces_too(cluster: Any) -> None:
    gpu = ("node-1/gpu-0",)
    assert SERVER.strangers("guest") == [
        Holder("lab", "batch-1", "by-job", gpu),
        Holder("lab", "first", "shared-gpu", gpu),
        Holder("lab", "second", "shared-gpu", gpu),
        Holder("workloads", "visitor", "visitor-gpu", gpu),
    ]


def test_existing_cluster_is_not_left_under_pods_of_others(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert destroy_guard.look_on_existing(SERVER, "guest") == 1
    told = capsys.readouterr().err
    assert "  lab/first (claim shared-gpu: node-1/gpu-0)\n" in told
    assert "holder-1" not in told
    assert "Nothing was deleted. Delete these pods first, or set DRA_WORKSHOP_DESTROY=force" in told


def test_driver_stays_where_an_up_that_failed_has_no_guard_of_everything(
    cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLUSTER_FOLDER", raising=False)
    for name, value in {"KUBECONFIG": "k", "KUBE_CONTEXT": "lab", "DRA_WORKSHOP_STACK": "guest"}.items():
        monkeypatch.setenv(name, value)
    assert destroy_guard.main() == 1
    assert "Nothing was deleted. Delete these" in capsys.readouterr().err
    monkeypatch.setenv("GUARDED", "driver")
    assert destroy_guard.main() == 1
    assert "The driver was not deleted. Delete these" in capsys.readouterr().err


def test_force_goes_on_and_says_what_that_does(
    cluster: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ownership.FORCE, "force")
    assert destroy_guard.look_on_existing(SERVER, "guest") == 0
    told = capsys.readouterr().err
    assert "stay Terminating, with their namespaces, until a driver is installed again" in told
    assert "lab/first" in told


def test_without_pods_of_others_nothing_is_said(cluster: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cluster[CLAIMS][2:] = []
    assert destroy_guard.look_on_existing(SERVER, "guest") == 0
    assert capsys.readouterr().err == ""


def test_kind_cluster_goes_with_a_warning(
    cluster: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "engine_id", lambda: "here")
    assert destroy_guard.look_on_kind(SERVER, "guest", tmp_path) == 0
    told = capsys.readouterr().err
    assert "they go with its cluster" in told and "lab/first" in told


def test_kind_cluster_that_does_not_answer_goes_as_well(
    unreachable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_engine, "engine_id", lambda: "here")
    assert destroy_guard.look_on_kind(SERVER, "guest", tmp_path) == 0


@pytest.mark.parametrize(("here", "told"), [("", "no Docker Engine answers"), ("there", "is not the one that")])
def test_kind_cluster_of_another_engine_stays(
    cluster: Any,
    here: str,
    told: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / docker_engine.ENGINE_FILE).write_text("here\n")
    monkeypatch.setattr(docker_engine, "engine_id", lambda: here)
    assert destroy_guard.look_on_kind(SERVER, "guest", tmp_path) == 1
    assert told in capsys.readouterr().err


def test_existing_cluster_that_does_not_answer_keeps_its_state_and_what_is_there_is_told(
    unreachable: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(destroy_guard, "left", lambda stack: ["DaemonSet gpu-sim/gpu-sim"])
    assert destroy_guard.look_on_existing(SERVER, "guest") == 1
    told = capsys.readouterr().err
    assert "context lab does not answer (context deadline exceeded), so nothing was deleted and the state stays" in told
    assert "PULUMI_K8S_DELETE_UNREACHABLE=true pulumi refresh --stack guest" in told
    assert told.endswith("  DaemonSet gpu-sim/gpu-sim\n")


def test_existing_cluster_that_was_forgotten_stops_nothing(unreachable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destroy_guard, "left", lambda stack: [])
    assert destroy_guard.look_on_existing(SERVER, "guest") == 0


def test_what_is_left_is_told_object_by_object() -> None:
    release = {"namespace": "dra-driver-nvidia-gpu", "name": "dra-driver-nvidia-gpu"}
    resources = [
        {"type": "pulumi:pulumi:Stack"},
        {"type": "pulumi:providers:kubernetes"},
        {"type": "kubernetes:core/v1:NodePatch", "inputs": {"metadata": {"name": "node-1"}}},
        {"type": "kubernetes:core/v1:Namespace", "inputs": {"metadata": {"name": "gpu-sim"}}},
        {"type": "kubernetes:helm.sh/v3:Release", "inputs": release},
        {"type": "command:local:Command"},
        {"type": "kubernetes:apps/v1:DaemonSet", "inputs": {"metadata": {"name": "gpu-sim", "namespace": "gpu-sim"}}},
    ]
    assert left_behind.objects({"resources": resources}) == [
        "DaemonSet gpu-sim/gpu-sim",
        "Helm release dra-driver-nvidia-gpu/dra-driver-nvidia-gpu",
        "Namespace gpu-sim",
        "labels of Node node-1",
    ]
    assert left_behind.objects({}) == []


def test_request_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, json.dumps({"items": []}), "")

    monkeypatch.setattr(subprocess, "run", run)
    assert list(SERVER.holders()) == []
    (command,) = asked
    assert command[:5] == ["kubectl", "--kubeconfig", "/kubeconfig", "--context", "lab"]
    assert f"--request-timeout={ownership.REQUEST_SECONDS}s" in command


def test_request_without_an_answer_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "a\nUnable to connect to the server: EOF\n")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(UnreachableError, match=r"^Unable to connect to the server: EOF$"):
        list(SERVER.holders())


def test_driver_is_not_taken_from_under_pods_of_others(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {"driver": {"version": "0.5.0", "consumableShares": "disabled"}}
    without, with_driver = (Settings.parse({"modules": modules}, "guest") for modules in (["01"], ["01", "02"]))
    with pytest.raises(ChangeError, match=r'"02" is taken away under pods of others .* lab/first \(claim shared-gpu'):
        refuse(before, without)
    refuse(before, with_driver)
    refuse({}, without)
    monkeypatch.setenv(ownership.FORCE, "force")
    refuse(before, without)
    monkeypatch.delenv(ownership.FORCE)
    cluster[CLAIMS][2:] = []
    refuse(before, without)


def test_driver_of_a_cluster_that_does_not_answer_is_no_reason(unreachable: None) -> None:
    before = {"driver": {"version": "0.5.0", "consumableShares": "disabled"}}
    refuse(before, Settings.parse({"modules": ["01"]}, "guest"))
