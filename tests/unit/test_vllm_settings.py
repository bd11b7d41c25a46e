"""The block `vllm`: what is refused and how it is said, and what follows from what is accepted."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gpus import vllm as vllm_memory
from gpus.vllm import Dimensions
from settings import Problem, Settings, SettingsError
from toolchain.paths import CHECKOUT

MODULES = ["01", "02", "04", "06", "06.5"]
# What https://huggingface.co/Qwen says of its models.
PARAMETERS = {"qwen2.5-0.5b": 494_032_768, "qwen2.5-1.5b": 1_543_714_304}
MODELS = CHECKOUT / "manifests" / "06-vllm"


def config(vllm: dict[str, Any] | None = None, **blocks: Any) -> dict[str, Any]:
    block = {} if vllm is None else {"vllm": vllm}
    return {"modules": MODULES, "gpu": {"source": "host"}, **block, **blocks}


def problems(raw: dict[str, Any]) -> list[Problem]:
    with pytest.raises(SettingsError) as caught:
        Settings.parse(raw, "test")
    return caught.value.problems


def model(**block: Any) -> dict[str, Any]:
    return {"model": block}


@pytest.mark.parametrize(
    ("vllm", "key", "rule", "remedy"),
    [
        ({"zz": 1}, "vllm.zz", "is not a key of vllm", "use one of model"),
        (model(pth="/x"), "vllm.model.pth", "is not a key of vllm.model", 'did you mean "path"?'),
        (
            model(dimensions={"hiddenSiz": 1}),
            "vllm.model.dimensions.hiddenSiz",
            "is not a key of",
            'did you mean "hiddenSize"?',
        ),
        ({"sweep": {"profil": "quick"}}, "vllm.sweep.profil", "is not a key of vllm.sweep", 'did you mean "profile"?'),
        (
            {"sweep": {"profile": "slow"}},
            "vllm.sweep.profile",
            "must be 'quick', 'standard' or 'full'",
            "set vllm.sweep.profile",
        ),
        ({"sweep": {"percentages": [0]}}, "vllm.sweep.percentages[0]", "must be at least 1", "use a value"),
        ({"maxModelLen": 1}, "vllm.maxModelLen", "must be at least 16", "use a value in that range"),
        ({"maxModelLen": 40000}, "vllm.maxModelLen", "is more than the 32768 positions of the model", "lower it"),
        (
            model(dummy="qwen2.5-15b"),
            "vllm.model.dummy",
            "is no model whose dimensions",
            'did you mean "qwen2.5-1.5b"?',
        ),
        (model(hub="a/b", claim="c", revision="1"), "vllm.model", "names more than one model", "keep one of"),
        (model(hub="a/b"), "vllm.model.hub", "is not pinned", "add vllm.model.revision"),
        (model(claim="c", revision="1"), "vllm.model.revision", "is for a hub's model", "drop it"),
        (model(claim="c", dummy="qwen2.5-1.5b"), "vllm.model.dummy", "is for a model without weights", "drop one"),
        (model(path="models"), "vllm.model.path", "must be an absolute path", "write it in full"),
        (model(path="/nowhere"), "vllm.model.path", "has no config.json", "name the folder of this machine"),
        (
            model(dimensions={"hiddenSize": 1537}),
            "vllm.model.dimensions.hiddenSize",
            "is no multiple of its 12 attention heads",
            "change one",
        ),
        (
            model(dimensions={"numKeyValueHeads": 5}),
            "vllm.model.dimensions.numAttentionHeads",
            "is no multiple of its 5 heads of keys and values",
            "change one",
        ),
        ({"pythonEnvironment": "/nowhere"}, "vllm.pythonEnvironment", "has no bin/python", "name the folder"),
        ({"memory": "lots"}, "vllm.memory", "is no quantity of memory", "write it like"),
        ({"sharedMemory": "1500"}, "vllm.sharedMemory", "rounds to 0 MiB", "write it in Mi or Gi"),
        ({"images": {"9": "v:1"}}, "vllm.images", "is no compute capability", 'write it like "9.0"'),
        ({"images": {"9.0": "v:latest"}}, "vllm.images.9.0", "is not pinned", "add a tag"),
        (
            {"activeThreadPercentage": 60},
            "vllm.activeThreadPercentage",
            "is above mps.activeThreadPercentage (50), which caps every client",
            "lower it or raise that",
        ),
        ({"pinnedDeviceMemoryLimit": "x"}, "vllm.pinnedDeviceMemoryLimit", "is no quantity of memory", "write it like"),
        (
            {"pinnedDeviceMemoryLimit": "9Gi"},
            "vllm.pinnedDeviceMemoryLimit",
            "is above the memory limit of mps (8Gi), which caps every client",
            "lower it or raise that",
        ),
        (
            {"pinnedDeviceMemoryLimit": "3Gi"},
            "vllm.pinnedDeviceMemoryLimit",
            "is too little: 2945 MiB of weights, 56 of keys and values for one request of 2048 tokens",
            "raise vllm.pinnedDeviceMemoryLimit",
        ),
    ],
)
def test_wrong_block_is_refused_with_its_remedy(vllm: dict[str, Any], key: str, rule: str, remedy: str):
    (found,) = problems(config(vllm))
    assert found.key == key
    assert found.rule.startswith(rule), found.rule
    assert found.remedy.startswith(remedy), found.remedy


def test_simulated_gpus_are_refused_with_both_remedies():
    (found,) = problems(config(gpu={}))
    assert (found.key, found.value) == ("modules", "06")
    assert str(found).endswith('runs CUDA code, and a simulated GPU runs none; set gpu.source to host or drop "06"')


@pytest.mark.parametrize("missing", ["04", "06"])
def test_modules_that_are_needed_are_named(missing: str):
    found = problems({**config(), "modules": [number for number in MODULES if number != missing]})
    assert {problem.key for problem in found} == {"modules"}
    assert all(f'needs "{missing}"' in problem.rule for problem in found)


def test_block_of_a_module_that_is_off_is_refused():
    (found,) = problems({"vllm": {"cpu": 3}})
    assert (found.key, found.value) == ("vllm", {"cpu": 3})
    (sweep,) = problems({**config({"sweep": {"repeats": 3}}), "modules": MODULES[:-1]})
    assert sweep.key == "vllm.sweep"


def test_class_of_the_server_is_taken():
    limits = {"activeThreadPercentage": 20, "pinnedDeviceMemoryLimit": "1Gi"}
    (found,) = problems(config(mps={"classes": {"small": limits, "vllm": limits}}))
    assert (found.key, found.value) == ("mps.classes", "vllm")


def test_shared_memory_of_a_claim_is_the_drivers():
    claim = {"mps": {"mode": "claim"}, "gpu": {"source": "host", "allowComputeModeChange": True}}
    (found,) = problems(config({"sharedMemory": "128Mi"}, **claim))
    assert found.rule.startswith("is more than the 64 MiB")
    assert Settings.parse(config({"sharedMemory": "64Mi"}, **claim), "test").vllm.shared_memory == "64Mi"


def test_all_that_is_wrong_is_told_at_once():
    wrong = {"memory": "x", "sharedMemory": "y", "activeThreadPercentage": 99, **model(dummy="no")}
    assert len(problems(config(wrong))) == 4


def test_wrong_limit_of_mps_is_said_once():
    assert [problem.key for problem in problems(config(mps={"pinnedDeviceMemoryLimit": "x"}))] == [
        "mps.pinnedDeviceMemoryLimit"
    ]


def test_folders_of_this_machine_are_accepted_where_they_have_what_is_needed(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    block = {**model(path=str(tmp_path)), "pythonEnvironment": str(tmp_path)}
    found = Settings.parse(config(block), "test")
    assert found.vllm_dummy is None and found.vllm_model_name == "model"


def test_another_cluster_has_folders_of_its_own():
    kubeconfig = Path(__file__).resolve().parents[1] / "golden" / "kubeconfig.yaml"
    cluster = {"provider": "existing", "kubeconfig": str(kubeconfig), "context": "lab"}
    gpu = {"source": "host", "nodes": [{"name": "gpu-node-1"}]}
    assert Settings.parse(config(model(path="/models/x"), cluster=cluster, gpu=gpu), "test").vllm.model.path


def test_model_without_weights_says_so_in_its_name():
    assert Settings.parse(config(), "test").vllm_model_name == "dummy-qwen2.5-1.5b"
    assert Settings.parse(config({"servedModelName": "mine"}), "test").vllm_model_name == "mine"
    hub = model(hub="org/model", revision="abc")
    assert Settings.parse(config(hub), "test").vllm_model_name == "org/model"


def test_dimensions_change_a_preset():
    changed = Settings.parse(config(model(dimensions={"numHiddenLayers": 2})), "test").vllm_dummy
    assert changed is not None and (changed["num_hidden_layers"], changed["hidden_size"]) == (2, 1536)


def test_limit_is_that_of_mps_unless_it_is_given():
    assert Settings.parse(config(), "test").vllm_limit == "8Gi"
    assert Settings.parse(config({"pinnedDeviceMemoryLimit": "6Gi"}), "test").vllm_limit == "6Gi"


def test_shared_claim_requests_what_vllm_may_take_as_well():
    with_07 = Settings.parse({**config(), "modules": [*MODULES, "07"]}, "test").shared_claim_mib
    assert with_07 == 3 * 8192 + 1024


@pytest.mark.parametrize("preset", vllm_memory.presets())
def test_weights_of_a_preset_are_as_many_as_its_model_has(preset: str):
    assert Dimensions.of(vllm_memory.config_of(preset, {})).parameters == PARAMETERS[preset]


def test_keys_and_values_take_what_their_dimensions_say():
    # 2 of 28 layers, 2 heads of 128, 2 bytes: 28672 bytes a token.
    assert Dimensions.of(vllm_memory.config_of("qwen2.5-1.5b", {})).cache_mib(1024) == 28


def test_utilization_is_what_the_limit_leaves_of_the_whole_gpu_rounded_down():
    # 8192 less 271 of context at 66 SMs and 1536 to spare, of 81079.
    assert vllm_memory.usable_mib(8192, 66) == 6385
    assert vllm_memory.utilization(8192, 66, 81079) == "0.0787"
    assert float(vllm_memory.utilization(8192, None, 81079)) < 0.0787


def test_manifest_for_kubectl_has_the_preset_and_the_share_of_the_defaults():
    (document,) = yaml.safe_load_all((MODELS / "1-model.yaml").read_text())
    assert json.loads(document["data"]["config.json"]) == vllm_memory.config_of("qwen2.5-1.5b", {})
    deployment, _ = yaml.safe_load_all((MODELS / "2-server.yaml").read_text())
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert f"--gpu-memory-utilization={vllm_memory.utilization(8192, 66, 81079)}" in args


def test_block_beside_malformed_limits_of_mps_is_looked_at_all_the_same():
    found = problems(config({"pythonEnvironment": "no/absolute/path"}, mps={"mode": "none"}))
    assert {problem.key for problem in found} == {"mps.mode", "vllm.pythonEnvironment"}
