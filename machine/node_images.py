"""Command that puts images of this machine's Docker Engine into nodes of a Kind cluster, where they are not there yet.

Images of the workshop's own get the plain tag v1 as well, which the manifests name for `kubectl apply`. With --ahead
the nodes are still being made: each gets its images as soon as its containerd answers, beside what kubeadm does.
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine.docker_engine import PLATFORM
from machine.images import LOCAL
from machine.kind import end_with_its_parent

LOOK_SECONDS = 0.3
# Prints the references, which are its arguments, that the node's container runtime does not know.
MISSING = 'for ref; do crictl inspecti --quiet "$ref" >/dev/null 2>&1 || echo "$ref"; done'
ANSWERS = "ctr --namespace k8s.io version"


class Failed(Exception):
    """Error of a program that was run; the text is what it said."""


def load(cluster: str, nodes: Sequence[str], images: Sequence[str], ahead_seconds: int | None = None) -> None:
    """Put images into nodes; with `ahead_seconds` wait so long for each node to be made.

    Raises `Failed` with the words of docker or kind.
    """
    with tempfile.TemporaryDirectory(prefix="dra-workshop-images-") as folder:
        archive = Path(folder) / "images.tar"
        if ahead_seconds is not None:
            save(images, archive)
            deadline = time.monotonic() + ahead_seconds
            for node in nodes:
                _await_containerd(node, deadline)
            _load_archive(cluster, nodes, archive)
        elif missing := {node: refs for node in nodes if (refs := missing_images(node, images))}:
            save([ref for ref in images if any(ref in refs for refs in missing.values())], archive)
            _load_archive(cluster, list(missing), archive)
    for node in nodes:
        _tag(node, images)


def missing_images(node: str, images: Sequence[str]) -> list[str]:
    """References that a node does not know. Raises `Failed`."""
    return _run("docker", "exec", node, "sh", "-c", MISSING, "missing", *images).split()


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


def _tag(node: str, images: Sequence[str]) -> None:
    """Give images of the workshop's own the plain tag, by one call. Raises `Failed`."""
    tags = [
        f"ctr --namespace k8s.io images tag --force {ref} {ref.rpartition(':')[0]}:v1"
        for ref in images
        if ref.startswith(LOCAL)
    ]
    if tags:
        _run("docker", "exec", node, "sh", "-c", " && ".join(tags))


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


def _run(*argv: str) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, preexec_fn=end_with_its_parent
    )
    if done.returncode:
        raise Failed(done.stderr.strip() or f"`{' '.join(argv[:3])}` ended with {done.returncode}")
    return done.stdout


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
