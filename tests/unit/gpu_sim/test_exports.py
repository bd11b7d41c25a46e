"""The NVML library's functions: all that nvml.h declares, and none that a wrong argument crashes."""

import json
import re
import subprocess

import pytest

from tests.unit.gpu_sim.driver_root import DRIVER, LIBRARIES


@pytest.fixture(scope="session")
def prototypes(nvml_include) -> dict[str, str]:
    """First parameter's type by function name; the session's own reading of nvml.h, not the generator's."""
    header = re.sub(r"/\*.*?\*/|//[^\n]*", "", (nvml_include / "nvml.h").read_text(errors="replace"), flags=re.DOTALL)
    found = re.findall(r"DECLDIR\s+[\w*]*\s*\*?\s*\b(nvml\w+)\s*\(\s*(?:const\s+)?(\w+)", header)
    assert len(found) > 400
    return dict(found)


def test_every_function_of_the_header_is_exported_and_nothing_else(build, prototypes):
    library = build.out / "root" / LIBRARIES / f"libnvidia-ml.so.{DRIVER}"
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in symbols.splitlines() if " T " in line}
    assert exported == set(prototypes) | {
        "gpuSimulated",
        *(f"gpuSim{name}" for name in ("Reset", "SetTimeslice", "GetTimeslice")),
    }


def test_no_function_crashes_on_null_and_every_answer_is_an_nvml_error(make_root, prototypes):
    script = f"""
        import ctypes, json
        lib = ctypes.CDLL("libnvidia-ml.so.1")
        nothing = [ctypes.c_void_p(None)] * 6
        prototypes = {dict(prototypes)!r}
        skipped = ("nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlErrorString")
        names = [name for name in prototypes if name not in skipped]
        before = {{name: getattr(lib, name)(*nothing) for name in names}}
        assert lib.nvmlInit_v2() == 0
        null = {{name: getattr(lib, name)(*nothing) for name in names}}
        device = ctypes.c_void_p()
        assert lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)) == 0
        valid = {{name: getattr(lib, name)(device, *nothing) for name in names if prototypes[name] == "nvmlDevice_t"}}
        wild = ctypes.c_void_p(device.value + 8)
        invalid = {{name: getattr(lib, name)(wild, *nothing) for name in names if prototypes[name] == "nvmlDevice_t"}}
        print(json.dumps([before, null, valid, invalid]))
    """
    before, null, valid, invalid = json.loads(make_root().python(script).stdout)
    assert set(before.values()) == {1}
    assert set(null.values()) == {2, 3}
    assert null["nvmlDeviceGetName"] == 2 and null["nvmlDeviceGetTemperatureV"] == 3
    succeeding = {name for name, code in valid.items() if code == 0}
    assert succeeding == {"nvmlDeviceSetComputeMode", "nvmlDeviceSetPersistenceMode"}
    assert set(valid.values()) <= {0, 2, 3, 7}
    assert 0 not in invalid.values()


def test_a_buffer_that_is_too_small_is_told_and_left_alone(make_root):
    script = """
        import ctypes
        lib = ctypes.CDLL("libnvidia-ml.so.1")
        lib.nvmlInit_v2()
        device, text = ctypes.c_void_p(), ctypes.create_string_buffer(b"untouched", 41)
        lib.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device))
        assert lib.nvmlDeviceGetUUID(device, text, 40) == 7 and text.value == b"untouched"
        assert lib.nvmlDeviceGetUUID(device, text, 41) == 0 and len(text.value) == 40
    """
    make_root().python(script)
