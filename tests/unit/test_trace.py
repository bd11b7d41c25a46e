"""The table of `make trace`: from ResourceSlices, claims, pods and what the node tells to one line a container."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from checks import trace
from checks.live import NotThisStack

LGI = """\
+-------------------------------------------------------+
| GPU instances:                                        |
| GPU   Name             Profile  Instance   Placement  |
|                          ID       ID       Start:Size |
|=======================================================|
|   0  MIG 3g.20gb          9       23          4:4     |
+-------------------------------------------------------+
|   0  MIG 4g.20gb          5       26          0:4     |
+-------------------------------------------------------+
"""
LCI = """\
| GPU     GPU       Name             Profile   Instance   Placement  |
|===================================================================|
|   0     23       MIG 3g.20gb          2         0          0:3     |
|   0     26       MIG 4g.20gb          3         0          0:4     |
"""
CDI = """\
devices:
- name: uid-1-gpu-0-mig-3g20gb-9-4
  containerEdits:
    deviceNodes: [{path: /dev/nvidia0}, {path: /dev/nvidia-caps/nvidia-cap12}, {path: /dev/nvidia-caps/nvidia-cap13}]
- name: uid-1-gpu-0-mig-4g20gb-5-0
  containerEdits:
    deviceNodes: [{path: /dev/nvidia-caps/nvidia-cap3}]
"""


def claim(name: str, *results: tuple[str, str]) -> dict[str, Any]:
    devices = [
        {"driver": "gpu.nvidia.com", "pool": "node", "request": request, "device": device}
        for request, device in results
    ]
    return {
        "metadata": {"namespace": "mig", "name": name, "uid": "uid-1"},
        "status": {"allocation": {"devices": {"results": devices}}},
    }


def pod(name: str, *entries: dict[str, str], phase: str = "Running", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"namespace": "mig", "name": name},
        "spec": {
            "resourceClaims": [{"name": "slices", "resourceClaimName": "both"}],
            "containers": [{"name": "main", "resources": {"claims": list(entries)}}],
        },
        "status": {"phase": phase, **status},
    }


@dataclass
class Stack:
    """Stack with two MIG devices, as far as the table asks."""

    claims: list[dict[str, Any]]
    pods: list[dict[str, Any]]
    settings: Any = field(default_factory=lambda: SimpleNamespace(gpu=SimpleNamespace(source="simulated")))

    def devices(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {
            ("node", "gpu-0-mig-4g20gb-5-0"): {"type": "mig", "profile": "4g.20gb", "uuid": "MIG-4"},
            ("node", "gpu-0-mig-3g20gb-9-4"): {"type": "mig", "profile": "3g.20gb", "uuid": "MIG-3"},
            ("node", "gpu-1"): {"type": "gpu", "uuid": "GPU-1"},
        }

    def get(self, kind: str, **_: Any) -> list[dict[str, Any]]:
        return self.claims if kind == trace.CLAIMS else self.pods

    def in_node(self, node: str, *words: str) -> str:
        assert node == "node"
        return {"-lgi": LGI, "-lci": LCI}.get(words[-1], CDI)


def cells(*pods: dict[str, Any]) -> list[tuple[str, ...]]:
    stack: Any = Stack(
        [claim("both", ("small", "gpu-0-mig-3g20gb-9-4"), ("large", "gpu-0-mig-4g20gb-5-0"))], list(pods)
    )
    return [row.cells for row in trace.rows(stack)]


THREE = ("node", "0", "gpu-0-mig-3g20gb-9-4", "3g.20gb", "23", "0", "MIG-3")
FOUR = ("node", "0", "gpu-0-mig-4g20gb-5-0", "4g.20gb", "26", "0", "MIG-4")
NOBODY = ("-", "-", "-", "-")


def test_mig_device_that_nobody_has_is_a_row():
    assert cells() == [(*THREE, *NOBODY), (*FOUR, *NOBODY)]


def test_container_has_what_it_asks_for():
    """A request of the claim, or all of it; an ended pod has nothing."""
    one, all_of_it = {"name": "slices", "request": "small"}, {"name": "slices"}
    found = cells(pod("a", one), pod("b", all_of_it), pod("c", all_of_it, phase="Succeeded"), pod("d"))
    assert found == [
        (*THREE, "12,13", "mig/both", "mig/a", "main"),
        (*THREE, "12,13", "mig/both", "mig/b", "main"),
        (*FOUR, "3", "mig/both", "mig/b", "main"),
    ]


def test_claim_made_for_a_pod_is_found_by_the_pods_status():
    made = [{"name": "slices", "resourceClaimName": "both"}]
    template = pod("a", {"name": "slices", "request": "large"}, resourceClaimStatuses=made)
    template["spec"]["resourceClaims"] = [{"name": "slices", "resourceClaimTemplateName": "template"}]
    waiting = pod("b", {"name": "slices"})
    waiting["spec"]["resourceClaims"] = [{"name": "slices", "resourceClaimTemplateName": "template"}]
    assert cells(template, waiting)[1] == (*FOUR, "3", "mig/both", "mig/a", "main")


def test_extended_resource_is_a_claim_too():
    mapping = [{"containerName": "main", "resourceName": "nvidia.com/mig-3g.20gb", "requestName": "small"}]
    status = {"extendedResourceClaimStatus": {"resourceClaimName": "both", "requestMappings": mapping}}
    assert cells(pod("a", **status))[0] == (*THREE, "12,13", "mig/both", "mig/a", "main")


def test_table_has_columns_of_one_width_and_cuts_nothing():
    stack: Any = Stack([], [])
    head, *lines = trace.table(trace.rows(stack)).splitlines()
    assert head.split() == list(trace.COLUMNS)
    assert [line.index("MIG-") for line in lines] == [head.index("UUID")] * 2
    assert not [line for line in (head, *lines) if line.endswith(" ")]


@pytest.mark.parametrize("up", [False, True])
def test_stack_without_mig_devices_is_told_in_one_line(
    up: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def find(checkout: Any, name: str) -> Any:
        if not up:
            raise NotThisStack(f"stack {name} is not up; run `make up STACK={name}`")
        return SimpleNamespace(devices=dict, get=lambda kind, **_: [])

    monkeypatch.setattr(trace.LiveStack, "find", find)
    assert trace.main(["--stack", "x"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "make up" in err
