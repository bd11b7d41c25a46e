"""Applies limits to the MPS daemons that run, and prints what they then say as JSON.

Environment: KUBECONFIG and KUBE_CONTEXT; MPS_NAMESPACE; NODES, a JSON list of node names; ACTIVE_THREAD_PERCENTAGE
and PINNED_DEVICE_MEMORY_LIMIT as `mps-daemon apply` takes them; WAIT_SECONDS. Waits until a daemon answers on every
node. On a time-out it says which one does not and shows the end of its log.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

from components.commands.kube import connect

LABEL = {"app": "mps-daemon"}
LOG_LINES = 15
LOOK_SECONDS = 0.25
EXEC_SECONDS = 60


def ready_pods(api: Any, namespace: str) -> dict[str, str]:
    """Node -> the pod of its daemon, where that is ready and not about to go."""
    found = {}
    for pod in api.get("pods", namespace=namespace, label_selector=LABEL):
        states = pod.raw["status"].get("containerStatuses", [])
        gone = "deletionTimestamp" in pod.raw["metadata"]
        if states and not gone and all(state["ready"] for state in states):
            found[pod.raw["spec"]["nodeName"]] = pod.name
    return found


def explain(api: Any, namespace: str) -> str:
    """How the daemons' pods are, and the end of their logs."""
    lines = []
    pods = list(api.get("pods", namespace=namespace, label_selector=LABEL))
    if not pods:
        lines.append(f"no pod in {namespace}; does a node have the label dra-workshop/gpus=true?")
    for pod in pods:
        status = pod.raw["status"]
        lines.append(f"pod {pod.name} on {pod.raw['spec'].get('nodeName', 'no node')}: {status.get('phase')}")
        conditions = [condition for condition in status.get("conditions", []) if condition["status"] == "False"]
        lines += (
            f"  {condition['type']}: {condition.get('message', condition.get('reason'))}" for condition in conditions
        )
        for state in status.get("containerStatuses", []):
            lines.append(f"  container {state['name']}: {json.dumps(state['state'])}")
            if {"running", "terminated"} & set(state["state"]):
                lines += (f"    {line}" for line in pod.logs(container=state["name"], tail_lines=LOG_LINES))
    return "\n".join(lines)


def apply(namespace: str, pod: str) -> dict[str, Any]:
    """Set the limits in one daemon. Raises `CalledProcessError` with what it says."""
    kubectl = ["kubectl", "--kubeconfig", os.environ["KUBECONFIG"], "--context", os.environ["KUBE_CONTEXT"]]
    limits = {
        "--active-thread-percentage": os.environ["ACTIVE_THREAD_PERCENTAGE"],
        "--pinned-device-memory-limit": os.environ["PINNED_DEVICE_MEMORY_LIMIT"],
    }
    options = [f"{option}={value}" for option, value in limits.items()]
    command = [*kubectl, "exec", "-n", namespace, pod, "--", "mps-daemon", "apply", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=EXEC_SECONDS)
    return json.loads(done.stdout)


def main() -> int:
    api = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    namespace, nodes = os.environ["MPS_NAMESPACE"], json.loads(os.environ["NODES"])
    seconds = int(os.environ["WAIT_SECONDS"])
    deadline = time.monotonic() + seconds
    while missing := sorted(set(nodes) - set(pods := ready_pods(api, namespace))):
        if time.monotonic() > deadline:
            print(f"after {seconds} s no MPS daemon is ready on {', '.join(missing)}", file=sys.stderr)
            print(explain(api, namespace), file=sys.stderr)
            return 1
        time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
    answers = {}
    for node in nodes:
        try:
            status = apply(namespace, pods[node])
        except subprocess.CalledProcessError as error:
            print(f"{node}: the MPS daemon did not take the limits: {error.stderr.strip()}", file=sys.stderr)
            return 1
        except subprocess.TimeoutExpired:
            print(f"{node}: the MPS daemon did not take the limits in {EXEC_SECONDS} s", file=sys.stderr)
            print(explain(api, namespace), file=sys.stderr)
            return 1
        # What does not change from run to run: clients and servers come and go.
        answers[node] = {"defaults": status["defaults"], "devices": [device["uuid"] for device in status["devices"]]}
        clients = sum(len(server["clients"]) for server in status["servers"])
        keep = f"; clients that run ({clients}) keep those that they started with" if clients else ""
        print(f"{node}: limits set{keep}", file=sys.stderr)
    print(json.dumps(answers, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
