"""Programs that others wrote for NVIDIA's NVML, on simulated GPUs with and without MIG.

They are no dependency of the project: `pip install gpustat nvitop` into a virtual environment of your own, and put its
folder of programs on PATH. Tried with gpustat 1.1.1 and nvitop 1.7.2.
"""

import re
import shutil
import subprocess

import pytest

from gpus.mig import mig_line
from tests.unit.gpu_sim.driver_root import LIBRARIES, MODELS, Root, container_of

LAYOUT = mig_line(MODELS["h100-80gb"], ["1g.10gb@0", "3g.40gb@4"])


def run(root: Root, name: str, *arguments: str) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed; it is no dependency, see this file's docstring")
    env = {
        **root.build.environment(),
        "LD_LIBRARY_PATH": str(root.path / LIBRARIES),
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }
    done = subprocess.run([program, *arguments], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


def container(root: Root, tmp_path) -> Root:
    minor = 3 + 23 * 9
    return container_of(root, tmp_path, "nvidia0", *(f"nvidia-caps/nvidia-cap{minor + i}" for i in (0, 1)))


def test_nvitop_shows_gpus_and_each_mig_device(make_root):
    shown = run(make_root(count=2, mig=[LAYOUT]), "nvitop", "-1")
    assert re.findall(r"(\d:\d) +(\S+) @ GI/CI: ?(\d+)/(\d)", shown) == [
        ("0:0", "1g.10gb", "1", "0"),
        ("0:1", "3g.40gb", "23", "0"),
    ]
    assert shown.count("H100 80GB HBM3") == 2 and "Enabled" in shown and "Disabled" in shown


def test_nvitop_in_a_container_of_one_mig_device(make_root, tmp_path):
    shown = run(container(make_root(count=1, mig=[LAYOUT]), tmp_path), "nvitop", "-1")
    assert re.findall(r"(\d:\d) +(\S+) @", shown) == [("0:0", "3g.40gb")]
    assert "39.50GiB" in shown and "79.65GiB" not in shown


def test_gpustat_shows_every_gpu_and_no_memory_that_a_container_may_not_know(make_root, tmp_path):
    root = make_root(count=2, mig=[LAYOUT])
    assert re.findall(r"\[\d\].*/ (\d+) MB", run(root, "gpustat", "--no-color")) == ["81559", "81559"]
    assert re.search(r"\?\? / +\?\? MB", run(container(root, tmp_path), "gpustat", "--no-color"))
