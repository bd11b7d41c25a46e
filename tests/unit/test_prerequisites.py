"""Module 00's look at the machine: all findings at once, each with its remedy, and nothing it does not need."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machine import gpus as host_gpus
from machine import kind as kind_cluster
from machine import prerequisites
from machine.prerequisites import Finding, PrerequisiteError, look, require
from settings import Settings
from settings import stack as settings_stack
from tests.golden.stacks import FOLDER, IMAGES, host
from toolchain import versions

CLUSTER = "dra-workshop-test"
NODES = [f"{CLUSTER}-control-plane", f"{CLUSTER}-worker"]


class Machine:
    """Answers for every command that the checks run; a test changes those that it is about."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.answers = {
            "kind version": (True, f"kind v{versions.KIND} go1.26.6 linux/amd64"),
            "kubectl version --client": (True, f"Client Version: v{versions.KUBERNETES}\nKustomize Version: v5.8.1"),
            "docker info": (True, f"29.1.3|2|overlayfs|{folder}"),
            "docker image inspect": (True, "sha256:0"),
        }
        self.nodes: list[str] = []
        self.stopped: list[str] = []
        self.foreign_containers: list[str] = []
        self.owner: str | None = None

    def run(self, *argv: str) -> tuple[bool, str]:
        line = " ".join(argv)
        self.asked.append(line)
        return next(answer for start, answer in self.answers.items() if line.startswith(start))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    answers = Machine(tmp_path)
    free = prerequisites.shutil.disk_usage(tmp_path)._replace(free=50 * prerequisites.GIB)
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / ".state")
    monkeypatch.setattr(prerequisites, "_run", answers.run)
    monkeypatch.setattr(prerequisites.platform, "release", lambda: "6.8.0-generic")
    monkeypatch.setattr(prerequisites.os, "sysconf", {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(prerequisites, "MINIMUM_INOTIFY_INSTANCES", 1)
    monkeypatch.setattr(kind_cluster, "node_containers", lambda name: answers.nodes)
    monkeypatch.setattr(kind_cluster, "stopped_containers", lambda name: answers.stopped)
    monkeypatch.setattr(kind_cluster.KindCluster, "foreign_containers", lambda self: answers.foreign_containers)
    monkeypatch.setattr(kind_cluster.KindCluster, "network_owner", lambda self: answers.owner)
    return answers


def on_kind(**blocks: Any) -> Settings:
    return Settings.parse(blocks, "test")


def on_existing(**gpu: Any) -> Settings:
    cluster = {"provider": "existing", "kubeconfig": str(FOLDER / "kubeconfig.yaml"), "context": "lab"}
    return Settings.parse({"cluster": cluster, "gpu": {"nodes": [{"name": "gpu-node-1"}], **gpu}}, "test")


def failed(settings: Settings) -> list[Finding]:
    return [finding for finding in look(settings, IMAGES) if not finding.ok]


def test_machine_that_has_everything_passes(machine: Machine):
    require(on_kind(), IMAGES)
    assert f"docker image inspect --format {{{{.Id}}}} {IMAGES.node}" in machine.asked


def test_simulated_gpus_never_look_for_a_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_gpus, "discover", lambda *_: pytest.fail("looked for a driver"))
    names = {finding.name for finding in look(on_kind(), IMAGES)}
    assert names == {"kind", "kubectl", "kernel", "memory", "inotify", "docker", "disk", "image", "cluster"}
    assert not [line for line in machine.asked if "nvidia-smi" in line]


def test_all_findings_come_at_once_each_with_its_remedy(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    machine.answers = dict.fromkeys(machine.answers, (False, "no such program"))
    monkeypatch.setattr(prerequisites.platform, "release", lambda: "4.18.0")
    monkeypatch.setattr(prerequisites.os, "sysconf", lambda name: 1)
    monkeypatch.setattr(prerequisites, "MINIMUM_INOTIFY_INSTANCES", 10**9)
    with pytest.raises(PrerequisiteError) as caught:
        require(on_kind(), IMAGES)
    assert [finding.name for finding in caught.value.findings] == [
        *("kind", "kubectl", "kernel", "memory", "inotify", "docker")
    ]
    text = str(caught.value)
    assert text.startswith("6 prerequisites are not met:\n")
    for remedy in ("run `make setup`", "Linux 5.4 or newer", "a larger machine", "sysctl -w fs.inotify"):
        assert remedy in text


def test_one_finding_is_told_as_one(machine: Machine):
    machine.answers["kind version"] = (True, "kind v0.20.0 go1.20")
    with pytest.raises(PrerequisiteError) as caught:
        require(on_kind(), IMAGES)
    wanted = f"kind: kind v0.20.0 go1.20; v{versions.KIND} is needed; run `make setup`, then `source ./activate`"
    assert str(caught.value) == f"1 prerequisite is not met:\n  {wanted}"


def break_image(machine: Machine) -> None:
    machine.answers["docker image inspect"] = (False, "no such image")


def silence_engine(machine: Machine) -> None:
    machine.answers["docker info"] = (True, "|||")


def age_engine(machine: Machine) -> None:
    machine.answers["docker info"] = (True, "19.03.15|1|overlay2|/nowhere")


def silence_kind(machine: Machine) -> None:
    machine.answers["kind version"] = (True, "")


def take_name(machine: Machine) -> None:
    machine.nodes = machine.foreign_containers = NODES


def take_network(machine: Machine) -> None:
    machine.owner = "another checkout"


@pytest.mark.parametrize(
    ("change", "name", "observed", "remedy"),
    [
        (break_image, "image", f"{IMAGES.node} is not in the engine", "run `make setup`"),
        (silence_engine, "docker", "|||", "run `make setup`, which starts or explains it"),
        (age_engine, "docker", "Docker Engine 19.03.15, cgroup v1, overlay2", "Docker Engine 20.10 or newer"),
        (silence_kind, "kind", "no output", "run `make setup`"),
        (take_name, "cluster", "this checkout did not create", f"kind delete cluster --name {CLUSTER}"),
        (take_network, "cluster", "this checkout did not create", "set another cluster.name"),
    ],
)
def test_failing_finding_says_what_was_seen_and_names_a_remedy(
    machine: Machine, change: Callable[[Machine], None], name: str, observed: str, remedy: str
):
    change(machine)
    finding = failed(on_kind())[0]
    assert finding.name == name and observed in finding.observed and remedy in finding.remedy


@pytest.mark.parametrize(
    ("release", "enough"),
    [
        *(("6.1.0-18-amd64", True), ("5.15.167.4-microsoft-standard-WSL2", True), ("5.4.0", True), ("5.4-rc1", True)),
        *(("5.3.18-lp152.106-default", False), ("4.19.0", False), ("custom", False), ("", False)),
    ],
)
def test_kernel_is_judged_by_the_number_its_release_starts_with(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, release: str, enough: bool
):
    monkeypatch.setattr(prerequisites.platform, "release", lambda: release)
    (kernel,) = (finding for finding in look(on_kind(), IMAGES) if finding.name == "kernel")
    assert (kernel.observed, kernel.ok) == (f"Linux {release}", enough) and "Linux 5.4 or newer" in kernel.remedy


@pytest.mark.parametrize(
    ("version", "enough"),
    [
        *(("20.10.24+dfsg1", True), ("27.5.1", True), ("20.10.0-ce", True), ("20.10", True), ("100.0.0", True)),
        *(("20.9.9", False), ("0.0.0-20241016", False), ("dev", False), ("library-import", False)),
    ],
)
def test_engine_is_judged_by_the_number_its_version_starts_with(
    machine: Machine, tmp_path: Path, version: str, enough: bool
):
    machine.answers["docker info"] = (True, f"{version}|2|overlayfs|{tmp_path}")
    (engine,) = (finding for finding in look(on_kind(), IMAGES) if finding.name == "docker")
    assert engine.ok == enough and f"Docker Engine {version}, " in engine.observed
    assert engine.remedy == "Docker Engine 20.10 or newer is needed"


def test_full_disk_is_told_before_anything_is_made(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    full = prerequisites.shutil.disk_usage(tmp_path)._replace(free=prerequisites.GIB)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: full)
    (finding,) = failed(on_kind())
    assert finding.observed == f"1.0 GiB free in {tmp_path}" and "docker system df" in finding.remedy


def create_by_this_checkout(machine: Machine, folder: Path) -> None:
    machine.nodes = NODES
    machine.owner = kind_cluster.KindCluster(CLUSTER, folder).owner


def test_stopped_nodes_are_named_with_the_command_that_starts_them(machine: Machine, tmp_path: Path):
    folder = tmp_path / ".state" / "test"
    create_by_this_checkout(machine, folder)
    folder.mkdir()
    (folder / "incarnation").write_text("1")
    machine.stopped = NODES[1:]
    (finding,) = failed(on_kind())
    assert finding.observed == f"{NODES[1]} stopped" and finding.remedy == f"`docker start {NODES[1]}`"


def test_cluster_of_this_checkout_is_no_obstacle(machine: Machine, tmp_path: Path):
    create_by_this_checkout(machine, tmp_path / ".state" / "test")
    (finding,) = (finding for finding in look(on_kind(), IMAGES) if finding.name == "cluster")
    assert finding.ok and finding.observed == f"{CLUSTER}: 2 nodes of ours"


def test_looking_leaves_nothing_behind(machine: Machine, tmp_path: Path):
    before = sorted(tmp_path.rglob("*"))
    assert failed(on_kind()) == []
    assert sorted(tmp_path.rglob("*")) == before


OURS = [{"names": [ref]} for ref in IMAGES.to_load]


def serve(
    machine: Machine, minor: str, nodes: tuple[str, ...] = ("gpu-node-1", "other"), listed: list[dict] = OURS
) -> None:
    version = {"serverVersion": {"major": "1", "minor": minor, "gitVersion": f"v1.{minor}.0"}}
    kubectl = f"kubectl --kubeconfig {FOLDER / 'kubeconfig.yaml'} --context lab"
    machine.answers[f"{kubectl} version"] = (True, json.dumps(version))
    items = [{"metadata": {"name": name}, "status": {"images": listed}} for name in nodes]
    machine.answers[f"{kubectl} get nodes"] = (True, json.dumps({"items": items}))


@pytest.mark.parametrize("minor", ["34", "37+"])
def test_existing_cluster_with_dra_and_the_named_nodes_passes_without_docker(machine: Machine, minor: str):
    serve(machine, minor)
    require(on_existing(), IMAGES)
    assert not [line for line in machine.asked if line.startswith("docker")]


@pytest.mark.parametrize("minor", ["9", "33", "33+", ""])
def test_existing_cluster_before_dra_is_refused(machine: Machine, minor: str):
    serve(machine, minor)
    (finding,) = failed(on_existing())
    assert finding.observed == f"Kubernetes v1.{minor}.0 at context lab" and "v1.34" in finding.remedy


def test_node_that_an_existing_cluster_lacks_is_named(machine: Machine):
    serve(machine, "37", nodes=("other",))
    (finding,) = failed(on_existing())
    assert finding.observed == "gpu-node-1 is no node" and finding.remedy == "gpu.nodes must be some of other"


def test_image_that_no_registry_serves_must_be_on_the_existing_node(machine: Machine):
    serve(machine, "37", listed=OURS[1:])
    (finding,) = failed(on_existing())
    assert (
        finding.observed == f"{IMAGES['dra-driver']} is not on gpu-node-1" and "name it under images" in finding.remedy
    )


def test_node_that_cannot_list_all_its_images_is_trusted(machine: Machine):
    serve(machine, "37", listed=[{"names": [f"registry.example/{number}:v1"]} for number in range(50)])
    assert failed(on_existing()) == []


@pytest.mark.parametrize(("command", "error"), [("version", "connection refused"), ("get nodes", "Forbidden")])
def test_existing_cluster_that_does_not_answer_is_told_by_its_own_error(machine: Machine, command: str, error: str):
    serve(machine, "37")
    kubectl = f"kubectl --kubeconfig {FOLDER / 'kubeconfig.yaml'} --context lab"
    machine.answers[f"{kubectl} {command}"] = (False, error)
    (finding,) = failed(on_existing())
    assert finding.observed == error and finding.remedy == f"check it with `{kubectl} {command}`"


def test_host_gpus_on_kind_are_looked_at_after_the_machine(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str | None, tuple[int | str, ...]]] = []
    monkeypatch.setattr(host_gpus, "discover", lambda *words: asked.append(words) or host(*words))
    names = [
        finding.name
        for finding in look(on_kind(gpu={"source": "host", "devices": [0]}, modules=["00", "01", "02", "03"]), IMAGES)
    ]
    assert asked == [(None, (0,))]
    assert names.index("cluster") < names.index("driver") < names.index("compute mode of GPU 0")
    assert "compute mode of GPU 1" not in names


def test_warnings_are_handed_on_and_no_obstacle(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    warning = Finding("persistence of GPU 0", "Disabled", True, "switch it on", warning=True)
    monkeypatch.setattr(prerequisites, "_cluster_name", lambda settings: warning)
    assert require(on_kind(), IMAGES) == [warning]


@pytest.mark.parametrize(
    ("argv", "result"),
    [
        (("sh", "-c", "echo out; echo first >&2; echo last >&2; exit 3"), (False, "last")),
        (("sh", "-c", "exit 3"), (False, "exit 3")),
        (("sh", "-c", "echo ' out '"), (True, "out")),
    ],
)
def test_command_is_told_by_its_output_or_the_last_line_of_its_error(argv: tuple[str, ...], result: tuple[bool, str]):
    assert prerequisites._run(*argv) == result


def test_program_that_is_not_there_is_a_finding_and_no_crash():
    ok, text = prerequisites._run("no-such-program-here")
    assert not ok and "no-such-program-here" in text
