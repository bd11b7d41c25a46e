"""Readings of a GPU, against an NVML that answers like a real one, or not at all."""

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from gpu_agents import gpus
from gpu_agents.failures import Failures
from gpu_agents.gpus import READINGS, Gpu, Gpus

GPU = Gpu(handle="h", index=0, minor=3, uuid="GPU-1", pci_bus_id="00000000:19:00.0", model="H100")
ANSWERS = {
    "nvmlDeviceGetClockInfo": lambda handle, clock: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[clock],
    "nvmlDeviceGetTemperature": lambda handle, sensor: 41,
    "nvmlDeviceGetPowerUsage": lambda handle: 115_250,
    "nvmlDeviceGetTotalEnergyConsumption": lambda handle: 9_876_543,
    "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=97, memory=12),
    "nvmlDeviceGetMemoryInfo": lambda handle, version: SimpleNamespace(
        free=100 * 2**20, used=20 * 2**20 + 1, total=128 * 2**20
    ),
}


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, answer in ANSWERS.items():
        monkeypatch.setattr(gpus.pynvml, name, answer)
    return monkeypatch


def failing(code: int) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise pynvml.NVMLError(code)

    return fail


@pytest.mark.usefixtures("nvml")
def test_units_are_dcgms():
    failures = Failures()
    assert dict(Gpus(failures).values(GPU)) == {
        "DCGM_FI_DEV_SM_CLOCK": 1980,
        "DCGM_FI_DEV_MEM_CLOCK": 2619,
        "DCGM_FI_DEV_GPU_TEMP": 41,
        "DCGM_FI_DEV_POWER_USAGE": 115.25,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 9_876_543,
        "DCGM_FI_DEV_GPU_UTIL": 97,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 12,
        "DCGM_FI_DEV_FB_FREE": 100,
        "DCGM_FI_DEV_FB_USED": 20,
        "DCGM_FI_DEV_FB_TOTAL": 128,
    }
    assert set(failures.counts.values()) == {0}


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND])
def test_what_a_gpu_does_not_support_is_left_out_and_no_failure(nvml: Any, code: int):
    nvml.setattr(gpus.pynvml, "nvmlDeviceGetPowerUsage", failing(code))
    failures = Failures()
    found = dict(Gpus(failures).values(GPU))
    assert len(found) == len(READINGS) - 1 and "DCGM_FI_DEV_POWER_USAGE" not in found
    assert failures.counts["nvml"] == 0


def test_a_lost_gpu_is_counted_for_each_reading_and_logged_once(nvml: Any, capsys: pytest.CaptureFixture[str]):
    for name in ANSWERS:
        nvml.setattr(gpus.pynvml, name, failing(pynvml.NVML_ERROR_GPU_IS_LOST))
    failures = Failures()
    assert dict(Gpus(failures).values(GPU)) == {}
    assert failures.counts["nvml"] == len(READINGS)
    (line,) = capsys.readouterr().err.splitlines()
    assert '"source": "nvml"' in line and '"gpu": "GPU-1"' in line


def test_a_gpu_that_is_lost_at_the_start_leaves_the_others(nvml: Any):
    def handle(index: int) -> int:
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return index

    answers = {
        "nvmlInit": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetCount": lambda: 3,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetMinorNumber": lambda handle: handle,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetPciInfo": lambda handle: SimpleNamespace(busId="00000000:19:00.0"),
        "nvmlDeviceGetName": lambda handle: "H100",
        "nvmlEventSetCreate": failing(pynvml.NVML_ERROR_NOT_SUPPORTED),
    }
    for name, answer in answers.items():
        nvml.setattr(gpus.pynvml, name, answer)
    failures = Failures()
    found = Gpus(failures)
    assert [gpu.uuid for gpu in found.found()] == ["GPU-0", "GPU-2"]
    assert [gpu.uuid for gpu in found.found()] == ["GPU-0", "GPU-2"]
    assert failures.counts["nvml"] == 2  # the lost one, and the events


def test_a_gpu_that_reports_no_events_has_no_xid(nvml: Any):
    nvml.setattr(gpus.pynvml, "nvmlEventSetCreate", lambda: "events")
    nvml.setattr(gpus.pynvml, "nvmlDeviceRegisterEvents", failing(pynvml.NVML_ERROR_NOT_SUPPORTED))
    failures = Failures()
    assert gpus.Xids([GPU], failures).last == {}
    assert failures.counts["nvml"] == 0


def test_a_gpu_is_named_by_its_minor_number():
    assert GPU.device == "gpu-3"
