"""Lessons of the stack phase1, run from their pages in their order; those of other stacks are run on these."""

from collections.abc import Iterator

import pytest

from checks.live import LiveStack
from settings import catalog
from tests.e2e import lessons
from tests.e2e.addresses import exchange_addresses
from tests.e2e.lessons import LEARN, Lesson, Shell
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "lessons"
REAL_GPU = [row for row in catalog.MODULES.values() if row.number in ("06", "06.5")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("lessons"))
    copy.write_stack(STACK, (CHECKOUT / "stacks" / "Pulumi.phase1.yaml").read_text())
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


@pytest.mark.parametrize("lesson", lessons.of_stack("phase1"), ids=lambda lesson: lesson.page.stem)
def test_steps_of_the_page_show_what_the_page_says(workspace: Workspace, stack: LiveStack, lesson: Lesson) -> None:
    lessons.run(lesson, Shell(workspace, STACK, "dra-workshop-phase1", stack.settings.cluster_name))


def test_checks_of_mps_and_workloads_pass_on_what_source_built_makes(workspace: Workspace, stack: LiveStack) -> None:
    """Those of other modules run on phase2 as well; test_lifecycle.py has the whole of phase1, by the stock way.

    Every way to start again takes a minute or two, and depends on no image.
    """
    status, printed = workspace.verify(STACK, "03", "04", "05", checks=["not starts_again"])
    print(printed)
    assert status == 0, printed


def test_nodes_may_have_other_addresses_after_a_restart_of_the_engine(stack: LiveStack) -> None:
    exchange_addresses(stack)


@pytest.mark.parametrize("row", REAL_GPU, ids=lambda row: row.number)
def test_steps_of_a_real_gpus_page_that_need_none(workspace: Workspace, row: catalog.Module) -> None:
    lesson = Lesson(LEARN / f"{row.name}.md")
    assert lesson.stack == "vllm"
    lessons.run(lesson, Shell(workspace, "vllm", "dra-workshop-vllm", "dra-workshop-vllm"))


@pytest.mark.parametrize("row", REAL_GPU, ids=lambda row: row.number)
def test_steps_of_a_real_gpu(row: catalog.Module) -> None:
    steps = [step for step in Lesson(LEARN / f"{row.name}.md").steps() if step.gpu]
    assert steps
    pytest.skip(f"needs a real GPU: {len(steps)} steps of module {row.number} are read and not run")
