"""The command that puts images into a cluster's nodes, against a docker and a kind that say what they were asked."""

import subprocess
from pathlib import Path

import pytest

from components.kind_cluster import _load_command
from settings import Settings
from tests.golden.stacks import record

OURS, PULLED = "localhost/dra-workshop/gpu-sim:1-abc", "registry.example.com/driver:v0.5.0"
# `knows` is a file: the engine knows --platform. The archive holds what was asked for.
DOCKER = """#!/bin/sh
echo "docker $*" >>@ROOT@/calls
case "$*" in
  "save --platform "*) [ -e @ROOT@/knows ] || { echo "unknown flag" >&2; exit 1; }; echo "$*" >"$5" ;;
  "save -o "*) echo "$*" >"$3" ;;
esac
[ ! -e @ROOT@/broken ]
"""
KIND = """#!/bin/sh
echo "kind $1 $2 $3 $4 $5 $6" >>@ROOT@/calls; cat "$7" >>@ROOT@/loaded; echo "$7" >@ROOT@/archive
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "bin").mkdir()
    for name, text in (("docker", DOCKER), ("kind", KIND)):
        (tmp_path / "bin" / name).write_text(text.replace("@ROOT@", str(tmp_path)))
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def load(*references: str) -> subprocess.CompletedProcess[str]:
    command = _load_command("a", ["a-worker", "a-worker2"], references)
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("knows", [True, False])
def test_one_platform_is_saved_where_the_engine_can_have_several(root: Path, knows: bool):
    if knows:
        (root / "knows").touch()
    assert load(OURS, PULLED).returncode == 0
    loaded = (root / "loaded").read_text()
    assert loaded.startswith("save --platform linux/amd64 -o " if knows else "save -o ")
    assert loaded.rstrip().endswith(f"{OURS} {PULLED}")
    assert not Path((root / "archive").read_text().strip()).exists(), "the archive stays behind"


def test_only_images_of_ours_get_the_plain_tag_by_one_call_for_each_node(root: Path):
    other = "localhost/dra-workshop/gpu-probe:1-abc"
    load(OURS, PULLED, other)
    tag, plain = "ctr --namespace k8s.io images tag --force", "localhost/dra-workshop/{}:v1"
    words = f"{tag} {OURS} {plain.format('gpu-sim')} && {tag} {other} {plain.format('gpu-probe')}"
    calls = [line for line in (root / "calls").read_text().splitlines() if " tag " in line]
    assert calls == [f"docker exec {node} sh -c {words}" for node in ("a-worker", "a-worker2")]


def test_only_nodes_that_pods_of_the_workshop_may_run_on_get_images(root: Path):
    load(OURS)
    (call,) = [line for line in (root / "calls").read_text().splitlines() if line.startswith("kind ")]
    assert call == "kind load image-archive --name a --nodes a-worker,a-worker2"


@pytest.mark.parametrize(
    ("workers", "tolerations", "nodes"),
    [
        (2, [], ["a-worker", "a-worker2"]),
        (0, [], ["a-control-plane"]),
        (1, [{"key": "node-role.kubernetes.io/control-plane"}], ["a-control-plane", "a-worker"]),
        (0, [{"key": "node-role.kubernetes.io/control-plane"}], ["a-control-plane"]),
    ],
)
def test_a_control_plane_gets_images_where_pods_may_run_there(
    workers: int, tolerations: list[dict[str, str]], nodes: list[str]
):
    cluster = {"name": "a", "workers": workers}
    settings = Settings.parse({"modules": ["01"], "cluster": cluster, "gpu": {"tolerations": tolerations}}, "test")
    command = record(settings).resources["cluster-images"].inputs["create"]
    assert f"--nodes {','.join(nodes)} " in command and f"for node in {' '.join(nodes)}; do" in command


def test_pulled_images_alone_need_no_tag(root: Path):
    assert load(PULLED).returncode == 0
    assert " tag " not in (root / "calls").read_text()


def test_image_that_cannot_be_saved_fails_the_command_with_dockers_words(root: Path):
    (root / "broken").touch()
    (root / "bin/docker").write_text("#!/bin/sh\necho 'no such image' >&2; exit 1\n")
    done = load(OURS)
    assert done.returncode != 0 and done.stderr == "no such image\n"
    assert not (root / "loaded").exists()
