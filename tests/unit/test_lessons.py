"""Lessons of docs/learn: every one has the same parts; and the reader of their steps, which a live stack runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from checks.report import reference
from checks.results import ReportError
from settings import catalog
from tests.e2e.lessons import FRAME, LEARN, PARTS, Expectation, Lesson, Step, blocks, steps_of, to_run
from toolchain.paths import CHECKOUT

UUID = "27af2596-8326-511e-bc1a-7db838a0171b"


@pytest.fixture(params=catalog.MODULES.values(), ids=lambda row: row.number)
def row(request: pytest.FixtureRequest) -> catalog.Module:
    return request.param


@pytest.fixture
def lesson(row: catalog.Module) -> Lesson:
    return Lesson(LEARN / f"{row.name}.md")


def test_lesson_has_its_parts_in_their_order(lesson: Lesson, row: catalog.Module):
    assert lesson.text.startswith(f"# {row.number} {row.title}\n")
    assert tuple(lesson.parts) == PARTS
    assert len(re.findall(r"(?m)^- ", lesson.parts["You will learn"])) == 3
    assert f"{row.minutes} minutes" in lesson.parts["Time"]
    (before,) = blocks(lesson.parts["Before you start"])
    (step,) = steps_of(before)
    assert re.search(r"make (up|doctor)", step.command) and "\n" not in step.command
    assert lesson.parts["The idea"].count("```mermaid\n") == 1
    assert f"(../reference/modules/{row.name}.md)" in lesson.parts["Next"]


def test_lesson_has_three_to_five_steps_with_output_and_what_to_see_in_it(lesson: Lesson):
    steps = re.split(r"(?m)^### ", lesson.parts["Steps"])[1:]
    assert 3 <= len(steps) <= 5
    for number, step in enumerate(steps, 1):
        assert step.startswith(f"{number}. ")
        # What only a real GPU prints is not shown where it was not kept.
        on_a_gpu = "```console gpu" in step
        assert on_a_gpu or any(command.output for block in blocks(step) for command in steps_of(block)), step
        assert re.search(r"```\n+[A-Z0-9`*]", step), f"nothing is said of the output of step {step.splitlines()[0]}"


def test_lesson_has_two_exercises_with_folded_answers(lesson: Lesson):
    exercises = re.split(r"(?m)^### ", lesson.parts["Exercises"])[1:]
    assert len(exercises) >= 2
    for exercise in exercises:
        question, _, answer = exercise.partition("<details><summary>Answer</summary>\n")
        assert len(question.split()) > 8 and answer.rstrip().endswith("</details>")
        assert blocks(answer), exercise


def test_lesson_says_how_to_check_oneself(lesson: Lesson, row: catalog.Module):
    stack = "" if lesson.stack == "phase1" else f"STACK={lesson.stack} "
    (step,) = (step for block in blocks(lesson.parts["Check yourself"]) for step in steps_of(block))
    assert step.command == f"make verify {stack}MODULE={row.number}"
    assert row.number in stack_modules(lesson.stack)


def test_lesson_is_of_a_stack_whose_lessons_are_run(lesson: Lesson):
    tests = (CHECKOUT / "tests" / "e2e").glob("test_*.py")
    run = {name for test in tests for name in re.findall(r'lessons\.of_stack\("(.+?)"\)', test.read_text())}
    # Those of the stack vllm need a real GPU, but for a few steps.
    assert lesson.stack in run | {"vllm"}


def stack_modules(stack: str) -> str:
    return (CHECKOUT / "stacks" / f"Pulumi.{stack}.yaml").read_text()


def test_every_step_of_a_lesson_but_its_frame_is_run(lesson: Lesson):
    steps = list(lesson.steps())
    frame = [step for step in steps if FRAME.match(step.command)]
    on_a_gpu = [step for step in steps if step.gpu and step not in frame]
    assert len(frame) <= 3 and len(to_run(lesson)) == len(steps) - len(frame) - len(on_a_gpu)
    assert not on_a_gpu or lesson.stack == "vllm"
    assert all("<pod>" not in step.command and "<node>" not in step.command for step in steps)


def test_steps_that_ask_only_the_checkout_print_what_the_page_says(lesson: Lesson):
    # So that a change of the catalog is told here, and not by a live stack half an hour later.
    expectation = Expectation()
    for step in lesson.steps():
        if step.command.startswith("python -c "):
            done = subprocess.run(
                ["bash", "-c", f"PATH={Path(sys.executable).parent}:$PATH\n{step.command}"],
                cwd=CHECKOUT,
                capture_output=True,
                text=True,
                check=True,
            )
            assert expectation.met(step.output, done.stdout), f"{lesson.page.name}:{step.line}:\n{done.stdout}"


def test_commands_are_read_with_their_output_and_their_lines():
    block = "$ one\nout\n\n$ jq '.a\n  | .b'\n$ cat <<'EOF' |\na\nEOF\n  wc\n1\n$ a \\\n  b\n"
    assert list(steps_of(block, 7)) == [
        Step(7, "one", "out\n"),
        Step(10, "jq '.a\n  | .b'", ""),
        Step(12, "cat <<'EOF' |\na\nEOF\n  wc", "1"),
        Step(17, "a \\\n  b", ""),
    ]
    with pytest.raises(AssertionError, match="begins with"):
        list(steps_of("one\n"))


def test_refused_is_told_by_the_comment():
    assert Step(1, "pulumi preview  # refused", "").refused
    assert not Step(1, "kubectl get refused", "").refused


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("NAME   AGE\na-<id>   <age>", "NAME AGE\na-7b-x2   3m5s\n"),
        ("GPU-<uuid A> <uuid A>", f"GPU-{UUID} {UUID}"),
        ("a\n...\nz", "a\nb\nc\nz"),
        ("a\n...\nz", "a\nz"),
        ("<none> <n> x<rest>", "<none> 12 xyz.(1)"),
    ],
)
def test_output_is_what_the_page_shows(expected: str, printed: str):
    assert Expectation().met(expected, printed)


@pytest.mark.parametrize(
    ("expected", "printed"),
    [
        ("a", "a\nb"),
        ("a\nb", "a"),
        ("a-<id>", "a-"),
        ("<n>", "x"),
        ("1.5", "1x5"),
        ("<n A> <n A>", "1 2"),
        ("...\nz", "a"),
    ],
)
def test_output_is_not_what_the_page_shows(expected: str, printed: str):
    assert not Expectation().met(expected, printed)


def test_named_placeholder_is_the_same_in_the_whole_page():
    expectation = Expectation()
    assert expectation.met("<n A> <n B>", "1 2")
    assert expectation.met("<n B> <n>", "2 7") and not expectation.met("<n A>", "2")


def test_page_of_reference_is_what_the_catalog_and_the_checks_say(row: catalog.Module):
    page = reference.page_of(CHECKOUT, row)
    assert page.read_text(encoding="utf-8") == reference.page_text(CHECKOUT, row), "run `make tables`"


def test_check_without_its_words_and_page_without_its_place_are_told(tmp_path):
    checks = tmp_path / "test_99_x.py"
    checks.write_text(
        'def test_a():\n    """Fails if a | b\n    is.\n\n    More.\n    """\n\ndef helper():\n    pass\n'
    )
    assert reference.proofs(checks)[2:] == ["| a | a \\| b is |"]
    checks.write_text("def test_a():\n    pass\n")
    with pytest.raises(ReportError, match="test_a: the docstring of a check begins with `Fails if"):
        reference.proofs(checks)
    with pytest.raises(ReportError, match="has no part between"):
        reference.written("# A\n", "page.md", {"checks": []})
