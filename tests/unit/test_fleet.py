"""Fleet: the nodes that a config means, copies of what a node publishes, and the command that makes both."""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest

from checks import fleet as live
from components.commands import fleet
from components.commands.fleet import NoTemplateError
from components.commands.wait_for_gpus import DRIVER, published_devices
from gpus.fleet import LABEL, RACK_LABEL
from gpus.models import GPU_MODELS, simulated_gpus
from modules import changes
from modules import fleet as fleet_module
from settings import NodeGpus, Settings, SettingsError
from tests.golden import stacks

TWO = {"cluster": {"workers": 2}, "gpu": {"count": 4, "nodes": [{"model": "l40s"}, {"model": "h100-80gb", "count": 2}]}}


def settings(**block: Any) -> Settings:
    return Settings.parse({"modules": ["01", "02", "12"], **TWO, "fleet": block}, "test")


def test_nodes_of_other_models_are_the_last_ones():
    assert settings(nodes=3, mix={"h100-80gb": 1}).fleet_nodes == (
        NodeGpus("fleet-0000", "l40s", 4),
        NodeGpus("fleet-0001", "l40s", 4),
        NodeGpus("fleet-0002", "h100-80gb", 2),
    )
    (node,) = settings(nodes=1, model="h100-80gb", gpusPerNode=1).fleet_nodes
    assert node == NodeGpus("fleet-0000", "h100-80gb", 1)


def test_fleet_lets_claims_share_gpus_by_memory():
    assert settings().consumable_shares == "memory"


def test_nodes_in_parts_are_a_kind_of_their_own():
    gpu = {"count": 2, "nodes": [{"model": "a100-80gb", "mig": ["empty", []]}, {"model": "h100-80gb"}]}
    base = {"cluster": {"workers": 2}, "gpu": gpu, "driver": {"featureGates": {"DynamicMIG": True}}}
    fleet_block = {"nodes": 3, "mix": {"h100-80gb/mig": 1}, "gpusPerNode": 1}
    made = Settings.parse({"modules": ["01", "02", "12"], **base, "fleet": fleet_block}, "test")
    assert [made.fleet_kind(node) for node in made.fleet_nodes] == ["a100-80gb/mig"] * 2 + ["h100-80gb/mig"]
    assert made.fleet_nodes[1:] == (
        NodeGpus("fleet-0001", "a100-80gb", 1, ("empty",)),
        NodeGpus("fleet-0002", "h100-80gb", 1),
    )
    # Module 10.6 brings the gate.
    gpu = {"nodes": [{"model": "h100-80gb"}, {"model": "a100-80gb"}]}
    block = {"modules": ["01", "02", "10.6", "12"], "cluster": {"workers": 2}, "gpu": gpu}
    made = Settings.parse({**block, "fleet": {"nodes": 2, "mix": {"a100-80gb": 1}}}, "test")
    assert [made.fleet_kind(node) for node in made.fleet_nodes] == ["h100-80gb/mig", "a100-80gb"]


def test_nodes_are_told_in_words():
    nodes = [NodeGpus(f"fleet-000{number}", "l40s", 4) for number in range(2)]
    assert fleet_module.in_words("l40s", nodes) == "fleet-0000 to -0001: 4 l40s each, whole"
    one = fleet_module.in_words("h100-80gb/mig", [NodeGpus("fleet-0009", "h100-80gb", 8)])
    assert one == "fleet-0009: 8 h100-80gb, MIG on demand"


def test_another_mix_is_told_in_words():
    assert list(changes.fleet_changes(None, ["a"])) == list(changes.fleet_changes(["a"], ["a"])) == []
    was, will, gone, kept = changes.fleet_changes(["a", "b"], ["a", "c"])
    assert (was, will, gone) == ("was b", "will be c", "pods on nodes that go are deleted")
    assert kept.startswith("pods on other nodes keep what they have")


def device(name: str, *consumes: str) -> dict[str, Any]:
    """GPU, or with -mig- in its name a part of one; `consumes` are the counters that it takes one each of."""
    kind, uuid = ("mig", "parentUUID") if "-mig-" in name else ("gpu", "uuid")
    attributes = {"type": {"string": kind}, uuid: {"string": f"GPU-{name}"}, "productName": {"string": "X"}}
    if kind == "mig":
        attributes["profile"] = {"string": name.split("-")[3]}
    made = {"name": name, "attributes": attributes, "capacity": {"memory": {"value": "80Gi"}}}
    part = {"counterSet": f"gpu-{name.split('-')[1]}-set", "counters": {one: {"value": "1"} for one in consumes}}
    return {**made, "consumesCounters": [part]} if consumes else made


def slice_of(node: str, *devices: dict[str, Any], of: int = 1, generation: int = 7, **metadata: Any) -> dict[str, Any]:
    pool = {"name": node, "generation": generation, "resourceSliceCount": of}
    return {
        "metadata": {"name": f"{node}-x", "labels": {}, **metadata},
        "spec": {"driver": DRIVER, "nodeName": node, "pool": pool, "devices": list(devices)},
    }


def in_parts(node: str, gpus: int = 2) -> list[dict[str, Any]]:
    """Slices of a node as NVIDIA's driver publishes them with the gate DynamicMIG: counters, and one for each GPU."""
    counters = slice_of(node, of=gpus + 1)
    del counters["spec"]["devices"]
    sets = [
        {"name": f"gpu-{number}-set", "counters": {"slice-0": {"value": "1"}, "slice-1": {"value": "1"}}}
        for number in range(gpus)
    ]
    counters["spec"]["sharedCounters"] = sets
    of_gpus = [
        slice_of(
            node,
            device(f"gpu-{number}", "slice-0", "slice-1"),
            device(f"gpu-{number}-mig-1g-19-0", "slice-0"),
            device(f"gpu-{number}-mig-1g-19-1", "slice-1"),
            of=gpus + 1,
        )
        for number in range(gpus)
    ]
    return [*reversed(of_gpus), counters]


def test_copy_has_the_first_gpus_of_its_template_with_uuids_of_its_own():
    names = [f"gpu-{number}" for number in (10, 2, 0, 1)]
    template = slice_of("worker", *map(device, names))["spec"]
    before = deepcopy(template)
    (spec,) = fleet.copy_of([template], "fleet-0003", 3)
    assert [one["name"] for one in spec["devices"]] == ["gpu-2", "gpu-0", "gpu-1"]
    uuids = [one["attributes"].pop("uuid")["string"] for one in spec["devices"]]
    assert uuids == [simulated_gpus("fleet-0003", GPU_MODELS["l40s"], 3)[number].uuid for number in (2, 0, 1)]
    originals = {one["name"]: one for one in before["devices"]}
    for one in spec["devices"]:
        assert one["attributes"] == {k: v for k, v in originals[one["name"]]["attributes"].items() if k != "uuid"}
        assert one["capacity"] == originals[one["name"]]["capacity"]
    assert (spec["driver"], spec["nodeName"]) == (DRIVER, "fleet-0003")
    assert spec["pool"] == {"name": "fleet-0003", "generation": 1, "resourceSliceCount": 1}
    assert template == before
    with pytest.raises(NoTemplateError, match="worker: publishes 4 GPUs, and 5 are to be copied"):
        fleet.copy_of([template], "fleet-0000", 5)


def test_copy_of_gpus_in_parts_has_their_parts_and_their_counters():
    (template,) = fleet.templates(in_parts("worker", 3)).values()
    counters, *of_gpus = fleet.copy_of(template, "fleet-0000", 2)
    assert "devices" not in counters
    assert [one["name"] for one in counters["sharedCounters"]] == ["gpu-0-set", "gpu-1-set"]
    assert [len(spec["devices"]) for spec in of_gpus] == [3, 3] and "sharedCounters" not in of_gpus[0]
    for number, spec in enumerate(of_gpus):
        uuid = {"string": simulated_gpus("fleet-0000", GPU_MODELS["h100-80gb"], 2)[number].uuid}
        whole, *parts = spec["devices"]
        assert whole["attributes"]["uuid"] == uuid
        assert [one["attributes"]["parentUUID"] for one in parts] == [uuid, uuid]
        assert not any("uuid" in one["attributes"] for one in parts)
        originals = template[number + 1]["devices"]
        assert [one["consumesCounters"] for one in spec["devices"]] == [one["consumesCounters"] for one in originals]
    assert {spec["pool"]["resourceSliceCount"] for spec in (counters, *of_gpus)} == {3}


def test_node_is_copied_once_all_its_slices_are_there():
    groups = [{"template": "worker", "nodes": 1, "gpus": 1}, {"template": "other", "nodes": 1, "gpus": 1}]
    slices = in_parts("worker")
    assert list(fleet.incomplete(groups, slices)) == []
    assert list(fleet.incomplete(groups, slices[1:])) == ["worker: 2 of 3 ResourceSlices are there, and all are copied"]
    # The driver writes the next generation beside the one before.
    assert len(fleet.templates([*slices, slice_of("worker", device("gpu-0"), generation=8)])["worker"]) == 1


def test_only_slices_of_the_driver_on_nodes_of_no_fleet_are_copied():
    other = slice_of("worker", device("nic-0"))
    other["spec"]["driver"] = "nic.example.com"
    made = slice_of("fleet-0000", device("gpu-0"), labels={LABEL: "true"})
    worker = slice_of("worker", device("gpu-0"))
    assert fleet.templates([other, made, worker]) == {"worker": [worker["spec"]]}


def test_node_bears_its_number_its_rack_and_its_stack():
    node = fleet.node_document(123, "mine")
    assert node["metadata"]["name"] == "fleet-0123"
    labels = {LABEL: "true", RACK_LABEL: "rack-012", "kubernetes.io/hostname": "fleet-0123"}
    assert node["metadata"]["labels"] == labels
    assert node["metadata"]["annotations"]["dra-workshop/stack"] == "mine"
    # kube-proxy and networks of pods go to every node of that system.
    assert "kubernetes.io/os" not in node["metadata"]["labels"]


def ready(name: str, status: str = "True", *taints: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "spec": {"taints": [{"key": key} for key in (LABEL, *taints)]},
        "status": {"conditions": [{"type": "Ready", "status": status}]},
    }


def test_node_is_awaited_until_it_is_ready_and_has_no_other_taint():
    nodes = [ready("a"), ready("b", "Unknown"), ready("c", "True", "node.kubernetes.io/not-ready")]
    assert list(fleet.not_ready([*nodes, {**ready("d"), "status": {}}])) == [
        "b: Ready is Unknown, taints to go: none",
        "c: Ready is True, taints to go: node.kubernetes.io/not-ready",
        "d: Ready is unknown, taints to go: none",
    ]


@dataclass
class Cluster:
    """Nodes and slices of a cluster, and what was done to them."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    slices: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    keeps_nodes_ready: bool = True
    generated: int = 0

    def get(self, kind: str, label_selector: Mapping[str, str] | None = None) -> list["Thing"]:
        if kind == "nodes":
            wanted = (label_selector or {}).items()
            nodes = [raw for raw in self.nodes.values() if wanted <= raw["metadata"].get("labels", {}).items()]
            return [Thing(raw, self, "node") for raw in nodes]
        assert kind == fleet.SLICES
        return [Thing(raw, self, "slice") for raw in list(self.slices.values())]


@dataclass
class Thing:
    """Object as kr8s gives it."""

    raw: dict[str, Any]
    api: Cluster
    kind: str

    @property
    def name(self) -> str:
        return self.raw["metadata"]["name"]

    def create(self) -> None:
        metadata = self.raw["metadata"]
        if prefix := metadata.get("generateName"):
            self.api.generated += 1
            metadata["name"] = f"{prefix}{self.api.generated}"
        metadata["uid"] = f"uid-{len(self.api.done)}-{metadata['name']}"
        if self.kind == "node" and self.api.keeps_nodes_ready:
            self.raw["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        (self.api.nodes if self.kind == "node" else self.api.slices)[metadata["name"]] = self.raw
        self.api.done.append(f"create {self.kind} {metadata['name']}")

    def delete(self) -> None:
        if self.kind == "slice":
            del self.api.slices[self.name]
            self.api.done.append(f"delete {self.kind} {self.name}")
            return
        node = self.api.nodes.pop(self.name)
        for name, one in list(self.api.slices.items()):
            if any(owner["uid"] == node["metadata"]["uid"] for owner in one["metadata"].get("ownerReferences", [])):
                del self.api.slices[name]
        self.api.done.append(f"delete {self.kind} {self.name}")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster(slices={"worker-x": slice_of("worker", device("gpu-0"), device("gpu-1"))})
    monkeypatch.setattr(fleet, "Node", lambda raw, api: Thing(raw, api, "node"))
    monkeypatch.setattr(fleet, "ResourceSlice", lambda raw, api: Thing(raw, api, "slice"))
    monkeypatch.setattr(fleet, "connect", lambda kubeconfig, context: made)
    for name in ("KUBECONFIG", "KUBE_CONTEXT"):
        monkeypatch.setenv(name, "any")
    monkeypatch.setenv("DRA_WORKSHOP_STACK", "mine")
    monkeypatch.setenv("WAIT_SECONDS", "0")
    monkeypatch.setattr("sys.argv", ["fleet"])
    return made


def ask(monkeypatch: pytest.MonkeyPatch, *groups: tuple[str, int, int]) -> int:
    asked = [{"template": template, "nodes": nodes, "gpus": gpus} for template, nodes, gpus in groups]
    monkeypatch.setenv("FLEET", json.dumps(asked))
    return fleet.main()


def test_fleet_grows_shrinks_and_changes(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert ask(monkeypatch, ("worker", 2, 2)) == 0
    assert capsys.readouterr().out == "2 nodes with 4 GPUs (simulated, and nothing behind them)\n"
    assert list(cluster.nodes) == ["fleet-0000", "fleet-0001"]
    owners = [cluster.slices[f"fleet-000{n}-{n + 1}"]["metadata"]["ownerReferences"][0] for n in range(2)]
    assert [owner["uid"] for owner in owners] == [node["metadata"]["uid"] for node in cluster.nodes.values()]
    cluster.done.clear()
    assert ask(monkeypatch, ("worker", 2, 2)) == 0
    assert cluster.done == []
    assert ask(monkeypatch, ("worker", 2, 2), ("worker", 1, 1)) == 0
    assert cluster.done == ["create node fleet-0002", "create slice fleet-0002-3"]
    cluster.done.clear()
    assert ask(monkeypatch, ("worker", 1, 1)) == 0
    assert sorted(cluster.done[:2]) == ["delete node fleet-0001", "delete node fleet-0002"]
    assert cluster.done[2:] == ["create slice fleet-0000-4", "delete slice fleet-0000-1"]
    spec = cluster.slices["fleet-0000-4"]["spec"]
    assert [one["name"] for one in spec["devices"]] == ["gpu-0"] and spec["pool"]["generation"] == 2
    monkeypatch.setattr("sys.argv", ["fleet", "--delete"])
    assert fleet.main() == 0
    assert not cluster.nodes and list(cluster.slices) == ["worker-x"]


def test_slice_of_a_node_that_was_made_anew_is_made_anew(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    assert ask(monkeypatch, ("worker", 1, 2)) == 0
    cluster.nodes["fleet-0000"]["metadata"]["uid"] = "another"
    cluster.done.clear()
    assert ask(monkeypatch, ("worker", 1, 2)) == 0
    assert cluster.done == ["create slice fleet-0000-2"]


def test_fleet_becomes_one_in_parts(cluster: Cluster, monkeypatch: pytest.MonkeyPatch):
    assert ask(monkeypatch, ("worker", 1, 2)) == 0
    del cluster.slices["worker-x"]
    cluster.slices |= named(in_parts("worker"))
    cluster.done.clear()
    assert ask(monkeypatch, ("worker", 1, 2)) == 0
    assert cluster.done == [*(f"create slice fleet-0000-{number}" for number in (2, 3, 4)), "delete slice fleet-0000-1"]
    pools = [one["spec"]["pool"] for name, one in cluster.slices.items() if name.startswith("fleet")]
    assert pools == [{"name": "fleet-0000", "generation": 2, "resourceSliceCount": 3}] * 3
    cluster.done.clear()
    assert ask(monkeypatch, ("worker", 1, 2)) == 0
    assert cluster.done == []


def test_slices_that_the_driver_does_not_publish_are_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cluster.slices = named(in_parts("worker")[:2])
    assert ask(monkeypatch, ("worker", 1, 2)) == 1
    text = "after 0 s:\nworker: 2 of 3 ResourceSlices are there, and all are copied\n"
    assert capsys.readouterr().err == text and cluster.done == []


def named(slices: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {f"worker-{number}": one for number, one in enumerate(slices)}


def test_another_stacks_fleet_in_the_same_cluster_is_left_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    theirs = fleet.node_document(7, "theirs")
    theirs["metadata"]["uid"] = "theirs"
    cluster.nodes["fleet-0007"] = theirs
    assert ask(monkeypatch, ("worker", 2, 1)) == 0
    assert capsys.readouterr().out.startswith("2 nodes with 2 GPUs")
    assert ask(monkeypatch, ("worker", 1, 1)) == 0
    assert set(cluster.nodes) == {"fleet-0000", "fleet-0007"}
    cluster.done.clear()
    capsys.readouterr()
    assert ask(monkeypatch, ("worker", 8, 1)) == 1
    assert capsys.readouterr().err == (
        "fleet-0007: is a node that stack theirs made, and a cluster has one fleet; take that one down first, or use "
        "another cluster\n"
    )
    assert cluster.done == []
    monkeypatch.setattr("sys.argv", ["fleet", "--delete"])
    assert fleet.main() == 0
    assert cluster.nodes == {"fleet-0007": theirs}


def test_a_node_of_somebody_with_the_name_of_one_of_a_fleet_is_left_alone(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cluster.nodes["fleet-0001"] = {"metadata": {"name": "fleet-0001", "uid": "1"}, "spec": {}, "status": {}}
    assert ask(monkeypatch, ("worker", 2, 1)) == 1
    assert capsys.readouterr().err.startswith("fleet-0001: is a node that somebody else made")
    assert cluster.done == [] and set(cluster.nodes) == {"fleet-0001"}


def test_what_cannot_be_copied_is_told_before_anything_is_made(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert ask(monkeypatch, ("worker", 1, 2), ("worker2", 1, 2)) == 1
    assert capsys.readouterr().err == "worker2: publishes no GPUs by gpu.nvidia.com, and they are to be copied\n"
    assert cluster.done == []


def test_nodes_that_do_not_get_ready_are_told(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    cluster.keeps_nodes_ready = False
    assert ask(monkeypatch, ("worker", 7, 1)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == ["after 0 s:", "fleet-0000: Ready is unknown, taints to go: none"]
    assert lines[-1] == "and 2 more" and len(lines) == 7


def test_gpus_of_a_fleet_are_not_among_those_that_the_driver_published(cluster: Cluster):
    cluster.slices["made"] = slice_of("fleet-0000", device("gpu-0"), labels={LABEL: "true"})
    assert [one["node"] for one in published_devices(cluster)] == ["worker", "worker"]


def claim(name: str, device: str, memory: int) -> live.Taken:
    return live.Taken(f"space/{name}", name, ("node", device), "gpu", Fraction(memory))


@pytest.mark.parametrize(
    ("claims", "lines"),
    [
        ([claim("a", "gpu-0", 5), claim("b", "gpu-0", 5), claim("c", "gpu-1", 10)], []),
        (
            [claim("a", "gpu-0", 5), claim("b", "gpu-0", 6), claim("c", "gpu-1", 1)],
            ["node/gpu-0: 11 of 10 bytes: space/a, space/b"],
        ),
        # Without consumable capacity a claim names no part: the device is its own.
        ([claim("a", "gpu-0", 0), claim("b", "gpu-0", 0)], ["node/gpu-0: 20 of 10 bytes: space/a, space/b"]),
    ],
)
def test_device_of_which_claims_have_more_than_there_is_is_seen(claims: list[live.Taken], lines: list[str]):
    memory = {("node", f"gpu-{number}"): Fraction(10) for number in range(2)}
    assert live.overbooked(claims, memory) == lines


def node_in_parts() -> dict[str, dict[str, Any]]:
    """What the checks see of one node with a GPU in parts."""
    *of_gpus, counters = (one["spec"] for one in in_parts("node", 1))
    (of_gpu,) = of_gpus
    return {"node": {"devices": of_gpu["devices"], "sharedCounters": counters["sharedCounters"]}}


PARTS = [claim(f"part-{number}", f"gpu-0-mig-1g-19-{number}", 0) for number in range(2)]
WHOLE = claim("whole", "gpu-0", 0)


@pytest.mark.parametrize(
    ("claims", "overdrawn", "halves"),
    [
        (PARTS, [], []),
        ([WHOLE], [], []),
        # Claims that share a device take its counters once.
        ([*PARTS, claim("another", "gpu-0-mig-1g-19-0", 0)], [], []),
        (
            [WHOLE, PARTS[1]],
            ["node/gpu-0-set/slice-1: 1 too many"],
            ["node/gpu-0: gpu-0, gpu-0-mig-1g-19-1"],
        ),
    ],
)
def test_part_of_a_gpu_that_is_in_use_whole_is_seen(claims: list[live.Taken], overdrawn: list[str], halves: list[str]):
    assert live.overdrawn(live.counters_left(claims, node_in_parts())) == overdrawn
    assert live.halves(claims) == halves


@pytest.mark.parametrize(
    ("claims", "profile", "free"),
    [
        ([], None, ["gpu-0"]),
        ([], "1g", ["gpu-0-mig-1g-19-0", "gpu-0-mig-1g-19-1"]),
        (PARTS[:1], None, []),
        (PARTS[:1], "1g", ["gpu-0-mig-1g-19-1"]),
        ([WHOLE], "1g", []),
        ([], "2g", []),
    ],
)
def test_what_a_waiting_claim_could_have_is_seen(claims: list[live.Taken], profile: str | None, free: list[str]):
    specs = node_in_parts()
    left = live.counters_left(claims, specs)
    assert live.could_have(claims, left, specs, profile) == [("node", name) for name in free]


def test_pods_of_an_example_are_as_many_as_names():
    documents = live.pods(live.example("pair"), ["a", "b"], {"x": "y"})
    assert [(one["kind"], one["metadata"]["name"]) for one in documents] == [
        ("ResourceClaimTemplate", "pair"),
        ("Pod", "a"),
        ("Pod", "b"),
    ]
    assert documents[1]["spec"]["nodeSelector"] == {LABEL: "true", "x": "y"}


def problems(config: dict[str, Any]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        Settings.parse(config, "test")
    return [problem.key for problem in caught.value.problems]


def test_cluster_that_is_named_may_have_a_fleet():
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    config = {"modules": ["01", "02", "12"], "cluster": cluster, "gpu": {"nodes": [{"name": "a"}]}}
    allowed = Settings.parse({**config, "fleet": {"existingCluster": "lab"}}, "test")
    assert allowed.fleet_nodes[0] == NodeGpus("fleet-0000", "h100-80gb", 2)
    # Which of two contexts is meant is asked for once.
    assert problems({**config, "cluster": {**cluster, "context": None}, "fleet": {"existingCluster": "lab"}}) == [
        "cluster.context"
    ]


@pytest.mark.parametrize(
    ("blocks", "keys"),
    [
        ({"cluster": 5}, ["cluster"]),
        ({"gpu": 5}, ["gpu"]),
        ({"gpu": {"model": "h100"}}, ["gpu.model"]),
    ],
)
def test_what_is_wrong_elsewhere_is_told_once(blocks: dict[str, Any], keys: list[str]):
    assert problems({"modules": ["01", "02", "12"], **blocks}) == keys
