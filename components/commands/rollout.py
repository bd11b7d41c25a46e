"""Command that waits until every pod of a Deployment is one of its newest, and available.

Pulumi's provider takes a Deployment of the strategy Recreate for ready at the moment when its old pods are gone and no
new one is there yet. Environment: KUBECONFIG and KUBE_CONTEXT; NAMESPACE; DEPLOYMENT; REVISION, which is another one
when the pods are, so that the command runs again; WAIT_SECONDS. On a time-out it says what the pods wait for and shows
the end of their logs.
"""

import json
import os
import subprocess
import sys


def main() -> int:
    name, namespace, seconds = (os.environ[key] for key in ("DEPLOYMENT", "NAMESPACE", "WAIT_SECONDS"))
    kubectl = ["kubectl", "--kubeconfig", os.environ["KUBECONFIG"], "--context", os.environ["KUBE_CONTEXT"]]
    deployment = f"deployment/{name}"
    command = [*kubectl, "rollout", "status", "-n", namespace, deployment, f"--timeout={seconds}s"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        print("kubectl: is not on PATH; `source ./activate` puts it there", file=sys.stderr)
        return 1
    if done.returncode == 0:
        print(f"{namespace}/{name}: rolled out")
        return 0
    print(f"{namespace}/{name}: not every pod is a new one that is ready ({done.stderr.strip()})", file=sys.stderr)
    # Only now: the client of the cluster takes longer to import than all the rest.
    from components.commands.pods import print_state, reported

    selector = [*kubectl, "get", "-n", namespace, deployment, "-o", "jsonpath={.spec.selector.matchLabels}"]
    labels = subprocess.run(selector, capture_output=True, text=True, check=False).stdout
    reported(lambda: print_state(namespace, json.loads(labels or "{}"), name) or 0)
    return 1


if __name__ == "__main__":
    sys.exit(main())
