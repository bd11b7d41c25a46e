"""What NVML tells of the GPUs that this process sees, under the names of NVIDIA's dcgm-exporter.

Full GPUs only: a MIG device's own figures are left out. So is what a GPU answers NOT_SUPPORTED for.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Thread
from typing import Any

import pynvml

from gpu_agents import log
from gpu_agents.failures import Failures

MIB = 2**20
XID = "DCGM_FI_DEV_XID_ERRORS"
EVENT_WAIT_MS = 1000
LOST_SECONDS = 1
# What a GPU, or a driver that is older than a function, answers for what it does not have.
LEFT_OUT = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)


@dataclass(frozen=True)
class Reading:
    """One metric: its Prometheus type, what it says, and how NVML is asked for it."""

    name: str
    kind: str
    help: str
    ask: Callable[[Any], float]


READINGS = (
    Reading("DCGM_FI_DEV_SM_CLOCK", "gauge", "Clock of the SMs in MHz", lambda h: _clock(h, pynvml.NVML_CLOCK_SM)),
    Reading("DCGM_FI_DEV_MEM_CLOCK", "gauge", "Clock of the memory in MHz", lambda h: _clock(h, pynvml.NVML_CLOCK_MEM)),
    Reading("DCGM_FI_DEV_GPU_TEMP", "gauge", "Temperature of the GPU in degrees Celsius", lambda h: _temperature(h)),
    Reading("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power in W", lambda h: pynvml.nvmlDeviceGetPowerUsage(h) / 1000),
    Reading(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "counter",
        "Energy in mJ since the driver was loaded",
        lambda h: pynvml.nvmlDeviceGetTotalEnergyConsumption(h),
    ),
    Reading("DCGM_FI_DEV_GPU_UTIL", "gauge", "Time in which a kernel ran in %", lambda h: _utilization(h).gpu),
    Reading(
        "DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", "Time in which memory was used in %", lambda h: _utilization(h).memory
    ),
    Reading("DCGM_FI_DEV_FB_FREE", "gauge", "Free memory in MiB", lambda h: _memory(h).free // MIB),
    Reading(
        "DCGM_FI_DEV_FB_USED", "gauge", "Used memory in MiB, without the reserved", lambda h: _memory(h).used // MIB
    ),
    Reading("DCGM_FI_DEV_FB_TOTAL", "gauge", "Memory in MiB", lambda h: _memory(h).total // MIB),
)


def _clock(handle: Any, clock: int) -> float:
    return pynvml.nvmlDeviceGetClockInfo(handle, clock)


def _temperature(handle: Any) -> float:
    return pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)


def _utilization(handle: Any) -> Any:
    return pynvml.nvmlDeviceGetUtilizationRates(handle)


def _memory(handle: Any) -> Any:
    # Version 2, as DCGM reads it: version 1 counts what the driver reserves as used.
    return pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)


def _code(error: pynvml.NVMLError) -> int:
    return error.value  # pyrefly: ignore[missing-attribute] - pynvml sets it when it makes the error


@dataclass(frozen=True)
class Gpu:
    """A GPU as NVML knows it. NVIDIA's DRA driver names it `gpu-<minor>`."""

    handle: Any
    index: int
    minor: int
    uuid: str
    pci_bus_id: str
    model: str

    @property
    def device(self) -> str:
        """Its name in the driver's ResourceSlices."""
        return f"gpu-{self.minor}"


class Gpus:
    """The GPUs of this process. They are those of its start: a container gets no device later."""

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._found: list[Gpu] | None = None
        self._xids: Xids | None = None
        self.driver_version = ""

    def found(self) -> list[Gpu]:
        """Every GPU, or none as long as NVML does not start; it is tried again at every call."""
        if self._found is None:
            try:
                pynvml.nvmlInit()
                self.driver_version = pynvml.nvmlSystemGetDriverVersion()
                count = pynvml.nvmlDeviceGetCount()
            except pynvml.NVMLError as error:
                self._failures.add("nvml", error)
                return []
            self._found = [gpu for index in range(count) if (gpu := self._gpu(index))]
            self._xids = Xids(self._found, self._failures)
        return self._found

    def _gpu(self, index: int) -> Gpu | None:
        """None for a GPU that is lost: the others still have much to tell."""
        try:
            return _gpu(index)
        except pynvml.NVMLError as error:
            self._failures.add("nvml", error, index=index)
            return None

    def values(self, gpu: Gpu) -> Iterator[tuple[str, float]]:
        """(metric, value) of what the GPU answers."""
        for reading in READINGS:
            try:
                yield reading.name, reading.ask(gpu.handle)
            except pynvml.NVMLError as error:
                if _code(error) not in LEFT_OUT:
                    self._failures.add("nvml", error, metric=reading.name, gpu=gpu.uuid)
        if self._xids and gpu.uuid in self._xids.last:
            yield XID, self._xids.last[gpu.uuid]


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(
        handle=handle,
        index=index,
        minor=pynvml.nvmlDeviceGetMinorNumber(handle),
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        pci_bus_id=pynvml.nvmlDeviceGetPciInfo(handle).busId,
        model=pynvml.nvmlDeviceGetName(handle),
    )


class Xids:
    """The last XID of each GPU that can report one, since the start; 0 before any."""

    def __init__(self, gpus: list[Gpu], failures: Failures) -> None:
        self.last: dict[str, int] = {}
        self._failures = failures
        try:
            self._events = pynvml.nvmlEventSetCreate()
            for gpu in gpus:
                self._register(gpu)
        except pynvml.NVMLError as error:
            failures.add("nvml", error)
        if self.last:
            Thread(target=self._watch, name="xids", daemon=True).start()

    def _register(self, gpu: Gpu) -> None:
        try:
            pynvml.nvmlDeviceRegisterEvents(gpu.handle, pynvml.nvmlEventTypeXidCriticalError, self._events)
        except pynvml.NVMLError as error:
            if _code(error) not in LEFT_OUT:
                raise
            return
        self.last[gpu.uuid] = 0

    def _watch(self) -> None:
        while True:
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, EVENT_WAIT_MS)
                uuid = pynvml.nvmlDeviceGetUUID(event.device)
            except pynvml.NVMLError as error:
                if _code(error) != pynvml.NVML_ERROR_TIMEOUT:
                    self._failures.add("nvml", error)
                    time.sleep(LOST_SECONDS)  # a lost GPU answers at once, again and again
                continue
            self.last[uuid] = int(event.eventData)
            log.info("a GPU reported an XID", gpu=uuid, xid=self.last[uuid])
