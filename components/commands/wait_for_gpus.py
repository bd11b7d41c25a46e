"""Command that waits until NVIDIA's driver has published every expected GPU, and prints them as JSON.

Environment: KUBECONFIG and KUBE_CONTEXT; DRIVER_NAMESPACE; EXPECTED_GPUS, a JSON object of node name to count of whole
GPUs, where 0 asks for at least one GPU or MIG device; EXPECTED_MIG, a JSON object of node name to the names of its MIG
devices, with which 0 whole GPUs are none; ONLY_GPUS, a JSON list of the UUIDs that may be published, if not all may;
WAIT_SECONDS. On a time-out it says what is there, what is missing and the end of the plugin's log, and ends with 1; a
GPU that may not be published ends it at once.
"""

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from components.commands.kube import connect, reported
from components.commands.waiting import explain_pods, wait
from gpus import fleet

DRIVER = "gpu.nvidia.com"
PLUGIN = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}


class UnexpectedGpusError(Exception):
    """GPUs are published that must not be: no waiting mends it."""


def published_devices(api: Any) -> list[dict[str, Any]]:
    """GPUs and MIG devices in the driver's ResourceSlices, by node and name: attributes and capacity flattened."""
    devices = []
    for slice_ in api.get("resourceslices.v1.resource.k8s.io"):
        spec = slice_.raw["spec"]
        if spec["driver"] != DRIVER or fleet.LABEL in slice_.raw.get("metadata", {}).get("labels", {}):
            continue
        for device in spec.get("devices", []):
            attributes = {key.rpartition("/")[2]: next(iter(v.values())) for key, v in device["attributes"].items()}
            capacity = {key: value["value"] for key, value in device.get("capacity", {}).items()}
            devices.append({"node": spec["nodeName"], "name": device["name"], **attributes, **capacity})
    return sorted(devices, key=lambda device: (device["node"], device["name"]))


def of_type(kind: str, devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Devices of a type of the driver's: gpu or mig."""
    return [device for device in devices if device.get("type") == kind]


def missing_gpus(expected: Mapping[str, int], mig: Mapping[str, list[str]], devices: list[dict[str, Any]]) -> list[str]:
    """Differences from what is expected, one line a node and type."""
    lines = []
    for node, count in expected.items():
        published = sum(gpu["node"] == node for gpu in of_type("gpu", devices))
        # A host's GPUs that are all divided are none here.
        if (published != count) if count or node in mig else not any(device["node"] == node for device in devices):
            wanted = count if count or node in mig else "at least 1"
            lines.append(f"{node}: {published} GPUs published, {wanted} expected")
    for node, names in mig.items():
        found = {device["name"] for device in of_type("mig", devices) if device["node"] == node}
        if found != set(names):
            wanted = ", ".join(sorted(names)) or "none"
            lines.append(f"{node}: MIG devices {', '.join(sorted(found)) or 'none'} published, {wanted} expected")
    return lines


def unexpected_gpus(only: list[str], gpus: list[dict[str, Any]]) -> list[str]:
    """GPUs that are published and must not be, one line each."""
    return [
        f"{gpu['node']} {gpu['name']}: {gpu['uuid']} is published, and gpu.devices does not name it"
        for gpu in gpus
        if only and gpu["uuid"] not in only
    ]


def unfinished_rollouts(api: Any, namespace: str) -> list[str]:
    """Work that the plugin's DaemonSet still has to do.

    Slices of an earlier plugin outlive it, so they prove nothing.
    """
    lines = []
    for daemon_set in api.get("daemonsets.apps", namespace=namespace):
        name, status = daemon_set.raw["metadata"]["name"], daemon_set.raw.get("status", {})
        desired, generation = status.get("desiredNumberScheduled", 0), status.get("observedGeneration", 0)
        updated, ready = status.get("updatedNumberScheduled", 0), status.get("numberReady", 0)
        if generation < daemon_set.raw["metadata"]["generation"]:
            lines.append(f"{name}: its controller has not seen the change yet")
        elif not desired == updated == ready:
            lines.append(f"{name}: {updated} of {desired} pods updated, {ready} ready")
    return lines


def explain(api: Any, namespace: str) -> str:
    """State of the plugin's pods, and the end of their logs."""
    return explain_pods(api, namespace, PLUGIN, "the kubelet plugin")


def main() -> int:
    api = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    expected, only = json.loads(os.environ["EXPECTED_GPUS"]), json.loads(os.environ.get("ONLY_GPUS", "[]"))
    seconds, namespace = int(os.environ["WAIT_SECONDS"]), os.environ["DRIVER_NAMESPACE"]
    mig = json.loads(os.environ.get("EXPECTED_MIG", "{}"))
    devices: list[dict[str, Any]] = []

    def missing() -> list[str]:
        rollouts = unfinished_rollouts(api, namespace)
        devices[:] = published_devices(api)  # as of this look
        if unexpected := unexpected_gpus(only, of_type("gpu", devices)):
            raise UnexpectedGpusError("; ".join(unexpected))
        return [*rollouts, *missing_gpus(expected, mig, devices)]

    try:
        if lines := wait(missing, seconds):
            print(f"after {seconds} s: " + "; ".join(lines), file=sys.stderr)
            print(explain(api, namespace), file=sys.stderr)
            return 1
    except UnexpectedGpusError as error:
        print(error, file=sys.stderr)
        return 1
    (system,) = list[Any](api.get("namespaces", "kube-system"))
    answer = {"clusterUid": system.raw["metadata"]["uid"], "gpus": of_type("gpu", devices)}
    # With the gate DynamicMIG there are dozens of MIG devices that nobody has made yet.
    print(json.dumps({**answer, "migDevices": of_type("mig", devices)} if mig else answer))
    return 0


if __name__ == "__main__":
    sys.exit(reported(main))
