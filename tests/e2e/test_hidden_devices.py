"""Nodes without device files of the GPUs that gpu.devices does not name."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from checks.live import wait_for
from components.kind_cluster import kind_config
from tests.e2e import leftovers
from toolchain.paths import CHECKOUT

CLUSTER = "hides-devices"
NODE = f"{CLUSTER}-control-plane"
# They stand for /dev/nvidia1 and /dev/nvidia0: every Linux machine has them, and Docker gives them to a node as well.
HIDDEN, KEPT = "/dev/tty63", "/dev/tty62"
RESTART_SECONDS = 120


def command(folder: Path, word: str, config: str = "") -> str:
    """Log of the command that the command provider runs."""
    env = {
        "CLUSTER_NAME": CLUSTER,
        "CLUSTER_FOLDER": str(folder / CLUSTER),
        "CLUSTER_INCARNATION": "1",
        "CLUSTER_TIMEOUT": "180",
        "CLUSTER_HIDDEN_DEVICES": json.dumps([HIDDEN]),
    }
    words = [sys.executable, "-m", "machine.kind", word]
    done = subprocess.run(
        words, cwd=CHECKOUT, env={**os.environ, **env}, input=config, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hides")
    leftovers.mark(folder)
    node_image = json.loads((CHECKOUT / ".tools" / "images.json").read_text())["node"]
    try:
        output = command(folder, "create", yaml.safe_dump(kind_config(CLUSTER, 0, [], node_image, None)))
        assert f"{NODE} has no {HIDDEN}" in output
        yield folder / CLUSTER / "kubeconfig"
    finally:
        command(folder, "delete")


def devices() -> set[str]:
    """Device files of the two that the node has."""
    listed = ["docker", "exec", NODE, "find", "/dev", "-maxdepth", "1", "-type", "c"]
    return {HIDDEN, KEPT} & set(subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split())


def test_hidden_device_file_stays_away_when_the_node_starts_again(kubeconfig: Path) -> None:
    assert devices() == {KEPT}
    subprocess.run(["docker", "restart", NODE], capture_output=True, check=True)
    ready = ["kubectl", "--kubeconfig", str(kubeconfig), "get", "--raw", "/readyz", "--request-timeout=2s"]

    def answers() -> bool:
        return subprocess.run(ready, capture_output=True, text=True, check=False).stdout == "ok"

    # Docker made all files anew, and containerd, which pods need, starts after the script.
    wait_for("the API answers", answers, RESTART_SECONDS)
    assert devices() == {KEPT}
    assert all(Path(device).is_char_device() for device in (HIDDEN, KEPT)), "the host's own files are not the node's"
