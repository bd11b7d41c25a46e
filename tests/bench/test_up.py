"""Time of a warm `pulumi up` beside the same by hand, and of a preview without a change."""

import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from checks.live import LiveStack
from settings import PROJECT
from tests.bench import by_hand as by_hand_files
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
PAIRS = 2
PREVIEWS = 5
AIM_RATIO = 0.8
MOST_RATIO = 1.1
MODULES = ["00", "01", "02", "03"]
MEASURED_PREVIEW = "modules-00-to-03"
# Beside a preview of a program that registers nothing, and asks Pulumi for nothing.
MOST_PREVIEW_RATIO = 3.0


def timed(command: Callable[[], object]) -> float:
    started = time.monotonic()
    command()
    return round(time.monotonic() - started, 2)


@pytest.fixture(scope="module")
def helm() -> str:
    """The directory of a helm that is built for this benchmark only."""
    command = [CHECKOUT / ".venv/bin/python", "-m", "toolchain", "helm"]
    done = subprocess.run(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()[-1]


def empty_project(folder: Path, workspace: Workspace) -> Callable[[], object]:
    """Preview of a project whose program is empty: what Pulumi takes by itself, as it starts Python by default."""
    folder.mkdir()
    backend = f"backend: {{url: 'file://{folder}'}}\n"
    (folder / "Pulumi.yaml").write_text(
        f"name: nothing\nruntime: {{name: python, options: {{toolchain: pip}}}}\n{backend}"
    )
    (folder / "__main__.py").write_text("import pulumi\n")
    env = {key: value for key, value in workspace.env.items() if key != "PULUMI_PYTHON_CMD"}

    def pulumi(*words: str) -> None:
        command = ["pulumi", *words, "--stack", "empty", "--non-interactive"]
        subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)

    subprocess.run(["pulumi", "stack", "init", "empty"], cwd=folder, env=env, check=True, capture_output=True)
    return lambda: pulumi("preview")


@pytest.mark.parametrize("stack", ["modules-00-to-03", "phase1", "phase2", "phase3"])
def test_warm_up_costs_little_more_than_by_hand(
    stack: str, tmp_path: Path, helm: str, measured: Callable[..., None]
) -> None:
    workspace = Workspace.copy(CHECKOUT, tmp_path)
    file = CHECKOUT / "stacks" / f"Pulumi.{stack}.yaml"
    workspace.write_stack(
        "bench", file.read_text() if file.exists() else yaml.safe_dump({"config": {"dra-workshop:modules": MODULES}})
    )
    workspace.pulumi("stack", "init", "bench")
    folder = tmp_path / "by-hand"
    folder.mkdir()
    env = {**workspace.env, "PATH": f"{Path(helm).parent}:{workspace.env['PATH']}"}
    cluster = f"{PROJECT}-bench"
    devices = 0

    def by_hand(verb: str) -> None:
        script = [str(CHECKOUT / "tests/bench/by-hand.sh"), verb, str(folder), cluster, str(devices)]
        done = subprocess.run(script, env=env, check=False, capture_output=True, text=True)
        assert not done.returncode, done.stdout + done.stderr

    ours: list[float] = []
    theirs: list[float] = []
    previews: list[float] = []
    empty: list[float] = []
    for _ in range(PAIRS):
        try:
            ours.append(timed(lambda: workspace.pulumi("up", "--yes", "--skip-preview", "--stack", "bench")))
            if not devices:
                devices = len(LiveStack.find(workspace.root, "bench").devices())
                by_hand_files.write(folder, json.loads(workspace.pulumi("stack", "export", "--stack", "bench")))
            if stack == MEASURED_PREVIEW and len(ours) == PAIRS:
                nothing = empty_project(tmp_path / "nothing", workspace)
                for _ in range(PREVIEWS):
                    previews.append(timed(lambda: workspace.pulumi("preview", "--stack", "bench")))
                    empty.append(timed(nothing))
        finally:
            workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", "bench")
        try:
            theirs.append(timed(lambda: by_hand("up")))
        finally:
            by_hand("down")
    subprocess.run(["docker", "network", "rm", "kind"], capture_output=True, check=False)  # in use if others have one
    ratio = round(sum(ours) / sum(theirs), 2)
    measured(f"warm up of {stack}", pulumi=ours, by_hand=theirs, ratio=ratio, aim=AIM_RATIO)
    # Above one a script would have been the faster way, which is a defect on any machine; the aim is judged by a person
    # on a quiet one.
    assert ratio < MOST_RATIO
    if previews:
        preview_ratio = round(statistics.median(previews) / statistics.median(empty), 2)
        measured("no-change preview", seconds=previews, of_nothing=empty, ratio=preview_ratio)
        assert preview_ratio < MOST_PREVIEW_RATIO
