"""Which worker takes which files of tests: all but the last bring clusters up, which takes what needs none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.side_by_side import LONGEST, clusters_at_once, next_file
from toolchain.paths import CHECKOUT

FILES = ["tests/e2e/test_a.py", "tests/e2e/test_b.py", "tests/golden/test_c.py", "tests/unit/test_d.py"]


@pytest.mark.parametrize(
    ("worker", "workers"), [("gw0", 3), ("gw1", 3), ("gw2", 4), ("gw0", 1), ("gw0", 2), ("gw3", 3)]
)
def test_workers_with_clusters_take_files_in_their_order(worker: str, workers: int):
    assert next_file(FILES, worker, workers) == FILES[0]
    assert next_file(FILES[2:], worker, workers) == FILES[2]


def test_longest_files_are_begun_first():
    assert all((CHECKOUT / file).is_file() for file in LONGEST)
    assert next_file([*FILES, LONGEST[1], LONGEST[0]], "gw0", 3) == LONGEST[0]
    assert next_file([*FILES, LONGEST[1]], "gw0", 3) == LONGEST[1]
    assert next_file([*FILES, LONGEST[1]], "gw2", 3) == FILES[2]


@pytest.mark.parametrize(("worker", "workers"), [("gw2", 3), ("gw3", 4), ("gw1", 2)])
def test_last_worker_takes_what_needs_no_cluster_and_waits_when_there_is_nothing_else(worker: str, workers: int):
    assert next_file(FILES, worker, workers) == FILES[2]
    assert next_file(FILES[:2], worker, workers) is None
    assert next_file(["tests/unit/test_loadgen.py"], worker, workers) is None
    assert next_file([], worker, workers) is None


@pytest.mark.parametrize(
    ("limit", "taken", "clusters"), [(128, 3, 2), (128, None, 2), (128, 29, 1), (128, 120, 1), (512, 3, 8)]
)
def test_no_more_clusters_than_have_inotify_instances(limit: int, taken: int | None, clusters: int):
    assert clusters_at_once(limit, taken) == clusters


@pytest.mark.parametrize(("worker", "file"), [("gw0", FILES[0]), ("gw1", FILES[2]), ("gw2", FILES[2])])
def test_workers_beyond_the_clusters_that_there_may_be_take_what_needs_none(worker: str, file: str):
    assert next_file(FILES, worker, 3, clusters=1) == file
    assert next_file(FILES, worker, 3, clusters=2) == (FILES[0] if worker != "gw2" else FILES[2])


@pytest.mark.parametrize("workers", [3, 4])
def test_every_file_is_run_once_and_none_with_a_cluster_by_the_last(workers: int, tmp_path: Path):
    # A suite of its own beside ours: with more files that need a cluster than the others take by themselves.
    for name in ("conftest.py", "side_by_side.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        (tmp_path / "tests" / name).write_text((CHECKOUT / "tests" / name).read_text())
    for kind, count in (("e2e", 7), ("unit", 3)):
        (tmp_path / "tests" / kind).mkdir()
        for number in range(count):
            (tmp_path / "tests" / kind / f"test_{kind}_{number}.py").write_text(
                "import os\n\n\ndef test_who_runs_it():\n"
                f'    open(f"{tmp_path}/ran", "a").write(f"{kind} {{os.environ[\'PYTEST_XDIST_WORKER\']}}\\n")\n'
            )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests",
        "-n",
        str(workers),
        "--dist",
        "loadfile",
        "--no-loadscope-reorder",
    ]
    done = subprocess.run(
        [*command, "-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-o", "pythonpath=."],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "10 passed" in done.stdout, done.stdout + done.stderr
    ran = [line.split() for line in (tmp_path / "ran").read_text().splitlines()]
    assert sorted(kind for kind, _ in ran) == ["e2e"] * 7 + ["unit"] * 3
    assert {worker for kind, worker in ran if kind == "e2e"} <= {f"gw{number}" for number in range(workers - 1)}
    assert ("unit", f"gw{workers - 1}") in {(kind, worker) for kind, worker in ran}
