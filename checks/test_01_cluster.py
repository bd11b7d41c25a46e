"""Checks of module 01: the cluster serves DRA, its nodes are ready, and the driver root is in them."""

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from checks.live import LiveStack
from checks.throughput import nvidia_smi
from components.cluster import GPU_NODE_LABELS
from gpus.models import simulated_gpus
from machine.gpus import discover_host, driver_root
from machine.images import LOCAL, images_of
from settings import GPU_MODELS

# By cgroup driver, the cgroup of all pods. On cgroup v1 it is below each controller.
CGROUPS_BY_DRIVER = {"cgroupfs": "kubepods", "systemd": "kubelet-kubepods.slice"}
POD_CGROUPS = """
for folder in /sys/fs/cgroup /sys/fs/cgroup/*; do
  for pods in "$folder/kubelet/kubepods" "$folder/kubelet.slice/kubelet-kubepods.slice"; do
    if [ -d "$pods" ]; then echo "$pods"; fi
  done
done
"""


def test_dra_is_served_in_its_stable_version(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the API server does not serve `resource.k8s.io/v1`, or lacks one of its four resources."""
    group = json.loads(stack.kubectl("get", "--raw", "/apis/resource.k8s.io"))
    versions = [version["version"] for version in group["versions"]]
    assert "v1" in versions
    resources = json.loads(stack.kubectl("get", "--raw", "/apis/resource.k8s.io/v1"))["resources"]
    names = {resource["name"] for resource in resources}
    assert {"deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"} <= names
    observed(f"resource.k8s.io: {', '.join(versions)}")


def test_every_node_is_ready_and_only_gpu_nodes_are_labelled(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a node is not Ready, a GPU node lacks `dra-workshop/gpus=true`, or another node has it."""
    expected = {node.node for node in stack.settings.gpu_nodes}
    nodes = {node["metadata"]["name"]: node for node in stack.nodes()}
    for name, node in nodes.items():
        conditions = {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}
        assert conditions["Ready"] == "True", f"{name} is not ready"
    label = "dra-workshop/gpus"
    labelled = {name for name, node in nodes.items() if node["metadata"]["labels"].get(label) == GPU_NODE_LABELS[label]}
    assert labelled == expected
    versions = {node["status"]["nodeInfo"]["kubeletVersion"] for node in nodes.values()}
    observed(f"{len(nodes)} nodes ready, kubelet {', '.join(versions)}; GPUs on {', '.join(sorted(expected))}")


def test_kubelet_has_the_cgroup_driver_that_starts_every_container(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if a node's kubelet uses systemd's cgroup driver on cgroup v1, or cgroupfs on v2; skipped on an existing
    cluster.

    On cgroup v1 cgroupfs: with systemd's scopes runc freezes a new container, and sometimes cannot. A node image that
    set-up did not build has kind's own choice, systemd, on both; module 00 warns of it on v1.
    """
    if stack.settings.cluster.provider != "kind":
        pytest.skip("cluster.provider is existing: its cgroup driver is its own")
    image = stack.settings.cluster.node_image or images_of(stack.settings).node
    on_v1 = "cgroupfs" if image.startswith(LOCAL) else "systemd"
    cgroup_drivers = []
    for node in sorted(node["metadata"]["name"] for node in stack.nodes()):
        version = "v2" if stack.in_node(node, "stat", "-fc", "%T", "/sys/fs/cgroup").strip() == "cgroup2fs" else "v1"
        # Not the kubelet's /configz: that of Kubernetes 1.34 is of the time before it has asked containerd.
        folders = {Path(line).name for line in stack.in_node(node, "sh", "-c", POD_CGROUPS).split()}
        assert folders == {CGROUPS_BY_DRIVER[{"v1": on_v1, "v2": "systemd"}[version]]}
        cgroup_drivers.append(f"{node} {', '.join(folders)} on cgroup {version}")
    observed(", ".join(cgroup_drivers))


def test_driver_root_and_devices_are_in_every_gpu_node(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if no `libnvidia-ml.so.1` below the root, or a simulated device node is missing, no character device, or
    has other numbers than 195:N.
    """
    root = driver_root(stack.settings)
    for node in stack.settings.gpu_nodes:
        folder = f"{root.rstrip('/')}/usr"
        libraries = stack.in_node(node.node, "find", "-L", folder, "-maxdepth", "3", "-name", "libnvidia-ml.so.1")
        assert libraries.strip(), f"{node.node} has no libnvidia-ml.so.1 below {root}"
        if of_the_host := discover_host(stack.settings):
            files = stack.in_node(node.node, "sh", "-c", "ls -d /dev/nvidia[0-9]*").split()
            assert not set(files) & set(of_the_host.hidden_devices)
            assert len(files) == len(of_the_host.chosen)
        if node.model is None or node.count is None:
            continue
        for gpu in simulated_gpus(node.node, GPU_MODELS[node.model], node.count):
            device = f"{root}/dev/nvidia{gpu.minor}"
            # "character special file", major and minor in hexadecimal: 195 is NVIDIA's.
            answer = stack.in_node(node.node, "stat", "--format=%F %t:%T", device).strip()
            assert answer == f"character special file c3:{gpu.minor:x}"
    observed(f"libnvidia-ml.so.1 and device nodes below {root} on {len(stack.settings.gpu_nodes)} nodes")


def test_nvidia_smi_in_the_node_lists_the_configured_gpus(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if index, model or UUID of a simulated GPU differs from the configuration, or there is one too many; for
    the host's GPUs: no GPU is listed.
    """
    lines = []
    for node in stack.settings.gpu_nodes:
        of_the_host = discover_host(stack.settings)
        if of_the_host:
            text = nvidia_smi(stack, node.node, "-L")
        else:
            text = stack.in_node(node.node, f"{driver_root(stack.settings)}/usr/bin/nvidia-smi", "-L")
        listed = [line for line in text.splitlines() if line.startswith("GPU ")]
        lines += listed
        if node.model is None or node.count is None:
            assert listed
            if of_the_host:  # exactly those that gpu.devices names, of a machine that may have more
                uuids = [line.rpartition("UUID: ")[2].rstrip(")") for line in listed]
                assert sorted(uuids) == sorted(gpu.uuid for gpu in of_the_host.chosen)
            continue
        model = GPU_MODELS[node.model]
        wanted = [
            f"GPU {gpu.index}: {model.product_name} (UUID: {gpu.uuid})"
            for gpu in simulated_gpus(node.node, model, node.count)
        ]
        assert listed == wanted
    observed("; ".join(lines))


def test_kubeconfig_can_be_read_by_its_owner_only(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the file of a Kind cluster has another mode than 0600; on an existing cluster: the stack names another
    file than the user's.
    """
    if stack.settings.cluster.provider == "existing":
        assert stack.kubeconfig == stack.settings.cluster.kubeconfig
        observed("the user's own file, left as it is")
        return
    mode = stat.S_IMODE(Path(stack.kubeconfig).stat().st_mode)
    assert mode == 0o600
    observed(f"mode {mode:o}")
