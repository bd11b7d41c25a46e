"""The configuration that claims carry: what NVIDIA's driver would let slip is found before anything is registered."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pulumi import ResourceOptions

from components.gpu_config import API, DRIVER, GpuConfigError, check, shared_by_mps
from components.objects import register
from tests.golden.recorder import CHECKOUT, Recorder, run

UUID = "8520a02a-9dda-586d-8a8d-9486980b18e6"
MPS = "sharing.mpsConfig.default"


def entry(sharing: Any = None, *, requests: list[str] | None = None, driver: str = DRIVER, **parameters: Any) -> dict:
    own = {**API, **({} if sharing is None else {"sharing": sharing}), **parameters}
    return {"requests": requests or ["gpu"], "opaque": {"driver": driver, "parameters": own}}


def mps(**config: Any) -> dict[str, Any]:
    return entry({"strategy": "MPS", "mpsConfig": {f"default{key}": value for key, value in config.items()}})


def spec(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"devices": {"requests": [{"name": "gpu"}], "config": list(entries)}}


def findings(*entries: dict[str, Any]) -> list[str]:
    try:
        check("shared", spec(*entries))
    except GpuConfigError as error:
        title, *lines = str(error).splitlines()
        assert title == "claim shared:"
        return [line.removeprefix("  ") for line in lines]
    return []


WITHOUT_REQUESTS = {"opaque": entry()["opaque"]}
WRONG = {
    "no requests": (WITHOUT_REQUESTS, "config.requests: is missing", "name the claim's requests"),
    "empty requests": ({**WITHOUT_REQUESTS, "requests": []}, "config.requests: is missing", "for every request"),
    "old API version": (
        entry(apiVersion="gpu.nvidia.com/v1alpha1"),
        "apiVersion: 'gpu.nvidia.com/v1alpha1'",
        "v1beta1",
    ),
    "no API version": (entry(apiVersion=None), "apiVersion: None is not what", "use resource.nvidia.com/v1beta1"),
    "kind of another device": (entry(kind="MigDeviceConfig"), "kind: 'MigDeviceConfig'", "use GpuConfig"),
    "unknown key": (entry(sharring={}), "sharring: is unknown to the driver", "use some of apiVersion, kind, sharing"),
    "unknown key of sharing": (
        entry({"strategy": "MPS", "mpsconfig": {}}),
        "sharing.mpsconfig: is unknown to the driver",
        "use some of mpsConfig, strategy, timeSlicingConfig",
    ),
    "unknown key of MPS": (
        entry({"strategy": "MPS", "mpsConfig": {"activeThreadPercentage": 50}}),
        "sharing.mpsConfig.activeThreadPercentage: is unknown",
        "defaultActiveThreadPercentage",
    ),
    "unknown strategy": (entry({"strategy": "Mps"}), "sharing.strategy: 'Mps' is unknown", "use MPS or TimeSlicing"),
    "no strategy": (entry({"mpsConfig": {}}), "sharing.strategy: None is unknown", "use MPS or TimeSlicing"),
    "MPS with time slices": (
        entry({"strategy": "MPS", "timeSlicingConfig": {"interval": "Long"}}),
        "sharing.timeSlicingConfig: is for the strategy TimeSlicing, not MPS",
        "drop it",
    ),
    "time slices with MPS": (
        entry({"strategy": "TimeSlicing", "mpsConfig": {}}),
        "sharing.mpsConfig: is for the strategy MPS, not TimeSlicing",
        "drop it",
    ),
    "empty time slices": (
        entry({"strategy": "TimeSlicing", "timeSlicingConfig": {}}),
        "sharing.timeSlicingConfig.interval: None, which ends NVIDIA's plugin",
        "use one of Default, Short, Medium, Long",
    ),
    "unknown interval": (
        entry({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "long"}}),
        "sharing.timeSlicingConfig.interval: 'long', which is unknown",
        "use one of Default, Short, Medium, Long",
    ),
    **{
        f"percentage {value!r}": (
            mps(ActiveThreadPercentage=value),
            f"{MPS}ActiveThreadPercentage: {value!r} would be ignored by MPS",
            "use 1 to 100",
        )
        for value in (0, -1, 101, 50.5, "50", True, None)
    },
    **{
        f"memory {value!r}": (
            mps(PinnedDeviceMemoryLimit=value),
            f"{MPS}PinnedDeviceMemoryLimit: {value!r} is less than the driver's unit",
            "use at least 1Mi, such as 8Gi",
        )
        for value in ("0", "1023Ki", "1M", 8, "", "lots", "-8Gi", None)
    },
    **{
        f"device {key!r}": (
            mps(PerDevicePinnedMemoryLimit={key: "1Gi"}),
            f"{MPS}PerDevicePinnedMemoryLimit: {key!r} names no device",
            "use an index or a UUID",
        )
        for key in ("", "gpu-0", "-1", "GPU-1", UUID, f"gpu-{UUID}", f"GPU-{UUID.upper()}")
    },
    "memory of one device": (
        mps(PerDevicePinnedMemoryLimit={"0": "1Gi", f"MIG-{UUID}": "1Ki"}),
        f"{MPS}PerDevicePinnedMemoryLimit.MIG-{UUID}: '1Ki' is less than the driver's unit",
        "use at least 1Mi",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_the_driver_would_refuse_too_late_is_found(name: str):
    wrong, start, end = WRONG[name]
    (line,) = findings(wrong)
    assert line.startswith(start) and end in line


def test_all_that_is_wrong_is_told_at_once():
    first = entry({"strategy": "MPS", "timeSlicingConfig": {}, "mpsConfig": {"defaultActiveThreadPercentage": 0}})
    second = {**entry({"strategy": "Fabric"}, kind="Gpu"), "requests": []}
    assert [line.partition(":")[0] for line in findings(first, second)] == [
        *("sharing.timeSlicingConfig", f"{MPS}ActiveThreadPercentage"),
        *("config.requests", "kind", "sharing.strategy"),
    ]


@pytest.mark.parametrize(
    "good",
    [
        entry(),
        entry({"strategy": "MPS"}),
        entry({"strategy": "MPS", "mpsConfig": None, "timeSlicingConfig": None}),
        entry({"strategy": "TimeSlicing"}),
        entry({"strategy": "TimeSlicing", "timeSlicingConfig": None}),
        *(
            entry({"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": interval}})
            for interval in ("Default", "Short", "Medium", "Long")
        ),
        *(mps(ActiveThreadPercentage=value) for value in (1, 100)),
        *(mps(PinnedDeviceMemoryLimit=value) for value in ("1Mi", "8Gi", 1048576)),
        mps(PerDevicePinnedMemoryLimit={"0": "1Gi", "15": "1Gi", f"GPU-{UUID}": "1Mi", f"MIG-{UUID}": "1Gi"}),
        entry({"strategy": "nonsense"}, driver="another.example.com"),
    ],
)
def test_what_the_driver_takes_passes(good: dict[str, Any]):
    assert findings(good) == []


def test_a_claim_without_configuration_passes():
    check("plain", {"devices": {"requests": [{"name": "gpu"}]}})
    check("nothing", {})


def test_a_template_is_looked_at_as_a_claim_is():
    with pytest.raises(GpuConfigError, match=r"claim one:\n  sharing.strategy"):
        check("one", {"spec": spec(entry({"strategy": "mps"}))})


def test_what_the_stack_itself_writes_passes_and_names_the_request():
    made = shared_by_mps(30, "4Gi", {"0": "2Gi"}, {"name": "gpu"})
    assert findings(made) == []
    assert made == {
        "requests": ["gpu"],
        "opaque": {
            "driver": "gpu.nvidia.com",
            "parameters": {
                "apiVersion": "resource.nvidia.com/v1beta1",
                "kind": "GpuConfig",
                "sharing": {
                    "strategy": "MPS",
                    "mpsConfig": {
                        "defaultActiveThreadPercentage": 30,
                        "defaultPinnedDeviceMemoryLimit": "4Gi",
                        "defaultPerDevicePinnedMemoryLimit": {"0": "2Gi"},
                        "multiUser": True,
                    },
                },
            },
        },
    }


def test_limits_of_single_devices_are_left_out_where_there_are_none():
    sharing = shared_by_mps(30, "4Gi", {}, {"name": "gpu"})["opaque"]["parameters"]["sharing"]
    assert "defaultPerDevicePinnedMemoryLimit" not in sharing["mpsConfig"]


def of_class(kind: str, sharing: Any, *requests: str) -> list[str]:
    """Findings for a claim with a whole GPU, a MIG device, and a list of alternatives that are MIG devices."""
    parameters = {**API, "kind": kind, "sharing": sharing}
    config = {"requests": list(requests), "opaque": {"driver": DRIVER, "parameters": parameters}}
    devices = [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu.nvidia.com"}},
        {"name": "slice", "exactly": {"deviceClassName": "mig.nvidia.com"}},
        {"name": "either", "firstAvailable": [{"name": "large", "deviceClassName": "mig.nvidia.com"}]},
    ]
    try:
        check("claim", {"devices": {"requests": devices, "config": [config]}})
    except GpuConfigError as error:
        return [line.strip() for line in str(error).splitlines()[1:]]
    return []


@pytest.mark.parametrize("request_name", ["slice", "either", "either/large"])
def test_a_mig_device_has_a_configuration_of_its_own_kind(request_name: str):
    assert of_class("MigDeviceConfig", {"strategy": "MPS"}, request_name) == []
    (line,) = of_class("GpuConfig", {"strategy": "MPS"}, request_name)
    assert line == "kind: 'GpuConfig' is not what the driver reads; use MigDeviceConfig"


def test_a_whole_gpu_has_no_configuration_of_a_mig_device():
    (line,) = of_class("MigDeviceConfig", {"strategy": "MPS"}, "gpu")
    assert line == "kind: 'MigDeviceConfig' is not what the driver reads; use GpuConfig"


def test_one_entry_is_for_one_kind_of_devices():
    lines = of_class("GpuConfig", {"strategy": "MPS"}, "gpu", "slice")
    assert lines == ["config.requests: are of different kinds of devices; give each kind an entry of its own"]


def test_a_mig_device_is_shared_in_time_without_an_interval():
    assert of_class("MigDeviceConfig", {"strategy": "TimeSlicing"}, "slice") == []
    config = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Long"}}
    (line,) = of_class("MigDeviceConfig", config, "slice")
    assert line.startswith("sharing.timeSlicingConfig: is unknown to the driver for MIG devices")


def test_mps_of_a_mig_device_is_written_in_its_kind():
    request = {"name": "slice", "exactly": {"deviceClassName": "mig.nvidia.com"}}
    made = shared_by_mps(50, "4Gi", {}, request)
    assert made["requests"] == ["slice"] and made["opaque"]["parameters"]["kind"] == "MigDeviceConfig"
    check("claim", {"devices": {"requests": [request], "config": [made]}})


def manifests() -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in sorted((CHECKOUT / "manifests").rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] in ("ResourceClaim", "ResourceClaimTemplate"):
                yield file, document


def test_every_claim_in_the_manifests_passes():
    found = list(manifests())
    assert found
    for file, document in found:
        check(f"{document['metadata']['name']} in {file.name}", document["spec"])


@pytest.mark.parametrize("kind", ["ResourceClaim", "ResourceClaimTemplate"])
def test_a_wrong_claim_is_not_registered(kind: str):
    wrong = spec(entry({"strategy": "TimeSlicing", "timeSlicingConfig": {}}))
    document = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "shared", "namespace": "mps"},
        "spec": {"spec": wrong} if kind.endswith("Template") else wrong,
    }
    monitor = Recorder()
    with pytest.raises(GpuConfigError, match="claim shared"):
        run(lambda: register(document, "shared-claim", ResourceOptions()), "test", monitor)
    assert monitor.recording().resources == {}
