"""An image's step: which files of its folder are in the build context and in its key."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from toolchain import images
from toolchain.paths import IMAGES
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, Store, Work


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image's folder with a Go program beside its Dockerfile."""
    source = tmp_path / "images" / "node"
    for name in ("Dockerfile", "files/etc/config", "program/go.mod", "program/inner/main.go"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    monkeypatch.setattr(images, "IMAGES", source.parent)
    return source


def step(fill: Callable[[Work, Path], None] = lambda work, context: None) -> Step:
    return images.image_step("node", "v1", fill, (), expected_seconds=1)


@pytest.mark.usefixtures("folder")
def test_source_of_a_go_program_is_not_in_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    contexts = []

    def docker_build(work: Work, context: Path, *_: object) -> None:
        contexts.append(sorted(str(file.relative_to(context)) for file in context.rglob("*") if file.is_file()))

    monkeypatch.setattr(images, "_docker_build", docker_build)
    monkeypatch.setattr(images, "docker_images", frozenset)
    (tmp_path / "store").mkdir()
    runner = Runner(Store(tmp_path / "store"), Progress(Console(file=io.StringIO())))
    runner.run([step(lambda work, context: (context / "filled").touch())])
    assert contexts == [["Dockerfile", "files/etc/config", "filled"]]


def test_every_user_can_read_an_image_of_a_checkout_made_with_umask_077(tmp_path: Path):
    context = tmp_path / "context"
    (context / "bin").mkdir(parents=True)
    for name, mode in (("Dockerfile", 0o600), ("bin/program", 0o700), ("bin/setuid", 0o4711)):
        (context / name).touch()
        (context / name).chmod(mode)
    (context / "bin" / "link").symlink_to("/nowhere")
    context.chmod(0o700)
    (context / "bin").chmod(0o700)
    work = SimpleNamespace(run=lambda *command, **_: None)
    images._docker_build(work, context, context / "Dockerfile", "it:v1")  # pyrefly: ignore[bad-argument-type]
    names = (".", "bin", "Dockerfile", "bin/program", "bin/setuid")
    modes = [oct((context / name).stat().st_mode & 0o7777) for name in names]
    assert modes == ["0o755", "0o755", "0o644", "0o755", "0o4755"]


@pytest.mark.parametrize(
    ("file", "changes"), [("Dockerfile", True), ("files/etc/config", True), ("program/inner/main.go", False)]
)
def test_source_of_a_go_program_is_not_in_the_key(folder: Path, file: str, changes: bool):
    before = step().key
    (folder / file).write_text("changed")
    assert (step().key != before) == changes


def test_programs_of_node_and_daemon_are_left_out_of_their_images():
    assert images.go_programs(IMAGES / "node") == tuple(
        IMAGES / "node" / name for name in ("coredns", "nodenet", "pause")
    )
    assert images.go_programs(IMAGES / "mps-daemon") == (IMAGES / "mps-daemon" / "src",)
