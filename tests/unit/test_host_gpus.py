"""The host's GPUs: what nvidia-smi tells of them, which of them a stack may use, what is kept from its nodes."""

from pathlib import Path

import pytest

from machine import gpus as host_gpus
from machine.gpus import HostGpu, HostGpus, HostGpusError, discover
from tests.unit.host_machine import UUIDS, in_one_folder


def look(tmp_path: Path, count: int = 2, devices: tuple[int | str, ...] = (), **said: str) -> HostGpus:
    fake = in_one_folder(tmp_path)
    fake.gpus(count, **said)  # pyrefly: ignore[bad-argument-type]
    return discover(None, devices, fake.machine)


def test_gpus_are_those_of_nvidia_smi_with_the_minors_of_proc(tmp_path: Path):
    host = look(tmp_path)
    name = "NVIDIA H100 80GB HBM3"
    assert host.all_gpus == (
        HostGpu(0, UUIDS[0], name, 81559, "Default", "Enabled", "Disabled", 1),
        HostGpu(1, UUIDS[1], name, 81559, "Default", "Enabled", "Disabled", 0),
    )
    assert host.chosen == host.published == host.all_gpus and not host.excluded and not host.warnings


def test_nvidia_smi_gets_the_libraries_that_were_found(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    discover(None, (), fake.machine)
    (env,) = [env for line, env in fake.asked if line.startswith("nvidia-smi")]
    assert env == {"LD_LIBRARY_PATH": str(tmp_path / "usr/local/nvidia/lib64")}


def test_machine_is_looked_at_once(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    machine = fake.machine
    assert discover(None, (), machine) is discover(None, (), machine)
    assert len([line for line, _ in fake.asked if line.startswith("nvidia-smi")]) == 1


@pytest.mark.parametrize("devices", [(1,), (UUIDS[1],)])
def test_chosen_gpu_is_named_by_index_or_uuid_and_the_others_device_files_are_hidden(
    tmp_path: Path, devices: tuple[int | str, ...]
):
    host = look(tmp_path, 3, devices)
    assert [gpu.index for gpu in host.chosen] == [1]
    # Minors are what device files are called after, and they need not be the indices.
    assert host.hidden_devices == ("/dev/nvidia2", "/dev/nvidia0")
    host.require()


def test_without_a_choice_nothing_is_hidden(tmp_path: Path):
    assert look(tmp_path).hidden_devices == ()


def test_gpu_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path):
    host = look(tmp_path, 2, (0, 7, UUIDS[3]))
    assert host.unknown_devices == (7, UUIDS[3])
    with pytest.raises(HostGpusError) as caught:
        host.require()
    assert f"gpu.devices: 7 is no GPU of this machine; use some of 0 ({UUIDS[0]}), 1 ({UUIDS[1]})" in str(caught.value)
    assert f"gpu.devices: {UUIDS[3]} is no GPU" in str(caught.value)


def test_gpu_that_cannot_be_hidden_is_refused(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    fake.gpus(2)
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information").unlink()
    discover(None, (0,), fake.machine).require()
    with pytest.raises(HostGpusError, match="is not to be touched, and its device file is not known"):
        discover(None, (1,), fake.machine).require()


def test_divided_gpu_is_chosen_but_not_published(tmp_path: Path):
    host = look(tmp_path, mig="Enabled")
    assert len(host.chosen) == 2 and host.published == ()


def test_corrupted_info_rom_is_a_warning(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    fake.gpus(1, code=14, error="WARNING: infoROM is corrupted at gpu 0000:01:00.0")
    host = discover(None, (), fake.machine)
    assert len(host.all_gpus) == 1 and host.warnings == ("WARNING: infoROM is corrupted at gpu 0000:01:00.0",)
    assert host.error == ""


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            (9, "", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."),
            "exit 9: NVIDIA-SMI",
        ),
        ((0, "No devices were found", ""), "exit 0: No devices were found"),
        ((0, "", ""), "exit 0: no GPU"),
    ],
)
def test_nvidia_smi_that_tells_of_no_gpu_is_quoted(tmp_path: Path, answer: tuple[int, str, str], error: str):
    fake = in_one_folder(tmp_path)
    fake.answers["nvidia-smi"] = answer
    host = discover(None, (), fake.machine)
    assert host.all_gpus == () and host.error.startswith(error)


def test_memory_that_is_not_told_is_unknown_and_no_crash(tmp_path: Path):
    assert [gpu.memory_mib for gpu in look(tmp_path, 1, memory="[N/A]").all_gpus] == [0]


def test_toolkit_is_asked_for_the_chosen_gpus_only(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    fake.gpus(2)
    fake.write("etc/nvidia-container-runtime/config.toml", "accept-nvidia-visible-devices-as-volume-mounts = true")
    fake.answers["docker info"] = (0, "nvidia\n", "")
    (mount,) = discover(None, (0,), fake.machine).mounts
    assert (mount.host, mount.node) == ("/dev/null", f"/var/run/nvidia-container-devices/{UUIDS[0]}")
    (mount,) = discover(None, (), fake.machine).mounts
    assert mount.node == "/var/run/nvidia-container-devices/all"


def test_outputs_tell_what_was_found_where_and_what_is_left_alone(tmp_path: Path):
    outputs = look(tmp_path, 2, (0,)).outputs
    library = tmp_path / "usr/local/nvidia/lib64/libnvidia-ml.so.580.159.04"
    assert outputs["driver"] == f"580.159.04 (libnvidia-ml.so.1 is {library}), x86_64"
    place = tmp_path / "usr/local/nvidia/bin/nvidia-smi"
    assert outputs["found"]["nvidia-smi"] == f"{place} (PATH)"  # pyrefly: ignore[bad-index, unsupported-operation]
    assert outputs["gpus"] == [f"GPU 0: NVIDIA H100 80GB HBM3, 81559Mi, {UUIDS[0]}"]
    assert outputs["notTouched"] == [f"GPU 1: NVIDIA H100 80GB HBM3, 81559Mi, {UUIDS[1]}"]
    assert outputs["mounts"]


def test_machine_without_a_driver_is_refused_with_the_remedy(tmp_path: Path):
    host = discover(None, (), host_gpus.Machine(tmp_path, "x86_64", lambda argv, env: (127, "", "no"), "", ""))
    assert host.error == "nvidia-smi was not found"
    with pytest.raises(HostGpusError, match=r"libcuda\.so\.1.* not found; install NVIDIA's driver, or set gpu\.driver"):
        host.require()
