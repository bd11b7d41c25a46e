"""Command that applies limits to the MPS daemons that run, and prints what they then say as JSON.

Environment: KUBECONFIG and KUBE_CONTEXT; MPS_NAMESPACE; NODES, a JSON list of node names; ACTIVE_THREAD_PERCENTAGE
and PINNED_DEVICE_MEMORY_LIMIT as `mps-daemon apply` takes them; WAIT_SECONDS. Waits until a daemon answers on every
node. On a time-out it says which one does not and shows the end of its log.
"""

import json
import os
import subprocess
import sys
from typing import Any

from components.commands.kube import connect, reported
from components.commands.waiting import explain_pods, wait

LABEL = {"app": "mps-daemon"}
EXEC_SECONDS = 60


def ready_pods(api: Any, namespace: str) -> dict[str, str]:
    """Pods of the daemons by their nodes, where they are ready and not about to go."""
    pods = {}
    for pod in api.get("pods", namespace=namespace, label_selector=LABEL):
        states = pod.raw["status"].get("containerStatuses", [])
        deleted = "deletionTimestamp" in pod.raw["metadata"]
        if states and not deleted and all(state["ready"] for state in states):
            pods[pod.raw["spec"]["nodeName"]] = pod.name
    return pods


def explain(api: Any, namespace: str) -> str:
    """State of the daemons' pods, and the end of their logs."""
    return explain_pods(api, namespace, LABEL, "the MPS daemon")


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
    pods: dict[str, str] = {}

    def missing() -> list[str]:
        pods.clear()  # one of an earlier look may be gone
        pods.update(ready_pods(api, namespace))
        return sorted(set(nodes) - set(pods))

    if lines := wait(missing, seconds):
        print(f"after {seconds} s no MPS daemon is ready on {', '.join(lines)}", file=sys.stderr)
        print(explain(api, namespace), file=sys.stderr)
        return 1
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
    sys.exit(reported(main))
