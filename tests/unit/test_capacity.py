"""Consumable capacity in the settings: who has how much of a GPU by default, and what the modules switch on."""

from typing import Any
from unittest import mock

import pytest

from checks import capacity as capacity_of_checks
from checks.mps import MEMORY
from gpus import shares as capacity
from gpus.models import load_models
from gpus.mps import CAPACITY_CLASS
from gpus.quantity import mib_quantity, quantity_mib
from settings import Settings, SettingsError
from settings.catalog import MODULES
from tests.golden import recorder, stacks

PHASE2 = ("00", "01", "02", "04", "07")


def parse(numbers: tuple[str, ...] = PHASE2, **blocks: Any) -> Settings:
    return Settings.parse({"modules": list(numbers), **blocks}, "test")


@pytest.mark.parametrize("model", load_models())
@pytest.mark.parametrize("numbers", [PHASE2, ("01", "02", "07"), ("01", "02", "04", "05", "07")], ids="-".join)
def test_defaults_fit_every_model_and_make_the_last_one_wait(model: str, numbers: tuple[str, ...]):
    made = parse(numbers, gpu={"model": model})  # Settings would refuse what does not fit
    free = load_models()[model].memory_mib - (made.shared_claim_mib or 0)
    sizes = capacity.default_requests(free)
    running = sum(sizes[name] for name in capacity.RUNNING)
    assert running <= free < running + sizes["waiting"]
    # When the large one goes, the waiting one fits, and not when another one does.
    assert running - sizes["large"] + sizes["waiting"] <= free < running - sizes["medium"] + sizes["waiting"]


def test_chosen_requests_stand_beside_the_defaults():
    assert capacity.requests({"small": 100}, 8192) == {"small": 100, "medium": 2048, "large": 4096, "waiting": 4096}


@pytest.mark.parametrize(
    ("numbers", "chosen", "expected"),
    [
        (("01", "02", "04"), None, "disabled"),
        (PHASE2, None, "memory"),
        (PHASE2, "unlimited", "unlimited"),
        (PHASE2, 5, "5"),
        (PHASE2, "disabled", "disabled"),
        (("01", "02"), "memory", "memory"),
    ],
)
def test_shares_follow_the_modules_unless_they_are_chosen(numbers: tuple[str, ...], chosen: Any, expected: str):
    made = parse(numbers, driver={} if chosen is None else {"consumableShares": chosen})
    assert made.consumable_shares == expected
    assert made.feature_gates.get("ConsumableShares", False) == (expected != "disabled")


@pytest.mark.parametrize(
    ("numbers", "blocks", "expected"),
    [
        (PHASE2, {}, True),
        (("01", "02", "07"), {}, False),
        (PHASE2, {"consumableCapacity": {"enforcement": "none"}}, False),
        (PHASE2, {"consumableCapacity": {"enforcement": "mps"}}, True),
        (PHASE2, {"driver": {"consumableShares": "disabled"}}, False),
        (PHASE2, {"driver": {"consumableShares": "disabled"}, "mps": {"mode": "claim"}}, False),
    ],
)
def test_mps_enforces_where_its_daemon_runs_unless_told_otherwise(
    numbers: tuple[str, ...], blocks: dict[str, Any], expected: bool
):
    assert parse(numbers, **blocks).capacity_enforced is expected


@pytest.mark.parametrize(
    ("numbers", "shares", "expected"),
    [
        (("01", "02", "07"), "memory", {"07": 0}),
        (PHASE2, "memory", {"04": 0, "07": 0}),
        (PHASE2, "disabled", {"04": 0, "07": 1}),
        (("01", "02", "03", "04", "07"), "disabled", {"03": 0, "04": 1, "07": 2}),
        (("01", "02", "03", "07"), "disabled", {"03": 0, "07": 1}),
    ],
)
def test_modules_share_a_gpu_only_where_claims_do(numbers: tuple[str, ...], shares: str, expected: dict[str, int]):
    made = parse(numbers, driver={"consumableShares": shares}, gpu={"count": 4})
    assert {module: made.gpu_index(MODULES[module]) for module in expected} == expected


def test_module_04_requests_what_its_clients_may_use():
    made = parse(mps={"pinnedDeviceMemoryLimit": "4Gi", "classes": {"small": {"pinnedDeviceMemoryLimit": "2Gi"}}})
    assert made.shared_claim_mib == 2 * 4096 + 2048
    assert parse(driver={"consumableShares": "disabled"}, gpu={"count": 2}).shared_claim_mib is None


def test_a_missing_class_of_the_limited_client_is_told_and_nothing_else_breaks_by_it():
    # What module 04's clients take is then that of the others.
    with pytest.raises(SettingsError) as error:
        parse(mps={"classes": {}})
    assert [problem.key for problem in error.value.problems] == ["mps.classes"]


def test_health_check_comes_with_module_09():
    assert parse((*PHASE2, "09")).feature_gates["NVMLDeviceHealthCheck"] is True
    assert "NVMLDeviceHealthCheck" not in parse().feature_gates


def test_every_limit_of_module_07_is_what_its_claim_requests():
    recording = stacks.record(parse())
    for name in ("small", "medium", "large", "waiting"):
        claim = recording.resources[f"shared-gpus-{name}-claim"].inputs["spec"]["devices"]["requests"][0]["exactly"]
        (container,) = recording.resources[f"shared-gpus-{name}"].inputs["spec"]["template"]["spec"]["containers"]
        limits = {variable["name"]: variable["value"] for variable in container["env"]}
        asked = quantity_mib(claim["capacity"]["requests"]["memory"])
        assert limits["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == f"0={asked}M"


def test_daemon_gives_at_most_the_largest_request_and_the_others_ask_for_less():
    recording = stacks.record(parse())
    given = recording.resources["mps-daemon-config"].inputs["data"]["pinnedDeviceMemoryLimit"]
    large = recording.resources["shared-gpus-large-claim"].inputs["spec"]["devices"]["requests"][0]["exactly"]
    assert given == f"{quantity_mib(large['capacity']['requests']['memory'])}M"
    (container,) = recording.resources["shared-gpu-clients"].inputs["spec"]["template"]["spec"]["containers"]
    assert {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": "0=8192M"} in container["env"]
    shared = recording.resources["shared-gpu-shared-gpu-claim"].inputs["spec"]["devices"]["requests"][0]["exactly"]
    assert shared["capacity"] == {"requests": {"memory": "17Gi"}}


def test_without_module_07_the_daemon_gives_what_the_limits_say():
    recording = stacks.record(parse(("01", "02", "04")))
    assert recording.resources["mps-daemon-config"].inputs["data"]["pinnedDeviceMemoryLimit"] == "8192M"
    (container,) = recording.resources["shared-gpu-clients"].inputs["spec"]["template"]["spec"]["containers"]
    assert "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" not in {variable["name"] for variable in container["env"]}


def test_policy_of_module_05_lets_module_07_ask_for_its_requests():
    recording = stacks.record(parse(("01", "02", "04", "05", "07")))
    own = recording.resources["mps-policy-class-consumable-capacity"].inputs["data"]
    given = recording.resources["mps-daemon-config"].inputs["data"]["pinnedDeviceMemoryLimit"]
    assert own["pinnedDeviceMemoryLimitMiB"] == given.removesuffix("M")
    assert own["required"] == recording.resources["mps-policy-class-default"].inputs["data"]["required"] == "true"
    binding = recording.resources["mps-policy-mps-pipe-binding"].inputs["spec"]["matchResources"]["namespaceSelector"]
    assert "consumable-capacity" in binding["matchExpressions"][0]["values"]
    labels = recording.resources["shared-gpus-shared"].inputs["metadata"]["labels"]
    assert labels["dra-workshop/mps-class"] == "consumable-capacity"


def test_requests_of_a_hosts_gpu_follow_what_nvidia_smi_says():
    recording = stacks.record(parse(("01", "02", "04", "07"), gpu={"source": "host"}))
    claim = recording.resources["shared-gpus-small-claim"].inputs["spec"]["devices"]["requests"][0]["exactly"]
    wanted = capacity.default_requests(stacks.HOST_GPUS[0].memory_mib - 17408)["small"]
    assert claim["capacity"]["requests"]["memory"] == mib_quantity(wanted)


def test_requests_of_another_clusters_gpu_follow_what_its_driver_publishes():
    gpu = {"source": "host", "nodes": [{"name": "host-worker"}]}
    # The mocked driver publishes one GPU of 80Gi on this node.
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    with mock.patch.dict(recorder.GPU, node="host-worker"):
        published = {"clusterUid": "", "gpus": [recorder.GPU]}
        with mock.patch.object(recorder, "PUBLISHED", published):
            recording = stacks.record(parse(("01", "02", "04", "07"), gpu=gpu, cluster=cluster))
    claim = recording.resources["shared-gpus-small-claim"].inputs["spec"]["devices"]["requests"][0]["exactly"]
    free = 80 * 1024 - 17408
    assert claim["capacity"]["requests"]["memory"] == mib_quantity(capacity.default_requests(free)["small"])
    assert recording.resources["mps-daemon-config"].inputs["data"]["pinnedDeviceMemoryLimit"].endswith("M")


@pytest.mark.parametrize(
    ("mib", "text"), [(1, "1Mi"), (1500, "1500Mi"), (1024, "1Gi"), (17408, "17Gi"), (3 * 2**20, "3Ti")]
)
def test_quantities_are_written_as_the_api_server_writes_them(mib: int, text: str):
    assert mib_quantity(mib) == text and quantity_mib(text) == mib


class RecordedStack:
    """A stack as if it were up, and what kubectl is told to make there."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.recording = settings, stacks.record(settings)
        claims = {name: self.inputs(f"shared-gpus-{name}-claim")["spec"] for name in capacity.EIGHTHS}
        exactly = {name: claim["devices"]["requests"][0]["exactly"] for name, claim in claims.items()}
        requests = {name: request["capacity"]["requests"]["memory"] for name, request in exactly.items()}
        self.outputs = {"consumableCapacity": {"requests": requests}}
        self.made: list[dict[str, Any]] = []

    def inputs(self, name: str) -> dict[str, Any]:
        return self.recording.resources[name].inputs

    def one(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        return self.inputs(f"shared-gpus-{name}")

    def create(self, *documents: dict[str, Any]) -> None:
        self.made = list(documents)


@pytest.mark.parametrize("memory", ["8Gi", "30Gi"], ids=["below the largest request", "above it"])
def test_client_of_a_check_asks_its_claim_for_any_memory_and_mps_for_what_its_class_may_have(memory: str):
    """With module 05 the policy refuses a pod of more at once, where the check wants to see it wait."""
    limits = {"pinnedDeviceMemoryLimit": memory}
    stack: Any = RecordedStack(parse(("01", "02", "04", "05", "07"), gpu={"count": 1}, mps=limits))
    most = int(stack.inputs(f"mps-policy-class-{CAPACITY_CLASS}")["data"]["pinnedDeviceMemoryLimitMiB"])
    for asked in (1024, most, most + 1, 81560):
        capacity_of_checks.start_client(stack, "check", "any", asked, ["hold"])
        claim, pod = stack.made
        (request,) = claim["spec"]["devices"]["requests"]
        assert request["exactly"]["capacity"]["requests"]["memory"] == f"{asked}Mi"
        every = [*pod["spec"]["containers"], *pod["spec"]["initContainers"]]
        values = [
            entry["value"] for container in every for entry in container.get("env", []) if entry["name"] == MEMORY
        ]
        assert values == [f"0={min(asked, most)}M"]
