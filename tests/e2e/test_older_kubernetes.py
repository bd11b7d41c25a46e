"""Kubernetes 1.34, the oldest that serves resource.k8s.io/v1, to 1.36: modules that need more are refused.

The rest works: once on a cluster that no stack made, of one node of kind's own configuration, and once on a
stack's own cluster with its node image.
"""

import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from checks.live import LiveStack, wait_for
from settings import PROJECT
from tests.e2e import leftovers
from tests.e2e.workspace import Workspace
from toolchain import debian, versions
from toolchain.paths import CHECKOUT
from toolchain.steps import StepError

pytestmark = pytest.mark.slow

CLUSTER = "older"
NODE = f"{CLUSTER}-control-plane"
GUEST, GUEST_SHARED, OWN = "older-guest", "older-shared", "older-own"
ON_CGROUP_V1 = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
kubeadmConfigPatches:
- '{kind: KubeletConfiguration, apiVersion: kubelet.config.k8s.io/v1beta1, failCgroupV1: false}'
"""
IMAGES = ("dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")
WHOLE = ["00", "01", "02", "03", "04", "05", "08"]
# What module 07 needs is on from 1.36 on. Where several claims have one GPU, there is no module 03.
SHARED, SHARED_SINCE = ["00", "01", "02", "07", "08"], "1.36"
DIVIDED = ["00", "01", "02", "10.1", "10.2", "10.4", "10.5", "11.1", "11.2", "11.3"]
MIG: dict[str, Any] = {
    "mps": {"mode": "claim", "pinnedDeviceMemoryLimit": "4Gi"},
    "gpu": {"nodes": [{"model": "a100-pcie-40gb", "mig": [["3g.20gb@4", "4g.20gb@0"], ["7g.40gb@0"]]}]},
}
# (modules that need more, what else the stack has) -> each gate with the modules that need it, in words of the refusal
REFUSED: list[tuple[list[str], dict[str, Any], dict[str, tuple[str, str, str]]]] = [
    (
        ["00", "01", "02", "04", "05", "07", "08", "09"],
        {},
        {
            "DRAConsumableCapacity (claims that request a part of a GPU)": ("module 07 (One GPU", "1.36", "drop 07"),
            "DRADeviceTaints (taints of GPUs, and claims that tolerate them)": (
                "module 09 (Faults and",
                "1.36",
                "drop 09",
            ),
            "DRADeviceTaintRules (rules that taint GPUs)": ("module 09 (Faults and", "1.37", "drop 09"),
        },
    ),
    (
        [*DIVIDED, "10.3"],
        MIG,
        {
            "DRADeviceTaints (taints of GPUs, and claims that tolerate them)": (
                "module 10.3 (Isol",
                "1.36",
                "drop 10.3",
            ),
            "DRADeviceTaintRules (rules that taint GPUs)": ("module 10.3 (Isol", "1.37", "drop 10.3"),
        },
    ),
    (
        ["00", "01", "02", "10.6"],
        {"gpu": {"nodes": [{"model": "h100-80gb", "count": 2}]}},
        {
            "DRAPartitionableDevices (GPUs whose parts share what they are made of)": (
                *("module 10.6 (MIG devices made on demand)", "1.36", "drop 10.6"),
            ),
        },
    ),
]
BY_EXTENDED_RESOURCE = (
    "test_pod_without_a_gpu_left_waits_until_one_goes",
    "test_extended_resource_is_served_by_a_claim",
    "test_ten_cycles_leak_nothing",
)
WITHOUT_THE_GATE = "the API server has no extended resources by DRA (DRAExtendedResource, on from Kubernetes 1.36)"


@pytest.fixture(scope="module", params=versions.OLDER_KUBERNETES)
def series(request: pytest.FixtureRequest) -> str:
    """Minor release of Kubernetes, such as 1.34."""
    return request.param


def has(series: str, since: str) -> bool:
    """Whether a release has what is on from another one on."""
    return Version(series) >= Version(since)


@pytest.fixture(scope="module")
def node_image(series: str) -> str:
    """Node image with this Kubernetes, which is compiled where it is not there yet."""
    try:
        debian.require_root_filesystems("node-image")
    except StepError as error:
        pytest.skip(str(error))
    command = ["python", "-m", "toolchain", "node-image", series]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def kubeconfig(node_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster as `kind create cluster` makes it: one node, whose Kubernetes is the older one.

    From 1.35 on a kubelet does not start on cgroup v1 unless it is told to, so it is.
    """
    file = tmp_path_factory.mktemp("older") / "kubeconfig"
    listed = ["docker", "network", "ls", "--format", "{{.Name}}"]
    networks = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    images = json.loads((CHECKOUT / ".tools" / "images.json").read_text())
    refs = [images[name] for name in IMAGES]
    try:
        leftovers.remove(CLUSTER)  # of a run that was killed: kind's own network tells nothing of whose a cluster is
        for words in (
            ("create", "cluster", "--image", node_image, "--kubeconfig", str(file), "--wait", "180s", "--config", "-"),
            ("load", "docker-image", *refs),
        ):
            command = ["kind", *words, "--name", CLUSTER]
            done = subprocess.run(command, input=ON_CGROUP_V1, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        # The examples of manifests name it so.
        alias = f"{images['gpu-probe'].rpartition(':')[0]}:v1"
        tag = ["ctr", "--namespace", "k8s.io", "images", "tag", "--force", images["gpu-probe"], alias]
        subprocess.run(["docker", "exec", NODE, *tag], check=True, capture_output=True)
        names = ["get", "node", NODE, "-o", "jsonpath={.status.images[*].names}"]
        # The kubelet tells a node's images with its next report.
        wait_for("the node reports its images", lambda: all(ref in kubectl(file, *names) for ref in refs))
        yield file
    finally:
        subprocess.run(["kind", "delete", "cluster", "--name", CLUSTER], check=True, capture_output=True)
        if "kind" not in networks:
            subprocess.run(["docker", "network", "rm", "kind"], check=True, capture_output=True)


def kubectl(kubeconfig: Path, *words: str) -> str:
    command = ["kubectl", "--kubeconfig", str(kubeconfig), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def workspace(series: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Checkout of its own for each release, since a stack of the former one is still known there when it is down."""
    return Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("older"))


def of_somebody(kubeconfig: Path) -> dict[str, Any]:
    """Block `cluster` for the cluster that no stack made."""
    return {"provider": "existing", "kubeconfig": str(kubeconfig), "context": f"kind-{CLUSTER}"}


def write(workspace: Workspace, stack: str, modules: list[str], cluster: dict[str, Any], **blocks: Any) -> None:
    if cluster.get("provider") == "existing":
        gpu = blocks.get("gpu") or {"nodes": [{"model": "a100-40gb", "count": 3}]}
        blocks["gpu"] = {**gpu, "nodes": [{"name": NODE, **node} for node in gpu["nodes"]]}
    values = {"modules": modules, "cluster": cluster, **blocks}
    config = {"config": {f"{PROJECT}:{key}": value for key, value in values.items()}}
    workspace.write_stack(stack, json.dumps(config, indent=2))


def require_refusals(
    workspace: Workspace, stack: str, series: str, cluster: dict[str, Any], how: str, of_rules: str
) -> None:
    """Fails unless the preview refuses every module that needs more, by name, and nothing else.

    `how` are the words for a gate that is off, `of_rules` those for a kind that is not served.
    """
    workspace.pulumi("stack", "init", stack)
    try:
        for modules, blocks, gates in REFUSED:
            lacking = {gate: words for gate, words in gates.items() if not has(series, words[1])}
            write(workspace, stack, modules, cluster, **blocks)
            output = " ".join(workspace.pulumi("preview", "--stack", stack, fails=bool(lacking)).split())
            for gate, (need, since, remedy) in lacking.items():
                seen = of_rules if "Rules" in gate else how
                assert f"api: {gate} {seen}, and {need}" in output
                switched = f"it is on from Kubernetes {since} on unless its gate is switched off; or {remedy} from"
                assert switched in output
            assert output.count("api: ") == len(lacking), output
    finally:
        workspace.pulumi("stack", "rm", "--yes", stack)


def require_verified(workspace: Workspace, live: LiveStack, series: str, by_extended_resource: Iterable[str]) -> None:
    """Fails unless all checks pass, but for those that are skipped for want of a gate, and no others for that."""
    skipped = {} if has(series, "1.36") else dict.fromkeys(by_extended_resource, WITHOUT_THE_GATE)
    versions_there = {node["status"]["nodeInfo"]["kubeletVersion"] for node in live.nodes()}
    assert versions_there == {f"v{versions.OLDER_KUBERNETES[series]}"}
    status, printed = workspace.verify(live.name)
    assert status == 0, printed
    results = json.loads((workspace.root / "results" / live.name / "verify.json").read_text())
    checks = results["checks"]
    assert {check["module"] for check in checks} == set(live.settings.modules)
    lacking = {check["name"]: check["seen"] for check in checks if "on from Kubernetes" in check["seen"]}
    assert lacking == skipped
    assert {check["result"] for check in checks} == {"passed", "skipped"}


def test_modules_that_need_more_are_refused_by_what_the_api_server_says(
    workspace: Workspace, series: str, kubeconfig: Path
) -> None:
    off, of_rules = "is off in this cluster's API server", "is not served by this API server"
    require_refusals(workspace, GUEST, series, of_somebody(kubeconfig), off, of_rules)


def test_the_rest_works_on_a_cluster_that_is_there(workspace: Workspace, series: str, kubeconfig: Path) -> None:
    write(workspace, GUEST, WHOLE, of_somebody(kubeconfig))
    with workspace.up(GUEST) as live:
        require_verified(workspace, live, series, BY_EXTENDED_RESOURCE)


def test_parts_of_a_gpu_can_be_claimed_on_a_cluster_that_is_there(
    workspace: Workspace, series: str, kubeconfig: Path
) -> None:
    if not has(series, SHARED_SINCE):
        pytest.skip(f"Kubernetes {series} has no parts of a GPU (DRAConsumableCapacity, on from {SHARED_SINCE})")
    write(workspace, GUEST_SHARED, SHARED, of_somebody(kubeconfig))
    with workspace.up(GUEST_SHARED) as live:
        require_verified(workspace, live, series, ())


def test_modules_that_need_more_are_refused_by_the_node_image(
    workspace: Workspace, series: str, node_image: str
) -> None:
    lacking = f"is missing or off in Kubernetes {versions.OLDER_KUBERNETES[series]}"
    require_refusals(workspace, OWN, series, {"nodeImage": node_image}, lacking, lacking)


def test_the_rest_works_on_a_cluster_of_the_stacks_own(workspace: Workspace, series: str, node_image: str) -> None:
    write(workspace, OWN, DIVIDED, {"nodeImage": node_image}, **MIG)
    with workspace.up(OWN) as live:
        require_verified(workspace, live, series, ["test_mig_profile_is_an_extended_resource"])
