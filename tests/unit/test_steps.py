"""Steps and their runner: what a key depends on, what is made, and what a failure or an interruption leaves."""

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from toolchain import progress as progress_of
from toolchain import steps
from toolchain.paths import CHECKOUT
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, StepError, Store, Work

WAIT_SECONDS = 10


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def runner(store: Store, said: io.StringIO) -> Runner:
    return Runner(store, Progress(Console(file=said, width=200)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source" / "inner").mkdir(parents=True)
    (tmp_path / "source" / "main.go").write_text("package main\n")
    (tmp_path / "source" / "inner" / "x.go").write_text("package x\n")
    return tmp_path / "source"


def nothing(work: Work) -> None:
    """A build that leaves an empty folder."""


def key(source: Path) -> str:
    return Step("a", nothing, files=(source,)).key


def change_content(source: Path) -> None:
    (source / "inner" / "x.go").write_text("package y\n")


def add_file(source: Path) -> None:
    (source / "new.go").touch()


def rename_file(source: Path) -> None:
    (source / "main.go").rename(source / "other.go")


def move_file(source: Path) -> None:
    (source / "inner").rename(source / "moved")


def make_executable(source: Path) -> None:
    (source / "main.go").chmod(0o755)


@pytest.mark.parametrize("change", [change_content, add_file, rename_file, move_file, make_executable])
def test_key_changes_with_what_the_files_are(source: Path, change: Callable[[Path], None]):
    before = key(source)
    change(source)
    assert key(source) != before


def touch(source: Path) -> None:
    os.utime(source / "main.go", (0, 0))


def compile_python(source: Path) -> None:
    (source / "__pycache__").mkdir()
    (source / "__pycache__" / "x.pyc").write_bytes(b"\0")


def relocate(source: Path) -> None:
    shutil.move(source, source.with_name("elsewhere"))
    source.symlink_to(source.with_name("elsewhere"))


@pytest.mark.parametrize("change", [touch, compile_python, relocate])
def test_key_is_the_same_for_the_same_content(source: Path, change: Callable[[Path], None]):
    before = key(source)
    change(source)
    assert key(source) == before


def test_key_changes_with_the_recipe_and_with_what_is_needed():
    keys = {
        Step("a", nothing, recipe).key
        if needs is None
        else Step("a", nothing, recipe, needs=(Step("b", nothing, needs),)).key
        for recipe in ("1", "2")
        for needs in (None, "1", "2")
    }
    assert len(keys) == 6


def test_steps_are_one_if_name_and_key_are():
    first, second = Step("a", nothing, "1"), Step("a", nothing, "1", expected_seconds=9)
    assert first == second and hash(first) == hash(second)
    assert first != Step("a", nothing, "2") and first != Step("b", nothing, "1") and first != "a"


def test_needs_are_made_first_and_shared_ones_once(runner: Runner, store: Store):
    made: list[str] = []

    def build(work: Work) -> None:
        made.append(work.step.name)
        (work.out / "needed").write_text(" ".join(sorted(str(work.need(step.name)) for step in work.step.needs)))

    base = Step("base", build)
    middle = [Step(name, build, needs=(Step("base", build),)) for name in ("left", "right")]
    top = Step("top", build, needs=(*middle, base))
    assert {step.name for step in runner.run([top])} == {"base", "left", "right", "top"}
    assert made[0] == "base" and made[-1] == "top" and len(made) == 4
    needed = (store.path(top) / "needed").read_text().split()
    assert needed == sorted(str(store.path(step)) for step in (*middle, base))


def test_second_run_makes_and_says_nothing(runner: Runner, said: io.StringIO):
    runner.run([Step("a", nothing)])
    before = said.getvalue()
    assert runner.run([Step("a", nothing)]) == []
    assert said.getvalue() == before and "done   a in" in before


def test_needs_of_what_is_finished_are_not_asked_for(runner: Runner, store: Store):
    finished = Step("a", nothing, needs=(Step("gone", nothing),))
    store.path(finished).mkdir()
    assert runner.run([finished]) == []


def test_step_that_asks_the_outside_world_is_made_again_when_it_is_not_there(runner: Runner):
    there: list[bool] = []
    step = Step("image", lambda work: there.append(True), present=lambda path: bool(there))
    assert [runner.run([step]), runner.run([step])] == [[step], []]
    there.clear()
    assert runner.run([step]) == [step]


def leftovers(store: Store) -> list[str]:
    """What is in the store but logs and locks."""
    return sorted(path.name for path in store.root.iterdir() if path.name != "logs" and not path.name.endswith(".lock"))


def test_failed_build_leaves_nothing_and_tells_the_end_of_its_log(runner: Runner, store: Store):
    def build(work: Work) -> None:
        (work.out / "half").touch()
        work.run("sh", "-c", "echo cannot find -lseccomp >&2; exit 4")

    with pytest.raises(StepError) as caught:
        runner.run([Step("runc", build)])
    text = str(caught.value)
    assert text.startswith("runc: Command '['sh', '-c', ") and "status 4" in text
    assert "    cannot find -lseccomp\n" in text
    assert text.endswith(f"(all of it: {store.logs / 'runc.log'}); finished steps are kept")
    assert leftovers(store) == []


def test_failed_build_keeps_what_was_finished_before(runner: Runner, store: Store):
    def fail(work: Work) -> None:
        work.run("false")

    needed = Step("needed", nothing)
    with pytest.raises(StepError):
        runner.run([Step("failing", fail, needs=(needed,))])
    assert leftovers(store) == [store.path(needed).name]


def test_unwritable_folders_of_a_build_are_removed_too(runner: Runner, store: Store):
    def build(work: Work) -> None:
        (work.scratch / "module" / "cache").mkdir(parents=True)
        (work.scratch / "module").chmod(0o500)

    runner.run([Step("a", build)])
    assert leftovers(store) == [store.path(Step("a", build)).name]


def fail_with_errno(work: Work) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_with_log(work: Work) -> None:
    work.run("sh", "-c", "echo write: no space left on device >&2; exit 1")


@pytest.mark.parametrize("build", [fail_with_errno, fail_with_log])
def test_full_disk_is_told_with_where_and_how_much(runner: Runner, store: Store, build: Callable[[Work], None]):
    with pytest.raises(StepError) as caught:
        runner.run([Step("kubernetes", build)])
    text = str(caught.value)
    assert text.startswith("kubernetes: the disk is full (") and f"free at {store.root})" in text
    assert "free about 12 GiB or set DRA_WORKSHOP_CACHE to a folder on a larger disk" in text
    assert leftovers(store) == []


@pytest.mark.parametrize(("seconds", "needed"), [(400, 12), (30, 3)])
def test_compiling_on_a_nearly_full_disk_is_not_begun(
    runner: Runner, store: Store, monkeypatch: pytest.MonkeyPatch, seconds: int, needed: int
):
    free = shutil.disk_usage(store.root)._replace(free=2 * 2**30)
    monkeypatch.setattr(steps.shutil, "disk_usage", lambda path: free)
    with pytest.raises(StepError, match=rf"disk: 2\.0 GiB free at .*, but compiling takes about {needed} GiB"):
        runner.run([Step("kubernetes", nothing, compiles=True, expected_seconds=seconds)])
    assert runner.run([Step("copy", nothing)])


def test_commands_get_the_input_and_environment_and_their_output_is_logged(runner: Runner, store: Store):
    answers: list[bytes] = []

    def build(work: Work) -> None:
        answers.append(work.run("sh", "-c", "cat; echo $WORD; pwd", env={"WORD": "word"}, stdin=b"in\n"))
        answers.append(work.run("pwd", cwd=Path("/")))

    runner.run([Step("a", build)])
    assert answers == [f"in\nword\n{store.root / '.making-a' / 'scratch'}\n".encode(), b"/\n"]
    assert "$ sh -c cat; echo $WORD; pwd\nin\nword\n" in (store.logs / "a.log").read_text()


SLOW_SETUP = """
import sys
from pathlib import Path
from toolchain import __main__ as program
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, Store

def build(work):
    (work.out / "half").touch()
    work.run("sh", "-c", "sleep 60 & wait")

store = Path(sys.argv.pop())
program.setup = lambda console, words: Runner(Store(store), Progress(console)).run([Step("slow", build)])
sys.exit(program.main())
"""


MADE = """
import sys
from pathlib import Path
from toolchain import __main__ as program
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, Store

def build(work):
    work.run("sh", "-c", f"mkdir {work.out}/folder && touch {work.out}/folder/file")

store = Path(sys.argv.pop())
program.setup = lambda console, words: Runner(Store(store), Progress(console)).run([Step("made", build)])
sys.exit(program.main())
"""


def test_what_setup_makes_is_for_every_user_whatever_the_umask(store: Store):
    command = [sys.executable, "-c", MADE, "setup", str(store.root)]
    subprocess.run(command, cwd=CHECKOUT, umask=0o077, check=True, capture_output=True, timeout=WAIT_SECONDS)
    (file,) = store.root.rglob("folder/file")
    assert oct(file.stat().st_mode & 0o777) == "0o644" and oct(file.parent.stat().st_mode & 0o777) == "0o755"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_setup_leaves_nothing_half_made_and_says_how_to_go_on(store: Store, number: signal.Signals):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_SETUP, "setup", str(store.root)], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while not (store.root / ".making-slow" / "out" / "half").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)  # between two looks at a condition that is bounded above
    process.send_signal(number)
    out, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert out.splitlines()[-1] == "interrupted: finished steps are kept, run the same command again to go on"
    assert leftovers(store) == []


def test_expected_times_are_those_of_this_machines_speed(store: Store, said: io.StringIO):
    """Three times as slow as where they were measured."""
    runner = Runner(store, Progress(Console(file=said, width=200), slowness=lambda: 3))
    runner.run([Step("a", nothing, expected_seconds=200), Step("b", nothing, expected_seconds=220)])
    first, *rest = said.getvalue().splitlines()
    assert first == (
        "2 steps to do; by this machine's speed, one after the other, they take about 21m00s (measured on 2 cores: "
        "7m00s)"
    )
    assert "  start  a (expected 10m00s)" in rest


def test_finished_steps_say_more_of_a_machines_speed_the_longer_they_took():
    progress = Progress(Console(file=io.StringIO()), slowness=lambda: 1)
    progress.begin([("short", 1), ("long", 400), ("last", 100)])
    assert progress.expected("last") == 100
    progress.done("short", 10)
    assert 100 < progress.expected("last") < 150
    progress.done("long", 1600)
    assert 370 < progress.expected("last") < 400


def test_slowness_is_measured_as_the_machine_is_now(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_of, "_work", lambda: time.sleep(0.02))  # stands for work of that many seconds
    monkeypatch.setattr(progress_of, "REFERENCE_SECONDS", 0.01)
    monkeypatch.setattr(progress_of.os, "sched_getaffinity", lambda pid: {0, 1})
    assert 2 <= progress_of.measured_slowness() <= progress_of.MOST_SLOWNESS
    monkeypatch.setattr(progress_of.os, "sched_getaffinity", lambda pid: {0})
    assert progress_of.measured_slowness() == progress_of.MOST_SLOWNESS


def test_the_processors_time_of_a_steps_commands_is_told(runner: Runner, said: io.StringIO):
    program = "import time\nwhile time.process_time() < 0.3: pass"

    def build(work: Work) -> None:
        for _ in range(2):
            work.run(sys.executable, "-c", program)
        # That of a command's own children as well, which compilers are.
        work.run(sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {program!r}])")
        assert 0.9 <= work.cpu_seconds < 3

    runner.run([Step("busy", build), Step("idle", nothing)])
    (busy,) = [line for line in said.getvalue().splitlines() if line.startswith("  done   busy")]
    (idle,) = [line for line in said.getvalue().splitlines() if line.startswith("  done   idle")]
    assert "s of CPU time (" in busy and "CPU" not in idle


def test_a_command_reads_what_it_is_given_and_its_output_is_returned(runner: Runner):
    much = b"line\n" * 100_000  # more than a pipe holds, both ways

    def build(work: Work) -> None:
        assert work.run("cat", stdin=much) == much
        assert work.run("true", stdin=much) == b""

    runner.run([Step("a", build)])
