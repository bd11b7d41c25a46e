"""gpu-probe: what it prints with and without a driver, and how it ends."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "images" / "gpu-probe"


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gpu-probe")
    subprocess.run(["make", "-s", "-f", SOURCE / "Makefile", "all", "sanitize", f"OUT={out}"], check=True)
    return out


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def probe(built, request) -> Path:
    return built / ("root/usr/bin/gpu-probe" if request.param == "plain" else "gpu-probe-sanitized")


@pytest.fixture(scope="session")
def fake_libraries(tmp_path_factory) -> Path:
    """Libraries without the simulation's marker, one GPU, and one device that CUDA refuses to start."""
    folder = tmp_path_factory.mktemp("libraries")
    nvml = """
        #include <string.h>
        typedef void *device;
        int nvmlInitWithFlags(unsigned f) { (void)f; return 0; }
        const char *nvmlErrorString(int r) { (void)r; return "text"; }
        int nvmlSystemGetDriverVersion(char *v, unsigned n) { strncpy(v, "1.2\\"3\\\\\\n", n); return 0; }
        int nvmlDeviceGetCount_v2(unsigned *c) { *c = 1; return 0; }
        int nvmlDeviceGetHandleByIndex_v2(unsigned i, device *d) { (void)i; *d = "gpu"; return 0; }
        int nvmlDeviceGetUUID(device d, char *u, unsigned n) { (void)d; strncpy(u, "GPU-1", n); return 0; }
        static const char name[] = "bad \\xff byte \\x01";
        int nvmlDeviceGetName(device d, char *u, unsigned n) { (void)d; strncpy(u, name, n); return 0; }
        int nvmlDeviceGetPciInfo_v3(device d, char *p) { (void)d; strcpy(p + 36, "0000:01:00.0"); return 0; }
        int nvmlDeviceGetMemoryInfo(device d, unsigned long long *m) { (void)d; m[0] = 5ull << 30; return 0; }
        int nvmlDeviceGetMigMode(device d, unsigned *c, unsigned *p) { (void)d; (void)c; (void)p; return 3; }
        int nvmlDeviceGetMaxMigDeviceCount(device d, unsigned *c) { (void)d; *c = 0; return 0; }
        int nvmlDeviceGetMigDeviceHandleByIndex(device d, unsigned i, device *m) { return 3; }
    """
    cuda = """
        int cuInit(unsigned f) { (void)f; return 802; }
        int cuDeviceGetCount(int *c) { *c = 0; return 0; }
        int cuDeviceGet(int *d, int i) { *d = i; return 0; }
        int cuDeviceGetUuid_v2(unsigned char *u, int d) { (void)u; (void)d; return 1; }
        int cuDeviceGetAttribute(int *v, int a, int d) { (void)v; (void)a; (void)d; return 1; }
        int cuGetErrorName(int e, const char **n) { (void)e; *n = "CUDA_ERROR_SYSTEM_NOT_READY"; return 0; }
    """
    for name, code in [("libnvidia-ml.so.1", nvml), ("libcuda.so.1", cuda)]:
        command = ["gcc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", folder / name]
        subprocess.run(command, input=code, text=True, check=True)
    return folder


def run(probe: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    # A library that dlopen leaves loaded is no leak of the probe's.
    env = {"ASAN_OPTIONS": "detect_leaks=0", **environment}
    return subprocess.run([probe, *arguments], capture_output=True, text=True, env=env, timeout=20)


def test_without_libraries_info_succeeds_and_says_what_is_missing(probe):
    result = run(probe, "info")
    found = json.loads(result.stdout)
    assert result.returncode == 0 and result.stdout.count("\n") == 1
    assert found["gpus"] == [] and found["driver_version"] is None and found["simulated"] is False
    assert "libnvidia-ml.so.1" in found["nvml_error"] and "libcuda.so.1" in found["cuda_error"]


def test_a_required_gpu_that_is_missing_is_exit_code_3(probe):
    assert run(probe, "info", "--require-gpu").returncode == 3
    assert run(probe, "hold", "5", "--require-gpu").returncode == 3


def test_info_has_exactly_the_documented_keys(probe):
    assert list(json.loads(run(probe, "info").stdout)) == [
        *("simulated", "hostname", "driver_version", "gpus", "environment", "device_nodes", "nvml_error", "cuda_error")
    ]


def test_only_nvidia_and_cuda_variables_are_shown(probe):
    found = json.loads(run(probe, "info", NVIDIA_X='a"b', CUDA_Y="c=d", HOME="/root", XNVIDIA_Z="1").stdout)
    assert found["environment"] == {"NVIDIA_X": 'a"b', "CUDA_Y": "c=d"}


def test_every_string_is_valid_json_whatever_its_bytes(probe):
    result = subprocess.run([probe, "info"], capture_output=True, env={b"CUDA_T": b'\xff\xed\xa0\x80"\\\x07\xc3\xa9'})
    found = json.loads(result.stdout.decode("utf-8"))
    assert found["environment"]["CUDA_T"] == '\ufffd\ufffd\ufffd\ufffd"\\\x07\u00e9'


def test_a_library_without_the_marker_counts_as_real(probe, fake_libraries):
    result = run(probe, "info", "--require-gpu", LD_LIBRARY_PATH=str(fake_libraries))
    found = json.loads(result.stdout)
    assert result.returncode == 0 and found["simulated"] is False
    assert found["driver_version"] == '1.2"3\\\n'
    assert found["gpus"] == [
        {
            "index": 0,
            "uuid": "GPU-1",
            "name": "bad \ufffd byte \x01",
            "memory_mib": 5120,
            "multiprocessors": None,
            "pci_bus_id": "0000:01:00.0",
            "mig": False,
        }
    ]


def test_an_error_is_told_by_its_cuda_name(probe, fake_libraries):
    found = json.loads(run(probe, "info", LD_LIBRARY_PATH=str(fake_libraries)).stdout)
    assert found["cuda_error"] == "cuInit: CUDA error 802 (CUDA_ERROR_SYSTEM_NOT_READY)"


@pytest.mark.parametrize("arguments", [[], ["x"], ["info", "3"], ["hold", "-1"], ["hold", "1", "2"], ["hold", "1s"]])
def test_unknown_arguments_are_exit_code_2(probe, arguments):
    result = run(probe, *arguments)
    assert result.returncode == 2 and "--help" in result.stderr and result.stdout == ""


def test_help_is_exit_code_0(probe):
    result = run(probe, "--help")
    assert result.returncode == 0 and "gpu-probe hold" in result.stdout


def test_hold_ends_by_itself_after_its_seconds(probe):
    start = time.monotonic()
    assert run(probe, "hold", "1").returncode == 0
    assert 0.9 <= time.monotonic() - start < 5


@pytest.mark.parametrize("received", [signal.SIGTERM, signal.SIGINT])
def test_hold_prints_and_then_exits_0_on_a_signal(probe, received):
    with subprocess.Popen([probe, "hold"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and json.loads(process.stdout.readline())["gpus"] == []
        assert process.poll() is None
        process.send_signal(received)
        assert process.wait(timeout=5) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot and unshare need root")
def test_the_image_runs_alone_and_obeys_sigterm_as_process_1(built):
    command = ["unshare", "--pid", "--fork", "--kill-child", "chroot", built / "root", "/usr/bin/gpu-probe", "hold"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and json.loads(process.stdout.readline())["gpus"] == []
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        os.kill(child, signal.SIGTERM)
        assert process.wait(timeout=5) == 0
