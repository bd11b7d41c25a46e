"""Stack fleet under another name: nodes that are only objects, and the scheduler's choice among them."""

import json
from collections.abc import Iterator

import pytest
import yaml

from checks import fleet
from checks.live import LiveStack, wait_for
from gpus.fleet import LABEL
from settings import PROJECT
from tests.e2e import lessons
from tests.e2e.lessons import Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "many"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.fleet.yaml").read_text())["config"]
FEWER = 12
# Another product, or GPUs in parts, would take another worker: stack phase3-dynamic has both.
OF_ANOTHER_MIX = {
    "test_only_nodes_that_fit_are_used",
    "test_partitions_are_found_on_nodes_of_their_kind_only",
    "test_full_gpu_and_its_parts_exclude_each_other_while_pods_come_and_go",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("many"))
    copy.write_stack(STACK, json.dumps({"config": CONFIG}, indent=2))
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


def test_every_check_passes(workspace: Workspace, stack: LiveStack) -> None:
    status, printed = workspace.verify(STACK)
    print(printed)
    assert status == 0, printed
    results = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())
    checks = {check["name"]: check["result"] for check in results["checks"] if check["module"] == "12"}
    assert {name for name, result in checks.items() if result == "skipped"} == OF_ANOTHER_MIX
    assert set(checks.values()) == {"passed", "skipped"}, checks


@pytest.mark.parametrize("lesson", lessons.of_stack("fleet"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-fleet", stack.settings.cluster_name))


def test_second_up_changes_nothing(workspace: Workspace, stack: LiveStack) -> None:
    output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", stack.name)
    assert not {"created", "updated", "replaced", "deleted"} & set(output.rpartition("Resources:")[2].split())


def test_fleet_is_as_large_as_its_setting_says(workspace: Workspace, stack: LiveStack) -> None:
    changed = {**CONFIG, f"{PROJECT}:fleet": {"nodes": FEWER, "gpusPerNode": 4}}
    workspace.write_stack(STACK, json.dumps({"config": changed}, indent=2))
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    live = LiveStack.find(workspace.root, STACK)
    names = {node.node for node in live.settings.fleet_nodes}
    there = {node["metadata"]["name"] for node in live.get("nodes", label_selector={LABEL: "true"})}
    assert there == names and len(names) == FEWER
    own = {node.node for node in live.settings.gpu_nodes}
    # Those of nodes that went are collected in the background.
    wait_for("no node that went has a slice", lambda: fleet.slices(live).keys() == names | own)
    assert {len(fleet.slices(live)[name]["devices"]) for name in names} == {4}
