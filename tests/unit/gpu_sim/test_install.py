"""The installer: what it writes into a root and the host's /dev, and what it leaves, holds and removes."""

import os
import re
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from gpus.models import SimulatedDriver, render_node_config
from tests.unit.gpu_sim.driver_root import DRIVER, LIBRARIES, MODELS, Build, Root

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mknod needs root")


def gpu_sim(build: Build, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    env = {"ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run([build.out / "gpu-sim", *arguments], capture_output=True, text=True, env=env, timeout=30)


def install(build: Build, root: Path, count: int = 2, model: str = "h100-80gb", *extra: str | Path, **kwargs) -> None:
    config = root.parent / "node.ini"
    config.write_text(render_node_config("node", MODELS[model], count, **kwargs))
    done = gpu_sim(build, "install", "--config", config, "--root", root, "--source", build.out / "root", *extra)
    assert done.returncode == 0, done.stderr


def snapshot(root: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (status.st_mode, status.st_rdev, status.st_ino, content)
    return found


@needs_root
def test_install_makes_nodes_configuration_and_kernel_views(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    nodes = {path.name: path.stat() for path in (root / "dev").iterdir()}
    assert {name: (os.major(s.st_rdev), os.minor(s.st_rdev)) for name, s in nodes.items()} == {
        "nvidia0": (195, 0),
        "nvidia1": (195, 1),
        "nvidiactl": (195, 255),
        "nvidia-uvm": (511, 0),
        "nvidia-uvm-tools": (511, 1),
    }
    assert all(stat.S_ISCHR(s.st_mode) and stat.S_IMODE(s.st_mode) == 0o666 for s in nodes.values())
    configuration = (tmp_path / "node.ini").read_text()
    assert (root / "etc/gpu-sim.ini").read_text() == configuration
    assert (root / LIBRARIES / f"libnvidia-simcfg.so.{DRIVER}").read_text() == configuration
    link = str((root / "sim/sys/bus/pci/devices/0000:1a:00.0").readlink())
    assert link == "../../../devices/pci0000:00/0000:00:01.0/0000:1a:00.0"
    assert re.search(
        r"Character devices:.*?\n237 nvidia-caps\n.*Block devices:", (root / "sim/proc-devices").read_text(), re.S
    )


@needs_root
@pytest.mark.parametrize(
    ("model", "count", "nodes"),
    [
        *(("h100-80gb", 8, [0, 0, 0, 0, 1, 1, 1, 1]), ("h100-80gb", 2, [0, 0]), ("a100-80gb", 3, [0, 0, 1])),
        ("rtx-4090", 2, [-1, -1]),
    ],
)
def test_each_gpu_is_on_the_numa_node_of_its_pcie_root(build, tmp_path, model, count, nodes):
    root = tmp_path / "root"
    install(build, root, count, model)
    files = sorted((root / "sim/sys/bus/pci/devices").glob("*/numa_node"))
    assert [int(file.read_text()) for file in files] == nodes


@needs_root
def test_programs_are_installed_executable(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    modes = {path.name: stat.filemode(path.stat().st_mode) for path in (root / "usr/bin").iterdir()}
    assert modes == dict.fromkeys(("nvidia-smi", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"), "-rwxr-xr-x")
    program = root / "usr/bin/nvidia-cuda-mps-control"
    assert "simulated" in subprocess.run([program, "-v"], capture_output=True, text=True, check=True).stdout


@needs_root
def test_every_mig_device_that_can_exist_has_a_capability_of_its_own(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    files = sorted((root / "sim/proc-driver/nvidia/capabilities").rglob("access"))
    found = [re.search(r"DeviceFileMinor: (\d+)\n", file.read_text()) for file in files]
    minors = [int(match[1]) for match in found if match]
    profiles = MODELS["h100-80gb"].mig_profiles
    assert len(files) == 2 * sum(len(p.placements) * (1 + p.slices) for p in profiles)
    assert len(set(minors)) == len(files)


@needs_root
def test_a_second_install_changes_nothing(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    (root / "run/gpu0.compute-mode").write_text("3\n")
    before = snapshot(root)
    install(build, root)
    assert snapshot(root) == before


@needs_root
def test_a_capability_that_was_shown_since_stays_as_long_as_the_configuration_does(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    capability = root / "sim/proc-driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access"
    first = capability.read_text()
    assert first == "DeviceFileMinor: 13\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
    capability.write_text(first.replace("13", "4621"))
    install(build, root)
    assert "4621" in capability.read_text()
    install(build, root, 1)
    assert capability.read_text() == first


@needs_root
def test_another_install_leaves_what_a_first_one_would_have_made(build, tmp_path):
    (tmp_path / "dev").mkdir()
    install(build, tmp_path / "root", 4, "h100-80gb", "--dev", tmp_path / "dev")
    (tmp_path / "root/run/gpu3.mig").write_text("1\n")
    (tmp_path / "root/usr/lib/x86_64-linux-gnu/libnvidia-simcfg.so.1.2.3").write_text("old")
    (tmp_path / "dev/sda").write_text("not ours")
    install(build, tmp_path / "root", 1, "l40s", "--dev", tmp_path / "dev")
    install(build, tmp_path / "fresh", 1, "l40s")

    def without_inodes(root):
        return {name: (mode, rdev, content) for name, (mode, rdev, _, content) in snapshot(root).items()}

    assert without_inodes(tmp_path / "root") == without_inodes(tmp_path / "fresh")
    assert {path.name for path in (tmp_path / "dev").iterdir()} == {
        "nvidia0",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "sda",
    }


@needs_root
@pytest.mark.parametrize("name", ["usr", "usr/lib", "etc", "dev", "sim"])
def test_install_never_writes_through_a_link_out_of_the_root(build, tmp_path, name):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(outside)
    (tmp_path / "node.ini").write_text(render_node_config("node", MODELS["h100-80gb"], 1))
    source = build.out / "root"
    done = gpu_sim(build, "install", "--config", tmp_path / "node.ini", "--root", root, "--source", source)
    assert list(outside.iterdir()) == []
    assert done.returncode == 1 or not (root / name).is_symlink()


@needs_root
def test_a_link_in_place_of_a_file_is_replaced_and_its_target_kept(build, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.write_text("mine")
    (root / "etc").mkdir(parents=True)
    (root / "etc/gpu-sim.ini").symlink_to(outside)
    install(build, root)
    assert outside.read_text() == "mine" and not (root / "etc/gpu-sim.ini").is_symlink()


@needs_root
def test_the_installed_root_works_as_it_is(build, tmp_path):
    root = tmp_path / "root"
    install(build, root, 3, "b200-180gb")
    assert Root(build, root).smi("-L").stdout.count("NVIDIA B200 (UUID: GPU-") == 3


def test_a_version_the_libraries_were_not_built_for_is_refused_with_the_remedy(build, tmp_path):
    (tmp_path / "node.ini").write_text(render_node_config("node", MODELS["l40s"], 1, SimulatedDriver("570.1.1")))
    arguments = ["--config", tmp_path / "node.ini", "--root", tmp_path / "root", "--source", build.out / "root"]
    done = gpu_sim(build, "install", *arguments)
    assert done.returncode == 1 and "DRIVER_VERSION=570.1.1" in done.stderr
    assert not (tmp_path / "root").exists()


@needs_root
def test_remove_empties_the_root_and_takes_only_its_nodes_from_dev(build, tmp_path):
    (tmp_path / "dev").mkdir()
    install(build, tmp_path / "root", 2, "h100-80gb", "--dev", tmp_path / "dev")
    (tmp_path / "dev/nvidia9").write_text("not a device")
    assert gpu_sim(build, "remove", "--root", tmp_path / "root", "--dev", tmp_path / "dev").returncode == 0
    assert list((tmp_path / "root").iterdir()) == []
    assert [path.name for path in (tmp_path / "dev").iterdir()] == ["nvidia9"]


@pytest.mark.parametrize("remove", [True, False])
def test_hold_ends_on_sigterm_and_empties_the_root_only_when_told_to(build, tmp_path, remove):
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (root / "link").symlink_to(tmp_path / "outside")
    command = [build.out / "gpu-sim", "hold", "--root", root, *(["--remove-on-exit"] if remove else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and "waiting" in process.stdout.readline()
        assert (root / "usr/lib").is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    assert {path.name for path in root.iterdir()} == (set() if remove else {"usr", "link"})
    assert (tmp_path / "outside/file").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        ([], 2),
        (["dance", "--root", "/nowhere"], 2),
        (["install", "--root", "/nowhere"], 2),
        (["hold"], 2),
        (["remove", "--root"], 2),
        (["remove", "--root", "/nowhere", "--force"], 2),
    ],
)
def test_gpu_sim_usage_errors_are_exit_code_2(build, arguments, code):
    assert gpu_sim(build, *arguments).returncode == code
