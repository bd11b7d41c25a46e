"""What NVML tells of each GPU, and how a GPU is found."""

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import DRIVER, MODELS


@pytest.mark.parametrize("key", list(MODELS))
def test_nvml_reports_the_model_as_its_file_states_it(make_root, key):
    model = MODELS[key]
    found = make_root(key, 2).nvml("""
        d = n.nvmlDeviceGetHandleByIndex(1)
        m2 = n.nvmlDeviceGetMemoryInfo(d, version=n.nvmlMemory_v2)
        pci = n.nvmlDeviceGetPciInfo(d)
        result = [n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(d), n.nvmlDeviceGetUUID(d),
                  n.nvmlDeviceGetMemoryInfo(d).total >> 20, m2.total >> 20, m2.reserved >> 20, m2.used,
                  (m2.total - m2.free) >> 20, pci.busId, pci.pciDeviceId,
                  n.nvmlDeviceGetMinorNumber(d), n.nvmlDeviceGetNumGpuCores(d),
                  "%d.%d" % n.nvmlDeviceGetCudaComputeCapability(d), n.nvmlDeviceGetPowerManagementLimit(d),
                  n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetCudaDriverVersion()]
    """)
    gpu = simulated_gpus("node", model, 2)[1]
    cores = model.multiprocessors * (64 if model.cuda_compute_capability == "8.0" else 128)
    assert found == [
        *(2, model.product_name, gpu.uuid, model.memory_mib, model.memory_mib),
        *(model.reserved_memory_mib, 0, model.reserved_memory_mib, "00000000:1A:00.0"),
        *(model.pci_device_id, 1, cores, model.cuda_compute_capability, model.power_limit_watts * 1000, DRIVER, 13000),
    ]


def test_architecture_and_brand_are_nvmls_numbers(make_root):
    code = "d = n.nvmlDeviceGetHandleByIndex(0); result = [n.nvmlDeviceGetArchitecture(d), n.nvmlDeviceGetBrand(d)]"
    found = {key: make_root(key, 1).nvml(code) for key in ("rtx-4090", "a100-40gb", "h100-80gb", "b200-180gb")}
    assert found == {"rtx-4090": [8, 5], "a100-40gb": [7, 14], "h100-80gb": [9, 14], "b200-180gb": [10, 14]}


@pytest.mark.parametrize("key", list(MODELS))
def test_the_addressing_mode_is_none_as_measured_on_an_h100(make_root, key):
    assert make_root(key, 1).nvml("""
        d = n.nvmlDeviceGetHandleByIndex(0)
        old = n.c_nvmlDeviceAddressingMode_t()
        old.version = 7
        get = n._nvmlGetFunctionPointer("nvmlDeviceGetAddressingMode")
        result = [n.nvmlDeviceGetAddressingMode(d), get(d, n.byref(old)), get(d, None)]
    """) == [0, 25, 2]


def test_bar1_is_the_least_power_of_two_that_all_memory_fits(make_root):
    # 131072 MiB on an H100 80GB: measured.
    code = "result = n.nvmlDeviceGetBAR1MemoryInfo(n.nvmlDeviceGetHandleByIndex(0)).bar1Total >> 20"
    found = {key: make_root(key, 1).nvml(code) for key in ("a100-40gb", "h100-80gb", "b200-180gb")}
    assert found == {"a100-40gb": 65536, "h100-80gb": 131072, "b200-180gb": 262144}


def test_only_gpus_whose_device_node_is_there_are_visible(make_root):
    root = make_root(count=4)
    (root.path / "dev/nvidia1").unlink()
    code = (
        "result = [n.nvmlDeviceGetMinorNumber(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())]"
    )
    assert root.nvml(code) == [0, 2, 3]


def test_handles_are_found_by_uuid_and_both_forms_of_bus_id_and_nothing_else(make_root):
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 2)[1].uuid
    assert make_root().nvml(f"""
        def index(get, *arguments):
            try:
                return n.nvmlDeviceGetIndex(get(*arguments))
            except n.NVMLError as error:
                return -error.value
        result = [index(n.nvmlDeviceGetHandleByUUID, "{uuid}"), index(n.nvmlDeviceGetHandleByUUID, "GPU-x"),
                  index(n.nvmlDeviceGetHandleByPciBusId, "0000:1a:00.0"),
                  index(n.nvmlDeviceGetHandleByPciBusId, "00000000:1A:00.0"),
                  index(n.nvmlDeviceGetHandleByPciBusId, "0000:1b:00.0"),
                  index(n.nvmlDeviceGetHandleByPciBusId, "nonsense"), index(n.nvmlDeviceGetHandleByIndex, 2)]
    """) == [1, -6, 1, 1, -6, -2, -2]


def test_figures_that_would_be_invented_are_not_supported(make_root):
    assert (
        make_root().nvml("""
        d = n.nvmlDeviceGetHandleByIndex(0)
        calls = [lambda: n.nvmlDeviceGetTemperature(d, 0), lambda: n.nvmlDeviceGetPowerUsage(d),
                 lambda: n.nvmlDeviceGetClockInfo(d, 1), lambda: n.nvmlDeviceGetSerial(d),
                 lambda: n.nvmlDeviceGetFanSpeed(d), lambda: n.nvmlDeviceGetPerformanceState(d)]
        result = []
        for call in calls:
            try:
                result.append(str(call()))
            except n.NVMLError as error:
                result.append(error.value)
    """)
        == [3] * 6
    )


def test_no_process_runs_and_so_nothing_is_used(make_root):
    assert make_root().nvml("""
        d = n.nvmlDeviceGetHandleByIndex(0)
        u = n.nvmlDeviceGetUtilizationRates(d)
        result = [u.gpu, u.memory, n.nvmlDeviceGetComputeRunningProcesses(d), n.nvmlDeviceGetMemoryInfo(d).used]
    """) == [0, 0, [], 0]


def test_topology_tells_gpus_of_one_pcie_root_from_others(make_root):
    assert make_root(count=3).nvml("""
        d = [n.nvmlDeviceGetHandleByIndex(i) for i in range(3)]
        result = [n.nvmlDeviceGetTopologyCommonAncestor(d[0], x) for x in d]
    """) == [0, 30, 50]
