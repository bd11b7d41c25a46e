"""Waits until NVIDIA's driver has published every expected GPU, and prints them as JSON.

Environment: KUBECONFIG and KUBE_CONTEXT; DRIVER_NAMESPACE; EXPECTED_GPUS, a JSON object of node name to
count, where 0 asks for at least one; ONLY_GPUS, a JSON list of the UUIDs that may be published, if not all may;
WAIT_SECONDS. On a time-out it says what is there, what is missing and the end of the plugin's log, and ends with 1; a
GPU that may not be published ends it at once.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from components.commands.kube import connect

DRIVER = "gpu.nvidia.com"
PLUGIN = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
LOG_LINES = 20
LOOK_SECONDS = 0.25


def published_gpus(api: Any) -> list[dict[str, Any]]:
    """The full GPUs in the driver's ResourceSlices, by node and name: attributes and capacity flattened."""
    gpus = []
    for slice_ in api.get("resourceslices.v1.resource.k8s.io"):
        spec = slice_.raw["spec"]
        if spec["driver"] != DRIVER:
            continue
        for device in spec.get("devices", []):
            attributes = {key.rpartition("/")[2]: next(iter(v.values())) for key, v in device["attributes"].items()}
            if attributes.get("type") == "gpu":
                capacity = {key: value["value"] for key, value in device.get("capacity", {}).items()}
                gpus.append({"node": spec["nodeName"], "name": device["name"], **attributes, **capacity})
    return sorted(gpus, key=lambda gpu: (gpu["node"], gpu["name"]))


def missing(expected: Mapping[str, int], gpus: list[dict[str, Any]]) -> list[str]:
    """What is not as expected, one line a node."""
    lines = []
    for node, count in expected.items():
        found = sum(gpu["node"] == node for gpu in gpus)
        if not found or (count and found != count):
            lines.append(f"{node}: {found} GPUs published, {count or 'at least 1'} expected")
    return lines


def strangers(only: list[str], gpus: list[dict[str, Any]]) -> list[str]:
    """GPUs that are published and must not be, one line each."""
    return [
        f"{gpu['node']} {gpu['name']}: {gpu['uuid']} is published, and gpu.devices does not name it"
        for gpu in gpus
        if only and gpu["uuid"] not in only
    ]


def rolling(api: Any, namespace: str) -> list[str]:
    """What the plugin's DaemonSet still has to do. Slices of an earlier plugin outlive it, so they prove nothing."""
    lines = []
    for found in api.get("daemonsets.apps", namespace=namespace):
        name, status = found.raw["metadata"]["name"], found.raw.get("status", {})
        desired, seen = status.get("desiredNumberScheduled", 0), status.get("observedGeneration", 0)
        updated, ready = status.get("updatedNumberScheduled", 0), status.get("numberReady", 0)
        if seen < found.raw["metadata"]["generation"]:
            lines.append(f"{name}: its controller has not seen the change yet")
        elif not desired == updated == ready:
            lines.append(f"{name}: {updated} of {desired} pods updated, {ready} ready")
    return lines


def explain(api: Any, namespace: str) -> str:
    """How the plugin's pods are, and the end of their logs."""
    lines = []
    pods = list(api.get("pods", namespace=namespace, label_selector=PLUGIN))
    if not pods:
        lines.append(f"no pod of the kubelet plugin in {namespace}; does a node have the label dra-workshop/gpus=true?")
    for pod in pods:
        status = pod.raw["status"]
        lines.append(f"pod {pod.name} on {pod.raw['spec'].get('nodeName', 'no node')}: {status.get('phase')}")
        states = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        for state in states:
            lines.append(f"  container {state['name']}: {json.dumps(state['state'])}")
            started = {"running", "terminated"} & set(state["state"])
            if started and not (state["name"].startswith("init") and state["ready"]):
                lines += (f"    {line}" for line in pod.logs(container=state["name"], tail_lines=LOG_LINES))
    return "\n".join(lines)


def main() -> int:
    api = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    expected, only = json.loads(os.environ["EXPECTED_GPUS"]), json.loads(os.environ.get("ONLY_GPUS", "[]"))
    seconds = int(os.environ["WAIT_SECONDS"])
    deadline = time.monotonic() + seconds
    namespace = os.environ["DRIVER_NAMESPACE"]
    while lacking := [*rolling(api, namespace), *missing(expected, gpus := published_gpus(api))]:
        if strangers(only, gpus):
            break  # no waiting mends it
        if time.monotonic() > deadline:
            print(f"after {seconds} s: " + "; ".join(lacking), file=sys.stderr)
            print(explain(api, namespace), file=sys.stderr)
            return 1
        time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
    if wrong := strangers(only, gpus):
        print("; ".join(wrong), file=sys.stderr)
        return 1
    (system,) = list[Any](api.get("namespaces", "kube-system"))
    print(json.dumps({"clusterUid": system.raw["metadata"]["uid"], "gpus": gpus}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
