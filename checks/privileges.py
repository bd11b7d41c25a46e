"""Privileges of every pod of a cluster, and the reviewed list of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kr8s
import yaml

from checks.live import LiveStack
from machine.gpus import driver_root

NAMESPACES = (
    *("dra-driver-nvidia-gpu", "fleet", "gpu-admin", "gpu-health", "gpu-metrics", "gpu-sim"),
    *("mig", "monitoring", "mps", "mps-system", "shared", "tenant", "workloads"),
)
ROOT, PARENT = "<driver root>", "<driver root's parent>"
DRIVER_NAMESPACE = "dra-driver-nvidia-gpu"
FILE = Path(__file__).with_name("privileges.yaml")


def pod_privileges(stack: LiveStack) -> dict[str, Any]:
    """namespace/owner -> privileges; only what is set.

    Left out are pods of checks, which come and go, and, where the cluster is not of our own node image, those of
    namespaces that the stack did not make.
    """
    privileges, root = {}, driver_root(stack.settings)
    pods = [pod for pod in stack.get("pods", namespace=kr8s.ALL) if pod["metadata"].get("ownerReferences")]
    own_node_image = any(pod["metadata"]["name"].startswith("nodenet-") for pod in pods)
    for pod in pods:
        namespace = pod["metadata"]["namespace"]
        if namespace.startswith("check-") or not (own_node_image or namespace in NAMESPACES):
            continue
        # Where NVIDIA's driver lies depends on the GPUs.
        names = {str(Path(root).parent): PARENT, root: ROOT} if namespace == DRIVER_NAMESPACE else {}
        privileges[f"{namespace}/{owner(pod)}"] = reduce_spec(pod["spec"], names)
    return privileges


def owner(pod: dict[str, Any]) -> str:
    """The name of what made the pod, without what is drawn at random or names a node or a claim."""
    name, kind = pod["metadata"]["name"], pod["metadata"]["ownerReferences"][0]["kind"]
    if kind == "Node":
        return name.removesuffix(f"-{pod['spec']['nodeName']}")
    if name.startswith("mps-control-daemon-"):
        return "mps-control-daemon"
    parts = pod["metadata"]["ownerReferences"][0]["name"]
    return parts.rpartition("-")[0] if kind == "ReplicaSet" else parts


def reduce_spec(spec: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """privileged, host namespaces, capabilities and hostPath of one pod; `names` are what some paths are called."""
    privileges: dict[str, Any] = {key: True for key in ("hostPID", "hostIPC", "hostNetwork") if spec.get(key)}
    added, kept = set(), False
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        context = container.get("securityContext") or {}
        if context.get("privileged"):
            privileges["privileged"] = True
        capabilities = context.get("capabilities") or {}
        added |= set(capabilities.get("add") or [])
        kept = kept or "ALL" not in (capabilities.get("drop") or [])
    if added:
        privileges["added"] = sorted(added)
    if kept:
        # Those that the container runtime gives by default.
        privileges["keepsDefaultCapabilities"] = True
    mounted = [volume["hostPath"]["path"] for volume in spec.get("volumes", []) if "hostPath" in volume]
    if paths := sorted({names.get(path, path) for path in mounted}):
        # NVIDIA's daemon of a claim has folders that bear the claim's id; the driver made them for it.
        privileges["hostPath"] = [path for path in paths if "/plugins/gpu.nvidia.com/mps/" not in path]
    return privileges


def reviewed_privileges() -> dict[str, Any]:
    """The list in privileges.yaml."""
    return yaml.safe_load(FILE.read_text())


def excess(actual: dict[str, Any], allowed: dict[str, Any]) -> dict[str, Any]:
    """Privileges beyond the allowed ones."""
    more = {}
    for key, value in actual.items():
        extra = sorted(set(value) - set(allowed.get(key, []))) if isinstance(value, list) else value
        if extra and allowed.get(key) != value:
            more[key] = extra
    return more
