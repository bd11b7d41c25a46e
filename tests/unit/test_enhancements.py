"""Table of Kubernetes' enhancements: the gates are those that modules use, with the versions of Kubernetes' source."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from settings import catalog
from toolchain.paths import CHECKOUT
from toolchain.versions import KUBERNETES

PAGE = CHECKOUT / "docs" / "reference" / "enhancements.md"
# What shows that somebody uses a gate: words of manifests, checks, or programs in the cluster.
USED_BY = {
    "DynamicResourceAllocation": "kind: ResourceClaimTemplate",
    "DRAAdminAccess": "adminAccess: true",
    "DRAPrioritizedList": "firstAvailable:",
    "DRAPartitionableDevices": "sharedCounters",
    "DRADeviceTaints": "effect: NoSchedule",
    "DRADeviceTaintRules": "kind: DeviceTaintRule",
    "DRAConsumableCapacity": "consumedCapacity",
    "DRAExtendedResource": "extendedResourceName:",
    "KubeletPodResourcesDynamicResources": "dynamic_resources",
    "RestartAllContainersOnContainerExits": "RestartAllContainers",
    "InPlacePodVerticalScaling": "--subresource=resize",
}


def rows() -> dict[str, list[str]]:
    """Cells of the table by gate."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[2].strip("`"): row for row in cells}


def test_gates_that_a_module_needs_are_there_with_the_version_that_has_them_on():
    table = rows()
    for row in catalog.MODULES.values():
        for feature in row.api_features:
            assert table[feature.gate][6] == feature.since, feature.gate
            assert any(f"[{number}]" in table[feature.gate][7] for number in users(feature.gate)), feature.gate


def users(gate: str) -> set[str]:
    """Numbers of the modules that need a gate."""
    return {row.number for row in catalog.MODULES.values() if gate in {feature.gate for feature in row.api_features}}


@pytest.mark.parametrize("gate", rows())
def test_gate_is_one_that_the_workshop_uses(gate: str):
    folders = (CHECKOUT / "manifests", CHECKOUT / "checks", CHECKOUT / "images" / "gpu-agents" / "gpu_agents")
    files = (file for folder in folders for file in folder.rglob("*") if file.suffix in (".py", ".yaml"))
    assert any(USED_BY[gate] in file.read_text() for file in files), USED_BY[gate]


def features_of_kubernetes() -> Path | None:
    """Kubernetes' list of gates, where Go has the module: of a machine that builds everything."""
    if not (go := shutil.which("go")):
        return None
    folder = subprocess.run([go, "env", "GOMODCACHE"], capture_output=True, text=True, check=True).stdout.strip()
    file = Path(folder) / f"k8s.io/kubernetes@v{KUBERNETES}" / "pkg/features/kube_features.go"
    return file if file.is_file() else None


def test_versions_are_those_of_kubernetes_source():
    file = features_of_kubernetes()
    if file is None:
        pytest.skip("Go has no module k8s.io/kubernetes here: only a machine that builds everything has")
    source = file.read_text()
    for gate, row in rows().items():
        (stages,) = re.findall(rf"\n\t{gate}: \{{\n(.*?)\n\t\}},", source, re.DOTALL)
        found = re.findall(r'MustParse\("([\d.]+)"\), Default: (\w+),.*?PreRelease: featuregate\.(\w+)', stages)
        assert found == sorted(found, key=_number), gate
        first = {stage: version for version, _, stage in reversed(found)}
        on = next(version for version, default, _ in found if default == "true")
        expected = [first.get(stage, "-") for stage in ("Alpha", "Beta", "GA")]
        assert (row[3:6], row[6]) == (expected, on), gate


def _number(found: tuple[str, str, str]) -> tuple[int, ...]:
    return tuple(int(part) for part in found[0].split("."))
