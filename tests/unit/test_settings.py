"""Settings: what is refused and how it is said, what is accepted and what follows from it."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml

from machine import images
from settings import NodeGpus, Problem, Settings, SettingsError, catalog
from settings import stack as settings_stack
from settings.rules import cluster as cluster_rules
from tests.golden import recorder
from tests.unit import (
    wrong_capacity,
    wrong_clusters,
    wrong_fleet,
    wrong_host,
    wrong_mig,
    wrong_mps,
    wrong_mps_memory,
    wrong_settings,
)
from tests.unit.wrong_settings import Wrong
from toolchain.paths import CHECKOUT

WRONG = (
    *wrong_settings.WRONG,
    *wrong_clusters.WRONG,
    *wrong_host.WRONG,
    *wrong_mig.WRONG,
    *wrong_mps.WRONG,
    *wrong_mps_memory.WRONG,
    *wrong_capacity.WRONG,
    *wrong_fleet.WRONG,
)
KUBECONFIGS = {
    "good": b"contexts: [{name: lab}, {name: 7}]\n",
    "empty": b"contexts: []\n",
    "unreadable": b"contexts: []\n",
    "binary": b"\xff\xfe\x00",
    "not-yaml": b"{\n",
    "something-else": b"kind: Pod\n",
    "a-text": b"contexts\n",
}
STACKS = {
    "other": "config:\n  dra-workshop:cluster:\n    name: taken\n",
    "plain": "encryptionsalt: v1:x\n",
    "existing": "config:\n  dra-workshop:cluster:\n    provider: existing\n    name: free\n",
    "broken": "config: {\n",
    "listed": "- config\n",
    "text": "config:\n  dra-workshop:cluster: free\n",
}


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with other stacks' files, beside kubeconfigs of every kind."""
    (tmp_path / "stacks").mkdir()
    for name, text in STACKS.items():
        (tmp_path / "stacks" / f"Pulumi.{name}.yaml").write_text(text)
    for name, content in KUBECONFIGS.items():
        (tmp_path / name).write_bytes(content)
    monkeypatch.setattr(cluster_rules, "CHECKOUT", tmp_path)
    monkeypatch.setattr(settings_stack, "STATE", tmp_path / ".state")
    read_text = Path.read_text

    def read(path: Path, *args: Any, **kwargs: Any) -> str:
        # File modes do not stop root, who may run these tests.
        if path == tmp_path / "unreadable":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read)
    return tmp_path


def placed(data: Any, folder: Path) -> Any:
    return json.loads(json.dumps(data).replace("<tmp>", str(folder)))


def problems(config: dict[str, Any], stack: str = "test") -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        Settings.parse(config, stack)
    return caught.value.problems


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_config_is_refused_with_key_value_rule_and_remedy(wrong: Wrong, checkout: Path):
    found = problems(placed(wrong.config, checkout))
    assert [problem.key for problem in found] == [wrong.key]
    key, rule, remedy = str(found[0]).partition(": ")[0], found[0].rule, found[0].remedy
    assert key == wrong.key
    assert json.dumps(placed(wrong.value, checkout)) in str(found[0])
    assert wrong.rule in rule and rule in str(found[0])
    assert wrong.remedy in remedy and str(found[0]).endswith(f"; {remedy}")


def test_every_wrong_config_has_a_name_of_its_own():
    assert len({wrong.name for wrong in WRONG}) == len(WRONG)


def test_messages_are_one_line_each(checkout: Path):
    lines = [str(problem) for wrong in WRONG for problem in problems(placed(wrong.config, checkout))]
    assert [line for line in lines if "\n" in line or line.count("(") != line.count(")")] == []


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(SettingsError) as caught:
        Settings.parse(
            {
                "custer": {},
                "modules": ["00", "02", "77"],
                "cluster": {"workers": 9},
                "gpu": {"model": "h1000"},
                "driver": {"featureGates": {"DynamicMIG": True, "MPSSupport": True, "Nope": False}},
                "images": {"gpuSim": "sim"},
                "timeouts": {"cluster": 5, "driver": "1m"},
            },
            "test",
        )
    assert [problem.key for problem in caught.value.problems] == [
        *("custer", "cluster.workers", "timeouts.cluster", "timeouts.driver"),
        *("modules", "modules", "gpu.model", "driver.featureGates", "driver.featureGates", "images.gpuSim"),
    ]
    text = str(caught.value)
    assert text.startswith("10 problems in the stack's config:\n")
    assert len(text.splitlines()) == 11


def test_one_problem_is_not_called_problems():
    with pytest.raises(SettingsError, match=re.escape("1 problem in the stack's config:\n  modules: ")):
        Settings.parse({"modules": []}, "test")


def test_a_block_that_is_wrong_does_not_hide_what_is_wrong_with_others():
    keys = [problem.key for problem in problems({"modules": 5, "cluster": {"workers": -1}, "gpu": {"count": 0}})]
    assert keys == ["cluster.workers", "gpu.count", "modules"]
    assert [p.key for p in problems({"driver": 1, "images": 2, "gpu": {"model": "x"}})] == [
        *("driver", "images", "gpu.model")
    ]


@pytest.mark.parametrize(("stack", "rule"), [("Mine", "lower-case"), ("s" * 28, "has 41 characters")])
def test_a_stack_name_that_makes_no_cluster_name_is_refused(stack: str, rule: str):
    (problem,) = problems({}, stack)
    assert problem.key == "cluster.name (from the stack's name)"
    assert problem.value == f"dra-workshop-{stack}" and rule in problem.rule


def test_a_stack_may_have_the_cluster_that_its_own_file_names():
    assert Settings.parse({"cluster": {"name": "taken"}}, "other").cluster_name == "taken"


def test_files_of_other_stacks_that_name_no_kind_cluster_refuse_nothing():
    assert Settings.parse({"cluster": {"name": "free"}}, "test").cluster_name == "free"


def test_an_empty_config_is_complete(checkout: Path):
    made = Settings.parse({}, "test")
    assert made.modules == catalog.DEFAULT
    assert made.cluster_name == "dra-workshop-test"
    assert made.context == "kind-dra-workshop-test"
    assert made.kubeconfig == checkout / ".state" / "test" / "kubeconfig"
    assert made.gpu_nodes == (NodeGpus("dra-workshop-test-worker", "h100-80gb", 2),)


def test_pulumi_yaml_declares_the_default_modules():
    declared = yaml.safe_load((CHECKOUT / "Pulumi.yaml").read_text())["config"]["modules"]["default"]
    assert tuple(declared) == catalog.DEFAULT


def test_modules_are_kept_in_the_order_in_which_they_are_built():
    assert Settings.parse({"modules": ["02", "00", "01"]}, "test").modules == ("00", "01", "02")


@pytest.mark.parametrize(
    ("workers", "nodes"),
    [(0, ["a-control-plane"]), (1, ["a-worker"]), (3, ["a-worker", "a-worker2", "a-worker3"])],
)
def test_kind_gpu_nodes_are_the_workers_or_the_only_node(workers: int, nodes: list[str]):
    made = Settings.parse({"cluster": {"name": "a", "workers": workers}, "gpu": {"model": "l40s", "count": 4}}, "test")
    assert made.gpu_nodes == tuple(NodeGpus(node, "l40s", 4) for node in nodes)


def test_node_entries_override_model_and_count_in_the_order_of_the_workers():
    gpu = {"count": 3, "nodes": [{"model": "l40s"}, {"count": 1}, {}]}
    made = Settings.parse({"cluster": {"name": "a", "workers": 3}, "gpu": gpu}, "test")
    assert made.gpu_nodes == (
        NodeGpus("a-worker", "l40s", 3),
        NodeGpus("a-worker2", "h100-80gb", 1),
        NodeGpus("a-worker3", "h100-80gb", 3),
    )


def existing(checkout: Path, **gpu: Any) -> Settings:
    cluster = {"provider": "existing", "kubeconfig": str(checkout / "good"), "context": "lab"}
    return Settings.parse({"cluster": cluster, "gpu": gpu}, "test")


def test_existing_cluster_uses_the_named_nodes_and_its_own_kubeconfig(checkout: Path):
    made = existing(checkout, nodes=[{"name": "a.example", "count": 8}, {"name": "b", "model": "a100-40gb"}])
    assert made.gpu_nodes == (NodeGpus("a.example", "h100-80gb", 8), NodeGpus("b", "a100-40gb", 2))
    assert (made.cluster_name, made.context, made.kubeconfig) == ("lab", "lab", checkout / "good")


def test_kubeconfig_may_start_with_the_home_folder(checkout: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(checkout))
    cluster = {"provider": "existing", "kubeconfig": "~/good", "context": "lab"}
    made = Settings.parse({"cluster": cluster, "gpu": {"nodes": [{"name": "a"}]}}, "test")
    assert made.kubeconfig == checkout / "good"


def test_host_gpus_have_neither_model_nor_count(checkout: Path):
    assert existing(checkout, source="host", nodes=[{"name": "a"}]).gpu_nodes == (NodeGpus("a", None, None),)
    made = Settings.parse({"cluster": {"name": "a"}, "gpu": {"source": "host", "driverRoot": "/usr"}}, "test")
    assert made.gpu_nodes == (NodeGpus("a-worker", None, None),)


@pytest.mark.parametrize(
    "ref",
    [
        "registry.example.com:5000/team/driver:v0.5.0",
        f"registry.example.com/driver@sha256:{'0' * 64}",
        "localhost/dra-workshop/gpu-probe:v1",
        "kindest/node:v1.37.0",
    ],
)
def test_pinned_images_are_accepted(ref: str):
    made = Settings.parse({"images": {"draDriver": ref}, "cluster": {"nodeImage": ref}}, "test")
    assert (made.images["dra-driver"], made.cluster.node_image) == (ref, ref)


def test_gates_that_exclude_each_other_may_be_named_if_one_is_off():
    gates = {"DynamicMIG": True, "MPSSupport": False}
    assert Settings.parse({"driver": {"featureGates": gates}}, "test").driver.feature_gates == gates


def test_gates_that_need_each_other_may_be_named_together():
    gates = {"ComputeDomainCliques": True, "IMEXDaemonsWithDNSNames": True}
    assert Settings.parse({"driver": {"featureGates": gates}}, "test").driver.feature_gates == gates
    gates = dict.fromkeys(gates, False)
    assert Settings.parse({"driver": {"featureGates": gates}}, "test").driver.feature_gates == gates


@pytest.mark.parametrize(
    ("more", "verbosity"),
    [
        ({"modules": ["01", "02"]}, 4),
        ({"modules": ["01", "02", "10.1", "10.3"]}, 6),
        ({"modules": ["01", "02", "10.1", "10.3"], "driver": {"logVerbosity": 7}}, 7),
        ({"modules": ["01", "02"], "driver": {"logVerbosity": 0}}, 0),
    ],
)
def test_the_driver_logs_what_modules_read_in_its_log(more: dict[str, Any], verbosity: int):
    gpu = {"model": "a100-pcie-40gb", "mig": [["3g.20gb@4", "4g.20gb"]]} if "10.1" in more["modules"] else {}
    assert Settings.parse({"gpu": gpu, **more}, "test").log_verbosity == verbosity


def test_mig_of_the_host_may_change_where_the_stack_says_so():
    gpu = {"source": "host", "allowMigChange": True}
    driver = {"featureGates": {"DynamicMIG": True}}
    raw = {"modules": ["01", "02"], "gpu": gpu, "driver": driver}
    assert Settings.parse(raw, "test").gpu.allow_mig_change


def pulumi_config(monkeypatch: pytest.MonkeyPatch, **blocks: str) -> None:
    """The config as the engine hands it over: https://github.com/pulumi/pulumi, sdk/python, PULUMI_CONFIG."""
    config = {f"dra-workshop:{key}": text for key, text in blocks.items()} | {"kubernetes:context": "somebody-elses"}
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps(config))


def test_config_is_read_from_pulumi_and_other_projects_keys_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    pulumi_config(monkeypatch, modules='["01", "00"]', cluster='{"workers": 2}')
    made: list[Settings] = []
    recorder.run(lambda: made.append(Settings.from_pulumi()), "mine")
    assert made[0].stack == "mine" and made[0].modules == ("00", "01") and made[0].cluster.workers == 2


def test_plain_text_from_pulumi_is_judged_as_what_it_is(monkeypatch: pytest.MonkeyPatch):
    pulumi_config(monkeypatch, modules="00, 01")
    with pytest.raises(SettingsError, match=re.escape('modules: "00, 01" must be a list')):
        recorder.run(Settings.from_pulumi, "mine")


def run_main(monitor: recorder.Recorder, stack: str = "mine") -> recorder.Recording:
    return recorder.run(lambda: runpy.run_path(str(CHECKOUT / "__main__.py")), stack, monitor)


@pytest.mark.parametrize("wrong", WRONG[::10], ids=lambda wrong: wrong.name)
def test_wrong_config_registers_nothing(wrong: Wrong, checkout: Path, monkeypatch: pytest.MonkeyPatch):
    blocks = placed(wrong.config, checkout)
    pulumi_config(monkeypatch, **{key: json.dumps(value) for key, value in blocks.items()})
    monitor = recorder.Recorder()
    with pytest.raises(pulumi.RunError) as caught:
        run_main(monitor)
    assert wrong.key in str(caught.value)
    assert monitor.recording().resources == {}


def test_main_exports_what_the_modules_give(monkeypatch: pytest.MonkeyPatch, checkout: Path):
    pulumi_config(monkeypatch, modules='["01"]')
    index = {name: f"{name}:1" for name in ("node", "dra-driver", "gpu-sim", "gpu-probe")}
    monkeypatch.setattr(images, "read_index", lambda: index)
    outputs = run_main(recorder.Recorder()).outputs["dra-workshop-mine"]
    assert outputs == {
        "cluster": "dra-workshop-mine",
        "kubeconfig": str(checkout / ".state" / "mine" / "kubeconfig"),
        "modules": ["01"],
        "next": "make verify STACK=mine",
    }


def test_limit_of_a_chosen_gpu_of_the_host_is_accepted():
    uuid = wrong_host.UUID
    gpu = {"source": "host", "devices": [uuid], "allowComputeModeChange": True}
    mps = {"mode": "claim", "perDevicePinnedMemoryLimit": {uuid: "8Gi"}}
    settings = Settings.parse({"modules": ["01", "02", "04"], "gpu": gpu, "mps": mps}, "test")
    assert settings.gpu.devices == (uuid,)
