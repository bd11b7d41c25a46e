"""nvidia-smi: its lists, queries and tables, the modes it sets, and its exit codes."""

import contextlib
import os
import subprocess

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import DRIVER, LIBRARIES, MODELS, Root

NOTE = "# nvidia-smi: these GPUs are simulated"


def test_nvidia_smi_lists_gpus_as_parsers_expect_and_nothing_else(make_root):
    done = make_root().smi("-L")
    gpus = simulated_gpus("node", MODELS["h100-80gb"], 2)
    assert done.stdout == "".join(f"GPU {g.index}: NVIDIA H100 80GB HBM3 (UUID: {g.uuid})\n" for g in gpus)
    assert done.stderr == "" and done.returncode == 0


def on_a_terminal(root: Root, *arguments: str) -> list[str]:
    """The lines that nvidia-smi writes where a person looks."""
    terminal, program = os.openpty()
    with os.fdopen(terminal, "rb") as screen:
        command = [root.path / "usr/bin/nvidia-smi", *arguments]
        done = subprocess.run(command, stdout=program, stderr=program, env=root.build.environment(), timeout=20)
        assert done.returncode == 0
        os.close(program)
        lines = []
        # The end of a terminal without programs is an error of reading, not an empty read.
        with contextlib.suppress(OSError):
            lines.extend(line.decode().rstrip() for line in screen)
    return lines


@pytest.mark.parametrize("arguments", [["-L"], ["--query-gpu=index", "--format=csv,noheader"]])
def test_nvidia_smi_tells_people_but_not_programs_that_gpus_are_simulated(make_root, arguments):
    root = make_root(count=1)
    assert on_a_terminal(root, *arguments)[1:] == [NOTE]
    done = root.smi(*arguments)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_nvidia_smi_csv_has_header_and_units_unless_told_otherwise(make_root):
    root = make_root(count=1)
    query = "--query-gpu=index,gpu_name,memory.total,memory.used,pci.bus_id,compute_cap,mig.mode.current,count"
    values = ["0", "NVIDIA H100 80GB HBM3", "81559 MiB", "0 MiB", "00000000:0A:00.0", "9.0", "Disabled", "1"]
    header = "index, gpu_name, memory.total [MiB], memory.used [MiB], pci.bus_id, compute_cap, mig.mode.current, count"
    assert root.smi(query, "--format=csv").stdout.splitlines() == [header, ", ".join(values)]
    bare = root.smi(query, "--format=csv,noheader,nounits").stdout
    assert bare == ", ".join(values).replace(" MiB", "") + "\n"


def test_nvidia_smi_prints_na_for_what_it_knows_and_refuses_what_it_does_not(make_root):
    root = make_root("rtx-4090", 1)
    known = root.smi("--query-gpu=temperature.gpu,power.draw,mig.mode.current,serial", "--format=csv,noheader")
    assert known.stdout == "[N/A], [N/A], [N/A], [N/A]\n"
    unknown = root.smi("--query-gpu=name,colour", "--format=csv")
    assert unknown.returncode == 2 and 'Field "colour" is not a valid field to query.' in unknown.stdout


def test_nvidia_smi_remembers_modes_as_the_driver_sets_them(make_root):
    root = make_root()
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 2)[1].uuid
    preload = f"{root.build.preload}:{root.path}/{LIBRARIES}/libnvidia-ml.so.{DRIVER}".lstrip(":")
    assert root.smi("-i", uuid, "-c", "EXCLUSIVE_PROCESS", LD_PRELOAD=preload).returncode == 0
    assert root.smi("compute-policy", "-i", uuid, "--set-timeslice", "2", LD_PRELOAD=preload).returncode == 0
    assert root.smi("-i", "0000:1a:00.0", "-pm", "1").returncode == 0
    shown = root.smi("--query-gpu=compute_mode,persistence_mode", "--format=csv,noheader").stdout
    assert shown == "Default, Disabled\nExclusive_Process, Enabled\n"
    assert (root.path / "run/gpu1.timeslice").read_text() == "2\n"
    assert root.smi("-i", uuid, "-c", "DEFAULT").returncode == 0
    assert root.smi("-i", "1", "--query-gpu=compute_mode", "--format=csv,noheader").stdout == "Default\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-h"], 0),
        (["--version"], 0),
        ([], 0),
        (["-i", "5"], 6),
        (["-i", "GPU-none", "-L"], 6),
        (["--bogus"], 2),
        ([""], 2),
        (["-i"], 2),
        (["-c", "FAST"], 2),
        (["-c", "1"], 2),
        (["-pm", "2"], 2),
        (["--query-gpu=name"], 2),
        (["--query-gpu=name", "--format=xml"], 2),
        (["-mig", "2"], 2),
        (["-mig", "1"], 0),
        (["-r"], 0),
        (["compute-policy"], 2),
        (["compute-policy", "--set-timeslice", "4"], 2),
        (["--set-timeslice", "1"], 2),
    ],
)
def test_nvidia_smi_exit_codes_are_nvidias(make_root, arguments, code):
    assert make_root().smi(*arguments).returncode == code


def test_nvidia_smi_without_gpus_driver_or_library_tells_them_apart(make_root):
    assert make_root(visible=0).smi("-L").returncode == 6
    broken = make_root(text="nonsense\n")
    assert broken.smi().returncode == 9
    (broken.path / LIBRARIES / f"libnvidia-ml.so.{DRIVER}").unlink()
    assert broken.smi().returncode == 12


def test_nvidia_smi_table_and_version_say_that_they_are_simulated(make_root):
    root = make_root()
    table = root.smi().stdout.splitlines()
    assert "(simulated)" in table[1] and len({len(line) for line in table}) == 1
    assert all("(simulated)" in line for line in root.smi("--version").stdout.splitlines())
