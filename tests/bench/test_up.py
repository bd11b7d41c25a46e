"""Time of a warm `pulumi up` of modules 00 to 03 beside the same by hand, and of a preview without a change."""

import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from components.dra_driver import CHART, chart_values
from components.kind_cluster import kind_config
from components.manifests import load
from components.pods import on_node
from components.simulated_gpus import DRIVER_ROOT, NAMESPACE, daemon_set_spec
from gpus.models import load_models, render_node_config
from machine.images import Images, images_of
from settings import Settings
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
PAIRS = 2
PREVIEWS = 5
AIM_RATIO = 1.15
# Those that by-hand.sh does as well.
MODULES = ["00", "01", "02", "03"]
# Beside a preview of a program that registers nothing, and asks Pulumi for nothing.
MOST_PREVIEW_RATIO = 3.0


def timed(command: Callable[[], object]) -> float:
    started = time.monotonic()
    command()
    return round(time.monotonic() - started, 2)


def inputs_by_hand(folder: Path, settings: Settings, images: Images) -> None:
    """The files that a person would have written: the same objects that the stack registers."""
    nodes = [node.node for node in settings.gpu_nodes]
    config = kind_config(settings.cluster_name, settings.cluster.workers, nodes, images.node, None)
    (folder / "kind.yaml").write_text(yaml.safe_dump(config))
    (folder / "images").write_text("\n".join(images.to_load) + "\n")
    (folder / "chart").symlink_to(CHECKOUT / CHART)
    values = chart_values(images["dra-driver"], DRIVER_ROOT, {}, settings.log_verbosity, "by-hand")
    (folder / "values.yaml").write_text(yaml.safe_dump(values))
    configs = {
        f"{node.node}.ini": render_node_config(node.node, load_models()[node.model or ""], node.count or 0)
        for node in settings.gpu_nodes
    }
    privileged = {"pod-security.kubernetes.io/enforce": "privileged"}
    simulated = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": privileged}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "gpus", "namespace": NAMESPACE},
            "data": configs,
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "gpu-sim", "namespace": NAMESPACE},
            "spec": daemon_set_spec(images["gpu-sim"], "by-hand"),
        },
    ]
    (folder / "gpu-sim.yaml").write_text(yaml.safe_dump_all(simulated))
    documents = list(load("03-workloads"))
    for document in documents:
        if document["kind"] == "Deployment":
            pod = document["spec"]["template"]["spec"]
            pod["affinity"] = on_node(nodes[0])
            pod["containers"][0]["image"] = images["gpu-probe"]
    second = [document for document in documents if document["metadata"]["name"] in ("every-gpu", "waiter")]
    first = sorted((d for d in documents if d not in second), key=lambda d: d["kind"] != "Namespace")
    (folder / "workloads-1.yaml").write_text(yaml.safe_dump_all(first))
    (folder / "workloads-2.yaml").write_text(yaml.safe_dump_all(second))


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


def test_warm_up_costs_little_more_than_by_hand(tmp_path: Path, helm: str, measured: Callable[..., None]) -> None:
    workspace = Workspace.copy(CHECKOUT, tmp_path)
    workspace.write_stack("bench", yaml.safe_dump({"config": {"dra-workshop:modules": MODULES}}))
    workspace.pulumi("stack", "init", "bench")
    settings = Settings.parse({"modules": MODULES}, "bench")
    folder = tmp_path / "by-hand"
    folder.mkdir()
    inputs_by_hand(folder, settings, images_of(settings))
    # The node's name is the stack's, so that both ways make the very same cluster.
    script = [str(CHECKOUT / "tests/bench/by-hand.sh")]
    arguments = [str(folder), settings.cluster_name, str(sum(node.count or 0 for node in settings.gpu_nodes))]
    env = {**workspace.env, "PATH": f"{Path(helm).parent}:{workspace.env['PATH']}"}

    def by_hand(verb: str) -> None:
        subprocess.run([*script, verb, *arguments], env=env, check=True, capture_output=True)

    ours: list[float] = []
    theirs: list[float] = []
    previews: list[float] = []
    empty: list[float] = []
    for _ in range(PAIRS):
        try:
            theirs.append(timed(lambda: by_hand("up")))
        finally:
            by_hand("down")
        ours.append(timed(lambda: workspace.pulumi("up", "--yes", "--skip-preview", "--stack", "bench")))
        if len(ours) == PAIRS:
            nothing = empty_project(tmp_path / "nothing", workspace)
            for _ in range(PREVIEWS):
                previews.append(timed(lambda: workspace.pulumi("preview", "--stack", "bench")))
                empty.append(timed(nothing))
        workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", "bench")
    subprocess.run(["docker", "network", "rm", "kind"], capture_output=True, check=False)  # in use if others have one
    ratio = round(sum(ours) / sum(theirs), 2)
    measured("warm up", pulumi=ours, by_hand=theirs, ratio=ratio, aim=AIM_RATIO)
    # Twice the aim is a defect on any machine; the aim itself is judged by a person on a quiet one.
    assert ratio < 1 + 2 * (AIM_RATIO - 1)
    preview_ratio = round(statistics.median(previews) / statistics.median(empty), 2)
    measured("no-change preview", seconds=previews, of_nothing=empty, ratio=preview_ratio)
    assert preview_ratio < MOST_PREVIEW_RATIO
