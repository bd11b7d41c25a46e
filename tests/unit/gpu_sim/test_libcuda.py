"""The CUDA library: the same GPUs as NVML's, no kernels, and what gpu-probe reads from both libraries."""

import json
import subprocess

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import DRIVER, LIBRARIES, MODELS, SOURCE

CUDA = """
    import ctypes, json
    cuda = ctypes.CDLL("libcuda.so.1")
    def text(call, *arguments):
        buffer = ctypes.create_string_buffer(128)
        assert call(buffer, 128, *arguments) == 0
        return buffer.value.decode()
    def number(call, *arguments, kind=ctypes.c_int):
        value = kind()
        code = call(ctypes.byref(value), *arguments)
        return value.value if code == 0 else -code
    def error(code):
        name = ctypes.c_char_p()
        cuda.cuGetErrorName(code, ctypes.byref(name))
        return name.value.decode()
"""


def test_cuda_reports_the_same_gpus_as_nvml(make_root):
    done = make_root(count=3).python(
        CUDA
        + """
    assert error(cuda.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) == "CUDA_ERROR_NOT_INITIALIZED"
    assert number(cuda.cuDriverGetVersion) == 13000 and cuda.cuInit(1) == 1 and cuda.cuInit(0) == 0
    uuid = (ctypes.c_ubyte * 16)()
    assert cuda.cuDeviceGetUuid_v2(uuid, 2) == 0
    print(json.dumps([number(cuda.cuDeviceGetCount), text(cuda.cuDeviceGetName, 2), bytes(uuid).hex(),
                      number(cuda.cuDeviceTotalMem_v2, 2, kind=ctypes.c_size_t) >> 20,
                      text(cuda.cuDeviceGetPCIBusId, 2),
                      [number(cuda.cuDeviceGetAttribute, a, 2) for a in (16, 75, 76, 33, 13)],
                      error(number(cuda.cuDeviceGet, 3) * -1)]))
    """
    )
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 3)[2].uuid
    assert json.loads(done.stdout) == [
        *(3, "NVIDIA H100 80GB HBM3", uuid.removeprefix("GPU-").replace("-", ""), 81559 - 480, "0000:2A:00.0"),
        *([132, 9, 0, 0x2A, -801], "CUDA_ERROR_INVALID_DEVICE"),
    ]


def test_cuda_refuses_kernels_and_says_why(make_root):
    done = make_root().python(
        CUDA
        + """
    function = ctypes.c_void_p()
    assert cuda.cuGetProcAddress_v2(b"cuLaunchKernel", ctypes.byref(function), 13000, ctypes.c_uint64(0), None) == 0
    assert function.value == ctypes.cast(cuda.cuLaunchKernel, ctypes.c_void_p).value
    assert cuda.cuGetProcAddress_v2(b"cuNoSuch", ctypes.byref(function), 13000, ctypes.c_uint64(0), None) == 500
    print(error(cuda.cuLaunchKernel(*[None] * 11)))
    """
    )
    assert done.stdout == "CUDA_ERROR_NOT_SUPPORTED\n" and "simulated" in done.stderr


def test_cuda_sees_the_mig_device_instead_of_its_gpu(make_root, tmp_path):
    done = make_root(static_mig=["3g.40gb@0"]).python(
        CUDA
        + """
    cuda.cuInit(0)
    print(json.dumps([number(cuda.cuDeviceGetCount), text(cuda.cuDeviceGetName, 0),
                      number(cuda.cuDeviceGetAttribute, 16, 0),
                      number(cuda.cuDeviceTotalMem_v2, 0, kind=ctypes.c_size_t) >> 20]))
    """
    )
    assert json.loads(done.stdout) == [2, "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 60, 40448]


def test_gpu_probe_tells_a_simulation_and_the_mig_device_it_was_given(make_root, tmp_path):
    out = tmp_path / "probe"
    subprocess.run(["make", "-s", "-f", SOURCE.parent / "gpu-probe/Makefile", f"OUT={out}"], check=True)
    root = make_root(static_mig=["3g.40gb@4"])
    env = {**root.build.environment(), "LD_LIBRARY_PATH": str(root.path / LIBRARIES)}
    done = subprocess.run([out / "root/usr/bin/gpu-probe", "info"], capture_output=True, text=True, env=env, check=True)
    found = json.loads(done.stdout)
    assert found["simulated"] is True and found["driver_version"] == DRIVER
    assert found["nvml_error"] is None and found["cuda_error"] is None
    assert [(gpu["index"], gpu["mig"], gpu["multiprocessors"], gpu["memory_mib"]) for gpu in found["gpus"]] == [
        (0, True, 60, 40448),
        (1, True, 60, 40448),
    ]


def test_the_driver_version_is_known_before_cuda_starts_and_starts_nothing(make_root):
    done = make_root().python(
        CUDA + "    print(number(cuda.cuDriverGetVersion), error(-number(cuda.cuDeviceGetCount)))\n"
    )
    assert done.stdout == "13000 CUDA_ERROR_NOT_INITIALIZED\n"


def test_cuda_visible_devices_chooses_and_orders_as_cuda_does(make_root):
    root = make_root(count=4)
    gpus = [gpu.uuid for gpu in simulated_gpus("node", MODELS["h100-80gb"], 4)]
    script = (
        CUDA
        + """
    if cuda.cuInit(0):
        print(json.dumps([]))
    else:
        print(json.dumps([int(text(cuda.cuDeviceGetPCIBusId, i)[5], 16)
                          for i in range(number(cuda.cuDeviceGetCount))]))
    """
    )
    expected: dict[str, list[int]] = {
        **{"2,0": [2, 0], f"{gpus[3]},1": [3, 1], gpus[1][:12]: [1], "0, 3": [0, 3]},
        # What names no device ends the list; twice the same, and there is none.
        **{"1,9,0": [1], "-1": [], "": [], "1,-1,0": [1], "GPU-": [], "0x1": [], "1,1": [], "junk": []},
    }
    found = {value: json.loads(root.python(script, CUDA_VISIBLE_DEVICES=value).stdout) for value in expected}
    assert found == expected


def test_cuda_without_gpus_is_no_device(make_root):
    assert make_root(visible=0).python(CUDA + "    print(error(cuda.cuInit(0)))").stdout == "CUDA_ERROR_NO_DEVICE\n"
