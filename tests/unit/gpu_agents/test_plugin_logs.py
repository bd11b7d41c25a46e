"""What the keeper reads in the logs of NVIDIA's plugins, of GPUs that MIG divides, and the rules it makes of it."""

from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from gpu_agents.plugin_logs import Plugin, PluginLog
from gpu_agents.taints import GpuFault, of_divided_gpus

from checks.live import wait_for
from tests.unit.gpu_agents.conftest import PATIENCE, ApiServer, Program
from tests.unit.gpu_agents.test_taint_keeper import LISTED, MADE, RESOURCE, RULES, cluster, created, delete

__all__ = ["cluster"]

GPU, OTHER = "GPU-11111111-0000-0000-0000-000000000000", "GPU-22222222-0000-0000-0000-000000000000"
WHOLE = 4294967295
PODS = "/api/v1/namespaces/driver/pods"
UNREAD = "no log of the driver's plugin; asking again"
UNLISTED = "the API failed; listing the driver's plugins again"


def processing(xid: int) -> str:
    return f"I1128 02:00:01.000000       1 device_health.go:313] Processing event XID={xid} event"


def ignoring(uuid: str = GPU, instance: int = WHOLE, compute: int = WHOLE) -> str:
    where = f"(UUID:{uuid}, GI:{instance}, CI:{compute})"
    return f"I1128 02:00:01.000000       1 device_health.go:325] Ignoring event for unexpected device {where}"


def stamped(*lines: str) -> list[str]:
    return [f"2026-11-28T02:00:0{second}.123456789Z {line}" for second, line in enumerate(lines)]


def told(*lines: str) -> list[GpuFault]:
    log = PluginLog()
    return [fault for line in stamped(*lines) if (fault := log.read(line))]


def test_a_fault_of_a_whole_gpu_that_the_driver_ignored_is_told_once():
    lines = (processing(79), ignoring(), processing(79), ignoring(), processing(48), ignoring(OTHER))
    assert told(*lines) == [GpuFault(GPU, 79), GpuFault(OTHER, 48)]


def test_lines_of_others_between_the_two_do_not_matter():
    assert told(processing(79), "I1128 plugin.go:1] Prepared devices", ignoring()) == [GpuFault(GPU, 79)]


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_a_fault_of_an_application_keeps_nobody_off(xid: int):
    assert told(processing(xid), ignoring()) == []


def test_a_fault_that_the_driver_taints_for_is_its_own_affair():
    assert told(processing(94), "I1128 device_health.go:329] Sending XID=94 health event for device MIG-1") == []


def test_a_fault_of_one_instance_says_nothing_of_the_others():
    assert told(processing(94), ignoring(instance=2), processing(94), ignoring(instance=2, compute=0)) == []


def test_a_log_is_read_again_from_its_last_line_on():
    log = PluginLog()
    assert log.since == ""
    for line in stamped(processing(79), ignoring()):
        log.read(line)
    assert log.since == "2026-11-28T02:00:01.123456789Z"
    assert log.read(stamped(ignoring())[0]) is None


def test_only_a_container_that_runs_has_a_log_to_follow():
    assert list(Plugin.of(plugin())) == [Plugin("plugin-1", "containerd://1")]
    assert list(Plugin.of(plugin(state="waiting"))) == []
    assert list(Plugin.of({"metadata": {"name": "plugin-1"}, "status": {}})) == []


def divided(node: str = "node-1", uuid: str = GPU) -> dict[str, Any]:
    """Slice with two MIG devices of one GPU, and a whole one."""
    devices = [
        *({"name": name, "attributes": {"parentUUID": {"string": uuid}}} for name in ("gpu-0-mig-a", "gpu-0-mig-b")),
        {"name": "gpu-1", "attributes": {"uuid": {"string": OTHER}}},
    ]
    spec = {"driver": "gpu.nvidia.com", "pool": {"name": node}, "devices": devices}
    return {"metadata": {"name": f"{node}-gpu.nvidia.com-x7k2p"}, "spec": spec}


def test_every_mig_device_of_the_gpu_is_tainted_as_the_driver_taints_a_whole_one():
    found = list(of_divided_gpus(divided(), [GpuFault(GPU, 79), GpuFault(OTHER, 48)]))
    assert [each.device for each in found] == ["gpu-0-mig-a", "gpu-0-mig-b"]
    rule = found[0].rule({"uid": "role-uid"})
    assert rule["metadata"]["name"] == "xid-node-1-gpu-0-mig-a"
    assert rule["spec"]["deviceSelector"] == {"driver": "gpu.nvidia.com", "pool": "node-1", "device": "gpu-0-mig-a"}
    assert rule["spec"]["taint"] == {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}


def test_slices_of_other_drivers_have_none():
    other = divided()
    other["spec"]["driver"] = "tpu.example.com"
    assert list(of_divided_gpus(other, [GpuFault(GPU, 79)])) == []


def plugin(number: int = 1, state: str = "running") -> dict[str, Any]:
    """Pod of a plugin, in its container of that number."""
    status = {"name": "gpus", "containerID": f"containerd://{number}", "state": {state: {}}}
    return {"metadata": {"name": "plugin-1"}, "status": {"containerStatuses": [status]}}


def log_of(cluster: ApiServer, *lines: str) -> "Queue[str | None]":
    """Log of the plugin from now on."""
    queue: Queue[str | None] = Queue()
    for line in stamped(*lines):
        queue.put(line)
    cluster.logs[f"{PODS}/plugin-1/log"] = queue
    return queue


@pytest.fixture
def keep(run, cluster: ApiServer, tmp_path: Path):
    """The keeper beside one plugin and a node whose GPU MIG divides."""
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [divided()]
    cluster.objects[PODS] = {"metadata": {"resourceVersion": "5"}, "items": [plugin()]}

    def start() -> Program:
        kubeconfig = str(cluster.kubeconfig(tmp_path))
        return run("taint_keeper", KUBECONFIG=kubeconfig, OWNER_CLUSTER_ROLE="taint-keeper", PLUGIN_NAMESPACE="driver")

    return start


def names(cluster: ApiServer) -> list[str]:
    return sorted(created(cluster)["metadata"]["name"] for _ in range(2))


BOTH = ["xid-node-1-gpu-0-mig-a", "xid-node-1-gpu-0-mig-b"]


def test_the_keeper_makes_a_rule_for_each_mig_device_of_a_gpu_that_failed(keep, cluster: ApiServer):
    log = log_of(cluster)
    program = keep()
    program.line(LISTED)
    program.wait_ready()
    for line in stamped(processing(79), ignoring()):
        log.put(line)
    assert program.line("the driver ignored a fault of a GPU that MIG divides")["gpu"] == GPU
    assert names(cluster) == BOTH
    assert program.line(MADE)["taint"] == "gpu.nvidia.com/xid=79:NoSchedule"
    assert cluster.created.empty()


def test_a_fault_from_before_the_keeper_is_in_the_log(keep, cluster: ApiServer):
    log_of(cluster, processing(79), ignoring())
    keep()
    assert names(cluster) == BOTH


def test_a_mig_device_that_is_published_later_has_its_rule_too(keep, cluster: ApiServer):
    log = log_of(cluster)
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = []
    program = keep()
    program.line(LISTED)
    for line in stamped(processing(79), ignoring()):
        log.put(line)
    program.line("the driver ignored a fault of a GPU that MIG divides")
    assert cluster.created.empty()
    cluster.events.put({"type": "ADDED", "object": divided()})
    assert names(cluster) == BOTH


def test_rules_that_a_person_deleted_come_again_with_the_same_fault_of_the_next_plugin_only(keep, cluster: ApiServer):
    log_of(cluster, processing(79), ignoring())
    program = keep()
    assert names(cluster) == BOTH
    program.line(LISTED)
    # As who mends it does: another plugin, then the rules.
    next_log = log_of(cluster)
    cluster.pod_events.put({"type": "MODIFIED", "object": plugin(state="terminated")})
    cluster.pod_events.put({"type": "MODIFIED", "object": plugin(number=2)})
    for rule in list(cluster.objects[RULES]["items"]):
        delete(cluster, rule)
    cluster.events.put({"type": "MODIFIED", "object": divided()})
    cluster.events.put({"type": "ADDED", "object": divided("node-2", OTHER)})
    for line in stamped(processing(48), ignoring(OTHER)):
        next_log.put(line)
    assert names(cluster) == [name.replace("node-1", "node-2") for name in BOTH]
    assert cluster.created.empty()
    for line in stamped(processing(79), ignoring()):
        next_log.put(line)
    assert names(cluster) == BOTH


def test_a_rule_that_two_have_cause_for_is_made_once(keep, cluster: ApiServer):
    log, tainted = log_of(cluster), divided()
    taint = {"key": "gpu.nvidia.com/xid", "value": "79", "effect": "NoSchedule"}
    tainted["spec"]["devices"][-1]["taints"] = [taint]
    cluster.objects[f"{RESOURCE}/resourceslices"]["items"] = [tainted]
    cluster.answers_posts.clear()
    program = keep()
    wait_for("the first rule is on its way", lambda: f"POST {RULES}" in cluster.asked, PATIENCE)
    for line in stamped(processing(79), ignoring()):
        log.put(line)
    program.line("the driver ignored a fault of a GPU that MIG divides")
    cluster.answers_posts.set()
    assert sorted(created(cluster)["metadata"]["name"] for _ in range(3)) == [*BOTH, "xid-node-1-gpu-1"]
    # What comes next tells that all before is done.
    cluster.events.put({"type": "ADDED", "object": divided("node-2")})
    assert names(cluster) == [name.replace("node-1", "node-2") for name in BOTH]
    assert cluster.asked.count(f"POST {RULES}") == 5


def test_a_log_that_ends_is_read_on_from_its_last_line(keep, cluster: ApiServer):
    log = log_of(cluster, processing(79))
    program = keep()
    program.line(LISTED)
    log.put(None)
    for line in stamped("", ignoring()):
        log.put(line)
    assert names(cluster) == BOTH
    assert "sinceTime" not in cluster.log_queries[0]
    assert "sinceTime=2026-11-28T02%3A00%3A00.123456789Z" in cluster.log_queries[-1]
    assert all("container=gpus" in query and "follow=true" in query for query in cluster.log_queries)


def test_rules_that_could_not_be_made_are_made_later(keep, cluster: ApiServer):
    log = log_of(cluster)
    program = keep()
    program.line(LISTED)
    cluster.refused[RULES], cluster.refused_methods = 500, ("POST",)
    for line in stamped(processing(79), ignoring()):
        log.put(line)
    assert program.line(UNREAD)["pod"] == "plugin-1"
    del cluster.refused[RULES]
    assert names(cluster) == BOTH


def test_without_its_rights_it_is_not_ready_and_says_which(keep, cluster: ApiServer):
    cluster.refused[PODS] = 403
    log_of(cluster)
    program = keep()
    remedy = "the service account needs list and watch of pods and get of pods/log in driver"
    assert program.line(UNLISTED)["remedy"] == remedy
    assert program.get("/readyz")[0] == 503
    del cluster.refused[PODS]
    program.wait_ready()
