"""The command that makes and deletes a Kind cluster, against a Docker Engine and a kind that only keep files."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from machine import kind as kind_cluster
from machine.kind import KindCluster
from toolchain.paths import CHECKOUT

FAKE = Path(__file__).with_name("fake_docker")
WAIT_SECONDS = 60


@dataclass
class World:
    """What Docker and kind have, and this checkout's state."""

    root: Path
    folder: Path
    changed_variables: dict[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        cluster = {"CLUSTER_NAME": "a", "CLUSTER_FOLDER": str(self.folder), "CLUSTER_TIMEOUT": "240"}
        incarnation = kind_cluster.incarnation(self.folder, "a")
        return {**os.environ, **cluster, "CLUSTER_INCARNATION": incarnation, **self.changed_variables}

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "machine.kind", *words],
            cwd=CHECKOUT,
            env=self.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # Of a shell's background job they are ignored, and this would be inherited.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *words: str, config: str = "kind: Cluster\n") -> tuple[int, str, str]:
        process = self.start(*words)
        out, err = process.communicate(config)
        return process.returncode, out, err

    @property
    def containers(self) -> set[str]:
        return {path.name for path in (self.root / "clusters").glob("*/*")}

    @property
    def networks(self) -> set[str]:
        return {path.name for path in (self.root / "networks").iterdir()}

    def calls(self, start: str) -> list[str]:
        return [line for line in (self.root / "calls").read_text().splitlines() if line.startswith(start)]

    def create_foreign_cluster(self, network: str = "kind") -> None:
        """Somebody makes a cluster of that name by hand."""
        (self.root / "clusters" / "a").mkdir()
        (self.root / "clusters" / "a" / "a-control-plane").write_text(f"{network}\n")

    def mark_network(self, mark: str) -> None:
        (self.root / "networks" / "kind-a").write_text(f"{mark}\n")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for folder in ("bin", "fake/clusters", "fake/networks"):
        (tmp_path / folder).mkdir(parents=True)
    for program in ("docker", "kind"):
        (tmp_path / "bin" / program).symlink_to(FAKE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path / "fake"))
    (tmp_path / "fake" / "calls").touch()
    return World(tmp_path / "fake", tmp_path / ".state" / "stack")


def test_create_prints_the_kubeconfig_and_nothing_else(world: World):
    rc, out, _ = world.run("create")
    assert (rc, out) == (0, "kubeconfig of a, wait 240s\n")
    assert world.containers == {"a-control-plane"} and world.networks == {"kind-a"}
    assert (world.root / "config").read_text() == "kind: Cluster\n"


def test_kubeconfig_and_its_folder_are_only_for_their_owner(world: World):
    world.run("create")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (world.folder / "kubeconfig", world.folder)]
    assert modes == [0o600, 0o700]


def test_kubeconfig_can_be_read_again_without_asking_docker(world: World):
    _, made, _ = world.run("create")
    env, asked = world.env, world.calls("")
    command = [sys.executable, "-m", "machine.kind", "kubeconfig"]
    again = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=True).stdout
    assert again == made and world.calls("") == asked


@pytest.mark.parametrize("network", ["kind", "kind-a"])
def test_create_never_adopts_a_cluster(world: World, network: str):
    world.create_foreign_cluster(network)
    if network == "kind-a":
        world.mark_network("another checkout")
    rc, out, err = world.run("create")
    assert (rc, out) == (1, "")
    assert err.startswith('cluster.name: "a" is taken by a cluster that this checkout did not create (')
    assert "choose another cluster.name or delete it with `kind delete cluster --name a`" in err
    assert world.containers == {"a-control-plane"} and world.calls("kind ") == []


def test_create_never_takes_a_network_that_bears_no_mark_of_ours(world: World):
    world.mark_network("")
    rc, _, err = world.run("create")
    assert rc == 1 and "(network kind-a)" in err
    assert err.endswith("delete it with `docker network rm kind-a`\n")
    assert world.networks == {"kind-a"} and world.calls("kind ") == []


def test_device_files_are_taken_from_every_node_now_and_at_each_start(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLUSTER_HIDDEN_DEVICES", '["/dev/nvidia1", "/dev/nvidia3"]')
    rc, _, err = world.run("create")
    assert rc == 0 and "a-control-plane has no /dev/nvidia1, /dev/nvidia3" in err
    assert "rm -f /dev/nvidia1 /dev/nvidia3\n" in (world.root / "hiding-script-of-a-control-plane").read_text()
    installed = (world.root / "hiding-installed-in-a-control-plane").read_text()
    assert installed == kind_cluster.INSTALL_HIDING
    subprocess.run(["sh", "-n"], input=installed, text=True, check=True)
    # systemd runs it before containerd, so before any pod that could see the files.
    assert "/etc/systemd/system/containerd.service.d/50-hide-devices.conf" in installed
    assert installed.endswith(f"{kind_cluster.HIDING_SCRIPT}\n"), "not only at the next start"


def test_cluster_whose_nodes_keep_a_hidden_device_file_is_taken_down(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CLUSTER_HIDDEN_DEVICES", '["/dev/nvidia1"]')
    (world.root / "stubborn").touch()
    rc, out, err = world.run("create")
    assert (rc, out) == (1, "") and "`docker exec --interactive` ended with 1; see above" in err
    assert world.containers == set()


def test_without_hidden_devices_none_is_taken(world: World):
    world.run("create")
    assert not (world.root / "hiding-script-of-a-control-plane").exists()


IMAGES = {"nodes": ["a-control-plane"], "images": ["localhost/dra-workshop/gpu-sim:1-abc"]}


def test_images_are_loaded_while_kind_works(world: World):
    world.changed_variables["CLUSTER_IMAGES"] = json.dumps(IMAGES)
    (world.root / "images-first").touch()  # kind ends once it was told to load them
    assert world.run("create")[0] == 0
    (loaded,) = world.calls("kind load image-archive")
    assert loaded.startswith("kind load image-archive --name a --nodes a-control-plane ")


@pytest.mark.parametrize("content", ["", "{}", '{"nodes": ["a-control-plane"], "images": []}'])
def test_without_images_none_are_loaded(world: World, content: str):
    world.changed_variables["CLUSTER_IMAGES"] = content
    assert world.run("create")[0] == 0
    assert world.calls("kind load") == world.calls("docker save") == []


def test_images_that_cannot_be_loaded_ahead_are_no_failure_of_the_cluster(world: World):
    world.changed_variables["CLUSTER_IMAGES"] = json.dumps(IMAGES)
    (world.root / "no-load").touch()
    rc, out, err = world.run("create")
    assert (rc, out, err) == (0, "kubeconfig of a, wait 240s\n", ""), "the next step says what is wrong"


def test_loading_ends_with_a_creation_that_fails(world: World):
    never = {**IMAGES, "nodes": ["a-worker9"]}
    world.changed_variables["CLUSTER_IMAGES"] = json.dumps(never)
    (world.root / "fail").touch()
    started = time.monotonic()
    assert world.run("create")[0] == 1
    assert time.monotonic() - started < WAIT_SECONDS
    assert world.calls("kind load") == []


CONFIG = "kind: Cluster\nnodes:\n- role: control-plane\n  image: node:1\n- role: worker\n  image: node:1\n"


@pytest.mark.parametrize(
    ("held", "loaded"),
    [
        ("localhost/dra-workshop/gpu-sim:1-abc localhost/dra-workshop/gpu-probe:1", []),
        ("localhost/dra-workshop/gpu-sim:1-abc", ["localhost/dra-workshop/gpu-probe:1"]),
        ("", ["localhost/dra-workshop/gpu-sim:1-abc", "localhost/dra-workshop/gpu-probe:1"]),
    ],
)
def test_nodes_take_the_filled_image_and_are_given_what_it_lacks(world: World, held: str, loaded: list[str]):
    wanted = {"nodes": ["a-control-plane"], "images": ["localhost/dra-workshop/gpu-sim:1-abc"]}
    wanted["images"].append("localhost/dra-workshop/gpu-probe:1")
    world.changed_variables["CLUSTER_IMAGES"] = json.dumps({**wanted, "filled": {"node:1": "filled:1"}})
    (world.root / "filled").write_text(f"{held}\n")
    assert world.run("create", config=CONFIG)[0] == 0
    assert (world.root / "config").read_text() == CONFIG.replace("node:1", "filled:1")
    saved = [line.partition(" -o ")[2].split()[1:] for line in world.calls("docker save")]
    assert saved == ([loaded] if loaded else [])


@pytest.mark.parametrize(("there", "of"), [(False, "node:1"), (True, "node:12")])
def test_nodes_are_of_the_plain_image_where_there_is_no_filled_one(world: World, there: bool, of: str):
    if there:
        (world.root / "filled").touch()
    world.changed_variables["CLUSTER_IMAGES"] = json.dumps({**IMAGES, "filled": {"node:1": "filled:1"}})
    config = CONFIG.replace("node:1", of)
    assert world.run("create", config=config)[0] == 0
    assert (world.root / "config").read_text() == config
    assert len(world.calls("docker save")) == 1


def test_every_node_keeps_its_cdi_files_now_and_at_each_start(world: World):
    # Of any node image: kind's own has no such thing.
    assert world.run("create")[0] == 0
    assert (world.root / "keeping-script-of-a-control-plane").read_text() == kind_cluster.KEEPING
    installed = (world.root / "keeping-installed-in-a-control-plane").read_text()
    assert installed == kind_cluster.INSTALL_KEEPING
    subprocess.run(["sh", "-n"], input=installed, text=True, check=True)
    # systemd runs it before containerd, so before any container that CDI files are read for.
    assert "/etc/systemd/system/containerd.service.d/40-keep-cdi.conf" in installed
    assert installed.endswith(f"{kind_cluster.KEEPING_SCRIPT}\n"), "not only at the next start"


@pytest.mark.parametrize("kept", [True, False])
def test_cdi_files_are_put_on_disk_unless_the_node_image_did_so(tmp_path: Path, kept: bool):
    line = "731 697 254:0 /var/lib/cdi /run/cdi rw,relatime - ext4 /dev/vda rw\n"
    (tmp_path / "mountinfo").write_text("697 686 0:73 / /run rw - tmpfs tmpfs rw\n" + (line if kept else ""))
    script = kind_cluster.KEEPING.replace("/proc/self/mountinfo", str(tmp_path / "mountinfo"))
    script = script.replace("/var/lib/cdi", str(tmp_path / "disk")).replace("mkdir -p", "mkdir -p", 1)
    script = script.replace(" /run/cdi\n", f" {tmp_path / 'run'}\n")
    script = f"mount() {{ echo $@ >{tmp_path / 'mounted'}; }}\n{script}"
    subprocess.run(["sh", "-c", script], check=True)
    assert (tmp_path / "disk").exists() == (tmp_path / "mounted").exists() == (not kept)
    if not kept:
        assert (tmp_path / "mounted").read_text() == f"--bind {tmp_path / 'disk'} {tmp_path / 'run'}\n"


def created_networks(world: World) -> list[str]:
    return world.calls("docker network create")


@pytest.mark.parametrize("mtu", ["1400", "1500", ""])
def test_network_has_the_engines_mtu_as_kinds_own_has(world: World, mtu: str):
    (world.root / "mtu").write_text(f"{mtu}\n")
    assert world.run("create")[0] == 0
    (call,) = created_networks(world)
    assert (f"--opt com.docker.network.driver.mtu={mtu} " in call) == bool(mtu)
    assert ("driver.mtu" in call) == bool(mtu)
    assert "--opt com.docker.network.bridge.enable_ip_masquerade=true " in call


def test_engine_without_a_default_network_has_no_mtu_to_take_over(world: World):
    (world.root / "no-bridge").touch()
    assert world.run("create")[0] == 0
    (call,) = created_networks(world)
    assert "driver.mtu" not in call


def test_network_has_ipv6_where_the_engine_has_it(world: World):
    assert world.run("create")[0] == 0
    (call,) = created_networks(world)
    assert f" --ipv6 --subnet {kind_cluster.ipv6_subnet('kind-a', 0)} kind-a" in call


def test_network_is_without_ipv6_where_the_engine_has_none(world: World):
    (world.root / "no-ipv6").touch()
    rc, _, err = world.run("create")
    assert rc == 0 and "IPv6" not in err
    with_ipv6, without = created_networks(world)
    assert "--ipv6" in with_ipv6 and "--ipv6" not in without


def test_subnet_that_is_taken_is_passed_over(world: World):
    (world.root / "overlap").touch()
    assert world.run("create")[0] == 0
    first, second = (call.split()[-2] for call in created_networks(world))
    assert (first, second) == tuple(kind_cluster.ipv6_subnet("kind-a", attempt) for attempt in (0, 1))
    assert first != second


def test_subnets_are_local_ones_and_differ_by_name():
    subnets = {kind_cluster.ipv6_subnet(name, 0) for name in ("kind-a", "kind-b")}
    assert len(subnets) == 2 and all(subnet.startswith("fc00:") and subnet.endswith("/64") for subnet in subnets)


def test_program_that_is_not_there_is_told_without_a_traceback(world: World, monkeypatch: pytest.MonkeyPatch):
    (world.root.parent / "bin" / "kind").unlink()
    monkeypatch.setenv("PATH", f"{world.root.parent / 'bin'}:/usr/bin:/bin")
    rc, out, err = world.run("create")
    assert (rc, out) == (1, "")
    assert err == "cluster a: kind is missing; run `make setup`, then `source ./activate`\n"
    assert world.networks == set()


@pytest.mark.parametrize("modifies", [True, False])
def test_hiding_removes_the_files_and_keeps_nvidias_programs_from_making_them_anew(tmp_path: Path, modifies: bool):
    hidden, kept, masked = (tmp_path / name for name in ("nvidia1", "nvidia0", "masked"))
    for file in (hidden, kept):
        file.touch()
    (tmp_path / "params").write_text(f"ModifyDeviceFiles: {int(modifies)}\nDeviceFileMode: 438\n")
    (tmp_path / "mounts").write_text("overlay / overlay rw 0 0\ntmpfs /dev tmpfs rw 0 0\n")
    rc, _ = hide(tmp_path, hidden)
    assert rc == 0 and kept.exists() and not hidden.exists()
    assert masked.exists() == modifies
    if modifies:
        assert masked.read_text() == "ModifyDeviceFiles: 0\nDeviceFileMode: 438\n"


def test_hiding_touches_nothing_where_dev_is_the_hosts_own(tmp_path: Path):
    (tmp_path / "nvidia1").touch()
    (tmp_path / "mounts").write_text("overlay / overlay rw 0 0\ndevtmpfs /dev devtmpfs rw 0 0\n")
    rc, err = hide(tmp_path, tmp_path / "nvidia1")
    assert rc == 1 and err == "/dev is not of this node's own\n"
    assert (tmp_path / "nvidia1").exists()


def hide(folder: Path, device: Path) -> tuple[int, str]:
    """Run the node's script on files of a folder; its mount is a copy there."""
    script = kind_cluster.HIDING.format(devices=device)
    places = {"/proc/self/mounts": "mounts", "/proc/driver/nvidia/params": "params", "/run/nvidia-params": "made"}
    for place, name in places.items():
        script = script.replace(place, str(folder / name))
    script = f"mount() {{ cp $2 {folder / 'masked'}; }}\n{script}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_failed_creation_is_taken_down_and_leaves_the_nodes_logs(world: World):
    (world.root / "fail").touch()
    rc, out, err = world.run("create")
    assert (rc, out) == (1, "")
    assert "`kind create cluster` ended with 7; see above" in err
    assert world.containers == set() and world.networks == set()
    assert not (world.folder / "incarnation").exists() and not (world.folder / "kubeconfig").exists()
    assert f"the nodes' logs are in {world.folder / 'diagnostics'}" in err
    assert (world.folder / "diagnostics" / "kubelet.log").exists()


def test_creation_works_after_a_failed_one(world: World):
    (world.root / "fail").touch()
    world.run("create")
    (world.root / "fail").unlink()
    assert world.run("create")[0] == 0


def test_interrupted_creation_is_taken_down(world: World):
    (world.root / "hang").touch()
    process = world.start("create")
    await_creation(world, process)
    # As a terminal does it: to the whole group.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "cluster a: interrupted; what was made is taken down, the next run makes it anew"
    assert world.containers == set() and world.networks == set()


def await_creation(world: World, process: subprocess.Popen[str]) -> None:
    """Give kind its configuration and wait until it is at work."""
    assert process.stdin
    process.stdin.write("kind: Cluster\n")
    process.stdin.close()
    process.stdin = None
    deadline = time.monotonic() + WAIT_SECONDS
    while not (world.root / "config").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)  # between two looks at a condition that is bounded above


def test_container_that_is_made_after_kinds_end_is_taken_down_as_well(world: World):
    for name in ("hang", "linger"):
        (world.root / name).touch()
    process = world.start("create")
    await_creation(world, process)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert world.containers == set() and world.networks == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_creation_is_taken_down_however_it_was_ended(world: World, number: signal.Signals):
    (world.root / "hang").touch()
    process = world.start("create")
    await_creation(world, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130 and "interrupted; what was made is taken down" in err
    assert world.containers == set() and world.networks == set()


def test_creation_ends_when_the_shell_around_it_is_killed(world: World):
    """As upstream's command provider does on Ctrl-C: the shell gets the signal, and nothing below it."""
    (world.root / "hang").touch()
    command = f"{sys.executable} -m machine.kind create; exit $?"
    shell = subprocess.Popen(
        ["sh", "-c", command],
        cwd=CHECKOUT,
        env=world.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    await_creation(world, shell)
    shell.kill()
    # The pipe ends with the last process that has it, so with the command that the shell left.
    _, err = shell.communicate(timeout=WAIT_SECONDS)
    assert err.splitlines()[-1] == "cluster a: interrupted; what was made is taken down, the next run makes it anew"
    assert world.containers == set() and world.networks == set()


def test_run_after_a_killed_one_waits_for_what_that_one_left(world: World):
    for name in ("hang", "linger"):
        (world.root / name).touch()
    process = world.start("create")
    await_creation(world, process)
    process.kill()
    process.wait()
    for name in ("hang", "linger"):
        (world.root / name).unlink()
    rc, out, err = world.run("create")
    assert rc == 0 and out.startswith("kubeconfig of a"), err
    said = err.splitlines()
    assert said[0] == "cluster a: an earlier run is still at work on it; waiting for its end"
    # kind ended with its parent, and what it had started was waited for.
    assert said[1] == "cluster a: an interrupted run left 2 nodes and a network; making it anew"
    assert world.containers == {"a-control-plane"}


def test_run_beside_one_that_does_not_end_is_refused_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kind_cluster, "BUSY_SECONDS", 0.3)
    cluster = KindCluster("a", world.folder)
    with (
        cluster._alone(),
        pytest.raises(kind_cluster.BusyClusterError, match=r"still at work on it after 0\.3 s; wait"),
    ):
        cluster.delete()
    cluster.delete()


def test_creation_whose_kind_is_interrupted_first_is_taken_down_as_well(world: World):
    # A terminal signals the whole group, and kind may be gone before the signal is here.
    (world.root / "interrupted").touch()
    rc, _, err = world.run("create")
    assert rc == 130
    assert err.splitlines()[-1] == "cluster a: interrupted; what was made is taken down, the next run makes it anew"
    assert world.containers == set() and world.networks == set()
    assert not (world.folder / "diagnostics").exists()


def test_what_a_killed_run_left_is_made_anew(world: World):
    world.mark_network(KindCluster("a", world.folder).owner)
    world.create_foreign_cluster("kind-a")
    rc, out, err = world.run("create")
    assert rc == 0 and out.startswith("kubeconfig of a")
    assert "cluster a: an interrupted run left 1 nodes and a network; making it anew" in err
    assert [call.split()[1] for call in world.calls("kind ")] == ["delete", "create"]


def test_cluster_that_somebody_made_after_ours_was_deleted_by_hand_is_not_taken_for_ours(world: World):
    # `kind delete cluster` leaves the network, which still bears our mark.
    world.mark_network(KindCluster("a", world.folder).owner)
    world.create_foreign_cluster("kind")
    assert world.run("create")[0] == 1
    assert world.containers == {"a-control-plane"}
    rc, _, err = world.run("delete")
    assert rc == 0 and "somebody else made one of that name; that one is left alone" in err
    assert world.containers == {"a-control-plane"} and world.networks == set()


def test_incarnation_grows_only_when_the_cluster_is_gone(world: World):
    assert kind_cluster.incarnation(world.folder, "a") == "1"
    world.run("create")
    assert kind_cluster.incarnation(world.folder, "a") == "1"
    (world.root / "clusters" / "a" / "a-control-plane").unlink()
    assert kind_cluster.incarnation(world.folder, "a") == "2"


def test_delete_leaves_nothing_of_the_cluster(world: World):
    world.run("create")
    assert world.run("delete")[0] == 0
    assert world.containers == set() and world.networks == set()
    assert [path.name for path in world.folder.parent.iterdir()] == ["owner"]


@pytest.mark.parametrize("gone", ["everything", "the nodes", "the checkout's state"])
def test_delete_of_what_is_gone_already_is_no_error(world: World, gone: str):
    if gone != "the checkout's state":
        world.run("create")
    if gone == "everything":
        world.run("delete")
    if gone == "the nodes":
        subprocess.run(["kind", "delete", "cluster", "--name", "a"], check=True)
    rc, _, err = world.run("delete")
    assert (rc, err) == (0, "")
    assert world.networks == set() and not world.folder.exists()


def test_delete_refuses_a_network_that_is_not_ours(world: World):
    world.run("create")
    world.mark_network("another checkout")
    rc, _, err = world.run("delete")
    assert rc == 1
    assert err == "cluster a: network kind-a is not this checkout's; both are left alone\n"
    assert world.containers == {"a-control-plane"} and (world.folder / "kubeconfig").exists()


def test_delete_refuses_from_a_shell_that_talks_to_another_engine(world: World):
    (world.root / "engine").write_text("here\n")
    world.run("create")
    (world.root / "engine").write_text("elsewhere\n")
    status, _, err = world.run("delete")
    assert status == 1
    assert "is not the one that the stack's cluster is in" in err
    assert f"rm {world.folder}/engine" in err
    assert world.containers
    (world.root / "engine").write_text("here\n")
    assert world.run("delete")[0] == 0
    assert not world.containers
    assert not world.folder.exists()


def test_two_clusters_of_one_checkout_bear_one_mark(world: World):
    owner = KindCluster("a", world.folder).owner
    assert KindCluster("b", world.folder.parent / "other").owner == owner
    assert len(owner) == 36


USAGE = "usage: python -m machine.kind [-h] {create,kubeconfig,delete}\n"


def test_help_says_how_to_use_the_command_and_ends_with_0():
    command = [sys.executable, "-m", "machine.kind", "--help"]
    env = {name: value for name, value in os.environ.items() if name not in kind_cluster.VARIABLES}
    done = subprocess.run(command, cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(USAGE)
    for name, text in (*kind_cluster.ACTIONS.items(), *kind_cluster.VARIABLES.items()):
        assert f"\n  {name:<22}  {text}\n" in done.stdout


@pytest.mark.parametrize("words", [("adopt", "it"), (), ("create", "it")])
def test_wrong_word_shows_how_to_use_the_command(world: World, words: tuple[str, ...]):
    rc, out, err = world.run(*words)
    assert (rc, out) == (2, "")
    assert err.startswith(USAGE)
    assert world.calls("") == []


@pytest.mark.parametrize(
    ("action", "variable", "value", "told"),
    [
        ("delete", "CLUSTER_NAME", "", "environment: CLUSTER_NAME must be set for delete; --help says to what"),
        ("create", "CLUSTER_TIMEOUT", "", "environment: CLUSTER_TIMEOUT must be set for create; --help says to what"),
        (
            "create",
            "CLUSTER_TIMEOUT",
            "4m",
            'CLUSTER_TIMEOUT: "4m" is no whole number of seconds; give one, such as 240',
        ),
        ("create", "CLUSTER_HIDDEN_DEVICES", "/dev/a", '"/dev/a" is not the JSON that is needed; write it like ["/'),
        ("create", "CLUSTER_HIDDEN_DEVICES", '"/dev/a"', '""/dev/a"" is not the JSON that is needed'),
        ("create", "CLUSTER_IMAGES", "[]", '"[]" is not the JSON that is needed; write it like {"nodes": ["a-worker"]'),
    ],
)
def test_wrong_environment_is_told_with_its_remedy_before_anything_is_done(
    world: World, action: str, variable: str, value: str, told: str
):
    world.changed_variables[variable] = value
    rc, out, err = world.run(action)
    assert (rc, out) == (2, "")
    assert err.startswith(USAGE) and told in err
    assert world.calls("") == []


def test_missing_kubeconfig_is_told_with_the_command_that_writes_it(world: World):
    world.run("create")
    (world.folder / "kubeconfig").unlink()
    rc, out, err = world.run("kubeconfig")
    file = world.folder / "kubeconfig"
    assert (rc, out) == (1, "")
    assert err == f"cluster a: {file} is missing; write it with `kind export kubeconfig --name a --kubeconfig {file}`\n"


def test_missing_program_is_told_with_the_command_that_brings_it(world: World, tmp_path: Path):
    for program in ("docker", "kind"):
        (tmp_path / "bin" / program).unlink()
    world.changed_variables["PATH"] = str(tmp_path / "bin")
    rc, out, err = world.run("delete")
    assert (rc, out) == (1, "")
    assert err == "cluster a: docker is missing; run `make setup`, then `source ./activate`\n"
