"""vLLM's server as it is registered: its volumes, limits, model and programs, in both modes of MPS."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from components.mps_clients import WAIT_FIRST
from components.vllm import LOADGEN
from settings import Settings
from settings.blocks import NODE_ENVIRONMENT, NODE_MODEL
from tests.golden import recorder, stacks
from tests.golden.recorder import CHECKOUT, Recording
from toolchain.versions import VLLM_IMAGE

PROGRAM = ("python3", "-m", "vllm.entrypoints.cli.main", "serve")
CLAIM = {"mps": {"mode": "claim"}, "gpu": {"source": "host", "allowComputeModeChange": True}}


def record(vllm: dict[str, Any] | None = None, **blocks: Any) -> Recording:
    modules = ["01", "02", "04", "06", "06.5"]
    raw = {"modules": modules, "gpu": {"source": "host"}, "vllm": vllm or {}, **blocks}
    return stacks.record(Settings.parse(raw, "test"))


def pod(recording: Recording) -> dict[str, Any]:
    return recording.resources["vllm-server"].inputs["spec"]["template"]["spec"]


def server(recording: Recording) -> dict[str, Any]:
    (container,) = pod(recording)["containers"]
    return container


def mounts(recording: Recording) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in server(recording)["volumeMounts"]}


def node_mounts(recording: Recording) -> dict[str, str]:
    _, worker = recording.resources["cluster-kind"].inputs["triggers"][1]["nodes"]
    return {mount["containerPath"]: mount["hostPath"] for mount in worker["extraMounts"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    return tmp_path


def test_server_is_a_client_of_the_daemon_under_its_own_limits():
    recording = record({"activeThreadPercentage": 30, "pinnedDeviceMemoryLimit": "6Gi"})
    env = [entry for entry in server(recording)["env"] if entry["name"].startswith("CUDA_MPS")]
    assert {entry["name"]: entry["value"] for entry in env} == {
        "CUDA_MPS_PIPE_DIRECTORY": "/tmp/nvidia-mps",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "30",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=6144M",
    }
    assert len(env) == 3
    assert mounts(recording)["/tmp/nvidia-mps"] == "mps-pipe"
    (first,) = pod(recording)["initContainers"]
    assert first["resources"]["requests"] == {"cpu": "1m", "memory": "16Mi"}


def test_server_has_shared_memory_of_its_own_beside_a_daemon_of_the_node():
    recording = record({"sharedMemory": "128Mi"})
    assert mounts(recording)["/dev/shm"] == "shm"
    (volume,) = [volume for volume in pod(recording)["volumes"] if volume["name"] == "shm"]
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "128Mi"}


def test_server_waits_itself_for_the_daemon_so_that_it_is_started_again_alone():
    assert tuple(server(record())["command"]) == (*WAIT_FIRST, *PROGRAM)
    assert tuple(server(record(**CLAIM))["command"]) == PROGRAM


def test_limits_stand_once_where_other_clients_limit_themselves_too():
    recording = record(modules=["01", "02", "04", "06", "07"])
    names = [entry["name"] for entry in server(recording)["env"]]
    assert len(names) == len(set(names))


def test_by_claim_no_volume_hides_what_the_driver_mounts():
    recording = record(**CLAIM)
    places = mounts(recording)
    assert set(places) == {"/models/dummy", "/cache", "/scratch"}
    for mounted in ("/dev/shm", "/tmp/nvidia-mps"):
        assert not [place for place in places if f"{mounted}/".startswith(f"{place}/")]
    assert not [volume for volume in pod(recording)["volumes"] if "hostPath" in volume]


@pytest.mark.parametrize("blocks", [{}, CLAIM], ids=["daemon", "claim"])
def test_every_mount_has_its_volume_and_every_volume_its_mount(blocks: dict[str, Any], folder: Path):
    vllm = {"model": {"path": str(folder)}, "pythonEnvironment": str(folder), "cacheClaim": "cache"}
    recording = record(vllm, **blocks)
    assert sorted(mounts(recording).values()) == sorted(volume["name"] for volume in pod(recording)["volumes"])


def test_folders_of_this_machine_reach_the_pod_read_only_through_volumes_of_the_node(folder: Path):
    recording = record({"model": {"path": str(folder)}, "pythonEnvironment": str(folder)})
    assert {NODE_MODEL, NODE_ENVIRONMENT} <= set(node_mounts(recording))
    assert node_mounts(recording)[NODE_MODEL] == str(folder)
    for name, path in (("vllm-model", NODE_MODEL), ("vllm-environment", NODE_ENVIRONMENT)):
        volume = recording.resources[f"vllm-{name}-volume"].inputs
        assert volume["spec"]["hostPath"] == {"path": path, "type": "Directory"}
        assert volume["spec"]["claimRef"] == {"namespace": "mps", "name": name}
        assert recording.resources[f"vllm-{name}-claim"].inputs["spec"]["volumeName"] == volume["metadata"]["name"]
        assert f"vllm-{name}-claim" in recording.resources["vllm-server"].depends_on
    found = server(recording)
    assert found["command"][len(WAIT_FIRST)] == f"{folder}/bin/python"
    assert mounts(recording)[str(folder)] == "environment"
    assert all(m["readOnly"] for m in found["volumeMounts"] if m["name"] in ("model", "environment"))
    assert found["args"][0] == "/models/model" and "--load-format=dummy" not in found["args"]
    assert "vllm-model" not in recording.resources


def test_without_a_model_there_is_one_of_dimensions_and_the_outputs_say_so():
    recording = record({"model": {"dimensions": {"numHiddenLayers": 4}}})
    data = recording.resources["vllm-model"].inputs["data"]
    assert json.loads(data["config.json"])["num_hidden_layers"] == 4
    args = server(recording)["args"]
    assert {"--load-format=dummy", "--skip-tokenizer-init"} <= set(args)
    told = recording.outputs["dra-workshop-test"]["vllm"]
    assert (told["weights"], told["model"]) == ("dummy", "dummy-qwen2.5-1.5b")


def test_model_of_a_hub_is_pinned_and_may_be_fetched():
    recording = record({"model": {"hub": "org/model", "revision": "abc"}})
    assert server(recording)["args"][0] == "org/model" and "--revision=abc" in server(recording)["args"]
    assert "HF_HUB_OFFLINE" not in {entry["name"] for entry in server(recording)["env"]}
    assert "model" not in mounts(recording).values()
    assert recording.outputs["dra-workshop-test"]["vllm"]["weights"] == "real"


def test_model_of_a_claim_is_a_volume():
    recording = record({"model": {"claim": "weights"}})
    (volume,) = [volume for volume in pod(recording)["volumes"] if volume["name"] == "model"]
    assert volume["persistentVolumeClaim"] == {"claimName": "weights", "readOnly": True}


def test_share_of_memory_follows_the_limit():
    shares = []
    for limit in ("6Gi", "8Gi"):
        recording = record({"pinnedDeviceMemoryLimit": limit})
        (share,) = [word for word in server(recording)["args"] if word.startswith("--gpu-memory-utilization=")]
        assert share.endswith(recording.outputs["dra-workshop-test"]["vllm"]["gpuMemoryUtilization"])
        shares.append(share)
    assert shares == ["--gpu-memory-utilization=0.0534", "--gpu-memory-utilization=0.0787"]


def test_probe_knows_how_long_a_start_may_take():
    recording = record({"startupSeconds": 302})
    probe = server(recording)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 305
    assert recording.resources["vllm-server"].options["customTimeouts"]["create"] == "482s"


@pytest.mark.parametrize(
    ("vllm", "images", "expected"),
    [
        ({}, {}, VLLM_IMAGE),
        ({}, {"vllm": "localhost/dra-workshop/vllm:v1"}, "localhost/dra-workshop/vllm:v1"),
        ({"images": {"9.0": "registry.example.com/hopper:1"}}, {"vllm": "any:1"}, "registry.example.com/hopper:1"),
        ({"images": {"8.0": "registry.example.com/ampere:1"}}, {"vllm": "any:1"}, "any:1"),
    ],
)
def test_image_is_the_one_for_the_gpu(vllm: dict[str, Any], images: dict[str, str], expected: str):
    recording = record(vllm, images=images)
    assert server(recording)["image"] == expected
    loaded = recording.resources["cluster-images"].inputs["create"]
    assert (expected in loaded) is expected.startswith("localhost/")


def test_programs_that_measure_are_all_in_the_cluster():
    data = record().resources["vllm-load"].inputs["data"]
    assert set(data) == {file.name for file in LOADGEN.glob("*.py")}
    assert "__main__.py" in data and sum(map(len, data.values())) < 2**20


def test_server_goes_with_the_claim_that_it_names():
    deployment = record().resources["vllm-server"]
    assert deployment.options["replaceWith"] == ["shared-gpu-shared-gpu-claim"]


def test_arguments_of_the_stack_come_last():
    assert server(record({"extraArgs": ["--enforce-eager"]}))["args"][-1] == "--enforce-eager"


def test_experiment_tells_its_plan():
    told = record({"sweep": {"percentages": [40, 20], "repeats": 3}}).outputs["dra-workshop-test"]
    assert told["vllmExperiment"] == {"profile": "quick", "percentages": [40, 20], "repeats": 3}


def test_programs_need_nothing_of_this_project():
    for file in (CHECKOUT / "images" / "loadgen").glob("*.py"):
        imported = [line for line in file.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in imported if line.split()[1].startswith(("settings", "components", "modules"))]


def test_share_of_memory_on_another_cluster_is_that_of_the_published_gpu():
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    # The mocked driver publishes one GPU of 80Gi on this node.
    with mock.patch.dict(recorder.GPU, node="gpu-node-1"):
        published = {"clusterUid": "", "gpus": [recorder.GPU]}
        with mock.patch.object(recorder, "PUBLISHED", published):
            recording = record(cluster=cluster, gpu={"source": "host", "nodes": [{"name": "gpu-node-1"}]})
    (share,) = [word for word in server(recording)["args"] if word.startswith("--gpu-memory-utilization=")]
    limit = 8 * 1024  # the block's own, less the context and what is to spare
    assert 0 < float(share.partition("=")[2]) < limit / (80 * 1024)
