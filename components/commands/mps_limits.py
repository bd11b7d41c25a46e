"""Command that applies limits to the MPS daemons that run, and prints what they then say as JSON.

Environment: KUBECONFIG and KUBE_CONTEXT; MPS_NAMESPACE; NODES, a JSON list of node names; ACTIVE_THREAD_PERCENTAGE
and PINNED_DEVICE_MEMORY_LIMIT as `mps-daemon apply` takes them; WAIT_SECONDS. Waits until a daemon answers on every
node. On a time-out it says which one does not and shows the end of its log.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = {"app": "mps-daemon"}
EXEC_SECONDS = 60


def kubectl(*words: str) -> list[str]:
    """Command line of kubectl for the stack's cluster."""
    return ["kubectl", "--kubeconfig", os.environ["KUBECONFIG"], "--context", os.environ["KUBE_CONTEXT"], *words]


def ready_pods(pods: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of the daemons' pods by their nodes, where they are ready and not about to go."""
    found = {}
    for pod in pods:
        states = pod["status"].get("containerStatuses", [])
        deleted = "deletionTimestamp" in pod["metadata"]
        if states and not deleted and all(state["ready"] for state in states):
            found[pod["spec"]["nodeName"]] = pod["metadata"]["name"]
    return found


def first_look(namespace: str) -> dict[str, str]:
    """Pods that are ready now; none where kubectl fails, since the wait that follows says what is wrong."""
    command = kubectl(
        "get", "pods", "-n", namespace, "-l", ",".join(f"{key}={value}" for key, value in LABELS.items()), "-o", "json"
    )
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=EXEC_SECONDS)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return {}
    return ready_pods(json.loads(done.stdout)["items"]) if done.returncode == 0 else {}


def start(namespace: str, pod: str) -> subprocess.Popen[str]:
    """Begin to set the limits in one daemon, and to tell the clients that wait for them."""
    limits = {
        "--active-thread-percentage": os.environ["ACTIVE_THREAD_PERCENTAGE"],
        "--pinned-device-memory-limit": os.environ["PINNED_DEVICE_MEMORY_LIMIT"],
    }
    options = [f"{option}={value}" for option, value in limits.items()]
    command = kubectl("exec", "-n", namespace, pod, "--", "mps-daemon", "apply", *options, "--announce")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str], deadline: float) -> dict[str, Any]:
    """Status of one daemon. Raises `CalledProcessError` with what it says, and `TimeoutExpired`."""
    output, errors = process.communicate(timeout=max(0.0, deadline - time.monotonic()))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, output, errors)
    return json.loads(output)


def apply(namespace: str, pods: Mapping[str, str]) -> int:
    """Set the limits in the daemons of all nodes at once, and print what they say. Returns the exit status."""
    processes = {node: start(namespace, pod) for node, pod in pods.items()}
    deadline, answers, failed = time.monotonic() + EXEC_SECONDS, {}, False
    for node, process in processes.items():
        try:
            status = answer(process, deadline)
        except subprocess.CalledProcessError as error:
            print(f"{node}: the MPS daemon did not take the limits: {error.stderr.strip()}", file=sys.stderr)
            failed = True
            continue
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            print(f"{node}: the MPS daemon did not take the limits in {EXEC_SECONDS} s", file=sys.stderr)
            _print_state(namespace)
            failed = True
            continue
        # What does not change from run to run: clients and servers come and go.
        answers[node] = {"defaults": status["defaults"], "devices": [device["uuid"] for device in status["devices"]]}
        clients = sum(len(server["clients"]) for server in status["servers"])
        keep = f"; clients that run ({clients}) keep those that they started with" if clients else ""
        print(f"{node}: limits set{keep}", file=sys.stderr)
    if not failed:
        print(json.dumps(answers, sort_keys=True))
    return 1 if failed else 0


def _print_state(namespace: str) -> None:
    from components.commands.pods import print_state, reported  # as in `main`

    reported(lambda: print_state(namespace, LABELS, "the MPS daemon") or 0)


def main() -> int:
    namespace, nodes = os.environ["MPS_NAMESPACE"], json.loads(os.environ["NODES"])
    pods = first_look(namespace)
    if not set(nodes) <= set(pods):
        # Only now: that module's client takes longer to import than the limits to set, and after a changed limit every
        # daemon is ready at the first look.
        from components.commands.pods import reported, wait_on_nodes

        def wait() -> int:
            pods.update(
                wait_on_nodes(
                    namespace, LABELS, "MPS daemon", ready_pods, nodes, seconds=int(os.environ["WAIT_SECONDS"])
                )
            )
            return 0 if set(nodes) <= set(pods) else 1

        if failed := reported(wait):
            return failed
    return apply(namespace, {node: pods[node] for node in nodes})


if __name__ == "__main__":
    sys.exit(main())
