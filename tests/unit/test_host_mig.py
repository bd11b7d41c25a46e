"""MIG of a host's GPUs: what is there, what gpu.mig demands, the commands between the two, and files for Kind's nodes.

No GPU that is divided was at hand: files and answers are made up here, in the forms of NVIDIA's MIG User Guide, and
what the simulated nvidia-smi prints is read as well.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpus.mig import Layout
from machine import host_mig, host_prerequisites
from machine.findings import Finding
from machine.gpus import HostGpu, HostGpus, discover, mig_instances
from settings import Settings
from settings import stack as settings_stack
from tests.unit.gpu_sim.conftest import build, built, make_root, nvml_include
from tests.unit.host_machine import UUIDS, Fake, in_one_folder

__all__ = ["build", "built", "make_root", "nvml_include"]

LISTED = f"""\
GPU 0: NVIDIA A100-PCIE-40GB (UUID: {UUIDS[0]})
  MIG 4g.20gb     Device  0: (UUID: MIG-5f2aee72-62d6-5c6d-8a5b-1f5b5c5b0a01)
  MIG 3g.20gb     Device  1: (UUID: MIG-5f2aee72-62d6-5c6d-8a5b-1f5b5c5b0a02)
GPU 1: NVIDIA A100-PCIE-40GB (UUID: {UUIDS[1]})
"""
PLACED = """\
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   0  MIG 3g.20gb          9        1          4:4     |
+-------------------------------------------------------+
|   0  MIG 4g.20gb          5        2          0:4     |
+-------------------------------------------------------+
"""
HALVES = ("3g.20gb@4", "4g.20gb@0")
A100, H100 = "NVIDIA A100-PCIE-40GB", "NVIDIA H100 80GB HBM3"


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Two A100s of which the first is divided into halves, with their capabilities; its minor is 1."""
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / "checkout" / ".state")
    fake = in_one_folder(tmp_path)
    fake.gpus(2, name=A100, mig="Enabled")
    code, rows, error = fake.answers.pop("nvidia-smi")
    first, second = rows.splitlines()
    fake.answers["nvidia-smi --query-gpu"] = (code, f"{first}\n{second.replace('Enabled, 0', 'Disabled, 0')}", error)
    fake.answers["nvidia-smi -L"] = (0, LISTED, "")
    fake.answers["nvidia-smi mig -lgi"] = (0, PLACED, "")
    for number, path in enumerate(("gi1/access", "gi1/ci0/access", "gi2/access", "gi2/ci0/access"), 165):
        fake.write(f"{host_mig.CAPABILITIES}/gpu1/mig/{path}", f"DeviceFileMinor: {number}\nDeviceFileMode: 292\n")
        fake.write(f"dev/nvidia-caps/nvidia-cap{number}")
    return fake


def host(fake: Fake, devices: tuple[int | str, ...] = ()) -> HostGpus:
    return discover(None, devices, fake.machine)


def look(fake: Fake, layouts: Any = (), devices: tuple[int | str, ...] = ()) -> list[Finding]:
    gpu = {"source": "host", "mig": layouts, **({"devices": list(devices)} if devices else {})}
    settings = Settings.parse({"modules": ["00", "01", "02"], "gpu": gpu}, "test")
    return list(host_prerequisites.look(settings, host(fake, devices), fake.machine))


def failed(fake: Fake, layouts: Any = (), devices: tuple[int | str, ...] = ()) -> dict[str, Finding]:
    return {finding.name: finding for finding in look(fake, layouts, devices) if not finding.ok}


def test_instances_are_read_with_their_places(fake: Fake):
    assert [gpu.mig_instances for gpu in host(fake).all_gpus] == [HALVES, ()]
    assert [gpu.has_mig for gpu in host(fake).all_gpus] == [True, False]


def test_without_the_right_to_list_places_profiles_are_known(fake: Fake):
    fake.answers["nvidia-smi mig -lgi"] = (4, "Insufficient Permissions\n", "")
    assert host(fake).all_gpus[0].mig_instances == ("3g.20gb", "4g.20gb")
    assert failed(fake, [["4g.20gb@0", "3g.20gb@4"], []]) == {}


def test_parts_of_an_instance_are_counted_as_what_they_are_parts_of():
    listed = "GPU 0: A\n  MIG 1c.3g.20gb  Device  0: (UUID: MIG-1)\n  MIG 2g.10gb     Device  1: (UUID: MIG-2)\n"
    assert mig_instances(listed, "") == {0: ("2g.10gb", "3g.20gb")}


def test_gpus_without_mig_are_not_asked_for_instances(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    host(fake)
    assert not [line for line, _ in fake.asked if "mig" in line.split() or "-L" in line.split()]


def test_what_the_simulated_nvidia_smi_prints_is_read(make_root: Callable[..., Any]):
    root = make_root("a100-pcie-40gb", 2, mig=["3g.20gb@4,4g.20gb@0", "7g.40gb@0"])
    listed, placed = root.smi("-L").stdout, root.smi("mig", "-lgi").stdout
    assert mig_instances(listed, placed) == {0: HALVES, 1: ("7g.40gb@0",)}
    assert mig_instances(listed, "") == {0: ("3g.20gb", "4g.20gb"), 1: ("7g.40gb",)}


def test_layout_that_is_there_is_told_and_fails_nothing(fake: Fake):
    assert failed(fake, [["4g.20gb@0", "3g.20gb"], []]) == {}
    observed = {finding.name: finding.observed for finding in look(fake, [list(HALVES), []])}
    assert observed["MIG layout of GPU 0"] == "3g.20gb@4, 4g.20gb@0"
    assert observed["MIG layout of GPU 1"] == "MIG off"
    capabilities = "4 with their device files, /dev/nvidia-caps/nvidia-cap165 to /dev/nvidia-caps/nvidia-cap168"
    assert observed["MIG capabilities of GPU 0"] == capabilities


def test_without_layouts_nothing_is_compared(fake: Fake):
    assert failed(fake) == {}
    assert not [finding for finding in look(fake) if finding.name.startswith("MIG layout")]


@pytest.mark.parametrize(
    ("name", "mode", "instances", "layout", "lines"),
    [
        (H100, "Disabled", (), ["3g.40gb@4"], ["nvidia-smi -i 0 -mig 1", "nvidia-smi mig -i 0 -cgi 3g.40gb:4 -C"]),
        (A100, "Disabled", (), "empty", ["nvidia-smi -i 0 -mig 1", "nvidia-smi -i 0 --gpu-reset"]),
        ("NVIDIA XYZ", "Disabled", (), "empty", ["nvidia-smi -i 0 -mig 1", "nvidia-smi -i 0 --gpu-reset"]),
        (A100, "Enabled", (), ["1g.5gb", "2g.10gb@2"], ["nvidia-smi mig -i 0 -cgi 1g.5gb,2g.10gb:2 -C"]),
        (
            H100,
            "Enabled",
            ("7g.80gb@0",),
            ["4g.40gb@0"],
            ["nvidia-smi mig -i 0 -dci", "nvidia-smi mig -i 0 -dgi", "nvidia-smi mig -i 0 -cgi 4g.40gb:0 -C"],
        ),
        (
            H100,
            "Enabled",
            ("7g.80gb@0",),
            [],
            ["nvidia-smi mig -i 0 -dci", "nvidia-smi mig -i 0 -dgi", "nvidia-smi -i 0 -mig 0"],
        ),
    ],
)
def test_commands_lead_from_what_is_there_to_the_layout(
    name: str, mode: str, instances: tuple[str, ...], layout: Layout, lines: list[str]
):
    gpu = HostGpu(0, UUIDS[0], name, 0, "Default", "Enabled", mode, 0, instances)
    assert not host_mig.Division.of(gpu).is_as(layout)
    assert host_mig.commands(gpu, layout) == lines


@pytest.mark.parametrize("layout", [["3g.20gb@4", "4g.20gb@0"], ["1g.5gb@6", "1g.5gb@0", "2g.10gb@2"], [], "empty"])
def test_commands_make_the_layout_of_a_simulated_gpu(make_root: Callable[..., Any], layout: Layout):
    root = make_root("h100-80gb", 1, mig=["7g.80gb@0"])
    if not isinstance(layout, str):
        layout = [
            entry.replace("20gb", "40gb").replace("1g.5gb", "1g.10gb").replace("10gb@2", "20gb@2") for entry in layout
        ]
    gpu = HostGpu(0, UUIDS[0], H100, 0, "Default", "Enabled", "Enabled", 0, ("7g.80gb@0",))
    for line in host_mig.commands(gpu, layout):
        done = root.smi(*line.split()[1:])
        assert done.returncode == 0, (line, done.stdout)
    found = mig_instances(root.smi("-L").stdout, root.smi("mig", "-lgi").stdout).get(0, ())
    mode = root.smi("--query-gpu=mig.mode.current", "--format=csv,noheader").stdout.strip()
    after = HostGpu(0, UUIDS[0], H100, 0, "Default", "Enabled", mode, 0, found)
    assert host_mig.Division.of(after).is_as(layout)


def test_another_layout_is_refused_with_the_commands_that_nobody_runs(fake: Fake):
    finding = failed(fake, [["7g.40gb@0"], ["1g.5gb"]])["MIG layout of GPU 0"]
    assert finding.observed == "3g.20gb@4, 4g.20gb@0"
    steps = ("-dci`", "-dgi`", "-cgi 7g.40gb:0 -C`")
    assert finding.remedy == "gpu.mig demands 7g.40gb@0: " + "; ".join(
        f"`nvidia-smi mig -i 0 {step}" for step in steps
    ) + (", as root, which ends what runs on the GPU. Nothing here does it")
    other = failed(fake, [["7g.40gb@0"], ["1g.5gb"]])["MIG layout of GPU 1"]
    assert other.observed == "MIG off" and "`nvidia-smi -i 1 -mig 1`; `nvidia-smi -i 1 --gpu-reset`" in other.remedy
    changing = ("-cgi", "-dci", "-dgi", "-mig", "-cci", "--gpu-reset")
    assert not [line for line, _ in fake.asked if any(word in line.split() for word in changing)]


@pytest.mark.parametrize(
    ("layout", "same"),
    [
        (["3g.20gb@4", "4g.20gb@0"], True),
        (["4g.20gb", "3g.20gb"], True),
        (["3g.20gb@0", "4g.20gb"], False),
        (["3g.20gb", "3g.20gb"], False),
        (["3g.20gb@4"], False),
        ("empty", False),
        ([], False),
    ],
)
def test_a_layout_without_places_leaves_them_open(layout: Layout, same: bool):
    assert host_mig.Division(True, HALVES).is_as(layout) == same


def test_two_of_one_profile_are_matched_by_the_places_that_are_named():
    division = host_mig.Division(True, ("1g.5gb@0", "1g.5gb@1"))
    assert division.is_as(["1g.5gb", "1g.5gb@0"]) and not division.is_as(["1g.5gb", "1g.5gb@2"])


def test_profile_that_such_a_gpu_has_not_is_told_with_those_that_it_has(fake: Fake):
    finding = failed(fake, [["3g.40gb"], []])["MIG layout of GPU 0"]
    assert "3g.40gb" in finding.observed and finding.remedy.endswith("in gpu.mig")


def test_more_layouts_than_gpus_are_told(fake: Fake):
    finding = failed(fake, [list(HALVES), [], []])["MIG layouts"]
    assert finding.observed == "3 in gpu.mig, 2 GPUs" and "gpu.devices" in finding.remedy


def test_layouts_are_those_of_the_chosen_gpus(fake: Fake):
    assert failed(fake, [[]], devices=(1,)) == {}
    assert "MIG layout of GPU 1" in failed(fake, [["7g.40gb"]], devices=(1,))


def test_capability_without_a_device_file_is_told_with_the_command_that_makes_it(fake: Fake):
    (fake.root / "dev/nvidia-caps/nvidia-cap168").unlink()
    finding = failed(fake)["MIG capabilities of GPU 0"]
    assert finding.observed == "no /dev/nvidia-caps/nvidia-cap168"
    assert "-f /proc/driver/nvidia/capabilities/gpu1/mig/gi2/ci0/access` as root" in finding.remedy


def test_capability_whose_file_says_no_number_is_told(fake: Fake):
    fake.write(f"{host_mig.CAPABILITIES}/gpu1/mig/gi1/access", "")
    assert "/gpu1/mig/gi1/access" in failed(fake)["MIG capabilities of GPU 0"].observed


def test_capabilities_that_cannot_be_seen_are_told(fake: Fake):
    for file in (fake.root / host_mig.CAPABILITIES.lstrip("/")).rglob("access"):
        file.unlink()
    finding = failed(fake)["MIG capabilities of GPU 0"]
    assert finding.observed == "none in /proc/driver/nvidia/capabilities/gpu1/mig"


def test_capabilities_of_a_gpu_whose_device_file_is_not_known_are_told(fake: Fake):
    (fake.root / "proc/driver/nvidia/gpus/0000:01:00.0/information").unlink()
    assert failed(fake)["MIG capabilities of GPU 0"].observed == "the GPU's device file is not known"


def test_node_gets_the_folder_of_capability_devices_if_a_gpu_is_divided(fake: Fake):
    places = [(mount.host, mount.node) for mount in host(fake).mounts]
    assert ("/dev/nvidia-caps", "/dev/nvidia-caps") in places
    assert host(fake, (1,)).capability_mounts == ()


def test_node_gets_no_folder_that_is_not_there(tmp_path: Path):
    fake = in_one_folder(tmp_path)
    fake.gpus(1, mig="Enabled")
    assert host(fake).capability_mounts == ()


def test_toolkit_is_asked_for_gpus_and_the_folder_is_mounted_beside_them(fake: Fake):
    fake.write("etc/nvidia-container-runtime/config.toml", "accept-nvidia-visible-devices-as-volume-mounts = true")
    fake.answers["docker info"] = (0, "nvidia\n", "")
    assert [mount.node for mount in host(fake, (0,)).mounts] == [
        f"/var/run/nvidia-container-devices/{UUIDS[0]}",
        "/dev/nvidia-caps",
    ]
