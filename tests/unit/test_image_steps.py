"""An image's step: which files of its folder are in the build context and in its key."""

import io
from collections.abc import Callable
from pathlib import Path

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
