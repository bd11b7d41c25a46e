"""Module 00's look at the machine: all findings at once, each with its remedy, and nothing it does not need."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from machine import cluster_prerequisites, prerequisites, proved
from machine import gpus as host_gpus
from machine import kind as kind_cluster
from machine.images import Images
from machine.prerequisites import Finding, PrerequisiteError, look, require
from machine.programs import Answer
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
            "docker info": (True, f"29.1.3|2|overlayfs|{folder}|[name=seccomp,profile=builtin name=cgroupns]"),
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
def inotify(tmp_path: Path) -> Path:
    """Folder of the machine's limits, which are Linux's own."""
    folder = tmp_path / "proc" / "sys" / "fs" / "inotify"
    folder.mkdir(parents=True)
    (folder / "max_user_instances").write_text("128\n")
    (folder / "max_user_watches").write_text("8192\n")
    return folder


@pytest.fixture
def machine(tmp_path: Path, inotify: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    answers = Machine(tmp_path)
    free = prerequisites.shutil.disk_usage(tmp_path)._replace(free=50 * prerequisites.GIB)
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / ".state")
    monkeypatch.setattr(prerequisites, "_run", answers.run)
    monkeypatch.setattr(prerequisites.platform, "release", lambda: "6.8.0-generic")
    monkeypatch.setattr(prerequisites.os, "sysconf", {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 4096}.__getitem__)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: free)
    monkeypatch.setattr(prerequisites, "PROC", tmp_path / "proc")
    monkeypatch.setattr(kind_cluster, "node_containers", lambda name: answers.nodes)
    monkeypatch.setattr(kind_cluster, "stopped_containers", lambda name: answers.stopped)
    monkeypatch.setattr(kind_cluster.KindCluster, "foreign_containers", lambda self: answers.foreign_containers)
    monkeypatch.setattr(kind_cluster.KindCluster, "network_owner", lambda self: answers.owner)
    return answers


def on_kind(**blocks: Any) -> Settings:
    return Settings.parse(blocks, "test")


def failed(settings: Settings) -> list[Finding]:
    return [finding for finding in look(settings, IMAGES) if not finding.ok]


def test_machine_that_has_everything_passes(machine: Machine):
    require(on_kind(), IMAGES)
    assert f"docker image inspect --format {{{{.Id}}}} {IMAGES.node}" in machine.asked


def test_simulated_gpus_never_look_for_a_driver(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_gpus, "discover", lambda *_: pytest.fail("looked for a driver"))
    names = {finding.name for finding in look(on_kind(), IMAGES)}
    assert names == {
        "kind",
        "kubectl",
        "kernel",
        "memory",
        "inotify",
        "docker",
        "device nodes",
        "disk",
        "image",
        "cluster",
    }
    assert not [line for line in machine.asked if "nvidia-smi" in line]


def test_all_findings_come_at_once_each_with_its_remedy(
    machine: Machine, inotify: Path, monkeypatch: pytest.MonkeyPatch
):
    machine.answers = dict.fromkeys(machine.answers, (False, "no such program"))
    monkeypatch.setattr(prerequisites.platform, "release", lambda: "4.18.0")
    monkeypatch.setattr(prerequisites.os, "sysconf", lambda name: 1)
    (inotify / "max_user_instances").write_text("10\n")
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
    machine.answers["docker info"] = (True, "||||")


def age_engine(machine: Machine) -> None:
    machine.answers["docker info"] = (True, "19.03.15|1|overlay2|/nowhere|[name=seccomp,profile=default]")


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
        (silence_engine, "docker", "||||", "run `make setup`, which starts or explains it"),
        (age_engine, "docker", "Docker Engine 19.03.15, cgroup v1, overlay2", "Docker Engine 20.10 or newer"),
        (silence_kind, "kind", "no output", "run `make setup`"),
        (take_name, "cluster", "this checkout did not create", f"kind delete cluster --name {CLUSTER}"),
        (take_network, "cluster", f"a Docker network named kind-{CLUSTER} exists", f"docker network rm kind-{CLUSTER}"),
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
    machine.answers["docker info"] = (True, f"{version}|2|overlayfs|{tmp_path}|[]")
    (engine,) = (finding for finding in look(on_kind(), IMAGES) if finding.name == "docker")
    assert engine.ok == enough and f"Docker Engine {version}, " in engine.observed
    assert engine.remedy == "Docker Engine 20.10 or newer is needed"


@pytest.mark.parametrize(
    ("options", "observed", "remedy"),
    [
        ("[name=seccomp,profile=builtin name=rootless name=cgroupns]", "rootless", "`docker context use default`"),
        ("[name=apparmor name=seccomp,profile=default name=userns]", "userns-remap is on", "/etc/docker/daemon.json"),
        ("[name=seccomp,profile=default name=userns name=rootless]", "rootless", "unset DOCKER_HOST"),
    ],
)
def test_engine_whose_containers_make_no_device_nodes_is_refused(
    machine: Machine, tmp_path: Path, options: str, observed: str, remedy: str
):
    machine.answers["docker info"] = (True, f"29.1.3|2|overlayfs|{tmp_path}|{options}")
    (finding,) = failed(on_kind())
    assert (finding.name, finding.observed) == ("device nodes", observed)
    assert finding.remedy.startswith("containers of this engine cannot make device nodes") and remedy in finding.remedy


@pytest.mark.parametrize(
    "options", ["[name=apparmor name=seccomp,profile=builtin name=cgroupns]", "[name=seccomp,profile=/rootless]", "[]"]
)
def test_engine_of_root_may_make_device_nodes(machine: Machine, tmp_path: Path, options: str):
    machine.answers["docker info"] = (True, f"29.1.3|2|overlayfs|{tmp_path}|{options}")
    assert failed(on_kind()) == []


@pytest.mark.parametrize("image", [versions.STOCK_NODE_IMAGE, "registry.example.com/node:v1.37.0"])
def test_node_image_that_is_not_ours_is_warned_of_on_cgroup_v1(machine: Machine, tmp_path: Path, image: str):
    images = replace(IMAGES, node=image)
    assert [finding for finding in look(on_kind(), images) if finding.name == "cgroup"] == []
    machine.answers["docker info"] = (True, f"29.1.3|1|overlayfs|{tmp_path}|[]")
    for settings, used in ((on_kind(), images), (on_kind(cluster={"nodeImage": image}), IMAGES)):
        (finding,) = (finding for finding in look(settings, used) if finding.name == "cgroup")
        assert finding.ok and finding.warning and finding.observed == f"{image} on cgroup v1"
        for remedy in ("systemd.unified_cgroup_hierarchy=1", "SOURCE=built make setup", "unable to freeze"):
            assert remedy in finding.remedy
    assert [finding for finding in look(on_kind(), IMAGES) if finding.name == "cgroup"] == [], "ours has cgroupfs there"


def test_full_disk_is_told_before_anything_is_made(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    full = prerequisites.shutil.disk_usage(tmp_path)._replace(free=prerequisites.GIB)
    monkeypatch.setattr(prerequisites.shutil, "disk_usage", lambda path: full)
    (finding,) = failed(on_kind())
    assert finding.observed == f"1.0 GiB free in {tmp_path}" and "docker system df" in finding.remedy
    assert "5 GiB are needed" in finding.remedy
    create_by_this_checkout(machine, tmp_path / ".state" / "test")
    assert failed(on_kind()) == [], "a cluster that is there has its images"


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


def on_existing(**blocks: Any) -> Settings:
    cluster = {"provider": "existing", "kubeconfig": str(FOLDER / "kubeconfig.yaml"), "context": "lab"}
    return Settings.parse({"cluster": cluster, "gpu": {"nodes": [{"name": "gpu-node-1"}]}, **blocks}, "test")


def test_existing_cluster_is_looked_at_without_docker(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    finding = Finding("cluster", "Kubernetes", True)
    monkeypatch.setattr(cluster_prerequisites, "look", lambda *_: iter([finding]))
    assert [found.name for found in look(on_existing(), IMAGES)] == ["kind", "kubectl", "cluster"]
    assert not [line for line in machine.asked if line.startswith("docker")]


@pytest.mark.parametrize(
    ("workers", "instances", "watches", "enough"),
    [
        # Linux's own limits: 128 instances, and before 5.11 8192 watches.
        *((1, 128, 8192, True), (2, 128, 8192, True), (3, 128, 8192, True), (4, 128, 8192, False)),
        *((8, 512, 8192, True), (1, 90, 8192, False), (1, 128, 4096, False), (8, 512, 6000, False)),
    ],
)
def test_what_nodes_watch_files_with_grows_with_the_nodes(
    machine: Machine, inotify: Path, workers: int, instances: int, watches: int, enough: bool
):
    (inotify / "max_user_instances").write_text(f"{instances}\n")
    (inotify / "max_user_watches").write_text(f"{watches}\n")
    found = failed(on_kind(cluster={"workers": workers}))
    assert [finding.name for finding in found] == ([] if enough else ["inotify"])
    for finding in found:
        kind, there = ("instances", instances) if "instances" in finding.observed else ("watches", watches)
        assert finding.observed.startswith(f"{there} {kind} a user, {workers + 1} nodes and this machine's own")
        assert f"`sysctl -w fs.inotify.max_user_{kind}=" in finding.remedy and "fewer cluster.workers" in finding.remedy


@pytest.mark.parametrize(
    ("is_root", "nodes", "taken", "enough"),
    [
        *((True, [], 82, True), (True, [], 83, False)),
        # Only root sees what root's programs have, and nodes that are there have theirs.
        *((False, [], 128, True), (True, [f"{CLUSTER}-control-plane"], 128, True)),
    ],
)
def test_what_other_clusters_watch_files_with_is_counted(
    machine: Machine,
    inotify: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_root: bool,
    nodes: list[str],
    taken: int,
    enough: bool,
):
    descriptors = machine_processes(inotify.parents[2], taken)
    root = descriptors.stat().st_uid
    monkeypatch.setattr(prerequisites, "ROOT", root)
    monkeypatch.setattr(prerequisites.os, "geteuid", lambda: root if is_root else root + 1)
    machine.nodes = nodes
    found = [finding for finding in look(on_kind(cluster={"workers": 1}), IMAGES) if finding.name == "inotify"]
    assert [finding.ok for finding in found] == [enough, True], descriptors
    if not enough:
        assert found[0].observed == f"128 instances a user, of which {taken} are taken; 2 nodes need 46"
        assert "take down another cluster" in found[0].remedy


def machine_processes(proc: Path, instances: int) -> Path:
    """Processes of root's with so many inotify instances between them, other files, and one that has just ended."""
    for number in range(instances + 1):
        folder = proc / str(1 + number % 5) / "fd"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / str(number)).symlink_to("anon_inode:inotify" if number else "socket:[1]")
    (proc / "77").mkdir()
    return proc


def test_gate_of_the_driver_that_makes_mig_asks_for_its_feature_with_any_modules(machine: Machine):
    older = {"nodeImage": "docker.io/kindest/node:v1.35.2"}
    driver = {"featureGates": {"DynamicMIG": True}}
    (found,) = failed(on_kind(modules=["00", "01", "02"], cluster=older, driver=driver))
    assert "DRAPartitionableDevices" in found.observed and "module 02 (" in found.observed
    assert not failed(on_kind(modules=["00", "01", "02"], cluster=older))


OLDER = ["00", "01", "02", "04", "07", "09"]


@pytest.mark.parametrize(
    ("version", "modules", "missing"),
    [
        ("1.37.2", OLDER, []),
        ("1.36.1", OLDER, ["DRADeviceTaintRules"]),
        *(
            (
                version,
                OLDER,
                ["DRAConsumableCapacity", "DRADeviceTaints", "DRADeviceTaintRules"],
            )
            for version in ("1.34.0", "1.35")
        ),
        ("1.34.0", ["00", "01", "02", "03", "08"], []),
        ("1.33.5", ["00", "01", "02"], ["resource.k8s.io/v1"]),
    ],
)
@pytest.mark.parametrize("told_by", ["tag", "file"])
def test_node_image_of_an_older_kubernetes_is_refused_by_what_modules_need(
    machine: Machine, told_by: str, version: str, modules: list[str], missing: list[str]
):
    ref = f"docker.io/kindest/node:v{version}" if told_by == "tag" else "registry.example.com/our-node:v7.2"
    machine.answers["docker run"] = (True, f"v{version}") if told_by == "file" else (False, "asked for no reason")
    found = failed(on_kind(modules=modules, cluster={"nodeImage": ref}))
    assert len(found) == len(missing)
    for finding, gate in zip(found, missing, strict=True):
        assert gate in finding.observed and version in finding.observed
    assert ("docker run" in " ".join(machine.asked)) == (told_by == "file")
    rules = [finding for finding in found if "DRADeviceTaintRules" in finding.observed]
    for finding in rules:
        assert f"is missing or off in Kubernetes {version}, and module 09 (" in finding.observed
        assert finding.remedy.startswith("it is on from Kubernetes 1.37 on") and "drop 09" in finding.remedy


def test_node_image_that_does_not_say_its_kubernetes_is_refused(machine: Machine):
    machine.answers["docker run"] = (False, "cat: /kind/version: No such file or directory")
    (finding,) = failed(on_kind(cluster={"nodeImage": "busybox:1.36"}))
    assert finding.observed == "busybox:1.36: cat: /kind/version: No such file or directory"
    assert "kindest/node" in finding.remedy


def test_node_image_of_set_up_is_not_asked(machine: Machine):
    assert failed(on_kind(modules=OLDER)) == []
    assert not [line for line in machine.asked if line.startswith("docker run")]


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


class Proved:
    """A stack whose prerequisites were met, and the running nodes of its cluster."""

    def __init__(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.machine, self.running = machine, [f"{CLUSTER}-control-plane", f"{CLUSTER}-worker"]
        monkeypatch.setattr(proved, "run", self.docker)

    def docker(self, *argv: str) -> Answer:
        assert argv[:2] == ("docker", "ps") and "--all" not in argv
        assert f"label=io.x-k8s.kind.cluster={CLUSTER}" in argv and f"network=kind-{CLUSTER}" in argv
        return Answer(0, "\n".join(self.running), "")

    def looked(self, settings: Settings, images: Images = IMAGES, *, keep: bool = True) -> bool:
        """Whether the machine was looked at."""
        self.machine.asked.clear()
        require(settings, images, keep=keep)
        return bool(self.machine.asked)


@pytest.fixture
def stack(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Proved:
    return Proved(machine, monkeypatch)


def test_a_machine_whose_cluster_runs_is_looked_at_once(stack: Proved):
    settings = on_kind()
    assert [stack.looked(settings) for _ in range(3)] == [True, False, False]
    assert not stack.looked(settings, keep=False)  # a preview heeds it as well
    assert not stack.looked(on_kind(mps={"activeThreadPercentage": 30}))


def test_a_preview_proves_nothing(stack: Proved):
    assert [stack.looked(on_kind(), keep=False) for _ in range(2)] == [True, True]


@pytest.mark.parametrize("running", [[], [f"{CLUSTER}-worker"]])
def test_a_machine_is_looked_at_again_where_nodes_are_gone_or_stopped(stack: Proved, running: list[str]):
    stack.looked(on_kind())
    stack.running = running
    assert stack.looked(on_kind())


@pytest.mark.parametrize(
    "blocks",
    [
        {"cluster": {"workers": 2}},
        {"cluster": {"nodeImage": "kindest/node:v1.36.0"}},
        {"driver": {"featureGates": {"DynamicMIG": True}}},
    ],
)
def test_a_machine_is_looked_at_again_for_what_it_was_not_looked_at_for(stack: Proved, blocks: dict[str, Any]):
    stack.looked(on_kind())
    stack.running = [f"node-{number}" for number in range(1 + on_kind(**blocks).cluster.workers)]
    assert stack.looked(on_kind(**blocks))


def test_a_machine_is_looked_at_again_for_other_images(stack: Proved):
    references = {**IMAGES.references, "gpu-probe": "localhost/dra-workshop/gpu-probe:v2-0123456789ab"}
    assert [stack.looked(on_kind(), replace(IMAGES, references=references)) for _ in range(2)] == [True, False]
    assert stack.looked(on_kind(), IMAGES)


def test_a_machine_with_a_warning_or_with_gpus_of_its_own_is_looked_at_each_time(
    stack: Proved, monkeypatch: pytest.MonkeyPatch
):
    foreign = on_kind(cluster={"nodeImage": "kindest/node:v1.37.0"})
    stack.machine.answers["docker info"] = (True, "29.1.3|1|overlayfs|/nowhere|[name=seccomp]")
    assert [stack.looked(foreign) for _ in range(2)] == [True, True]
    on_host = on_kind(gpu={"source": "host"})
    assert proved.Proof.of(on_host, IMAGES) is None
    cluster = {"provider": "existing", "kubeconfig": str(FOLDER / "kubeconfig.yaml"), "context": "lab"}
    gpu = {"source": "host", "nodes": [{"name": "gpu-node-1"}]}
    assert proved.Proof.of(on_kind(cluster=cluster, gpu=gpu), IMAGES) is None


def test_a_machine_that_fails_proves_nothing(stack: Proved):
    stack.machine.answers["kind version"] = (True, "kind v0.1.0")
    for _ in range(2):
        with pytest.raises(PrerequisiteError):
            require(on_kind(), IMAGES, keep=True)
