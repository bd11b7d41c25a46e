"""Stack phase2 under another name: two nodes with different GPUs, shared by memory, watched, and broken."""

import json
import subprocess
from collections.abc import Iterator

import pytest
import yaml

from checks.faults import FAULTS
from checks.live import LiveStack
from machine.docker_engine import image_label
from machine.images import images_of
from machine.kind import node_containers
from settings import PROJECT
from tests.e2e import lessons
from tests.e2e.lessons import Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT
from toolchain.versions import FILLED_WITH

STACK = "second"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.phase2.yaml").read_text())["config"]
# Set-up makes its image where no registry is asked for one.
CONFIG |= {f"{PROJECT}:observability": {"prometheus": True}}


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout


def config(**blocks: object) -> str:
    # As JSON, which is YAML too: PyYAML writes 08 without quotes, and Pulumi reads a number.
    return json.dumps(
        {"config": {**CONFIG, **{f"{PROJECT}:{name}": block for name, block in blocks.items()}}}, indent=2
    )


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("second"))
    copy.write_stack(STACK, config())
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


def test_nodes_are_given_only_the_images_that_set_up_did_not_fill_them_with(stack: LiveStack) -> None:
    settings, images = stack.settings, images_of(stack.settings)
    if images.filled_node is None:
        pytest.skip("source stock fills no node image")
    held = (image_label(images.filled_node, FILLED_WITH) or "").split()
    lacking = {ref for ref in images.to_load if ref not in held}
    assert held and lacking, "this stack has an image of either kind"
    nodes = {node.node for node in settings.gpu_nodes}
    assert nodes < set(node_containers(settings.cluster_name))
    for node in nodes:
        told = docker("inspect", "--format", "{{.Config.Image}}", node)
        assert told.strip() == images.filled_node
        listed = docker("exec", node, "ctr", "--namespace", "k8s.io", "images", "check")
        states = {line.split()[0]: line for line in listed.splitlines()}
        # Layers are there as archives only where an image was loaded.
        assert {ref for ref in images.to_load if " complete " in states[ref]} == lacking


def test_every_check_passes(workspace: Workspace, stack: LiveStack) -> None:
    status, printed = workspace.verify(STACK)
    print(printed)
    assert status == 0, printed
    results = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())
    assert {check["module"] for check in results["checks"]} == set(stack.settings.modules)
    assert {fault["fault"] for fault in results["faults"]} == {fault.name for fault in FAULTS if not fault.by_claim}


def test_report_is_made_of_the_last_run(workspace: Workspace, stack: LiveStack) -> None:
    workspace.run("python", "-m", "checks.report", "--stack", stack.name)
    folder = workspace.root / "results" / STACK
    page, document = (folder / "report.html").read_text(), json.loads((folder / "report.json").read_text())
    assert "Simulated GPUs" in page and "<script" not in page
    measured = {module["number"]: (len(module["plots"]), len(module["tables"])) for module in document["modules"]}
    assert measured["07"] == (1, 0) and measured["08"] == (1, 1)


def test_second_up_changes_nothing(workspace: Workspace, stack: LiveStack) -> None:
    output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", stack.name)
    assert not {"created", "updated", "replaced", "deleted"} & set(output.rpartition("Resources:")[2].split())


@pytest.mark.parametrize("lesson", lessons.of_stack("phase2"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-phase2", stack.settings.cluster_name))


# Not `disabled`: NVIDIA's driver then has claims that share a GPU which may no longer be shared
# (docs/reference/modules/07-consumable-capacity.md says so).
@pytest.mark.parametrize("shares", [5, "unlimited"])
def test_another_way_to_share_is_an_update_of_the_same_stack(
    workspace: Workspace, stack: LiveStack, shares: int | str
) -> None:
    workspace.write_stack(STACK, config(driver={"consumableShares": shares}))
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", stack.name)
    status, printed = workspace.verify(STACK, "07")
    print(printed)
    assert status == 0


def test_limits_and_shares_of_one_gpu_hold_beside_each_other(workspace: Workspace, stack: LiveStack) -> None:
    workspace.write_stack(STACK, config(modules=[*CONFIG[f"{PROJECT}:modules"], "05"]))
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", stack.name)
    # Those by whose limits or requests the other module goes: test_lifecycle.py has all of module 05.
    checks = ("request", "curve", "class", "gives", "lower")
    status, printed = workspace.verify(STACK, "05", "07", checks=checks)
    print(printed)
    assert status == 0
