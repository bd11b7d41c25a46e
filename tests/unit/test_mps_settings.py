"""The block `mps` of Settings: several problems at once, what is accepted, and what follows from it."""

from dataclasses import replace
from typing import Any

import pytest

from gpus.models import GPU_MODELS, simulated_gpus
from gpus.mps import Limits
from machine import gpus as host_gpus
from machine.gpus import HostGpus
from modules.mps import mps_outputs
from settings import Settings, SettingsError
from settings.blocks import Mps
from tests.golden.stacks import HOST_DRIVER, HOST_GPUS


def parse(**blocks: Any) -> Settings:
    return Settings.parse(blocks, "test")


def keys(**blocks: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse(**blocks)
    return [problem.key for problem in caught.value.problems]


def test_limits_have_defaults_that_every_model_can_grant():
    for model in GPU_MODELS:
        assert parse(gpu={"model": model}).mps == Mps(mode="daemon", classes={"small": Limits()})


def test_all_that_is_wrong_with_mps_is_told_at_once():
    mps = {
        "activeThreadPercentage": 6,
        "pinnedDeviceMemoryLimit": "90Gi",
        "perDevicePinnedMemoryLimit": {"gpu": "1Gi", "7": "some"},
        "classes": {"Large": {"activeThreadPercentage": 7, "pinnedDeviceMemoryLimit": "91Gi"}},
        "mode": "claim",
    }
    driver = {"featureGates": {"MPSSupport": False, "DynamicMIG": True}}
    assert keys(mps=mps, driver=driver, gpu={"count": 1}) == [
        *(f"driver.featureGates.{gate}" for gate in ("MPSSupport", "DynamicMIG")),
        *("mps.activeThreadPercentage", "mps.pinnedDeviceMemoryLimit", "mps.classes"),
        *("mps.classes.Large.pinnedDeviceMemoryLimit", "mps.classes.Large.activeThreadPercentage"),
        *("mps.classes.Large.pinnedDeviceMemoryLimit", "mps.classes"),
        *("mps.perDevicePinnedMemoryLimit",) * 3,
        "mps.perDevicePinnedMemoryLimit.7",
        "gpu.count",
    ]


def test_each_model_that_clients_may_meet_is_looked_at():
    gpu = {"nodes": [{"model": "l40s"}, {"model": "rtx-4090"}, {"model": "l40s"}]}
    found = keys(cluster={"workers": 3}, gpu=gpu, mps={"pinnedDeviceMemoryLimit": "46069Mi"})
    assert found == ["mps.pinnedDeviceMemoryLimit"] * 2


def test_a_percentage_below_the_floor_is_told_for_the_daemon_and_for_the_class_that_is_above_it():
    assert keys(mps={"activeThreadPercentage": 6}) == [
        *("mps.activeThreadPercentage", "mps.classes.small.activeThreadPercentage")
    ]


def test_no_limit_is_measured_on_a_model_that_is_not_known():
    assert keys(gpu={"model": "voodoo"}, mps={"pinnedDeviceMemoryLimit": "900Gi"}) == ["gpu.model"]


def test_wrong_blocks_beside_it_do_not_hide_what_is_wrong_with_mps():
    found = keys(gpu=1, driver=2, cluster=3, mps={"classes": {}, "pinnedDeviceMemoryLimit": "x"})
    assert found == ["cluster", "gpu", "driver", "mps.pinnedDeviceMemoryLimit", "mps.classes"]


def test_a_wrong_mps_block_does_not_hide_what_is_wrong_with_the_others():
    assert keys(mps=5, gpu={"count": 1}) == ["mps", "gpu.count"]


def test_wrong_modules_do_not_make_mps_look_unused():
    assert keys(modules=4, mps={"mode": "claim"}) == ["modules"]


@pytest.mark.parametrize("modules", [["01", "02", "04"], ["01", "02", "04", "05"], ["00", "01", "02", "03"]])
def test_one_gpu_is_enough_unless_modules_03_and_04_are_both_on(modules: list[str]):
    assert parse(modules=modules, gpu={"count": 1}).gpu_nodes[0].count == 1


def test_only_the_first_node_needs_two_gpus():
    made = parse(cluster={"workers": 2}, gpu={"nodes": [{"count": 2}, {"count": 1}]})
    assert [node.count for node in made.gpu_nodes] == [2, 1]


def test_an_empty_block_is_no_wish_for_mps():
    assert parse(modules=["00", "01"], mps={}).mps == Mps()


@pytest.mark.parametrize(
    "mps",
    [
        {"activeThreadPercentage": 7, "classes": {"small": {"activeThreadPercentage": 7}}},
        {"activeThreadPercentage": 100},
        {"activeThreadPercentage": 20, "pinnedDeviceMemoryLimit": "1Gi"},
        {"pinnedDeviceMemoryLimit": "272Mi", "classes": {"small": {"pinnedDeviceMemoryLimit": "125Mi"}}},
        {"pinnedDeviceMemoryLimit": "0.5Gi", "classes": {"small": {"pinnedDeviceMemoryLimit": "536870912"}}},
        {"pinnedDeviceMemoryLimit": "40267Mi"},
        {"classes": {"small": {}, "s" * 30: {}, "1": {}, "very-small": {"activeThreadPercentage": 50}}},
        {"perDevicePinnedMemoryLimit": {}},
        {"mode": "claim", "perDevicePinnedMemoryLimit": {"0": "39Gi"}},
        {"mode": "claim", "perDevicePinnedMemoryLimit": {"GPU-8520a02a-9dda-586d-8a8d-9486980b18e6": "1Gi"}},
    ],
)
def test_limits_up_to_the_last_one_that_fits_are_accepted(mps: dict[str, Any]):
    made = parse(mps=mps).mps
    assert made.model_dump(by_alias=True, exclude_unset=True) == mps


def test_gates_that_mps_by_claim_excludes_do_not_matter_to_a_daemon_on_the_node():
    gates = {"DynamicMIG": True}
    assert parse(driver={"featureGates": gates}, mps={"mode": "daemon"}).driver.feature_gates == gates


def test_nothing_is_known_of_the_hosts_gpus_and_nothing_is_refused_for_it():
    mps = {"mode": "claim", "activeThreadPercentage": 1, "pinnedDeviceMemoryLimit": "900Gi"}
    classes = {"small": {"activeThreadPercentage": 1, "pinnedDeviceMemoryLimit": "1Mi"}}
    gpu = {"source": "host", "allowComputeModeChange": True}
    made = parse(gpu=gpu, mps={**mps, "classes": classes, "perDevicePinnedMemoryLimit": {"0": "1Mi"}})
    assert made.gpu_model is None and made.gpu_uuid(0) is None


def test_simulated_gpus_are_known_before_they_are_there():
    made = parse(cluster={"workers": 2, "name": "a"}, gpu={"nodes": [{"model": "l40s"}, {}]})
    model = GPU_MODELS["l40s"]
    assert made.gpu_model == model
    assert [made.gpu_uuid(number) for number in (0, 1)] == [gpu.uuid for gpu in simulated_gpus("a-worker", model, 2)]


CLASSES = {"classes": {"small": "20 % of the SMs, 1Gi"}}


def test_outputs_say_what_the_limits_mean():
    outputs = mps_outputs(parse(mps={"activeThreadPercentage": 30, "pinnedDeviceMemoryLimit": "4Gi"}))
    assert outputs == {
        "mode": "daemon",
        "activeThreadPercentage": 30,
        "pinnedDeviceMemoryLimit": "4Gi",
        "grantedMultiprocessors": "38 of 132 (h100-80gb)",
        "memoryLeftForAClient": "3928 MiB, after the 168 MiB of its context",
        **CLASSES,
    }


def test_outputs_have_the_limit_that_holds_on_the_claims_gpu():
    mps = {"mode": "claim", "perDevicePinnedMemoryLimit": {"0": "4Gi"}}
    assert mps_outputs(parse(mps=mps))["pinnedDeviceMemoryLimit"] == "4Gi"


@pytest.mark.parametrize(
    ("product", "known"),
    [
        ("NVIDIA H100 80GB HBM3", {"grantedMultiprocessors": "66 of 132 (h100-80gb)"}),
        ("NVIDIA GB300", {}),
    ],
)
def test_outputs_promise_of_the_hosts_gpus_what_is_known_of_their_model(
    product: str, known: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    gpus = tuple(replace(gpu, name=product) for gpu in HOST_GPUS)
    monkeypatch.setattr(host_gpus, "discover", lambda *_: HostGpus(HOST_DRIVER, gpus, ()))
    outputs = mps_outputs(parse(gpu={"source": "host"}))
    left = outputs.pop("memoryLeftForAClient", None)
    assert outputs == {
        **{"mode": "daemon", "activeThreadPercentage": 50, "pinnedDeviceMemoryLimit": "8Gi"},
        **known,
        **CLASSES,
    }
    assert bool(left) == bool(known)


@pytest.mark.parametrize(
    ("blocks", "gates"),
    [
        ({"modules": ["01", "02", "03"]}, {}),
        ({}, {"TimeSlicingSettings": True}),
        ({"mps": {"mode": "claim"}}, {"TimeSlicingSettings": True, "MPSSupport": True}),
        ({"driver": {"featureGates": {"TimeSlicingSettings": False}}}, {"TimeSlicingSettings": False}),
        # It sets compute mode and time slice of a GPU, which is nobody's business on the host unless it is asked for.
        ({"gpu": {"source": "host"}}, {}),
        ({"gpu": {"source": "host", "allowComputeModeChange": True}}, {"TimeSlicingSettings": True}),
    ],
)
def test_driver_gets_the_gates_that_the_modules_need_and_the_stack_has_the_last_word(
    blocks: dict[str, Any], gates: dict[str, bool]
):
    assert parse(**blocks).feature_gates == gates
