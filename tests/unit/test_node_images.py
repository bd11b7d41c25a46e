"""The command that puts images into a cluster's nodes, against a docker and a kind that say what they were asked."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from settings import Settings
from tests.golden.stacks import record
from toolchain.paths import CHECKOUT

OURS, OTHER = "localhost/dra-workshop/gpu-sim:1-abc", "localhost/dra-workshop/gpu-probe:1-abc"
PULLED = "registry.example.com/driver:v0.5.0"
NODES = ("a-worker", "a-worker2")
# `knows` is a file: the engine knows --platform. The archive holds what was asked for. A folder with a node's name is
# what its containerd has: a file a reference, which holds the digest, with % for each slash. `crictl` there has the
# references that are known by another name. A file with `-starts` behind the node's name says how many looks it takes
# until containerd answers. `slow` has docker at work until it is ended, which the test that makes the file does.
DOCKER = """#!/bin/sh
echo "docker $*" >>@ROOT@/calls
case "$*" in
  "save --platform "*) [ -e @ROOT@/knows ] || { echo "unknown flag" >&2; exit 1; }; echo "$*" >"$5" ;;
  "save -o "*) echo "$*" >"$3" ;;
  *" version") left=$(cat "@ROOT@/$2-starts" 2>/dev/null || echo 0)
    [ "$left" = 0 ] || { echo $((left - 1)) >"@ROOT@/$2-starts"; echo "no such container" >&2; exit 1; } ;;
  exec*) node=$2; shift 2; NODE=@ROOT@/$node PATH=@ROOT@/node:$PATH "$@" ;;
esac
if [ -e @ROOT@/slow ]; then exec sleep 60; fi
"""
KIND = """#!/bin/sh
echo "kind $1 $2 $3 $4 $5 $6" >>@ROOT@/calls; cat "$7" >>@ROOT@/loaded
if [ -e @ROOT@/refuses ]; then echo "ERROR: no such node" >&2; exit 1; fi
if [ -e @ROOT@/swallows ]; then exit; fi
for node in $(echo "$6" | tr , ' '); do
  for ref in $(cat "$7"); do case $ref in *:*) echo "sha256:$ref" >@ROOT@/$node/$(echo "$ref" | tr / %) ;; esac; done
done
"""
CTR = """#!/bin/sh
echo "ctr ${NODE##*/} $3 $4" >>@ROOT@/calls
case "$4" in
  ls) echo "REF TYPE DIGEST SIZE"
    for file in "$NODE"/*:*; do [ -e "$file" ] || continue
      echo "$(basename "$file" | tr % /) application/json $(cat "$file") 3.0 MiB"
    done ;;
  tag) cp "$NODE/$(echo "$6" | tr / %)" "$NODE/$(echo "$7" | tr / %)" ;;
esac
"""
CRICTL = """#!/bin/sh
grep -qsx "$3" "$NODE/crictl"
"""
WAIT_SECONDS = 30


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for folder in ("bin", "tmp", "node", *NODES):
        (tmp_path / folder).mkdir()
    programs = {"bin/docker": DOCKER, "bin/kind": KIND, "node/ctr": CTR, "node/crictl": CRICTL}
    for name, text in programs.items():
        (tmp_path / name).write_text(text.replace("@ROOT@", str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    (tmp_path / "calls").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return tmp_path


def command(*references: str, ahead: int | None = None) -> list[str]:
    words = [sys.executable, "-m", "machine.node_images", "a", "--nodes", *NODES, "--images", *references]
    return words if ahead is None else [*words, "--ahead", str(ahead)]


def load(*references: str, ahead: int | None = None) -> subprocess.CompletedProcess[str]:
    words = command(*references, ahead=ahead)
    return subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def calls(root: Path, start: str) -> list[str]:
    return [line for line in (root / "calls").read_text().splitlines() if line.startswith(start)]


@pytest.mark.parametrize("knows", [True, False])
def test_one_platform_is_saved_where_the_engine_can_have_several(root: Path, knows: bool):
    if knows:
        (root / "knows").touch()
    assert load(OURS, PULLED).returncode == 0
    loaded = (root / "loaded").read_text()
    assert loaded.startswith("save --platform linux/amd64 -o " if knows else "save -o ")
    assert loaded.rstrip().endswith(f"{OURS} {PULLED}")
    assert not list((root / "tmp").iterdir()), "the archive stays behind"


def has(root: Path, node: str) -> dict[str, str]:
    """What a node's containerd has: reference -> digest."""
    return {file.name.replace("%", "/"): file.read_text().strip() for file in (root / node).glob("*:*")}


def give(root: Path, node: str, *references: str) -> None:
    for reference in references:
        (root / node / reference.replace("/", "%")).write_text(f"sha256:{reference}\n")


def plain(reference: str) -> str:
    return f"{reference.rpartition(':')[0]}:v1"


def test_only_images_of_ours_get_the_plain_tag(root: Path):
    assert load(OURS, PULLED, OTHER).returncode == 0
    expected = {ref: f"sha256:{ref}" for ref in (OURS, PULLED, OTHER)}
    expected |= {plain(ref): f"sha256:{ref}" for ref in (OURS, OTHER)}
    for node in NODES:
        assert has(root, node) == expected


def test_nodes_get_what_they_lack_and_no_more(root: Path):
    give(root, "a-worker", OURS, OTHER)
    give(root, "a-worker2", OTHER)
    assert load(OURS, OTHER).returncode == 0
    assert calls(root, "kind") == ["kind load image-archive --name a --nodes a-worker2"]
    assert (root / "loaded").read_text().rstrip().endswith(f" {OURS}") and OTHER not in (root / "loaded").read_text()
    assert has(root, "a-worker") == has(root, "a-worker2")


def test_nothing_is_saved_where_every_node_has_everything_and_each_is_asked_once(root: Path):
    for node in NODES:
        give(root, node, OURS, OTHER)
        (root / node / plain(OURS).replace("/", "%")).write_text(f"sha256:{OURS}\n")
        (root / node / plain(OTHER).replace("/", "%")).write_text("sha256:of another set-up\n")
    assert load(OURS, OTHER).returncode == 0
    assert calls(root, "docker save") == calls(root, "kind") == []
    asked = [line for line in calls(root, "ctr ") if line.endswith(" ls")]
    assert sorted(asked) == [f"ctr {node} images ls" for node in NODES]
    assert sorted(line for line in calls(root, "ctr ") if line.endswith(" tag")) == [
        f"ctr {node} images tag" for node in NODES
    ]
    assert all(has(root, node)[plain(OTHER)] == f"sha256:{OTHER}" for node in NODES)


def test_image_that_a_node_knows_by_another_name_is_not_loaded(root: Path):
    for node in NODES:
        (root / node / "crictl").write_text("nginx:1\n")  # containerd has docker.io/library/nginx:1
    assert load("nginx:1").returncode == 0
    assert calls(root, "docker save") == calls(root, "kind") == []


def test_image_that_is_not_there_after_it_was_loaded_is_told(root: Path):
    (root / "swallows").touch()
    done = load(OURS)
    assert (done.returncode, done.stderr) == (1, f"a-worker: does not know {OURS}, which was loaded into it\n")


def test_ahead_waits_for_the_containerd_of_every_node(root: Path):
    (root / "a-worker-starts").write_text("2")
    (root / "a-worker2-starts").write_text("1")
    assert load(OURS, ahead=WAIT_SECONDS).returncode == 0
    done = [line for line in (root / "calls").read_text().splitlines() if " --platform " not in line]
    saved, *looks = [line for line in done if not line.startswith("ctr ")]
    assert saved.startswith("docker save "), "it is saved while nodes are being made"
    asked = [line.split()[2] for line in looks if line.endswith(" version")]
    assert asked == ["a-worker"] * 3 + ["a-worker2"] * 2
    assert looks[5] == "kind load image-archive --name a --nodes a-worker,a-worker2"


def test_ahead_of_a_node_that_is_never_made_ends(root: Path):
    (root / "a-worker-starts").write_text("1000")
    done = load(OURS, ahead=1)
    assert (done.returncode, done.stderr) == (1, "no such container\n")
    assert calls(root, "kind") == [] and not list((root / "tmp").iterdir())


def test_image_that_cannot_be_saved_fails_the_command_with_dockers_words(root: Path):
    (root / "bin/docker").write_text(
        '#!/bin/sh\ncase $1 in save) echo "no such image" >&2; exit 1;; *) echo x;; esac\n'
    )
    done = load(OURS)
    assert done.returncode == 1 and done.stderr == "no such image\n"
    assert not (root / "loaded").exists()


def test_node_that_is_gone_fails_the_command_with_kinds_words(root: Path):
    (root / "refuses").touch()
    done = load(OURS)
    assert done.returncode == 1 and done.stderr == "ERROR: no such node\n"


def test_missing_kind_is_told_with_its_remedy(root: Path):
    (root / "bin/kind").unlink()
    done = load(OURS)
    assert done.returncode == 1 and done.stderr.startswith("kind: is not on PATH; run `make setup`")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_that_is_ended_leaves_no_archive_and_no_program(root: Path, number: signal.Signals):
    (root / "slow").touch()
    process = subprocess.Popen(
        command(OURS, ahead=WAIT_SECONDS),
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
        # Of a shell's background job it is ignored, and this would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + WAIT_SECONDS
    while not calls(root, "docker save"):
        assert time.monotonic() < deadline
        time.sleep(0.05)  # between two looks at a condition that is bounded above
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 128 + number and err == ""
    assert not list((root / "tmp").iterdir())


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
    words = shlex.split(record(settings).resources["cluster-images"].inputs["create"])
    assert words[:4] == ["python", "-m", "machine.node_images", "a"]
    assert words[words.index("--nodes") + 1 : words.index("--images")] == nodes
