"""The wait for the driver's GPUs: what counts as there, what is said when they do not come."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.commands import wait_for_gpus, waiting
from components.commands.wait_for_gpus import (
    DRIVER,
    explain,
    missing_gpus,
    of_type,
    published_devices,
    unfinished_rollouts,
)

NAMESPACE = "dra-driver-nvidia-gpu"


@dataclass
class Thing:
    """An object of the Kubernetes API as kr8s gives it."""

    raw: dict[str, Any]
    name: str = "plugin"
    log: list[str] = field(default_factory=list)

    def logs(self, container: str, tail_lines: int) -> list[str]:
        return [f"{container}: {line}" for line in self.log[-tail_lines:]]


@dataclass
class Api:
    """Slices that appear at the look after which they are there, and the plugin's pods."""

    slices: list[list[Thing]]
    pods: list[Thing] = field(default_factory=list)
    daemon_sets: list[Thing] = field(default_factory=list)
    looks: int = 0

    def get(self, kind: str, *names: str, **selection: Any) -> list[Thing]:
        if kind == "namespaces":
            assert names == ("kube-system",)
            return [Thing({"metadata": {"uid": "uid-of-kube-system"}})]
        if kind == "pods":
            assert selection == {"namespace": NAMESPACE, "label_selector": wait_for_gpus.PLUGIN}
            return self.pods
        if kind == "daemonsets.apps":
            assert selection == {"namespace": NAMESPACE}
            return self.daemon_sets
        assert kind == "resourceslices.v1.resource.k8s.io"
        self.looks += 1
        return self.slices[min(self.looks, len(self.slices)) - 1]


def device(name: str, type_: str = "gpu") -> dict[str, Any]:
    attributes = {
        "type": {"string": type_},
        "minor": {"int": int(name[-1])},
        "uuid": {"string": f"uuid-of-{name}"},
        "resource.kubernetes.io/pcieRoot": {"string": "pci0000:00"},
        "gpu.nvidia.com/driverVersion": {"version": "580.0.0"},
    }
    return {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}


def slice_(node: str, *devices: dict[str, Any], driver: str = DRIVER) -> Thing:
    return Thing({"spec": {"driver": driver, "nodeName": node, "devices": list(devices)}})


def pod(state: dict[str, Any], log: list[str], init: dict[str, Any] | None = None) -> Thing:
    status: dict[str, Any] = {
        "phase": "Running",
        "containerStatuses": [{"name": "gpus", "state": state, "ready": False}],
    }
    if init:
        status["initContainerStatuses"] = [{"name": "init-container", **init}]
    return Thing({"spec": {"nodeName": "a"}, "status": status}, "plugin", log)


def test_gpus_are_flattened_and_in_the_order_of_nodes_and_names():
    gpus = published_devices(Api([[slice_("b", device("gpu-0")), slice_("a", device("gpu-1"), device("gpu-0"))]]))
    assert [(gpu["node"], gpu["name"]) for gpu in gpus] == [("a", "gpu-0"), ("a", "gpu-1"), ("b", "gpu-0")]
    assert gpus[1] == {
        "node": "a",
        "name": "gpu-1",
        "type": "gpu",
        "minor": 1,
        "uuid": "uuid-of-gpu-1",
        "pcieRoot": "pci0000:00",
        "driverVersion": "580.0.0",
        "memory": "80Gi",
    }


def test_other_drivers_and_mig_devices_are_no_gpus():
    other = slice_("a", device("gpu-0"), driver="dra.example.com")
    devices = published_devices(Api([[other, slice_("a", device("mig-0", "mig"))]]))
    assert of_type("gpu", devices) == []
    assert [mig["name"] for mig in of_type("mig", devices)] == ["mig-0"]


def test_slice_without_devices_publishes_nothing():
    assert published_devices(Api([[Thing({"spec": {"driver": DRIVER, "nodeName": "a"}})]])) == []


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        ({"a": 2}, []),
        ({"a": 0}, []),
        ({"a": 3}, ["a: 2 GPUs published, 3 expected"]),
        ({"a": 1}, ["a: 2 GPUs published, 1 expected"]),
        ({"b": 0}, ["b: 0 GPUs published, at least 1 expected"]),
        ({"a": 1, "b": 1}, ["a: 2 GPUs published, 1 expected", "b: 0 GPUs published, 1 expected"]),
        ({}, []),
    ],
)
def test_each_node_must_have_exactly_its_gpus_or_any_where_none_are_counted(expected: dict[str, int], lines: list[str]):
    assert missing_gpus(expected, {}, [{"node": "a", "type": "gpu"}, {"node": "a", "type": "gpu"}]) == lines


@pytest.mark.parametrize(
    ("count", "names", "lines"),
    [
        (1, ["mig-0", "mig-1"], []),
        (0, ["mig-0", "mig-1"], ["a: 1 GPUs published, 0 expected"]),
        (1, ["mig-0"], ["a: MIG devices mig-0, mig-1 published, mig-0 expected"]),
        (1, ["mig-0", "mig-1", "mig-2"], ["a: MIG devices mig-0, mig-1 published, mig-0, mig-1, mig-2 expected"]),
        (1, [], ["a: MIG devices mig-0, mig-1 published, none expected"]),
    ],
)
def test_node_with_layouts_must_have_exactly_its_mig_devices_and_whole_gpus(
    count: int, names: list[str], lines: list[str]
):
    devices = [{"node": "a", "name": f"mig-{number}", "type": "mig"} for number in range(2)]
    devices += [{"node": "a", "name": "gpu-0", "type": "gpu"}, {"node": "b", "name": "mig-9", "type": "mig"}]
    assert missing_gpus({"a": count}, {"a": names}, devices) == lines


def test_mig_device_that_does_not_come_is_named():
    assert missing_gpus({"a": 0}, {"a": ["mig-0"]}, []) == ["a: MIG devices none published, mig-0 expected"]


def test_mig_devices_are_printed_where_they_are_expected(wait, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPECTED_MIG", '{"a": ["mig-0"]}')
    api = Api([[slice_("a", device("gpu-1"))], [slice_("a", device("gpu-1"), device("mig-0", "mig"))]])
    rc, out, _ = wait(api, {"a": 1}, 60)
    assert (rc, api.looks) == (0, 2)
    assert [mig["name"] for mig in json.loads(out)["migDevices"]] == ["mig-0"]


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(api: Api, expected: dict[str, int], seconds: int) -> tuple[int, str, str]:
        asked: list[str] = []
        monkeypatch.setattr(wait_for_gpus, "connect", lambda *words: asked.extend(words) or api)
        monkeypatch.setattr(waiting, "LOOK_SECONDS", 0)
        monkeypatch.setenv("KUBECONFIG", "/its/kubeconfig")
        monkeypatch.setenv("KUBE_CONTEXT", "its-context")
        monkeypatch.setenv("DRIVER_NAMESPACE", NAMESPACE)
        monkeypatch.setenv("EXPECTED_GPUS", json.dumps(expected))
        monkeypatch.setenv("WAIT_SECONDS", str(seconds))
        rc = wait_for_gpus.main()
        assert asked == ["/its/kubeconfig", "its-context"]
        printed = capsys.readouterr()
        return rc, printed.out, printed.err

    return run


def test_wait_ends_with_the_last_expected_gpu(wait):
    api = Api([[], [slice_("a", device("gpu-0"))], [slice_("a", device("gpu-0"), device("gpu-1"))]])
    rc, out, err = wait(api, {"a": 2}, 60)
    assert (rc, err, api.looks) == (0, "", 3)
    answer = json.loads(out)
    assert answer["clusterUid"] == "uid-of-kube-system"
    assert [gpu["name"] for gpu in answer["gpus"]] == ["gpu-0", "gpu-1"]


def test_time_out_says_what_is_missing_and_shows_the_end_of_the_plugins_log(wait):
    log = [f"line {number}" for number in range(50)]
    api = Api([[slice_("a", device("gpu-0"))]], [pod({"running": {"startedAt": "now"}}, log)])
    rc, out, err = wait(api, {"a": 2, "b": 1}, 0)
    assert (rc, out) == (1, "")
    assert err.startswith(
        "after 0 s: a: 1 GPUs published, 2 expected; b: 0 GPUs published, 1 expected\n"
        'pod plugin on a: Running\n  container gpus: {"running": {"startedAt": "now"}}\n    gpus: line 30\n'
    )
    assert err.endswith("    gpus: line 49\n") and len(err.splitlines()) == 3 + waiting.LOG_LINES


@pytest.mark.parametrize("slices", [[["gpu-0", "gpu-1"]], [[], ["gpu-0", "gpu-1"]]])
@pytest.mark.parametrize("expected", [1, 2])
def test_gpu_that_may_not_be_published_ends_the_wait_at_once(
    wait, slices: list[list[str]], expected: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ONLY_GPUS", '["uuid-of-gpu-0"]')
    rc, out, err = wait(Api([[slice_("a", *map(device, names))] for names in slices]), {"a": expected}, 60)
    assert (rc, out) == (1, "")
    assert err == "a gpu-1: uuid-of-gpu-1 is published, and gpu.devices does not name it\n"


def test_gpu_that_may_be_published_is_waited_for(wait, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ONLY_GPUS", '["uuid-of-gpu-1"]')
    rc, out, _ = wait(Api([[], [slice_("a", device("gpu-1"))]]), {"a": 1}, 60)
    assert rc == 0 and json.loads(out)["gpus"][0]["uuid"] == "uuid-of-gpu-1"


def test_time_out_without_a_plugin_asks_for_the_label(wait):
    rc, _, err = wait(Api([[]]), {"a": 1}, 0)
    assert rc == 1
    assert "no pod of the kubelet plugin in dra-driver-nvidia-gpu; does a node have the label" in err


@pytest.mark.parametrize(
    ("generation", "status", "line"),
    [
        (2, {"observedGeneration": 1}, "plugin: its controller has not seen the change yet"),
        (2, {"observedGeneration": 2, "desiredNumberScheduled": 2}, "plugin: 0 of 2 pods updated, 0 ready"),
        (
            1,
            {"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1},
            "plugin: 1 of 1 pods updated, 0 ready",
        ),
    ],
)
def test_slices_of_an_earlier_plugin_do_not_end_the_wait(wait, generation: int, status: dict[str, int], line: str):
    plugin = Thing({"metadata": {"name": "plugin", "generation": generation}, "status": status})
    rc, _, err = wait(Api([[slice_("a", device("gpu-0"))]], daemon_sets=[plugin]), {"a": 1}, 0)
    assert rc == 1
    assert err.startswith(f"after 0 s: {line}\n")


def test_plugin_that_is_rolled_out_is_not_waited_for():
    status = dict.fromkeys(("desiredNumberScheduled", "updatedNumberScheduled", "numberReady"), 1)
    plugin = Thing({"metadata": {"name": "plugin", "generation": 1}, "status": {"observedGeneration": 1, **status}})
    assert unfinished_rollouts(Api([[]], daemon_sets=[plugin]), NAMESPACE) == []


def test_init_container_that_has_not_finished_is_what_the_log_shows():
    running = pod({"waiting": {"reason": "PodInitializing"}}, ["no driver"], {"state": {"running": {}}, "ready": False})
    text = explain(Api([[]], [running]), NAMESPACE)
    assert "    init-container: no driver" in text
    assert "    gpus: no driver" not in text, "a container that waits has no log"


def test_init_container_that_has_finished_says_nothing_any_more():
    done = pod({"terminated": {"exitCode": 1}}, ["crash"], {"state": {"terminated": {"exitCode": 0}}, "ready": True})
    text = explain(Api([[]], [done]), NAMESPACE)
    assert "    gpus: crash" in text and "    init-container: crash" not in text


def test_pod_that_is_on_no_node_is_told_as_such():
    pending = Thing({"spec": {}, "status": {"phase": "Pending"}})
    assert explain(Api([[]], [pending]), NAMESPACE) == "pod plugin on no node: Pending"
