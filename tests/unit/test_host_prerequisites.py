"""What module 00 finds on a host with GPUs: every finding at once, each with its remedy, and nothing is changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from machine import host_prerequisites
from machine.gpus import discover
from machine.prerequisites import Finding
from settings import Settings
from settings import stack as settings_stack
from tests.unit.host_machine import UUIDS, VERSION, Fake, in_one_folder

ONE_GPU = ["00", "01", "02", "03"]


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / "checkout" / ".state")
    return in_one_folder(tmp_path)


def parse(modules: list[str] | None = None, gpu: dict[str, Any] | None = None, **blocks: Any) -> Settings:
    return Settings.parse({"modules": modules or ONE_GPU, "gpu": {"source": "host", **(gpu or {})}, **blocks}, "test")


def look(fake: Fake, settings: Settings | None = None) -> list[Finding]:
    settings = settings or parse()
    host = discover(settings.gpu.driver_root, settings.gpu.devices, fake.machine)
    return list(host_prerequisites.look(settings, host, fake.machine))


def failed(fake: Fake, settings: Settings | None = None) -> list[Finding]:
    return [finding for finding in look(fake, settings) if not finding.ok]


def warnings(fake: Fake, settings: Settings | None = None) -> list[Finding]:
    return [finding for finding in look(fake, settings) if finding.warning]


def test_host_that_has_everything_passes_without_a_warning(fake: Fake):
    assert failed(fake) == [] == warnings(fake)
    observed = {finding.name: finding.observed for finding in look(fake)}
    assert observed["runtime"] == "cgroup v2, Docker's default runtime runc; GPUs by mounts of the driver's files"
    assert observed["gpus"] == f"GPU 0: NVIDIA H100 80GB HBM3, 81559Mi, {UUIDS[0]}"
    assert observed["MPS of the host"] == "none"
    assert "ldconfig -p" in observed["libcuda"] and "PATH" in observed["nvidia-smi"]


def test_host_without_anything_is_told_all_at_once(tmp_path: Path):
    bare = Fake(tmp_path)
    names = [finding.name for finding in failed(bare, parse(["00", "01", "02", "04"]))]
    programs = ["nvidia-smi", "nvidia-cuda-mps-control", "nvidia-cuda-mps-server"]
    libraries = ["libnvidia-ml", "libcuda", "libnvidia-ptxjitcompiler"]
    assert names == ["driver", *libraries, *programs, "devices", "gpus", "runtime"]
    assert all(finding.remedy for finding in failed(bare))


def test_mps_programs_are_asked_for_by_module_04_only(fake: Fake):
    (fake.root / "usr/local/nvidia/bin/nvidia-cuda-mps-server").unlink()
    assert failed(fake) == []
    (finding,) = failed(fake, parse(["00", "01", "02", "04"]))
    assert finding.name == "nvidia-cuda-mps-server" and "install NVIDIA's driver" in finding.remedy


def test_remedy_for_a_wrong_driver_root_says_what_it_should_be(fake: Fake):
    found = {finding.name: finding for finding in failed(fake, parse(gpu={"driverRoot": "/nowhere"}))}
    assert found["libcuda"].observed == "not found below /nowhere"
    assert "set gpu.driverRoot to the folder that holds its bin and lib64" in found["libcuda"].remedy


def old_driver(fake: Fake) -> None:
    fake.kernel_module("535.161.08")
    fake.loader_cache(fake.libraries("opt/old", "535.161.08"))


def other_kernel_module(fake: Fake) -> None:
    fake.kernel_module("590.44.01")


def other_architecture(fake: Fake) -> None:
    fake.architecture = "riscv64"


def no_uvm(fake: Fake) -> None:
    (fake.root / "dev/nvidia-uvm").unlink()


def no_device_file(fake: Fake) -> None:
    (fake.root / "dev/nvidia0").unlink()


def no_gpu(fake: Fake) -> None:
    fake.answers["nvidia-smi"] = (9, "", "couldn't communicate with the NVIDIA driver")


def exclusive(fake: Fake) -> None:
    fake.gpus(compute_mode="Exclusive_Process")


def prohibited(fake: Fake) -> None:
    fake.gpus(compute_mode="Prohibited")


def no_engine(fake: Fake) -> None:
    fake.answers["docker info"] = (1, "", "Cannot connect to the Docker daemon")


@pytest.mark.parametrize(
    ("change", "name", "observed", "remedy"),
    [
        (old_driver, "driver", "535.161.08 (", "needs driver 565 or newer"),
        (other_kernel_module, "kernel module", f"590.44.01, libraries {VERSION}", "restart the machine"),
        (other_architecture, "architecture", "riscv64", "x86_64 and aarch64 only"),
        (no_uvm, "devices", "no /dev/nvidia-uvm", "`nvidia-modprobe -u -c=0` as root"),
        (no_device_file, "devices", "no /dev/nvidia0", "nvidia-modprobe"),
        (no_gpu, "gpus", "exit 9: couldn't communicate", "`nvidia-smi` has to list the GPUs"),
        (exclusive, "compute mode of GPU 0", "Exclusive_Process", "`nvidia-smi -i 0 -c DEFAULT` as root puts it back"),
        (prohibited, "compute mode of GPU 0", "Prohibited", "whoever set it may need it, such as an MPS daemon"),
        (no_engine, "runtime", "default runtime unknown", "run `make setup`"),
    ],
)
def test_failing_finding_says_what_was_seen_and_names_a_remedy(
    fake: Fake, change: Callable[[Fake], None], name: str, observed: str, remedy: str
):
    change(fake)
    finding = next(finding for finding in failed(fake) if finding.name == name)
    assert observed in finding.observed and remedy in finding.remedy


def no_kernel_version(fake: Fake) -> None:
    (fake.root / "proc/driver/nvidia/version").unlink()


def no_persistence(fake: Fake) -> None:
    fake.gpus(persistence="Disabled")


def info_rom(fake: Fake) -> None:
    fake.gpus(code=14, error="WARNING: infoROM is corrupted at gpu 0000:01:00.0")


def mps_of_the_host(fake: Fake) -> None:
    fake.process(4242, "nvidia-cuda-mps", "4242")


@pytest.mark.parametrize(
    ("change", "name", "observed", "remedy"),
    [
        (no_kernel_version, "kernel module", "is not loaded", "modprobe nvidia"),
        (no_persistence, "persistence of GPU 0", "Disabled", "`nvidia-smi -i 0 -pm 1` as root"),
        (info_rom, "nvidia-smi", "WARNING: infoROM is corrupted", "does not keep a GPU from computing"),
        (mps_of_the_host, "MPS of the host", "process 4242", "its clients share the GPUs with the stack's pods"),
    ],
)
def test_what_will_do_but_not_well_is_a_warning(
    fake: Fake, change: Callable[[Fake], None], name: str, observed: str, remedy: str
):
    change(fake)
    assert failed(fake) == []
    (finding,) = warnings(fake)
    assert finding.name == name and observed in finding.observed and remedy in finding.remedy


def test_mps_of_the_host_excludes_module_04(fake: Fake):
    mps_of_the_host(fake)
    (finding,) = failed(fake, parse(["00", "01", "02", "04"]))
    assert finding.observed == "process 4242" and "`echo quit | nvidia-cuda-mps-control` as its user" in finding.remedy


def test_mps_in_a_node_is_not_the_hosts(fake: Fake):
    fake.process(4242, "nvidia-cuda-mps", "4242\t117\t9")
    fake.process(4243, "python3", "4243")
    assert failed(fake, parse(["00", "01", "02", "04"])) == []


def test_divided_gpu_is_refused_by_modules_that_need_a_whole_one(fake: Fake):
    fake.gpus(2, mig="Enabled")
    found = {finding.name: finding for finding in failed(fake)}
    assert "name others in gpu.devices, or `nvidia-smi -i 0 -mig 0` as root" in found["MIG of GPU 0"].remedy
    assert found["gpus"].observed == "no whole GPU"


def test_only_the_chosen_gpus_are_judged(fake: Fake):
    fake.gpus(2)
    code, text, error = fake.answers["nvidia-smi"]
    first, second = text.splitlines()
    fake.answers["nvidia-smi"] = (code, f"{first}\n{second.replace('Default', 'Prohibited')}", error)
    assert [finding.name for finding in failed(fake)] == ["compute mode of GPU 1"]
    assert failed(fake, parse(gpu={"devices": [0]})) == []


def test_too_few_gpus_are_told_with_what_the_modules_use(fake: Fake):
    (finding,) = failed(fake, parse(["00", "01", "02", "03", "04"]))
    assert finding.name == "gpus" and finding.remedy.startswith("the modules use 2")


def test_device_that_is_not_there_is_told_with_those_that_are(fake: Fake):
    found = failed(fake, parse(gpu={"devices": [3]}))
    assert found[0].observed == "gpu.devices: 3 is no GPU" and f"0 ({UUIDS[0]})" in found[0].remedy


def test_gpu_that_cannot_be_hidden_is_told(fake: Fake):
    fake.gpus(2)
    (fake.root / "proc/driver/nvidia/gpus/0000:02:00.0/information").unlink()
    (finding,) = failed(fake, parse(gpu={"devices": [0]}))
    assert "its device file is not known" in finding.observed and "drop gpu.devices" in finding.remedy


def test_compute_mode_of_this_stacks_own_claim_is_no_obstacle_while_it_is_up(fake: Fake, tmp_path: Path):
    exclusive(fake)
    settings = parse(["00", "01", "02", "04"], {"allowComputeModeChange": True}, mps={"mode": "claim"})
    assert [finding.name for finding in failed(fake, settings)] == ["compute mode of GPU 0"]
    up = tmp_path / "checkout/.state/test"
    up.mkdir(parents=True)
    (up / "incarnation").write_text("1")
    assert failed(fake, settings) == []
    (finding,) = warnings(fake, settings)
    assert finding.remedy.startswith("this stack's claim sets it")


def test_looking_changes_nothing(fake: Fake):
    before = {path: path.read_bytes() for path in fake.root.rglob("*") if path.is_file()}
    look(fake)
    assert {path: path.read_bytes() for path in fake.root.rglob("*") if path.is_file()} == before
    # Nothing that is run changes a setting: no option of nvidia-smi but the query's.
    asked = {line.partition(" --query-gpu")[0] for line, _ in fake.asked}
    assert asked <= {"nvidia-smi", "ldconfig -p", "docker info --format '{{.DefaultRuntime}}'"}
