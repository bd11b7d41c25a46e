"""Pods that are not ready yet: the wait for those of every node, and words on those that do not get there.

For commands that seldom need it, and import it only then: the client of the cluster takes half a second to import.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.commands.kube import connect, reported
from components.commands.waiting import explain_pods, wait

ReadyPods = Callable[[Sequence[Mapping[str, Any]]], dict[str, str]]


def print_state(namespace: str, labels: Mapping[str, str], program: str) -> None:
    """Print the state of the pods that have these labels, and the end of their logs; `program` is what they run."""
    api = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    print(explain_pods(api, namespace, labels, program), file=sys.stderr)


def wait_on_nodes(
    namespace: str, labels: Mapping[str, str], program: str, ready: ReadyPods, nodes: Sequence[str], seconds: int
) -> dict[str, str]:
    """Names of the pods by their nodes, once `ready` finds one on every node.

    None after `seconds`: then it has printed on which nodes there is none, and why.
    """
    api, pods = connect(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"]), dict[str, str]()

    def missing() -> list[str]:
        pods.clear()  # one of an earlier look may be gone
        pods.update(ready([pod.raw for pod in api.get("pods", namespace=namespace, label_selector=labels)]))
        return sorted(set(nodes) - set(pods))

    if lines := wait(missing, seconds):
        print(f"after {seconds} s no {program} is ready on {', '.join(lines)}", file=sys.stderr)
        print(explain_pods(api, namespace, labels, f"the {program}"), file=sys.stderr)
        return {}
    return pods


__all__ = ["print_state", "reported", "wait_on_nodes"]
