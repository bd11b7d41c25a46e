"""Stack phase3-dynamic under another name: MIG devices that NVIDIA's driver makes on demand, on two nodes."""

import json
from collections.abc import Iterator

import pytest
import yaml

from checks.live import LiveStack
from tests.e2e import lessons
from tests.e2e.lessons import Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "dynamic-mig"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.phase3-dynamic.yaml").read_text())["config"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("dynamic-mig"))
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


@pytest.mark.parametrize("lesson", lessons.of_stack("phase3-dynamic"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-phase3-dynamic", stack.settings.cluster_name))
