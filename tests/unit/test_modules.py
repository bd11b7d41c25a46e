"""The module graph: its order, what each module brings, and that a switched-off one brings nothing."""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest import mock

import pulumi
import pytest

import modules
from components.site import Site
from machine import gpus as host_gpus
from machine import images, prerequisites
from machine.images import Images, ImagesMissing, images_of
from modules import changes
from modules.context import Context, MissingResultError
from settings import Settings, SettingsError
from settings.catalog import MODULES
from tests.golden import stacks
from tests.golden.recorder import RELEASE, Recorder, Recording, run

# The components that each module registers, here for simulated GPUs on Kind.
BRINGS = {
    "00": set(),
    "01": {"cluster", "simulated-gpus", "destroy-guard"},
    "02": {"dra-driver"},
    "03": {"exclusive-gpu"},
    "04": {"mps-daemon", "shared-gpu"},
    "05": {"mps-policy", "limited-client"},
    "06": {"vllm"},
    "06.5": set(),
    "07": {"shared-gpus-policy", "shared-gpus"},
    "08": {"admin-access", "gpu-exporter"},
    "09": {"taint-keeper"},
    "10.1": {"mig-tenant"},
    "10.2": set(),
    "10.3": {"taint-keeper"},
    "10.4": {"mig-clients"},
    "10.5": {"gpu-exporter"},
    "10.6": {"dynamic-mig"},
    "11.1": set(),
    "11.2": set(),
    "11.3": set(),
    "12": {"fleet"},
}


def closed(numbers: tuple[str, ...]) -> bool:
    return all(needed in numbers for number in numbers for needed in MODULES[number].requires)


# vLLM runs CUDA code, so its modules need a real GPU, and the nodes of a fleet are copies of simulated ones; modules of
# MIG need one that is divided, the others a whole one.
MIG = tuple(number for number, module in MODULES.items() if module.needs_mig)
# It excludes most others.
DYNAMIC = tuple(number for number, module in MODULES.items() if module.makes_mig)
SIMULATED = tuple(number for number in MODULES if number not in ("06", "06.5", *MIG, *DYNAMIC))
MIG_GPU = {"model": "a100-pcie-40gb", "mig": [["3g.20gb@4", "4g.20gb@0"], ["7g.40gb"]]}
REAL = [
    ("01", "02", "04", "06"),
    ("01", "02", "04", "06", "06.5"),
    tuple(number for number in MODULES if number not in ("03", "12", *MIG, *DYNAMIC)),
]


# Two that are free to choose beside those that need none but a cluster and a driver, then all and all but one. What
# is between would only be more of the same neighbours.
SIZES = [size for size in range(1, len(SIMULATED) + 1) if size <= 4 or size >= len(SIMULATED) - 1]
SUBSETS = [numbers for size in SIZES for numbers in combinations(SIMULATED, size) if closed(numbers)]


def needs(numbers: tuple[str, ...]) -> dict[str, Any]:
    """The settings without which these modules are refused: an exclusive claim and shared GPUs exclude each other."""
    if "03" not in numbers or not {"07", "12"} & set(numbers):
        return {}
    return {"driver": {"consumableShares": "disabled"}, "gpu": {"count": 3 if "04" in numbers else 2}}


def record(numbers: tuple[str, ...], stack: str = "test", **blocks: Any) -> Recording:
    return stacks.record(Settings.parse({"modules": list(numbers), **needs(numbers), **blocks}, stack))


@pytest.mark.parametrize("numbers", [("01",), ("01", "02", "07"), SIMULATED], ids="-".join)
def test_guard_is_the_first_to_go(numbers: tuple[str, ...]):
    """Pulumi deletes a resource before those that it depends on."""
    resources = record(numbers).resources
    everything = {name for name, resource in resources.items() if resource.custom}
    assert set(resources["destroy-guard-look"].depends_on) == everything - {"destroy-guard-look"}


def test_guard_looks_before_a_kind_cluster_is_made_anew():
    guard = record(("01", "02")).resources["destroy-guard-look"].inputs
    assert guard["triggers"] == ["cluster-kind-id"]  # a changed one replaces the guard
    assert guard["environment"]["CLUSTER_FOLDER"].endswith("/.state/test")


def test_every_object_bears_the_name_of_its_stack_and_keeps_its_fields():
    resources = record(SIMULATED).resources.values()
    objects = [resource for resource in resources if resource.type.startswith("kubernetes:")]
    assert len(objects) > 40
    for resource in objects:
        if resource.type != RELEASE:
            annotations = resource.inputs["metadata"]["annotations"]
            assert annotations["dra-workshop/stack"] == "test", resource.name
            assert annotations["pulumi.com/patchForce"] == "true", resource.name


def test_only_a_kind_cluster_is_forgotten_where_it_does_not_answer():
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    existing = record(("01",), cluster=cluster, gpu={"nodes": [{"name": "a"}]})
    assert "deleteUnreachable" not in existing.resources["cluster-kubernetes"].inputs
    assert record(("01",)).resources["cluster-kubernetes"].inputs["deleteUnreachable"] == "true"


def test_every_module_is_in_the_table_of_what_it_brings():
    assert set(BRINGS) == set(MODULES)


@pytest.mark.parametrize("numbers", SUBSETS, ids="-".join)
def test_exactly_the_modules_that_are_on_register_resources(numbers: tuple[str, ...]):
    top = {resource.name for resource in record(numbers).children(None)}
    assert top == set().union(*(BRINGS[number] for number in numbers))


@pytest.mark.parametrize("number", [*MIG, *DYNAMIC])
def test_modules_of_mig_register_their_own_resources(number: str):
    numbers = (*MODULES[number].requires, number)
    mig = ["empty"] if MODULES[number].makes_mig else MIG_GPU["mig"]
    by_claim = any(MODULES[number].mps_by_claim for number in numbers)
    blocks: dict[str, Any] = {"mps": {"mode": "claim"}} if by_claim else {}
    top = {resource.name for resource in record(numbers, gpu={**MIG_GPU, "mig": mig}, **blocks).children(None)}
    assert top == set().union(*(BRINGS[number] for number in numbers))


@pytest.mark.parametrize("numbers", REAL, ids="-".join)
def test_exactly_the_modules_that_are_on_register_resources_on_real_gpus(numbers: tuple[str, ...]):
    top = {resource.name for resource in record(numbers, gpu={"source": "host"}).children(None)}
    assert top == set().union(*(BRINGS[number] for number in numbers)) - {"simulated-gpus"}


def test_modules_that_exclude_each_other_by_default_are_refused_without_what_they_need():
    numbers = ("01", "02", "03", "04", "07")
    with pytest.raises(SettingsError, match=r"driver\.consumableShares"):
        Settings.parse({"modules": list(numbers)}, "test")
    with pytest.raises(SettingsError, match=r"gpu\.count"):
        Settings.parse({"modules": list(numbers), "driver": needs(numbers)["driver"]}, "test")


def test_module_00_alone_checks_the_machine_and_registers_nothing():
    monitor, settings = Recorder(), Settings.parse({"modules": ["00"]}, "test")
    with mock.patch.object(prerequisites, "require") as require:
        run(lambda: modules.build(settings, stacks.IMAGES), "test", monitor)
    require.assert_called_once_with(settings, stacks.IMAGES, keep=True)
    assert monitor.recording().resources == {}


def test_without_module_00_the_machine_is_not_checked():
    settings = Settings.parse({"modules": ["01"]}, "test")
    with mock.patch.object(prerequisites, "require") as require:
        run(lambda: modules.build(settings, stacks.IMAGES), "test")
    require.assert_not_called()


def test_failed_prerequisite_comes_before_any_registration():
    error = prerequisites.PrerequisiteError([prerequisites.Finding("docker", "none", False, "install it")])
    monitor, settings = Recorder(), Settings.parse({}, "test")
    with (
        mock.patch.object(prerequisites, "require", side_effect=error),
        pytest.raises(prerequisites.PrerequisiteError),
    ):
        run(lambda: modules.build(settings, stacks.IMAGES), "test", monitor)
    assert monitor.recording().resources == {}


@pytest.mark.parametrize(
    ("numbers", "keys"),
    [
        (("00",), set()),
        (("01",), {"cluster", "kubeconfig"}),
        (("01", "02"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver"}),
        (("00", "01", "02", "03"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver"}),
        (("01", "02", "04"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver", "mps"}),
        (("01", "02", "07"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver", "consumableCapacity"}),
        (("01", "02", "08"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver", "observability"}),
        (("01", "02", "09"), {"cluster", "kubeconfig", "gpus", "clusterUid", "driver"}),
        (
            SIMULATED,
            {"cluster", "kubeconfig", "gpus", "clusterUid", "driver", "mps", "consumableCapacity", "observability"}
            | {"fleet", "fleetNodes"},
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else None,
)
def test_outputs_are_those_of_the_modules_that_are_on(numbers: tuple[str, ...], keys: set[str]):
    outputs = record(numbers).outputs["dra-workshop-test"]
    assert set(outputs) == keys | {"modules", "next"}
    assert outputs["modules"] == list(numbers)


def test_outputs_of_vllm_are_those_of_its_modules():
    outputs = record(REAL[1], gpu={"source": "host"}).outputs["dra-workshop-test"]
    assert {"vllm", "vllmExperiment"} <= set(outputs)
    assert "vllmExperiment" not in record(REAL[0], gpu={"source": "host"}).outputs["dra-workshop-test"]


@pytest.mark.parametrize(
    ("numbers", "blocks", "expected"),
    [
        (("01", "02", "04", "07"), {}, ("memory", "mps")),
        (("01", "02", "07"), {"driver": {"consumableShares": "unlimited"}}, ("unlimited", "none")),
        (("01", "02", "03", "04", "07"), {}, ("disabled", "none")),
    ],
)
def test_outputs_tell_how_claims_share_and_who_holds_them_to_it(
    numbers: tuple[str, ...], blocks: dict[str, Any], expected: tuple[str, str]
):
    told = record(numbers, **blocks).outputs["dra-workshop-test"]["consumableCapacity"]
    assert (told["consumableShares"], told["enforcement"]) == expected
    assert list(told["requests"]) == ["large", "medium", "small", "waiting"]


@pytest.mark.parametrize(("prometheus", "grafana"), [(False, False), (True, False), (True, True)])
def test_outputs_tell_what_measures(prometheus: bool, grafana: bool):
    recording = record(("01", "02", "08"), observability={"prometheus": prometheus, "grafana": grafana})
    told = recording.outputs["dra-workshop-test"]["observability"]
    assert told == {"exporter": "nvml", "prometheus": prometheus, "grafana": grafana}
    assert ("prometheus" in recording.resources, "prometheus-grafana" in recording.resources) == (prometheus, grafana)


def test_mig_devices_are_measured_without_a_claim():
    numbers = (*MODULES["10.5"].requires, "10.5")
    recording = record(numbers, gpu=MIG_GPU, observability={"prometheus": True})
    assert "prometheus-prometheus" in recording.resources and "gpu-exporter-gpus-claim" not in recording.resources
    spec = recording.resources["gpu-exporter-daemonset"].inputs["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    settings = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (settings["DEVICE_SOURCE"], settings["GPU_SIMULATED"]) == ("slices", "true")
    assert "resourceClaims" not in spec and "claims" not in container["resources"]
    folders = {volume["name"]: volume["hostPath"]["path"] for volume in spec["volumes"]}
    assert folders["capabilities"] == "/var/lib/gpu-sim/driver/sim/proc-driver/nvidia/capabilities"
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    namespace = recording.resources["gpu-exporter-namespace"].inputs["metadata"]["labels"]
    assert "resource.kubernetes.io/admin-access" not in namespace


@pytest.mark.parametrize(("stack", "line"), [("phase1", "make verify"), ("mine", "make verify STACK=mine")])
def test_next_step_names_the_stack_unless_it_is_the_first(stack: str, line: str):
    assert record(("00",), stack).outputs[f"dra-workshop-{stack}"]["next"] == line


def test_gpus_of_the_host_are_mounted_and_nothing_is_simulated():
    recording = record(("01", "02"), gpu={"source": "host"})
    assert {resource.name for resource in recording.children(None)} == {"cluster", "dra-driver", "destroy-guard"}
    _, worker = recording.resources["cluster-kind"].inputs["triggers"][1]["nodes"]
    assert {mount["containerPath"]: mount["hostPath"] for mount in worker["extraMounts"]} == {
        "/driver/usr/bin": "/usr/local/nvidia/bin",
        "/driver/usr/lib/x86_64-linux-gnu": "/usr/local/nvidia/lib64",
        "/driver/lib": "/usr/local/nvidia/lib64",
    }
    (release,) = recording.of_type(RELEASE)
    assert release.inputs["values"]["nvidiaDriverRoot"] == "/driver"
    assert "containers" not in release.inputs["values"]["kubeletPlugin"]
    environment = recording.resources["dra-driver-gpus"].inputs["environment"]
    assert environment["EXPECTED_GPUS"] == '{"dra-workshop-test-worker": 2}' and "ONLY_GPUS" not in environment
    assert "maskNvidiaDriverParams" not in release.inputs["values"]
    assert "CLUSTER_HIDDEN_DEVICES" not in recording.resources["cluster-kind"].inputs["environment"]


def test_gpus_of_the_host_that_are_not_chosen_are_hidden_from_nodes_and_plugin():
    recording = record(("01", "02", "03"), gpu={"source": "host", "devices": [1]})
    cluster = recording.resources["cluster-kind"]
    assert cluster.inputs["environment"]["CLUSTER_HIDDEN_DEVICES"] == '["/dev/nvidia0"]'
    # A node that had the file would have to be made anew, so another choice makes another cluster.
    assert cluster.inputs["triggers"][2] == ["/dev/nvidia0"]
    (release,) = recording.of_type(RELEASE)
    assert release.inputs["values"]["maskNvidiaDriverParams"] is True
    environment = recording.resources["dra-driver-gpus"].inputs["environment"]
    chosen = stacks.HOST_GPUS[1].uuid
    assert (environment["EXPECTED_GPUS"], environment["ONLY_GPUS"]) == (
        '{"dra-workshop-test-worker": 1}',
        f'["{chosen}"]',
    )
    claim = recording.resources["exclusive-gpu-one-gpu-claim"].inputs["spec"]["spec"]["devices"]["requests"][0]
    assert chosen in claim["exactly"]["selectors"][0]["cel"]["expression"]


def test_outputs_tell_what_of_the_host_is_used():
    told = record(("01",), gpu={"source": "host", "devices": [1]}).outputs["dra-workshop-test"]["host"]
    assert told["gpus"] == [str(stacks.HOST_GPUS[1])] and told["notTouched"] == [str(stacks.HOST_GPUS[0])]
    assert told["mounts"][0] == "/usr/local/nvidia/bin -> /driver/usr/bin"


def test_host_without_a_driver_registers_nothing_even_where_module_00_is_off(monkeypatch: pytest.MonkeyPatch):
    nothing = host_gpus.HostGpus(replace(stacks.HOST_DRIVER, libraries=()), (), ())
    monkeypatch.setattr(stacks, "host", lambda *_: nothing)
    monitor = Recorder()
    with pytest.raises(host_gpus.HostGpusError, match="install NVIDIA's driver"):
        stacks.record(Settings.parse({"modules": ["01"], "gpu": {"source": "host"}}, "test"), monitor)
    assert monitor.recording().resources == {}


def test_claims_that_change_a_real_gpu_go_before_the_cluster_and_say_so(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    blocks: dict[str, Any] = {"gpu": {"source": "host", "allowComputeModeChange": True}, "mps": {"mode": "claim"}}
    recording = record(("01", "02", "04", "05"), **blocks)
    first = {"shared-gpu-shared-gpu-claim", "shared-gpu-clients", "limited-client-limited"}
    assert {name for name in first if recording.resources[name].deleted_with is None} == first
    # What has to undo the change goes after them: they depend on it.
    assert "dra-driver-gpus" in recording.resources["shared-gpu-shared-gpu-claim"].depends_on
    assert "shared-gpu-shared-gpu-claim" in recording.resources["shared-gpu-clients"].depends_on
    assert said == [changes.COMPUTE_MODE] and "EXCLUSIVE_PROCESS" in said[0]
    said.clear()
    assert record(("01", "02", "04"), mps={"mode": "claim"}).resources["shared-gpu-clients"].deleted_with
    assert said == []


def test_warnings_of_the_prerequisites_are_shown(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(pulumi.log, "warn", said.append)
    warning = prerequisites.Finding("persistence of GPU 0", "Disabled", True, "switch it on", warning=True)
    settings = Settings.parse({"modules": ["00"]}, "test")
    with mock.patch.object(prerequisites, "require", return_value=[warning]):
        run(lambda: modules.build(settings, stacks.IMAGES), "test")
    assert said == ["persistence of GPU 0: Disabled; switch it on"]


@pytest.mark.parametrize(("gpu", "root"), [({}, "/"), ({"driverRoot": "/opt/nvidia"}, "/opt/nvidia")])
def test_driver_root_of_an_existing_cluster_is_that_of_its_nodes(gpu: dict[str, str], root: str):
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    nodes = [{"name": "gpu-node-1"}]
    recording = record(("01", "02"), cluster=cluster, gpu={"source": "host", "nodes": nodes, **gpu})
    (release,) = recording.of_type(RELEASE)
    assert release.inputs["values"]["nvidiaDriverRoot"] == root


def test_images_of_a_registry_are_not_loaded_into_the_nodes():
    images = {
        name: f"registry.example.com/{name.lower()}:1"
        for name in ("draDriver", "gpuSim", "gpuProbe", "mpsDaemon", "gpuAgents")
    }
    recording = record(("01", "02"), images=images, cluster={"nodeImage": "registry.example.com/node:1"})
    assert "cluster-images" not in recording.resources
    nodes = recording.resources["cluster-kind"].inputs["triggers"][1]["nodes"]
    assert {node["image"] for node in nodes} == {"registry.example.com/node:1"}


def test_images_that_setup_has_not_made_are_named_with_the_command_that_makes_them(tmp_path: Path):
    with (
        mock.patch("machine.images.INDEX", tmp_path / "images.json"),
        pytest.raises(ImagesMissing, match="make setup"),
    ):
        images_of(Settings.parse({}, "test"))


def test_images_of_an_earlier_setup_are_told_apart_from_a_bug(tmp_path: Path):
    (tmp_path / "images.json").write_text(json.dumps(dict.fromkeys(("node", "dra-driver", "gpu-sim"), "an:image")))
    with (
        mock.patch("machine.images.INDEX", tmp_path / "images.json"),
        pytest.raises(ImagesMissing, match="does not name gpu-agents, gpu-probe, mps-daemon; run `make setup` again"),
    ):
        images_of(Settings.parse({"modules": ["01", "02", "04", "08"]}, "test"))


@pytest.mark.parametrize(("gpu", "gpu_sim"), [({}, "sim:v1"), ({"source": "host", "driverRoot": "/driver"}, "")])
def test_simulator_is_not_loaded_where_gpus_are_the_hosts(
    gpu: dict, gpu_sim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = {
        "node": "node:v1",
        "dra-driver": "driver:v1",
        "gpu-sim": "sim:v1",
        "gpu-probe": "probe:v1",
        "mps-daemon": "mps:v1",
        "gpu-agents": "agents:v1",
    }
    (tmp_path / "images.json").write_text(json.dumps(made))
    monkeypatch.setattr(images, "INDEX", tmp_path / "images.json")
    settings = Settings.parse({"gpu": gpu, "images": {"draDriver": "registry.example/driver:v2"}}, "test")
    made_here = {"gpu-probe": "probe:v1", "mps-daemon": "mps:v1", **({"gpu-sim": gpu_sim} if gpu_sim else {})}
    references = {"dra-driver": "registry.example/driver:v2", **made_here}
    found = images_of(settings)
    assert found == Images("node:v1", references, frozenset(made.values()))
    assert set(found.to_load) == set(made_here.values())


@pytest.mark.parametrize(
    ("numbers", "blocks", "mps_daemon", "gpu_agents"),
    [
        (("01", "02", "04"), {}, "mps-daemon:v1", ""),
        (("01", "02", "04"), {"mps": {"mode": "claim"}}, "", ""),
        (("01", "02", "08"), {}, "", "gpu-agents:v1"),
        (("01", "02", "09"), {}, "", "gpu-agents:v1"),
        (("01", "02", "08"), {"observability": {"exporter": "dcgm"}}, "", ""),
        (("01", "02", "08", "09"), {"observability": {"exporter": "dcgm"}}, "", "gpu-agents:v1"),
    ],
)
def test_only_images_that_something_runs_are_loaded(
    numbers: tuple[str, ...],
    blocks: dict[str, Any],
    mps_daemon: str,
    gpu_agents: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    names = ("node", "dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")
    (tmp_path / "images.json").write_text(json.dumps({name: f"{name}:v1" for name in names}))
    monkeypatch.setattr(images, "INDEX", tmp_path / "images.json")
    gpu: dict[str, Any] = {"source": "host", "allowComputeModeChange": True}
    made = images_of(Settings.parse({"modules": list(numbers), "gpu": gpu, **blocks}, "test")).references
    assert (made.get("mps-daemon", ""), made.get("gpu-agents", "")) == (mps_daemon, gpu_agents)


def test_images_of_upstream_are_those_that_the_stack_chooses():
    upstream = {"prometheus": "registry.example.com/p:1", "grafana": "registry.example.com/g:1"}
    recording = record(("01", "02", "08"), observability={"prometheus": True, "grafana": True}, images=upstream)
    for name, image in upstream.items():
        (container,) = recording.resources[f"prometheus-{name}"].inputs["spec"]["template"]["spec"]["containers"]
        assert container["image"] == image


def test_result_of_a_module_that_is_not_there_is_told_by_its_name():
    context = Context(Images("node", {}))
    assert context.find(Site) is None
    with pytest.raises(MissingResultError, match=r"^Site: no module has added one yet"):
        context.get(Site)
