"""The node image that is filled with images, against an engine that says what it was asked."""

import io
import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from toolchain import filled_node, images, plan, versions
from toolchain.bundle import archive
from toolchain.golang import Go
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, StepError, Store, Work

# `config` is the node image's; `refuses` lets the container's program fail. `commits` has what each is to change.
DOCKER = """#!/bin/sh
echo "$*" >>@ROOT@/calls
case "$1 $2" in
  "image inspect") cat @ROOT@/config ;;
  "save -o") echo "$*" >"$3" ;;
  "cp "*) cp "$2" "@ROOT@/$(basename "$3")" ;;
  "start --attach") [ ! -e @ROOT@/refuses ] || { echo "no overlayfs here"; exit 1; } ;;
  "commit "*) for word; do echo "$word"; done >>@ROOT@/commits ;;
esac
"""
ENTRYPOINT = ["/usr/local/bin/entrypoint", "/sbin/init"]
OURS = "localhost/dra-workshop/gpu-sim:1-abc"


def made(name: str, ref: str) -> Step:
    def build(work: Work) -> None:
        (work.out / "ref").write_text(ref)

    return Step(name, build)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "bin" / "docker").write_text(DOCKER.replace("@ROOT@", str(tmp_path)))
    (tmp_path / "bin" / "docker").chmod(0o755)
    (tmp_path / "config").write_text(json.dumps({"Entrypoint": ENTRYPOINT, "Cmd": None}))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(images, "docker_images", frozenset)
    return tmp_path


def run(root: Path) -> list[str]:
    """Make a filled node image with one image; returns what docker was asked."""
    step = filled_node.step(made("node", "node:1"), (made("gpu-sim", OURS),))
    Runner(Store(root / "store"), Progress(Console(file=io.StringIO()))).run([step])
    return (root / "calls").read_text().splitlines()


def test_control_planes_images_are_in_a_layer_below_that_of_the_workshops(root: Path):
    calls = run(root)
    of = {word: [call.split() for call in calls if call.startswith(f"{word} ")] for word in ("create", "commit")}
    unpacked, filled = (call[-1] for call in of["commit"])
    assert [call[-2] for call in of["create"]] == ["node:1", unpacked]
    assert unpacked.startswith(f"{images.PREFIX}/unpacked-node:v{versions.KUBERNETES}-")
    assert filled.startswith(f"{images.PREFIX}/filled-node:v{versions.KUBERNETES}-")
    # A changed image of the workshop makes the upper one anew, and leaves the lower one.
    other = filled_node.step(made("node", "node:1"), (Step("gpu-sim", lambda work: None, "changed"),))
    assert not filled.endswith(other.key) and unpacked.endswith(other.needs[0].key)


def test_filled_image_starts_as_the_node_image_does_and_says_what_it_has(root: Path):
    run(root)
    commits = (root / "commits").read_text()
    assert commits.count(f"ENTRYPOINT {json.dumps(ENTRYPOINT)}\n") == commits.count("CMD []\n") == 2
    assert commits.count(f'LABEL {versions.FILLED_WITH}="{OURS}"\n') == 1
    assert (root / "tags").read_text() == f"{OURS} localhost/dra-workshop/gpu-sim:v1\n"
    assert (root / "images.tar").read_text().endswith(f" {OURS}\n")


def test_container_that_fails_is_removed_and_its_words_are_told(root: Path):
    (root / "refuses").touch()
    with pytest.raises(StepError, match=r"(?s)unpacked-node: .*no overlayfs here"):
        run(root)
    removed = [call for call in (root / "calls").read_text().splitlines() if call.startswith("rm ")]
    assert len(removed) == 2 and removed[0] == removed[1]
    assert removed[0].startswith("rm --force --volumes dra-workshop-unpacked-node-")


def test_filled_image_has_what_most_stacks_run_and_source_stock_has_none():
    built = {step.name: step for step in plan.built(Go(Path("go"), "go1.26.6")).images}
    filled = built[versions.FILLED_NODE]
    assert [need.name for need in filled.needs] == [
        *("unpacked-node", "dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")
    ]
    assert filled.needs[0].needs == (built["node"],)
    assert versions.FILLED_NODE not in {step.name for step in plan.stock(Go(Path("go"), "go1.26.6")).images}


def test_a_bundle_has_every_image_but_the_filled_node():
    go = Go(Path("go"), "go1.26.6")
    whole = plan.built(go)
    left_out = {step.name for step in whole.images} - {step.name for step in archive.carried(whole, go).images}
    assert left_out == {versions.FILLED_NODE}


def test_script_is_one_that_a_shell_reads():
    subprocess.run(["sh", "-n", filled_node.FILL], check=True)


def test_present_as_long_as_the_engine_has_it(root: Path, monkeypatch: pytest.MonkeyPatch):
    run(root)
    step = filled_node.step(made("node", "node:1"), (made("gpu-sim", OURS),))
    store = Store(root / "store")
    assert not store.has(step)
    monkeypatch.setattr(images, "docker_images", lambda: {(store.path(step) / "ref").read_text()})
    assert store.has(step)


def test_fill_is_in_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    before = filled_node.step(made("node", "node:1"), ()).key
    monkeypatch.setattr(filled_node, "FILL", tmp_path / "fill")
    (tmp_path / "fill").write_text("another\n")
    assert filled_node.step(made("node", "node:1"), ()).key != before
