"""Stack on a cluster that it did not make: everything works, and the cluster is afterwards as it was.

It is as clusters are: GPU nodes with taints, a node whose label kubernetes.io/hostname is not its name, certificates
beside the kubeconfig, and a machine with a proxy for the outside.
"""

import base64
import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.live import LiveStack, wait_for
from components.kind_cluster import kind_config
from machine import prerequisites
from machine.images import images_of
from settings import Settings
from tests.e2e import leftovers
from tests.e2e.dry_run import refused_manifests
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "guest"
FAILED = "half-guest"
CLUSTER = "somebody-elses"
NODE = f"{CLUSTER}-worker"
# The first is one that clouds give GPU nodes; nothing of the stack is told of it.
TAINTS = ("nvidia.com/gpu=present:NoSchedule", "dedicated=gpu:NoSchedule")
TOLERATIONS = [{"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}]
# A proxy where nothing listens, whose rules do not name this machine: who asks it for the cluster or Pulumi fails.
PROXIES = {
    **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"), "http://127.0.0.1:9"),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "10.0.0.0/8,fd00::/8"),
}
# A second API server of the cluster, with a feature gate off. It only reads and makes dry runs here.
SECOND_PORT = 6444
WITHOUT = "DRAConsumableCapacity"
# Twice the period in which the controller manager looks for nodes that no longer report.
NODES_ARE_LOOKED_AT = timedelta(seconds=10)
OTHERS = """
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gpu.nvidia.com}
spec: {selectors: [{cel: {expression: "device.driver == 'gpu.nvidia.com'"}}]}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: plugin, namespace: kube-system}
spec:
  selector: {matchLabels: {name: plugin}}
  template:
    metadata: {labels: {name: plugin}}
    spec:
      nodeSelector: {nvidia.com/gpu.present: "true"}
      containers: [{name: plugin, image: "nvcr.io/nvidia/k8s-device-plugin:v0.17.1"}]
"""

VISITOR = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {{name: visitor}}
spec: {{devices: {{requests: [{{name: gpu, exactly: {{deviceClassName: gpu.nvidia.com}}}}]}}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: visitor}}
spec:
  tolerations: [{{operator: Exists}}]
  resourceClaims: [{{name: gpu, resourceClaimName: visitor}}]
  containers:
    - name: gpu
      image: {image}
      command: [gpu-probe, hold]
      resources: {{claims: [{{name: gpu}}]}}
"""


@dataclass(frozen=True)
class ForeignCluster:
    """A Kind cluster that no stack knows of."""

    kubeconfig: Path

    def kubectl(self, *words: str) -> str:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stderr}{self.waits()}"
        return done.stdout

    def waits(self) -> str:
        """What the cluster says of the test's own pods and claims, for a test that fails."""
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "describe", "pods,resourceclaims", "-n", "default"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def apply(self, objects: str) -> None:
        command = ["kubectl", "--kubeconfig", str(self.kubeconfig), "apply", "-f", "-"]
        subprocess.run(command, input=objects, capture_output=True, text=True, check=True)

    @property
    def relative_kubeconfig(self) -> Path:
        """Kubeconfig that names its certificates by files beside it, as minikube's and k0s's do."""
        path = self.kubeconfig.with_name("relative")
        content = yaml.safe_load(self.kubeconfig.read_text())
        cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
        for holder, key in ((cluster, "certificate-authority"), (user, "client-certificate"), (user, "client-key")):
            path.with_name(key).write_bytes(base64.b64decode(holder.pop(f"{key}-data")))
            holder[key] = key
        path.write_text(yaml.safe_dump(content))
        return path

    @property
    def kubeconfig_with_a_program(self) -> Path:
        """Kubeconfig whose user's credentials a program beside it prints, as those of cloud providers are got."""
        relative = self.relative_kubeconfig
        path, program = relative.with_name("program"), relative.with_name("login")
        content = yaml.safe_load(relative.read_text())
        api = "client.authentication.k8s.io/v1"
        content["users"][0]["user"] = {
            "exec": {"apiVersion": api, "command": f"./{program.name}", "interactiveMode": "Never"}
        }
        path.write_text(yaml.safe_dump(content))
        keys = {"clientCertificateData": "client-certificate", "clientKeyData": "client-key"}
        status = {key: path.with_name(file).read_text() for key, file in keys.items()}
        credential = {"apiVersion": api, "kind": "ExecCredential", "status": status}
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(credential)}\nEND\n")
        program.chmod(0o700)
        return path

    @contextmanager
    def second_api_server(self) -> Iterator[Path]:
        """Kubeconfig for an API server of this cluster without a feature; it is taken away again."""
        control_plane = f"{CLUSTER}-control-plane"
        folder = "/etc/kubernetes/manifests"
        shell = ["docker", "exec", "--interactive", control_plane, "sh", "-c"]
        read = [*shell, f"cat {folder}/kube-apiserver.yaml"]
        pod = yaml.safe_load(subprocess.run(read, capture_output=True, text=True, check=True).stdout)
        pod["metadata"] = {"name": "second-api-server", "namespace": "kube-system"}
        (container,) = pod["spec"]["containers"]
        # It must not write itself down as the cluster's API server.
        replaced = {"--secure-port": SECOND_PORT, "--endpoint-reconciler-type": "none"}
        replaced["--feature-gates"] = f"{WITHOUT}=false"
        options = [word for word in container["command"] if word.partition("=")[0] not in replaced]
        container["command"] = [*options, *(f"{key}={value}" for key, value in replaced.items())]
        container = {key: container[key] for key in ("name", "image", "command", "volumeMounts")}
        pod["spec"]["containers"] = [container]
        write = [*shell, f"cat >{folder}/second.yaml"]
        subprocess.run(write, input=yaml.safe_dump(pod), text=True, capture_output=True, check=True)
        address = ["docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", control_plane]
        host = subprocess.run(address, capture_output=True, text=True, check=True).stdout.strip()
        content = yaml.safe_load(self.kubeconfig.read_text())
        content["clusters"][0]["cluster"]["server"] = f"https://{host}:{SECOND_PORT}"
        path = self.kubeconfig.with_name("second")
        path.write_text(yaml.safe_dump(content))
        try:
            ready = ["kubectl", "--kubeconfig", str(path), "get", "--raw", "/readyz", "--request-timeout=3s"]
            wait_for(
                "the second API server is ready",
                lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0,
                90,
            )
            yield path
        finally:
            subprocess.run([*shell, f"rm {folder}/second.yaml"], check=True, capture_output=True)

    def images(self) -> str:
        return self.kubectl("get", "node", NODE, "-o", "jsonpath={.status.images[*].names}")

    def contents(self) -> dict[str, Any]:
        """Objects, labels and files that a stack could leave behind."""
        kinds = (
            "namespaces,clusterroles,clusterrolebindings,deviceclasses,resourceslices,crds,"
            "validatingadmissionpolicies,mutatingadmissionpolicies"
        )
        node = json.loads(self.kubectl("get", "node", NODE, "-o", "json"))
        driver_root = ["docker", "exec", NODE, "sh", "-c", "ls -A /var/lib/gpu-sim/driver 2>/dev/null | wc -l"]
        return {
            "objects": sorted(self.kubectl("get", kinds, "-o", "name").split()),
            "labels": node["metadata"]["labels"],
            "taints": node["spec"]["taints"],
            "driver root": subprocess.run(driver_root, capture_output=True, text=True, check=True).stdout.strip(),
        }


def state(workspace: Workspace) -> dict[str, str]:
    """The URN of each resource of the stack's state, with its id."""
    exported = json.loads(workspace.pulumi("stack", "export", "--stack", STACK))
    return {resource["urn"]: resource.get("id", "") for resource in exported["deployment"]["resources"]}


def nothing_is_taken_from_under_others(workspace: Workspace, live: LiveStack) -> None:
    """Somebody's pods hold a GPU through the stack's driver: it stays, until they are gone."""
    before = state(workspace)
    with live.free_gpu(), live.playground() as others:
        pods = others.create("shared-claim")
        for pod in pods:
            others.wait_running(pod)
        lives = [others.life(pod) for pod in pods]
        output = workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK, fails=True)
        for pod in pods:
            assert f"{others.namespace}/{pod} (claim shared-gpu: {NODE}/gpu-" in output
        assert "Nothing was deleted" in output
        assert "workloads/holder" not in output
        file = workspace.root / "stacks" / f"Pulumi.{STACK}.yaml"
        whole = file.read_text()
        workspace.write_stack(STACK, re.sub(r"(?s)(:modules\": \[).*?\]", r'\1"01"]', whole))
        output = workspace.pulumi("preview", "--stack", STACK, fails=True)
        file.write_text(whole)
        assert '"02" is taken away under pods of others that hold GPUs' in output
        assert state(workspace) == before
        assert [others.life(pod) for pod in pods] == lives


def is_known(live: LiveStack, since: datetime) -> bool:
    """Whether the GPU node's kubelet has reported since then, and no taint is left of the time without reports."""
    lease = live.kubectl("get", "lease", NODE, "--namespace=kube-node-lease", "-o", "jsonpath={.spec.renewTime}")
    taints = live.kubectl("get", "node", NODE, "-o", "jsonpath={.spec.taints[*].key}")
    return datetime.fromisoformat(lease) > since and "node.kubernetes.io/" not in taints


def no_state_is_dropped_while_the_api_server_is_out_of_reach(workspace: Workspace, live: LiveStack) -> None:
    """As behind a VPN that is down. Afterwards the stack is known as before."""
    before, node = state(workspace), f"{CLUSTER}-control-plane"
    subprocess.run(["docker", "pause", node], check=True, capture_output=True)
    try:
        output = workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", STACK, fails=True)
        assert f"the cluster at context kind-{CLUSTER} does not answer" in output
        for name in ("Helm release dra-driver-nvidia-gpu/dra-driver-nvidia-gpu", "DaemonSet gpu-sim/gpu-sim"):
            assert name in output
        assert f"labels of Node {NODE}" in output
        assert state(workspace) == before
        workspace.pulumi("refresh", "--yes", "--skip-preview", "--stack", STACK, fails=True)
        assert state(workspace) == before
        workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK, fails=True)
        assert state(workspace) == before
    finally:
        subprocess.run(["docker", "unpause", node], check=True, capture_output=True)
    wait_for("the API server answers", lambda: live.kubectl("get", "--raw", "/readyz", check=False) == "ok", 120)
    # A cluster that is told so late of its nodes takes them for lost at first, and module 00 sees the taints of that.
    since = datetime.now(UTC) + NODES_ARE_LOOKED_AT
    wait_for(f"{NODE} is known to be there again", lambda: is_known(live, since), 180)
    output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
    assert "created" not in output


@pytest.fixture(scope="module")
def foreign_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignCluster]:
    folder = tmp_path_factory.mktemp("foreign_cluster")
    images = json.loads((CHECKOUT / ".tools" / "images.json").read_text())
    config = kind_config(CLUSTER, 1, [], images["node"], None)
    for node in config["nodes"]:
        node.pop("labels", None)
    (folder / "kind.yaml").write_text(yaml.safe_dump(config))
    kubeconfig = folder / "kubeconfig"
    options = ["--config", str(folder / "kind.yaml"), "--kubeconfig", str(kubeconfig), "--wait", "120s"]
    networks = subprocess.run(
        ["docker", "network", "ls", "--format", "{{.Name}}"], capture_output=True, text=True, check=True
    )
    try:
        leftovers.remove(CLUSTER)  # of a run that was killed: kind's own network tells nothing of whose a cluster is
        subprocess.run(["kind", "create", "cluster", "--name", CLUSTER, *options], check=True, capture_output=True)
        refs = [images[name] for name in ("dra-driver", "gpu-sim", "gpu-probe", "mps-daemon", "gpu-agents")]
        subprocess.run(["kind", "load", "docker-image", "--name", CLUSTER, *refs], check=True, capture_output=True)
        alias = f"{images['gpu-probe'].rpartition(':')[0]}:v1"
        tag = ["ctr", "--namespace", "k8s.io", "images", "tag", "--force", images["gpu-probe"], alias]
        subprocess.run(["docker", "exec", NODE, *tag], check=True, capture_output=True)
        cluster = ForeignCluster(kubeconfig)
        cluster.kubectl("wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
        cluster.kubectl("taint", "node", NODE, *TAINTS)
        cluster.kubectl("label", "node", NODE, "kubernetes.io/hostname=somebody", "--overwrite")
        # The kubelet tells a node's images with its next report.
        wait_for("the node reports its images", lambda: all(ref in cluster.images() for ref in refs))
        yield cluster
    finally:
        subprocess.run(["kind", "delete", "cluster", "--name", CLUSTER], check=True, capture_output=True)
        if "kind" not in networks.stdout.split():
            subprocess.run(["docker", "network", "rm", "kind"], check=True, capture_output=True)


def blocks(kubeconfig: Path) -> dict[str, Any]:
    return {
        "modules": ["00", "01", "02", "03", "04", "05", "07", "08"],
        "cluster": {
            "provider": "existing",
            "kubeconfig": str(kubeconfig),
            "context": f"kind-{CLUSTER}",
        },
        "gpu": {"nodes": [{"name": NODE, "model": "a100-40gb", "count": 3}], "tolerations": TOLERATIONS},
        # As before consumable capacity: a claim has the whole GPU. test_phase2.py has the other ways.
        "driver": {"consumableShares": "disabled"},
    }


@pytest.fixture(scope="module")
def workspace(foreign_cluster: ForeignCluster, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("guest"))
    settings = blocks(foreign_cluster.kubeconfig_with_a_program)
    # As JSON, which is YAML too: PyYAML writes 08 without quotes, and Pulumi reads a number.
    copy.write_stack(
        STACK, json.dumps({"config": {f"dra-workshop:{key}": value for key, value in settings.items()}}, indent=2)
    )
    return copy


def test_api_server_takes_every_manifest(foreign_cluster: ForeignCluster) -> None:
    # Here, since no stack has made any of them yet: an API server refuses to change a claim.
    assert refused_manifests(foreign_cluster.kubeconfig) == {}


def refusals(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and sight of each prerequisite that is not met."""
    parsed = Settings.parse(settings, STACK)
    return [(found.name, found.observed) for found in prerequisites.look(parsed, images_of(parsed)) if not found.ok]


def test_what_others_have_there_is_found_before_anything_is_made(foreign_cluster: ForeignCluster) -> None:
    settings = blocks(foreign_cluster.relative_kubeconfig)
    assert refusals(settings) == []
    assert refusals({**settings, "gpu": {**settings["gpu"], "tolerations": []}}) == [
        ("taints", f"{NODE} has the taint dedicated=gpu:NoSchedule, which no pod of the stack tolerates")
    ]
    capacity = {"path": "/status/capacity/nvidia.com~1gpu", "value": "2"}
    patch = ("patch", "node", NODE, "--subresource=status", "--type=json", "-p")
    others = foreign_cluster.kubeconfig.with_name("others.yaml")
    others.write_text(OTHERS)
    foreign_cluster.kubectl("create", "-f", str(others))
    try:
        foreign_cluster.kubectl(*patch, json.dumps([{"op": "add", **capacity}]))
        found = refusals(settings)
    finally:
        foreign_cluster.kubectl("delete", "-f", str(others))
        foreign_cluster.kubectl(*patch, json.dumps([{"op": "remove", "path": capacity["path"]}]))
    assert found == [
        ("device plugin", f"{NODE} offers nvidia.com/gpu: 2, so a device plugin gives its GPUs out"),
        (
            "device plugin",
            "DaemonSet kube-system/plugin, NVIDIA's device plugin, comes to nodes with the label "
            "nvidia.com/gpu.present",
        ),
        ("dra driver", "DeviceClass gpu.nvidia.com of no Helm release is there, and no stack is up on this cluster"),
    ]


def test_gate_that_is_off_is_asked_of_the_api_server(foreign_cluster: ForeignCluster) -> None:
    with foreign_cluster.second_api_server() as kubeconfig:
        ((name, seen),) = refusals(blocks(kubeconfig))
        assert name == "api" and seen.startswith(f"{WITHOUT} (") and "and module 07 (" in seen
        without_it = [module for module in blocks(kubeconfig)["modules"] if module != "07"]
        assert refusals({**blocks(kubeconfig), "modules": without_it}) == []


def test_driver_of_an_up_that_failed_is_not_taken_from_under_others(
    foreign_cluster: ForeignCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("failed"))
    failing = {
        **blocks(foreign_cluster.kubeconfig),
        "modules": ["00", "01", "02", "03"],
        "images": {"gpuProbe": "registry.example.com/absent:v1"},
        "timeouts": {"workload": 10},
    }
    workspace.write_stack(FAILED, json.dumps({"config": {f"dra-workshop:{key}": failing[key] for key in failing}}))
    workspace.pulumi("stack", "init", FAILED)
    try:
        output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", FAILED, fails=True)
        assert "exclusive-gpu-holder" in output.rpartition("Diagnostics:")[2], output
        image = json.loads((CHECKOUT / ".tools" / "images.json").read_text())["gpu-probe"]
        foreign_cluster.apply(VISITOR.format(image=image))
        foreign_cluster.kubectl("wait", "--for=condition=Ready", "pod/visitor", "--timeout=60s")
        output = workspace.pulumi("destroy", "--yes", "--skip-preview", "--stack", FAILED, fails=True)
        assert "default/visitor (claim visitor: " in output
        assert "The driver was not deleted. Delete these pods first" in output
        foreign_cluster.kubectl("wait", "--for=condition=Ready", "pod/visitor", "--timeout=10s")
        foreign_cluster.kubectl("delete", "pod/visitor", "resourceclaim/visitor", "--grace-period=1", "--timeout=60s")
    finally:
        workspace.take_down(FAILED)


def test_stack_lives_on_an_existing_cluster_and_leaves_it_as_it_was(
    foreign_cluster: ForeignCluster, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = foreign_cluster.contents()
    for name, value in PROXIES.items():
        monkeypatch.setenv(name, value)
    with workspace.up(STACK) as live:
        assert isinstance(live, LiveStack)
        assert {values["productName"] for values in live.devices().values()} == {"NVIDIA A100-SXM4-40GB"}
        state = json.loads(workspace.pulumi("stack", "export", "--stack", STACK))
        commands = [
            resource["inputs"]["create"]
            for resource in state["deployment"]["resources"]
            if resource["type"] == "command:local:Command"
        ]
        assert sorted(commands) == [
            "python -m components.commands.mps_limits",
            *["python -m components.commands.rollout"] * 3,
            "python -m components.commands.wait_for_gpus",
            *["true"] * 2,  # the guards', of the driver and of everything
        ]
        output = workspace.pulumi("up", "--yes", "--skip-preview", "--stack", STACK)
        assert "created" not in output
        assert "updated" not in output
        # The others ask the same things of any cluster: test_lifecycle.py has them.
        status, printed = workspace.verify(STACK, "00", "01", "02", "04", "07", "08")
        assert status == 0, printed
        results = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())
        outcomes = {check["name"]: check["result"] for check in results["checks"]}
        skipped = {
            (check["name"], check["seen"])
            for check in results["checks"]
            if check["result"] == "skipped" and check["module"] not in ("07", "08")  # some ask for shares, or more
        }
        assert {name: reason for name, reason in skipped if reason != "needs a real GPU"} == {
            "test_claims_are_routed_by_cel_to_the_node_that_has_the_gpu": (
                "every node has the same GPUs, so a claim cannot tell them apart by model"
            ),
            "test_kubelet_has_the_cgroup_driver_that_starts_every_container": (
                "cluster.provider is existing: its cgroup driver is its own"
            ),
        }
        assert outcomes["test_without_consumable_shares_a_claim_has_the_whole_gpu"] == "passed"
        assert set(outcomes.values()) == {"passed", "skipped"}
        assert (workspace.root / "results" / STACK / "verify.xml").exists()
        nothing_is_taken_from_under_others(workspace, live)
        no_state_is_dropped_while_the_api_server_is_out_of_reach(workspace, live)
    # The kubelet removes the ResourceSlices of a driver that is gone after half a minute.
    wait_for("the driver's slices are gone", lambda: foreign_cluster.contents()["objects"] == before["objects"], 90)
    assert foreign_cluster.contents() == before
