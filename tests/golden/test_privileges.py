"""Privileges of each stack's pods on a node, so that a change of them shows in review as such."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.golden.recorder import RELEASE, Recording
from tests.golden.reviewed import compare
from tests.golden.stacks import FILES, FOLDER, load, recorded

TEXTS = FOLDER / "privileges"
CONTEXT = ("privileged", "capabilities", "runAsUser", "allowPrivilegeEscalation")
PODS = ("kubernetes:apps/v1:Deployment", "kubernetes:apps/v1:DaemonSet")


def render(recording: Recording) -> str:
    """Namespaces with their level, then each pod template with what it has beyond a pod that asks for nothing."""
    lines = []
    for namespace in sorted(recording.of_type("kubernetes:core/v1:Namespace"), key=lambda r: r.name):
        metadata = namespace.inputs["metadata"]
        lines.append(f"namespace {metadata['name']}: {metadata['labels']['pod-security.kubernetes.io/enforce']}")
    for workload in sorted((r for kind in PODS for r in recording.of_type(kind)), key=lambda r: r.name):
        metadata = workload.inputs["metadata"]
        lines.append(f"{workload.name} ({metadata['namespace']}/{metadata['name']})")
        lines += (f"  {line}" for line in _pod(workload.inputs["spec"]["template"]["spec"]))
    lines += (
        f"{release.name}: pods of its chart, which are not rendered here" for release in recording.of_type(RELEASE)
    )
    return "\n".join(lines) + "\n"


def _pod(pod: dict[str, Any]) -> Iterator[str]:
    yield from (f"{key}: {_text(pod[key])}" for key in ("hostPID", "hostIPC", "hostNetwork") if pod.get(key))
    own = pod.get("securityContext", {})
    for volume in pod.get("volumes", []):
        if "hostPath" in volume:
            yield f"hostPath {volume['name']}: {volume['hostPath']['path']}"
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind, []):
            context = {**own, **container.get("securityContext", {})}
            facts = (f"{key}: {_text(context.get(key))}" for key in CONTEXT)
            yield f"{kind[:-1]} {container['name']}: {', '.join(facts)}"


def _text(value: Any) -> str:
    return "not set" if value is None else json.dumps(value)


@pytest.mark.parametrize("stack", FILES)
def test_privileges_are_the_reviewed_ones(stack: str, request: pytest.FixtureRequest):
    compare(TEXTS / f"{stack}.txt", render(recorded(stack)), request)


def test_every_reviewed_text_of_privileges_belongs_to_a_stack():
    assert sorted(file.stem for file in TEXTS.glob("*.txt")) == sorted(FILES)


@pytest.mark.parametrize("stack", FILES)
def test_no_container_is_privileged_or_runs_beside_the_nodes_own_processes(stack: str):
    text = render(recorded(stack))
    assert not [key for key in ("privileged", "hostPID", "hostIPC", "hostNetwork") if f"{key}: true" in text]


@pytest.mark.parametrize("stack", FILES)
def test_only_what_makes_device_nodes_adds_a_capability(stack: str):
    adding = re.findall(r'capabilities: ({"add".*?})', render(recorded(stack)))
    made = load(stack).gpu.source == "simulated"  # a real GPU's are there
    assert adding == (['{"add": ["MKNOD"], "drop": ["ALL"]}'] if made else [])
