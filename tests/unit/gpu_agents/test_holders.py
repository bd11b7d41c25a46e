"""gpu-holders: one line of JSON for each container with a device."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.unit.gpu_agents.conftest import PACKAGES, Kubelet, pod


def holders(socket: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PACKAGES / "bin" / "gpu-holders"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "POD_RESOURCES_SOCKET": str(socket)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_every_container_with_a_device_is_a_line(kubelet: Kubelet):
    kubelet.has(
        pod("a", "claim-a", "gpu-0-mig-3g20gb-9-4", "gpu-1"), pod("b", "claim-b", "nic-0", driver="nic.example.org")
    )
    done = holders(kubelet.socket)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and [line["device"] for line in lines] == ["gpu-0-mig-3g20gb-9-4", "gpu-1"]
    expected = {"namespace": "team", "pod": "a", "container": "main", "claim_namespace": "team", "claim": "claim-a"}
    assert lines[0] == {**expected, "pool": "node", "device": "gpu-0-mig-3g20gb-9-4"}


def test_kubelet_that_does_not_answer_is_an_error_with_its_remedy(tmp_path: Path):
    done = holders(tmp_path / "none.sock")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "mount its folder" in json.loads(line)["message"]
