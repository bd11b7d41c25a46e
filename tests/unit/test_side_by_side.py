"""Which worker takes which files of tests: two bring clusters up, a third takes what needs none meanwhile."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.side_by_side import next_file
from toolchain.paths import CHECKOUT

FILES = ["tests/e2e/test_a.py", "tests/e2e/test_b.py", "tests/golden/test_c.py", "tests/unit/test_d.py"]


@pytest.mark.parametrize("worker", ["gw0", "gw1"])
def test_workers_with_clusters_take_files_in_their_order(worker: str):
    assert next_file(FILES, worker) == FILES[0]
    assert next_file(FILES[2:], worker) == FILES[2]


def test_third_worker_takes_what_needs_no_cluster_and_waits_when_there_is_nothing_else():
    assert next_file(FILES, "gw2") == FILES[2]
    assert next_file(FILES[:2], "gw2") is None
    assert next_file(["tests/unit/test_loadgen.py"], "gw2") is None
    assert next_file([], "gw2") is None


def test_every_file_is_run_once_and_none_with_a_cluster_by_the_third(tmp_path: Path):
    # A suite of its own beside ours: with more files that need a cluster than the others take by themselves.
    for name in ("conftest.py", "side_by_side.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text((CHECKOUT / "tests" / name).read_text())
    for kind, count in (("e2e", 5), ("unit", 3)):
        (tmp_path / "tests" / kind).mkdir()
        for number in range(count):
            (tmp_path / "tests" / kind / f"test_{kind}_{number}.py").write_text(
                "import os\n\n\ndef test_who_runs_it():\n"
                f'    open(f"{tmp_path}/ran", "a").write(f"{kind} {{os.environ[\'PYTEST_XDIST_WORKER\']}}\\n")\n'
            )
    command = [sys.executable, "-m", "pytest", "tests", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder"]
    done = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-o", "pythonpath=."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "8 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(kind for kind, _ in ran) == ["e2e"] * 5 + ["unit"] * 3
    assert {worker for kind, worker in ran if kind == "e2e"} <= {"gw0", "gw1"}
    assert ("unit", "gw2") in {(kind, worker) for kind, worker in ran}
