"""Command that puts images of this machine's Docker Engine into nodes of a Kind cluster, where they are not there yet.

Images of the workshop's own get the plain tag v1 as well, which the manifests name for `kubectl apply`. With --ahead
the nodes are still being made: each gets its images as soon as its containerd answers, beside what kubeadm does.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from machine import children
from machine.docker_engine import PLATFORM
from machine.images import LOCAL

LOOK_SECONDS = 0.3
# Prints the references, which are its arguments, that the node's container runtime does not know, and gives those of
# the workshop's own that it knows the plain tag, which another set-up may have moved. The runtime is asked once for all
# that it has; what is not there by that very name may be known to it by another.
LOOK = """
listed=$(ctr --namespace k8s.io images ls) || exit 1
digest() {
  printf '%s\\n' "$listed" | while read -r name type digest rest; do [ "$name" != "$1" ] || echo "$digest"; done
}
for ref; do
  digest=$(digest "$ref")
  if [ -z "$digest" ] && ! crictl inspecti --quiet "$ref" >/dev/null 2>&1; then echo "$ref"; continue; fi
  case $ref in @LOCAL@*)
    plain=${ref%:*}:v1
    [ "$(digest "$plain")" = "$digest" ] || ctr --namespace k8s.io images tag --force "$ref" "$plain" >&2 || exit 1 ;;
  esac
done
""".replace("@LOCAL@", LOCAL)
ANSWERS = "ctr --namespace k8s.io version"


class Failed(Exception):
    """Error of a program that was run; the text is what it said."""


def load(cluster: str, nodes: Sequence[str], images: Sequence[str], ahead_seconds: int | None = None) -> None:
    """Put images into nodes; with `ahead_seconds` wait so long for each node to be made.

    Raises `Failed` with the words of docker or kind.
    """
    if ahead_seconds is not None:
        with _archive(images) as archive:
            deadline = time.monotonic() + ahead_seconds
            for node in nodes:
                _await_containerd(node, deadline)
            _load_archive(cluster, nodes, archive)
    if missing := lacking(nodes, images):
        with _archive([ref for ref in images if any(ref in refs for refs in missing.values())]) as archive:
            _load_archive(cluster, list(missing), archive)
        for node, refs in lacking(list(missing), images).items():
            raise Failed(f"{node}: does not know {', '.join(refs)}, which was loaded into it")


@contextlib.contextmanager
def _archive(images: Sequence[str]) -> Iterator[Path]:
    """Context with a file that holds images of the engine. Raises `Failed`."""
    with tempfile.TemporaryDirectory(prefix="dra-workshop-images-") as folder:
        save(images, Path(folder) / "images.tar")
        yield Path(folder) / "images.tar"


def lacking(nodes: Sequence[str], images: Sequence[str]) -> dict[str, list[str]]:
    """References that nodes do not know, by node; images of the workshop's own that they know get the plain tag.

    Raises `Failed`.
    """
    looks = {node: _start("docker", "exec", node, "sh", "-c", LOOK, "look", *images) for node in nodes}
    found = {node: _end_of(look).split() for node, look in looks.items()}
    return {node: refs for node, refs in found.items() if refs}


def save(images: Sequence[str], archive: Path) -> None:
    """Write images of the engine to a file, of one platform each. Raises `Failed`.

    `kind load docker-image` saves without a platform. From Docker's containerd store that is the whole index of an
    image of several platforms, of which only this one's content is there, and the node's containerd refuses it
    (https://github.com/kubernetes-sigs/kind/issues/3795). An engine before 28 knows no --platform and has one only.
    """
    try:
        _run("docker", "save", "--platform", PLATFORM, "-o", str(archive), *images)
    except Failed:
        _run("docker", "save", "-o", str(archive), *images)


def _load_archive(cluster: str, nodes: Sequence[str], archive: Path) -> None:
    _run("kind", "load", "image-archive", "--name", cluster, "--nodes", ",".join(nodes), str(archive))


def _await_containerd(node: str, deadline: float) -> None:
    while True:
        try:
            _run("docker", "exec", node, "sh", "-c", ANSWERS)
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
        else:
            return


def _start(*argv: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return children.start(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def _end_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    if process.returncode:
        argv = cast("Sequence[str]", process.args)
        raise Failed(err.strip() or f"`{' '.join(argv[:3])}` ended with {process.returncode}")
    return out


def _run(*argv: str) -> str:
    return _end_of(_start(*argv))


def _end(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    """Run the command. Returns its exit code: 0, or 1 for a failure, which it tells."""
    parser = argparse.ArgumentParser(
        prog="python -m machine.node_images",
        description="Put images of this machine's Docker Engine into nodes of a Kind cluster that lack them.",
    )
    parser.add_argument("cluster", help="name of the cluster")
    parser.add_argument("--nodes", nargs="+", required=True, help="names of the nodes")
    parser.add_argument("--images", nargs="+", required=True, help="references of the images")
    parser.add_argument("--ahead", type=int, metavar="SECONDS", help="the nodes are being made: wait so long for each")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)  # so that the archive goes
    try:
        load(options.cluster, options.nodes, options.images, options.ahead)
    except FileNotFoundError as error:
        print(f"{error.filename}: is not on PATH; run `make setup`, then `source ./activate`", file=sys.stderr)
        return 1
    except (Failed, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
