"""nvidia-smi and MIG: its tables, and what it makes and destroys."""

import re

import pytest

from gpus.mig import mig_line
from tests.unit.gpu_sim.driver_root import MODELS, Root, container_of

# As an H100 with driver 580.159.04 printed it, MIG off.
PROFILES = """\
+-------------------------------------------------------------------------------+
| GPU instance profiles:                                                        |
| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                                Free/Total   GiB              CE    JPEG  OFA  |
|===============================================================================|
|   0  MIG 1g.10gb         19     7/7        9.75       No     16     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.10gb+me      20     1/1        9.75       No     16     1     0   |
|                                                               1     1     1   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.20gb         15     4/4        19.62      No     26     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 2g.20gb         14     3/3        19.62      No     32     2     0   |
|                                                               2     2     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 3g.40gb          9     2/2        39.50      No     60     3     0   |
|                                                               3     3     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 4g.40gb          5     1/1        39.50      No     64     4     0   |
|                                                               4     4     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 7g.80gb          0     1/1        79.25      No     132    7     0   |
|                                                               8     7     1   |
+-------------------------------------------------------------------------------+
"""
PLACEMENTS = """\
GPU  0 Profile ID 19 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 20 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 15 Placements: {0,2,4,6}:2
GPU  0 Profile ID 14 Placements: {0,2,4}:2
GPU  0 Profile ID  9 Placements: {0,4}:4
GPU  0 Profile ID  5 Placement : {0}:4
GPU  0 Profile ID  0 Placement : {0}:8
"""


def mig(root: Root, *arguments: str) -> str:
    done = root.smi("mig", *arguments)
    assert done.returncode == 0, done.stdout
    return done.stdout


def rows(table: str) -> list[list[str]]:
    """Cells of the rows that begin with a GPU's number."""
    return [line.strip("| ").split() for line in table.splitlines() if re.match(r"\| +\d+ ", line)]


def test_profiles_and_placements_are_those_of_a_real_h100(make_root):
    root = make_root(count=1)
    assert mig(root, "-lgip") == PROFILES
    assert mig(root, "-lgipp") == PLACEMENTS


@pytest.mark.parametrize("arguments", [["-lgi"], ["-lci"], ["-lcip"], ["-dgi"], ["-cgi", "19"]])
def test_with_mig_off_there_is_nothing_to_list_or_to_change(make_root, arguments):
    assert mig(make_root(count=1), *arguments) == "No MIG-enabled devices found.\n"


def test_instances_are_made_listed_and_destroyed(make_root):
    root = make_root(count=2)
    assert root.smi("-i", "1", "-mig", "1").stdout == "Enabled MIG Mode for GPU 00000000:1A:00.0\nAll done.\n"
    assert mig(root, "-cgi", "9:4,1g.10gb:2", "-C") == (
        "Successfully created GPU instance ID 23 on GPU  1 using profile MIG 3g.40gb (ID  9)\n"
        "Successfully created compute instance ID  0 on GPU  1 GPU instance ID 23 using profile MIG 3g.40gb (ID  2)\n"
        "Successfully created GPU instance ID  3 on GPU  1 using profile MIG 1g.10gb (ID 19)\n"
        "Successfully created compute instance ID  0 on GPU  1 GPU instance ID  3 using profile MIG 1g.10gb (ID  0)\n"
    )
    assert rows(mig(root, "-lgi")) == [
        ["1", "MIG", "1g.10gb", "19", "3", "2:1"],
        ["1", "MIG", "3g.40gb", "9", "23", "4:4"],
    ]
    assert [row[:6] for row in rows(mig(root, "-lci", "-gi", "23"))] == [["1", "23", "MIG", "3g.40gb", "2", "0"]]
    assert len(re.findall("MIG-", root.smi("-L").stdout)) == 2
    held = root.smi("mig", "-dgi", "-gi", "23")
    assert held.returncode != 0 and held.stdout == (
        "Unable to destroy GPU instance ID 23 from GPU  1: In use by another client\n"
        "Failed to destroy GPU instances: In use by another client\n"
    )
    refused = root.smi("-i", "1", "-mig", "0")
    assert refused.stdout == "Unable to disable MIG Mode for GPU 00000000:1A:00.0: In use by another client\n"
    assert mig(root, "-dci", "-gi", "23") == (
        "Successfully destroyed compute instance ID  0 from GPU  1 GPU instance ID 23\n"
    )
    assert mig(root, "-dgi", "-gi", "23") == "Successfully destroyed GPU instance ID 23 from GPU  1\n"
    mig(root, "-dci")
    mig(root, "-dgi")
    assert root.smi("mig", "-lgi").stdout == "No GPU instances found: Not Found\n"
    assert root.smi("-i", "1", "-mig", "0").returncode == 0
    assert mig(root, "-lgi") == "No MIG-enabled devices found.\n"


def test_compute_instances_are_made_of_a_profile_or_the_default(make_root):
    root = make_root(count=1, mig=["on"])
    mig(root, "-cgi", "3g.40gb:0")
    assert "2*" in mig(root, "-lcip") and "1c.3g.40gb" in mig(root, "-lcip")
    mig(root, "-cci", "1c.3g.40gb,0", "-gi", "22")
    assert [row[3] for row in rows(mig(root, "-lci"))] == ["1c.3g.40gb", "1c.3g.40gb"]
    full = root.smi("mig", "-cci", "2")
    assert full.returncode != 0 and "Insufficient Resources" in full.stdout
    uuids = re.findall("MIG-[0-9a-f-]+", root.smi("-L").stdout)
    mig(root, "-dci", "-ci", "0")
    assert rows(mig(root, "-lci")) == [["0", "22", "MIG", "1c.3g.40gb", "0", "1", "1:1"]], "the other keeps its number"
    assert re.findall("MIG-[0-9a-f-]+", root.smi("-L").stdout) == uuids[1:]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-bogus"], 2),
        ([], 2),
        (["-h"], 0),
        (["-cgi"], 2),
        (["-i"], 2),
        (["-i", "7", "-lgip"], 6),
        (["-cgi", "99g.1gb"], 2),
        (["-cgi", "7g.80gb,19"], 23),
    ],
)
def test_exit_codes_of_mig(make_root, arguments, code):
    assert make_root(count=1, mig=["on"]).smi("mig", *arguments).returncode == code


def test_the_table_shows_mig_devices_below_their_gpus(make_root):
    root = make_root(count=2, mig=[mig_line(MODELS["h100-80gb"], ["1g.10gb", "3g.40gb"])])
    table = root.smi().stdout.splitlines()
    assert len({len(line) for line in table}) == 1
    devices = [line.split() for line in table if re.match(r"\|  \d +\d+ +\d+ +\d+  \|", line)]
    assert [[cell for cell in line if cell != "|"] for line in devices] == [
        ["0", "1", "0", "0", "0MiB", "/", "9984MiB", "16", "N/A", "1", "0", "1", "0", "1"],
        ["0", "23", "0", "1", "0MiB", "/", "40448MiB", "60", "N/A", "3", "0", "3", "0", "3"],
    ]
    assert "No MIG devices found" in make_root(count=1, mig=["on"]).smi().stdout
    assert "MIG devices:" not in make_root(count=1).smi().stdout


def test_details_tell_mode_and_mig_devices(make_root):
    root = make_root(count=1, mig=[mig_line(MODELS["h100-80gb"], ["3g.40gb"])])
    lines = [re.split(r" *: ", line.strip()) for line in root.smi("-q").stdout.splitlines()]
    start = lines.index(["MIG Mode"])
    assert lines[start + 1 : start + 11] == [
        *(["Current", "Enabled"], ["Pending", "Enabled"], ["MIG Device"], ["Index", "0"], ["GPU Instance ID", "22"]),
        *(["Compute Instance ID", "0"], ["Device Attributes"], ["Shared"]),
        *(["Multiprocessor count", "60"], ["Copy Engine count", "3"]),
    ]
    assert ["Total", "40448 MiB"] in lines and ["Total", "65535 MiB"] in lines
    assert "simulated" not in root.smi("-q").stdout + root.smi("-q").stderr


def test_a_container_of_a_mig_device_may_not_know_its_gpus_use(make_root, tmp_path):
    root = make_root(count=1, mig=[mig_line(MODELS["h100-80gb"], ["3g.40gb@0"])])
    minor = 3 + 22 * 9
    caps = [f"nvidia-caps/nvidia-cap{minor + i}" for i in (0, 1)]
    container = container_of(root, tmp_path, "nvidia0", *caps)
    query = "--query-gpu=name,memory.total,memory.used,utilization.gpu,temperature.gpu"
    hidden = "[Insufficient Permissions]"
    assert container.smi(query, "--format=csv,noheader").stdout == (
        f"NVIDIA H100 80GB HBM3, {hidden}, {hidden}, {hidden}, [N/A]\n"
    )
    assert "0MiB / 40448MiB" in re.sub(" +", " ", container.smi().stdout)
    assert root.smi(query, "--format=csv,noheader").stdout == (
        "NVIDIA H100 80GB HBM3, 81559 MiB, 0 MiB, [N/A], [N/A]\n"
    )
    assert container.nvml("""
        def code(call, *arguments):
            try:
                return call(*arguments) and 0
            except n.NVMLError as error:
                return error.value
        d = n.nvmlDeviceGetHandleByIndex(0)
        m = n.nvmlDeviceGetMigDeviceHandleByIndex(d, 0)
        result = [code(call, d) for call in (n.nvmlDeviceGetMemoryInfo, n.nvmlDeviceGetBAR1MemoryInfo,
                                             n.nvmlDeviceGetUtilizationRates)]
        result += [n.nvmlDeviceGetMemoryInfo(m).total >> 20, n.nvmlDeviceGetBAR1MemoryInfo(m).bar1Total >> 20]
    """) == [4, 4, 4, 40448, 65535]
