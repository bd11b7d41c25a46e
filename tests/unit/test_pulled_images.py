"""Upstream's images: by whose reference they are pulled, what a failed pull says, and a tag that was moved."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from toolchain import images, versions
from toolchain.progress import Progress
from toolchain.steps import Runner, StepError, Store

REFERENCE = f"{versions.STOCK_DRA_DRIVER_REPOSITORY}:v{versions.DRA_DRIVER}"
DOCKER = """#!/bin/sh
echo "$*" >>@ROOT@/calls
case "$1" in
  pull) if [ -e @ROOT@/closed ]; then echo "Error: Get https://registry.k8s.io/v2/: proxyconnect" >&2; exit 1; fi
    cp @ROOT@/upstream @ROOT@/engine ;;
  image) cat @ROOT@/engine ;;
esac
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "docker").write_text(DOCKER.replace("@ROOT@", str(tmp_path)))
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(images.IMAGE_MIRROR, raising=False)
    monkeypatch.delenv(images.IMAGE_OVERRIDES, raising=False)
    (tmp_path / "upstream").write_text("it@sha256:1\n")
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.fixture
def runner(root: Path) -> Runner:
    return Runner(Store(root / "store"), Progress(Console(file=io.StringIO())))


def pulls(root: Path) -> list[str]:
    return [line for line in (root / "calls").read_text().splitlines() if line.startswith("pull ")]


def test_pulled_image_is_recorded_with_its_digest_and_pulled_once(root: Path, runner: Runner):
    step = images.pulled("dra-driver", REFERENCE)
    runner.run([step])
    assert (runner.store.path(step) / "ref").read_text() == REFERENCE
    assert (runner.store.path(step) / "digest").read_text() == "it@sha256:1\n"
    assert runner.run([step]) == [] and pulls(root) == [f"pull {REFERENCE}"]


@pytest.mark.parametrize("engine", ["it@sha256:2\n", ""])
def test_image_that_is_another_one_by_now_is_pulled_again(root: Path, runner: Runner, engine: str):
    step = images.pulled("dra-driver", REFERENCE)
    runner.run([step])
    (root / "engine").write_text(engine)
    assert runner.run([step]) == [step] and len(pulls(root)) == 2


def test_failed_pull_says_reference_the_engines_words_and_what_to_set(root: Path, runner: Runner):
    (root / "closed").touch()
    step = images.pulled("dra-driver", REFERENCE)
    with pytest.raises(StepError) as caught:
        runner.run([step])
    text = str(caught.value)
    assert text.startswith(f"{REFERENCE}: the Docker Engine cannot pull it (Error: Get https://registry.k8s.io/v2/: ")
    assert images.IMAGE_MIRROR in text and "SOURCE=built" in text
    assert not runner.store.path(step).exists()


@pytest.mark.parametrize(
    ("reference", "wanted"),
    [
        ("registry.k8s.io/a/b:v1", "mirror.example.com:5000/up/registry.k8s.io/a/b:v1"),
        ("kindest/node:v1@sha256:ab", "mirror.example.com:5000/up/docker.io/kindest/node:v1@sha256:ab"),
        ("alpine", "mirror.example.com:5000/up/docker.io/alpine"),
    ],
)
def test_mirror_of_images_has_a_path_for_each_registry(monkeypatch: pytest.MonkeyPatch, reference: str, wanted: str):
    monkeypatch.setenv(images.IMAGE_MIRROR, "mirror.example.com:5000/up/")
    assert images.mirrored(reference) == wanted
    monkeypatch.setenv(images.IMAGE_MIRROR, "")
    assert images.mirrored(reference) == reference


@pytest.mark.parametrize("mirror", ["https://mirror.example.com", "mirror example", "a//b", "UPPER/case"])
def test_mirror_that_is_no_reference_is_refused(monkeypatch: pytest.MonkeyPatch, mirror: str):
    monkeypatch.setenv(images.IMAGE_MIRROR, mirror)
    with pytest.raises(StepError, match=r"DRA_WORKSHOP_IMAGE_MIRROR: .* is no start of an image reference; write a"):
        images.mirrored("registry.k8s.io/a:v1")


def test_images_that_can_have_a_digest_have_one():
    assert images.STOCK["python"].startswith("docker.io/library/python:3.11.")
    assert [name for name, reference in images.STOCK.items() if "@sha256:" in reference] == ["node", "python"]


def test_override_takes_the_place_of_upstreams_reference_and_of_the_mirror(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(images.IMAGE_MIRROR, "mirror.example.com")
    own = f"127.0.0.1:5000/kindest/node@sha256:{'a' * 64}"
    monkeypatch.setenv(images.IMAGE_OVERRIDES, f"node={own}  python=registry.example.com/python:3.11\n")
    steps = {name: images.stock(name) for name in images.STOCK}
    assert {name: step.recipe for name, step in steps.items()} == {
        "node": own,
        "dra-driver": f"mirror.example.com/{images.STOCK['dra-driver']}",
        "dra-driver-0.4.1": f"mirror.example.com/{images.STOCK['dra-driver-0.4.1']}",
        "python": "registry.example.com/python:3.11",
        "kwok": f"mirror.example.com/{images.STOCK['kwok']}",
    }
    changed = images.gpu_agents(steps["python"])
    monkeypatch.delenv(images.IMAGE_OVERRIDES)
    assert images.gpu_agents(images.stock("python")).key != changed.key


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "nod=a/b:1",
            '"nod=a/b:1" names none of node, dra-driver, dra-driver-0.4.1, python, kwok; write',
        ),
        ("kindest/node:v1", '"kindest/node:v1" names none of node, '),
        ("node=", '"" of node is no image reference; write registry/repository:tag, or a '),
        ("node=https://a/b:1", None),
        ("node=a/b@sha256:12", '"a/b@sha256:12" of node is no image reference'),
        ("node=-v", '"-v" of node is no image reference'),
    ],
)
def test_override_that_is_no_image_is_refused(monkeypatch: pytest.MonkeyPatch, words: str, message: str | None):
    monkeypatch.setenv(images.IMAGE_OVERRIDES, words)
    with pytest.raises(StepError) as caught:
        images.overrides()
    assert str(caught.value).startswith(f"DRA_WORKSHOP_IMAGES: {message or ''}")


def test_agents_are_built_on_the_image_that_was_pulled(root: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch):
    contexts = list[str]()
    monkeypatch.setattr(images, "_docker_build", lambda _, context, *__: contexts.append(dockerfile(context)))
    monkeypatch.setattr(images, "_install_wheels", lambda _, context: context)
    monkeypatch.setenv(images.IMAGE_OVERRIDES, "python=registry.example.com/python:mine")
    runner.run([images.gpu_agents(images.stock("python"))])
    assert pulls(root) == ["pull registry.example.com/python:mine"]
    original = images.STOCK_AGENTS.read_text()
    assert contexts == [original.replace(images.STOCK["python"], "registry.example.com/python:mine")]


def dockerfile(context: Path) -> str:
    return (context / "Dockerfile").read_text()
