"""Bounded wait for a condition of a cluster, and words on pods that did not get there."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LOG_LINES = 20
LOOK_SECONDS = 0.25


def wait(missing: Callable[[], Sequence[str]], seconds: int) -> Sequence[str]:
    """Look until nothing is missing; returns what still is when the time is over."""
    deadline = time.monotonic() + seconds
    while lines := missing():
        if time.monotonic() > deadline:
            return lines
        time.sleep(LOOK_SECONDS)  # between two looks at a condition that is bounded above
    return []


def explain_pods(api: Any, namespace: str, labels: Mapping[str, str], program: str) -> str:
    """State of the pods that have these labels, and the end of their logs; `program` is what they run."""
    pods = list(api.get("pods", namespace=namespace, label_selector=labels))
    if not pods:
        return f"no pod of {program} in {namespace}; does a node have the label dra-workshop/gpus=true?"
    return "\n".join(line for pod in pods for line in _explain(pod))


def _explain(pod: Any) -> list[str]:
    status = pod.raw["status"]
    lines = [f"pod {pod.name} on {pod.raw['spec'].get('nodeName', 'no node')}: {status.get('phase')}"]
    conditions = [condition for condition in status.get("conditions", []) if condition["status"] == "False"]
    lines += (f"  {condition['type']}: {condition.get('message', condition.get('reason'))}" for condition in conditions)
    init = [(state, True) for state in status.get("initContainerStatuses", [])]
    for state, is_init in [*init, *((state, False) for state in status.get("containerStatuses", []))]:
        lines.append(f"  container {state['name']}: {json.dumps(state['state'])}")
        last = state.get("lastState") or {}
        if last:
            lines.append(f"    before, {state['restartCount']} times started again: {json.dumps(last)}")
        # One that waits for its next start has the log of the last.
        started = {"running", "terminated"} & {*state["state"], *last}
        # An init container that has finished has no more to say.
        if started and not (is_init and state["ready"]):
            lines += (f"    {line}" for line in pod.logs(container=state["name"], tail_lines=LOG_LINES))
    return lines
