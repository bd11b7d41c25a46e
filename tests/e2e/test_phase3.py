"""Stack phase3 under another name: GPUs that MIG divides, on two nodes."""

import json
from collections.abc import Iterator

import pytest
import yaml

from checks import mig
from checks.live import LiveStack, Playground
from settings import PROJECT
from tests.e2e import lessons
from tests.e2e.lessons import Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "third"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.phase3.yaml").read_text())["config"]
CONFIG |= {f"{PROJECT}:observability": {"prometheus": True}}
# The tenant's MIG device becomes a smaller one.
LAYOUT = ["2g.10gb@4", "4g.20gb@0"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("third"))
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
    assert {check["module"] for check in results["checks"]} == set(stack.settings.modules)


def test_second_up_changes_nothing(workspace: Workspace, stack: LiveStack) -> None:
    output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", stack.name)
    assert not {"created", "updated", "replaced", "deleted"} & set(output.rpartition("Resources:")[2].split())


@pytest.mark.parametrize("lesson", lessons.of_stack("phase3"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-phase3", stack.settings.cluster_name))


def test_changed_layout_is_told_and_made(workspace: Workspace, stack: LiveStack) -> None:
    gpu = json.loads(json.dumps(CONFIG[f"{PROJECT}:gpu"]))
    gpu["nodes"][0]["mig"][0] = LAYOUT
    changed = {"config": {**CONFIG, f"{PROJECT}:gpu": gpu}}
    workspace.write_stack(STACK, json.dumps(changed, indent=2))
    node = stack.settings.gpu_nodes[0].node
    words = f"{node} GPU 0: 3g.20gb@4, 4g.20gb@0 -> 2g.10gb@4, 4g.20gb@0"
    assert words in workspace.pulumi("preview", "--stack", STACK)
    workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    live = LiveStack.find(workspace.root, STACK)
    published = {device for device, values in live.devices().items() if values["type"] == "mig"}
    assert published == {(slice_.node, slice_.device_name) for slice_ in live.settings.all_mig_slices}
    for name in ("tenant", "clients"):
        live.wait_deployed(mig.NAMESPACE, name)
    (pod,) = live.get("pods", namespace=mig.NAMESPACE, label_selector={"app": "tenant"})
    tenants, name = Playground(live, mig.NAMESPACE), pod["metadata"]["name"]
    (device,) = tenants.allocated(name)
    assert (device["profile"], [device["uuid"]]) == ("2g.10gb", tenants.sees(name))
