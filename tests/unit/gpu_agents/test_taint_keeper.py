"""taint-keeper as a process, with an API server of the test's own."""

import subprocess
import sys
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from tests.unit.gpu_agents.conftest import PACKAGES, PATIENCE, ApiServer, Program

RESOURCE = "/apis/resource.k8s.io/v1"
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/taint-keeper"
RULES = f"{RESOURCE}/devicetaintrules"
MADE, LEFT = "made a rule for a tainted device", "the rule is there"
FAILED, LISTED = "the API failed; listing again", "every ResourceSlice is looked at; watching"


def resource_slice(node: str, *taints: dict[str, str]) -> dict[str, Any]:
    """The only slice of a node; the driver gives it a name that ends at random."""
    devices = [{"name": "gpu-0", "taints": list(taints)}]
    spec = {"driver": "gpu.nvidia.com", "pool": {"name": node}, "devices": devices}
    return {"metadata": {"name": f"{node}-gpu.nvidia.com-x7k2p"}, "spec": spec}


def xid(value: str = "79", effect: str = "NoSchedule") -> dict[str, str]:
    return {"key": "gpu.nvidia.com/xid", "value": value, "effect": effect}


@pytest.fixture
def cluster(api_server: ApiServer) -> ApiServer:
    """An API server with the keeper's ClusterRole, no rule and no slice."""
    api_server.objects |= {
        ROLE: {"metadata": {"name": "taint-keeper", "uid": "role-uid"}},
        RULES: {"items": []},
        f"{RESOURCE}/resourceslices": {"metadata": {"resourceVersion": "7"}, "items": []},
    }
    return api_server


@pytest.fixture
def keep(run, tmp_path: Path):
    def start(cluster: ApiServer) -> Program:
        kubeconfig = str(cluster.kubeconfig(tmp_path))
        return run("taint_keeper", KUBECONFIG=kubeconfig, OWNER_CLUSTER_ROLE="taint-keeper")

    return start


def created(cluster: ApiServer) -> dict[str, Any]:
    return cluster.created.get(timeout=PATIENCE)


def delete(cluster: ApiServer, rule: dict[str, Any]) -> None:
    """What a person does who has mended a GPU."""
    cluster.objects[RULES]["items"].remove(rule)


def test_a_taint_that_is_there_gets_its_rule_and_then_the_keeper_is_ready(keep, cluster: ApiServer):
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid()), resource_slice("node-2")]
    program = keep(cluster)
    rule = created(cluster)
    assert rule["metadata"]["name"] == "xid-node-1-gpu-0"
    assert [owner["uid"] for owner in rule["metadata"]["ownerReferences"]] == ["role-uid"]
    line = program.line(MADE)
    assert line["taint"] == "gpu.nvidia.com/xid=79:NoSchedule" and "never deletes" in line["mending"]
    program.line(LISTED)
    program.wait_ready()
    assert program.get("/healthz") == (200, "ok\n")
    assert cluster.created.empty()


def test_a_taint_that_appears_gets_its_rule_once(keep, cluster: ApiServer):
    program = keep(cluster)
    program.line(LISTED)
    for event in ("MODIFIED", "MODIFIED", "DELETED"):
        cluster.events.put({"type": event, "object": resource_slice("node-1", xid())})
    cluster.events.put({"type": "ADDED", "object": resource_slice("node-2", xid("48"))})
    assert [created(cluster)["metadata"]["name"] for _ in range(2)] == ["xid-node-1-gpu-0", "xid-node-2-gpu-0"]
    assert cluster.created.empty()
    # Another XID: the rule of the first one stays.
    cluster.events.put({"type": "MODIFIED", "object": resource_slice("node-1", xid("48"))})
    assert program.line(LEFT)["taint"] == "gpu.nvidia.com/xid=48:NoSchedule"
    assert cluster.created.empty()


def test_a_taint_without_an_effect_gets_no_rule_until_it_has_one(keep, cluster: ApiServer):
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid("31", "None"))]
    keep(cluster).line(LISTED)
    assert cluster.created.empty()
    cluster.events.put({"type": "MODIFIED", "object": resource_slice("node-1", xid("79"))})
    assert created(cluster)["spec"]["taint"] == xid("79")


def test_a_rule_that_is_there_is_left_and_told_once_however_often_it_is_listed(keep, cluster: ApiServer):
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    cluster.objects[RULES]["items"] = [{"metadata": {"name": "xid-node-1-gpu-0"}}]
    program = keep(cluster)
    program.line(LEFT)
    cluster.events.put(None)  # the watch ends as every watch does: list and watch again
    cluster.events.put({"type": "ADDED", "object": resource_slice("node-2", xid())})
    created(cluster)
    assert cluster.asked.count(f"GET {RULES}") == 2
    # One for each node: the rule that is there was tried for when it was first seen, and not again.
    assert cluster.asked.count(f"POST {RULES}") == 2
    program.line(MADE)
    assert program.logged() == [] and cluster.created.empty()


def test_a_rule_that_a_person_deleted_comes_back_while_the_driver_still_has_the_taint(keep, cluster: ApiServer):
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    keep(cluster)
    first = created(cluster)
    delete(cluster, first)
    cluster.events.put(None)
    assert created(cluster) == first


def changes(*taints: tuple[dict[str, str], ...]) -> list[dict[str, Any]]:
    """Events of one slice that has these taints, one after another."""
    return [{"type": "MODIFIED", "object": resource_slice("node-1", *each)} for each in taints]


# What a plugin that starts again does to its slice, and then a GPU that fails again.
GONE_AND_BACK = {
    "a slice without its taint": changes((), (xid(),)),
    "a taint that keeps nobody off": changes((xid("31", "None"),), (xid(),)),
    "a slice that is made anew": [
        {"type": "DELETED", "object": resource_slice("node-1", xid())},
        {"type": "ADDED", "object": resource_slice("node-1", xid())},
    ],
}


@pytest.mark.parametrize("events", GONE_AND_BACK.values(), ids=GONE_AND_BACK)
def test_a_rule_that_a_person_deleted_is_made_again_when_the_taint_went_and_came_back(
    keep, cluster: ApiServer, events: list[dict[str, Any]]
):
    # Within one watch: the keeper lists no rules between, so it cannot know that this one has gone.
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    program = keep(cluster)
    first = created(cluster)
    program.line(LISTED)
    delete(cluster, first)
    for event in events:
        cluster.events.put(event)
    assert created(cluster) == first
    assert cluster.asked.count(f"GET {RULES}") == 1


def test_a_rule_that_nobody_deleted_is_left_when_the_taint_went_and_came_back(keep, cluster: ApiServer):
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    program = keep(cluster)
    first = created(cluster)
    program.line(LISTED)
    for event in changes((), (xid(),)):
        cluster.events.put(event)
    assert program.line(LEFT)["rule"] == first["metadata"]["name"]
    assert cluster.created.empty() and cluster.objects[RULES]["items"] == [first]


def test_a_rule_that_a_person_deleted_is_not_made_again_for_an_event_that_leaves_the_taint(keep, cluster: ApiServer):
    # Until everything is listed again: a slice changes for many reasons.
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    program = keep(cluster)
    delete(cluster, created(cluster))
    program.line(LISTED)
    for event in [*changes((xid(),), (xid(),)), {"type": "ADDED", "object": resource_slice("node-2", xid())}]:
        cluster.events.put(event)
    assert created(cluster)["metadata"]["name"] == "xid-node-2-gpu-0"
    assert cluster.names(RULES) == ["xid-node-2-gpu-0"]


def test_a_failed_watch_lists_again_and_what_came_meanwhile_is_not_lost(keep, cluster: ApiServer):
    program = keep(cluster)
    program.line(LISTED)
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    cluster.events.put({"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old"}})
    assert program.line(FAILED)["reason"] == "too old"
    assert created(cluster)["metadata"]["name"] == "xid-node-1-gpu-0"


@pytest.mark.parametrize(
    ("path", "status", "remedy"),
    [
        (ROLE, 404, "OWNER_CLUSTER_ROLE has to name a ClusterRole that exists"),
        (RULES, 403, "the service account needs list and watch of resourceslices"),
    ],
)
def test_without_the_api_the_keeper_is_not_ready_and_says_what_is_missing(
    keep, cluster: ApiServer, path: str, status: int, remedy: str
):
    cluster.refused[path] = status
    program = keep(cluster)
    line = program.line(FAILED)
    assert line["reason"] == f"{path} is refused" and line["remedy"].startswith(remedy)
    assert program.get("/readyz")[0] == 503 and program.get("/healthz")[0] == 200
    del cluster.refused[path]
    program.line(LISTED)
    program.wait_ready()


def test_a_rule_that_another_keeper_made_is_taken_for_made(keep, cluster: ApiServer):
    cluster.refused[RULES] = 409
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [resource_slice("node-1", xid())]
    # Only its creation is refused so: the list has to work.
    cluster.refused_methods = ("POST",)
    program = keep(cluster)
    program.line(LEFT)
    program.line(LISTED)
    with pytest.raises(Empty):
        cluster.created.get_nowait()


@pytest.mark.parametrize("module", ["exporter", "taint_keeper"])
def test_a_signal_ends_the_program_at_once_with_0(run, cluster: ApiServer, tmp_path: Path, module: str):
    program = run(module, OWNER_CLUSTER_ROLE="taint-keeper", KUBECONFIG=str(cluster.kubeconfig(tmp_path)))
    program.process.terminate()
    assert program.process.wait(2) == 0


@pytest.mark.parametrize(("module", "name"), [("exporter", "gpu-exporter"), ("taint_keeper", "taint-keeper")])
def test_help_names_the_program_and_its_environment(module: str, name: str):
    command = [sys.executable, "-m", f"gpu_agents.{module}", "--help"]
    done = subprocess.run(command, env={"PYTHONPATH": str(PACKAGES)}, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: {name} ") and "environment:" in done.stdout


def test_without_an_owner_the_keeper_does_not_start():
    command = [sys.executable, "-m", "gpu_agents.taint_keeper"]
    done = subprocess.run(command, env={"PYTHONPATH": str(PACKAGES)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "OWNER_CLUSTER_ROLE: not set" in done.stderr
