"""Each namespace of a stack has the strictest level of the Pod Security Standards that its pods allow.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (Kubernetes 1.37), as far as pods for Linux go.
"""

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest

from tests.golden.recorder import RELEASE, Recording
from tests.golden.stacks import FILES, load, record

LABEL = "pod-security.kubernetes.io/enforce"
NAMESPACE = "kubernetes:core/v1:Namespace"
# Kinds that make pods; only the first two are registered, and the test below fails for the others.
PODS = ("kubernetes:apps/v1:Deployment", "kubernetes:apps/v1:DaemonSet")
OTHER_PODS = (
    *(f"kubernetes:apps/v1:{kind}" for kind in ("StatefulSet", "ReplicaSet")),
    *(f"kubernetes:core/v1:{kind}" for kind in ("Pod", "PodTemplate", "ReplicationController")),
    *(f"kubernetes:batch/v1:{kind}" for kind in ("Job", "CronJob")),
)
BASELINE_CAPABILITIES = {
    *("AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE"),
    *("SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
}
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"),
}
SAFE_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"),
    *("net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
SELINUX_TYPES = {None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}

recorded = cache(lambda stack: record(load(stack)))


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for kind in ("initContainers", "containers", "ephemeralContainers") for one in pod.get(kind, [])]


def beyond_baseline(pod: dict[str, Any]) -> Iterator[str]:
    """What only the level `privileged` allows."""
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    yield from (f"hostPath {volume['name']}" for volume in pod.get("volumes", []) if "hostPath" in volume)
    for name, context in _contexts(pod):
        if context.get("privileged"):
            yield f"{name}: privileged"
        if added := set(context.get("capabilities", {}).get("add", [])) - BASELINE_CAPABILITIES:
            yield f"{name}: adds {sorted(added)}"
        if context.get("procMount", "Default") != "Default":
            yield f"{name}: procMount"
        for kind in ("seccompProfile", "appArmorProfile"):
            if context.get(kind, {}).get("type") == "Unconfined":
                yield f"{name}: {kind}"
        selinux = context.get("seLinuxOptions", {})
        if selinux.get("type") not in SELINUX_TYPES or selinux.get("user") or selinux.get("role"):
            yield f"{name}: seLinuxOptions"
        if context.get("windowsOptions", {}).get("hostProcess"):
            yield f"{name}: hostProcess"
        if sysctls := {one["name"] for one in context.get("sysctls", [])} - SAFE_SYSCTLS:
            yield f"{name}: {sorted(sysctls)}"
    for container in containers(pod):
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{container['name']}: hostPort"
        handlers = [container.get(f"{kind}Probe", {}) for kind in ("liveness", "readiness", "startup")]
        handlers += container.get("lifecycle", {}).values()
        if any(handler.get(kind, {}).get("host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
            yield f"{container['name']}: host of a probe"


def beyond_restricted(pod: dict[str, Any]) -> Iterator[str]:
    """What the level `baseline` allows and `restricted` does not."""
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= RESTRICTED_VOLUMES:
            yield f"volume {volume['name']}"
    own = pod.get("securityContext", {})
    if own.get("runAsUser") == 0:
        yield "pod: runAsUser"
    for container in containers(pod):
        context = container.get("securityContext", {})
        capabilities = context.get("capabilities", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{container['name']}: allowPrivilegeEscalation"
        if context.get("runAsNonRoot", own.get("runAsNonRoot")) is not True or context.get("runAsUser") == 0:
            yield f"{container['name']}: root"
        profile = context.get("seccompProfile", own.get("seccompProfile", {}))
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{container['name']}: seccompProfile"
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{container['name']}: capabilities"


def _contexts(pod: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    each = [(container["name"], container.get("securityContext", {})) for container in containers(pod)]
    return [("pod", pod.get("securityContext", {})), *each]


def strictest(pods: list[dict[str, Any]]) -> str:
    """The strictest level that lets all these pods in."""
    if any(reason for pod in pods for reason in beyond_baseline(pod)):
        return "privileged"
    return "baseline" if any(reason for pod in pods for reason in beyond_restricted(pod)) else "restricted"


def levels(recording: Recording) -> dict[str, str]:
    """Namespace -> the level that it must have."""
    pods: dict[str, list[dict[str, Any]]] = {r.inputs["metadata"]["name"]: [] for r in recording.of_type(NAMESPACE)}
    for workload in (resource for kind in PODS for resource in recording.of_type(kind)):
        pods[workload.inputs["metadata"]["namespace"]].append(workload.inputs["spec"]["template"]["spec"])
    # NVIDIA's plugin is privileged, and its chart's pods are not rendered here.
    charts = {release.inputs["namespace"] for release in recording.of_type(RELEASE)}
    return {name: "privileged" if name in charts else strictest(own) for name, own in pods.items()}


@pytest.mark.parametrize("stack", FILES)
def test_every_namespace_has_the_strictest_level_that_its_pods_allow(stack: str):
    namespaces = [resource.inputs["metadata"] for resource in recorded(stack).of_type(NAMESPACE)]
    assert {one["name"]: one.get("labels", {}).get(LABEL) for one in namespaces} == levels(recorded(stack))


@pytest.mark.parametrize("stack", FILES)
def test_every_kind_that_makes_pods_is_one_that_is_looked_at(stack: str):
    assert [resource.name for kind in OTHER_PODS for resource in recorded(stack).of_type(kind)] == []


STRICT: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "main",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
    "volumes": [{"name": "config", "configMap": {"name": "config"}}, {"name": "scratch", "emptyDir": {}}],
}
SECCOMP_OFF = {"seccompProfile": {"type": "Unconfined"}}


def strict(container: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **pod: Any) -> dict[str, Any]:
    """The strict pod, but for what its container's and its own security context have besides, and its fields."""
    made = {**deepcopy(STRICT), **pod}
    made["containers"][0]["securityContext"] |= container or {}
    made["securityContext"] |= own or {}
    return made


def first(**fields: Any) -> dict[str, Any]:
    return {"initContainers": [{**STRICT["containers"][0], "name": "first", **fields}]}


CASES = {
    "as strict as can be": (strict(), "restricted"),
    "binds a low port": (strict({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}), "restricted"),
    "a profile of its own": (strict(own={"seccompProfile": {"type": "Localhost"}}), "restricted"),
    "a safe sysctl": (strict(own={"sysctls": [{"name": "net.ipv4.tcp_syncookies", "value": "1"}]}), "restricted"),
    "may be root": (strict(own={"runAsNonRoot": False}), "baseline"),
    "one container may be root": (strict({"runAsNonRoot": False}), "baseline"),
    "is root": (strict({"runAsUser": 0}), "baseline"),
    "the pod is root": (strict(own={"runAsUser": 0}), "baseline"),
    "no seccomp profile": (strict(own={"seccompProfile": {}}), "baseline"),
    "may gain privileges": (strict({"allowPrivilegeEscalation": True}), "baseline"),
    "says nothing of privileges": (strict(**first(securityContext={"capabilities": {"drop": ["ALL"]}})), "baseline"),
    "keeps capabilities": (strict({"capabilities": {}}), "baseline"),
    "makes device nodes": (strict({"capabilities": {"drop": ["ALL"], "add": ["MKNOD"]}}), "baseline"),
    "a volume that no level forbids but one": (strict(volumes=[{"name": "nfs", "nfs": {}}]), "baseline"),
    "a folder of the node": (strict(volumes=[{"name": "node", "hostPath": {"path": "/run"}}]), "privileged"),
    "is privileged": (strict({"privileged": True}), "privileged"),
    "the node's network": (strict(hostNetwork=True), "privileged"),
    "the node's processes": (strict(hostPID=True), "privileged"),
    "the node's memory": (strict(hostIPC=True), "privileged"),
    "a port of the node": (strict(**first(ports=[{"containerPort": 1, "hostPort": 1}])), "privileged"),
    "administers": (strict({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}), "privileged"),
    "all of /proc": (strict({"procMount": "Unmasked"}), "privileged"),
    "any system call": (strict(own=SECCOMP_OFF), "privileged"),
    "any system call in one container": (strict(SECCOMP_OFF), "privileged"),
    "no AppArmor": (strict({"appArmorProfile": {"type": "Unconfined"}}), "privileged"),
    "another SELinux type": (strict({"seLinuxOptions": {"type": "spc_t"}}), "privileged"),
    "another SELinux user": (strict({"seLinuxOptions": {"user": "system_u"}}), "privileged"),
    "a process of the node": (strict(own={"windowsOptions": {"hostProcess": True}}), "privileged"),
    "an unsafe sysctl": (strict(own={"sysctls": [{"name": "kernel.msgmax", "value": "1"}]}), "privileged"),
    "a probe of another host": (strict(**first(livenessProbe={"tcpSocket": {"host": "10.0.0.1"}})), "privileged"),
    "a hook that asks another host": (
        strict(**first(lifecycle={"preStop": {"httpGet": {"host": "10.0.0.1"}}})),
        "privileged",
    ),
}


@pytest.mark.parametrize(("pod", "level"), CASES.values(), ids=CASES)
def test_level_of_a_pod_is_that_of_its_weakest_part(pod: dict[str, Any], level: str):
    assert strictest([pod]) == strictest([strict(), pod]) == level


def test_a_namespace_without_pods_is_restricted():
    assert strictest([]) == "restricted"
