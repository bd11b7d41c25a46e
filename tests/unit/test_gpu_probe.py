"""gpu-probe: what it prints with and without a driver, and how it ends.

Kernels need a real GPU: here a fake libcuda counts them.
"""

import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from toolchain.paths import CHECKOUT

SOURCE = CHECKOUT / "images" / "gpu-probe"
FAKE_CUDA = Path(__file__).with_name("fake_cuda.c")
GI = 1 << 30


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


@pytest.fixture(scope="session")
def fake_cuda(tmp_path_factory):
    """The environment in which the probe finds a fake libcuda of that kind."""

    def build(kind: str = "") -> dict[str, str]:
        folder = tmp_path_factory.getbasetemp() / f"fake-cuda-{kind}"
        if not folder.exists():
            folder.mkdir()
            command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", FAKE_CUDA]
            define = [f"-D{kind}"] if kind else []
            subprocess.run([*command, *define, "-o", folder / "libcuda.so.1"], check=True)
        return {"LD_LIBRARY_PATH": str(folder)}

    return build


# A library that dlopen leaves loaded is no leak of the probe's.
NO_LEAKS = {"ASAN_OPTIONS": "detect_leaks=0"}


def run(probe: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = NO_LEAKS | environment
    return subprocess.run([probe, *arguments], capture_output=True, text=True, env=env, timeout=20)


def lines(result: subprocess.CompletedProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


@contextmanager
def running(probe: Path, *arguments: str, **environment: str) -> Iterator[subprocess.Popen]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [probe, *arguments], stdout=pipe, stderr=pipe, text=True, env=NO_LEAKS | environment
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def error(name: str, code: int | None, call: str | None, exit_code: int) -> dict[str, Any]:
    return {"error": name, "code": code, "call": call, "exit_code": exit_code}


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


WRONG = [
    *([], ["x"], ["info", "3"], ["hold", "-1"], ["hold", "1", "2"], ["hold", "1s"], ["hold", "1e3"], ["hold", "."]),
    *(["alloc"], ["alloc", "100"], ["alloc", "0Mi"], ["alloc", "1.5Gi"], ["alloc", "-1Mi"], ["alloc", "1Ki"]),
    *(["alloc", "99999999999999Gi"], ["alloc", "1Mi", "--device"], ["alloc", "1Mi", "--device", "-1"]),
    *(["alloc", *["1Mi"] * 65], ["alloc", "1Mi", "--watch"], ["alloc", "1Mi", "--device", "4294967296"]),
    *(["flops"], ["flops", "0"], ["flops", "inf"], ["flops", "1", "--repeats", "0"], ["flops", "1", "--warmup", "x"]),
    *(["latency"], ["latency", "1", "--copy", "5"], ["load", "1", "--copy", "17Gi"], ["flops", "1", "--copy", "1Mi"]),
    *(
        ["hold", "--alloc", "5"],
        ["hold", "--host", "5"],
        ["hold", "--context"],
        ["info", "--watch"],
        ["info", "--host", "1Mi"],
    ),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_unknown_arguments_are_exit_code_2(probe, arguments):
    result = run(probe, *arguments)
    assert result.returncode == 2 and "--help" in result.stderr and result.stdout == ""


def test_a_wrong_argument_is_answered_with_what_is_allowed(probe):
    assert run(probe, "x").stderr == (
        'gpu-probe: unknown command "x"; allowed: info hold alloc flops load latency; see gpu-probe --help\n'
    )
    assert run(probe, "flops", "2", "--repeat").stderr == (
        'gpu-probe flops: unexpected "--repeat"; allowed: SECONDS, a number above 0 such as 2 or 0.5, '
        "--device ORDINAL, --repeats N, --warmup SECONDS, --help\n"
    )
    assert run(probe, "hold", "--alloc", "5").stderr == (
        'gpu-probe hold: --alloc "5" must be a whole number with Mi or Gi (M, G are the same), such as 512Mi; '
        "see gpu-probe hold --help\n"
    )


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_is_exit_code_0_and_lists_the_exit_codes(probe, option):
    everything = run(probe, option)
    assert everything.returncode == 0 and "gpu-probe hold" in everything.stdout
    for command in ("info", "hold", "alloc", "flops", "load", "latency"):
        result = run(probe, command, option)
        assert result.returncode == 0 and result.stdout.startswith(f"gpu-probe {command} ")
        assert result.stdout.splitlines()[0] in everything.stdout.splitlines()
        assert "  4    needs a real GPU\n" in result.stdout


def test_info_makes_no_context(probe, fake_cuda):
    environment = {**fake_cuda(), "FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain:1:2"}
    result = run(probe, "info", **environment)
    assert result.returncode == 0 and len(lines(result)) == 1 and lines(result)[0]["cuda_error"] is None


def test_info_on_demand_makes_a_context_and_tells_its_memory(probe, fake_cuda):
    result = run(probe, "info", "--context", **fake_cuda(), FAKE_CUDA_SMS="66", FAKE_CUDA_FREE_MIB="1534")
    assert result.returncode == 0
    assert lines(result)[1:] == [{"device": 0, "sms": 66, "free_mib": 1534, "total_mib": 81559}]


def test_alloc_tells_each_allocation_and_the_memory_around_it(probe, fake_cuda):
    result = run(probe, "alloc", "512Mi", "1Gi", "1M", "1G", "--device", "0", **fake_cuda(), FAKE_CUDA_FREE_MIB="3000")
    assert result.returncode == 0
    assert [line["requested_bytes"] for line in lines(result)] == [GI // 2, GI, 1 << 20, GI]
    assert [line["after"]["free_mib"] for line in lines(result)] == [2488, 1464, 1463, 439]
    assert lines(result)[0] == {
        "requested_bytes": GI // 2,
        "result": "CUDA_SUCCESS",
        "code": 0,
        "before": {"free_mib": 3000, "total_mib": 81559},
        "after": {"free_mib": 2488, "total_mib": 81559},
    }


def test_alloc_goes_on_after_a_refusal_and_ends_with_exit_code_5(probe, fake_cuda):
    result = run(probe, "alloc", "2Gi", "1Gi", "256Mi", **fake_cuda(), FAKE_CUDA_FREE_MIB="1534")
    assert result.returncode == 5
    *allocations, last = lines(result)
    refused = ("CUDA_ERROR_OUT_OF_MEMORY", 2)
    assert [(line["result"], line["code"]) for line in allocations] == [
        refused,
        ("CUDA_SUCCESS", 0),
        ("CUDA_SUCCESS", 0),
    ]
    assert allocations[0]["before"] == allocations[0]["after"]
    assert last == error("CUDA_ERROR_OUT_OF_MEMORY", 2, "cuMemAlloc", 5)


@pytest.mark.parametrize(
    ("plan", "name", "exit_code"),
    [
        ("cuInit:1:100", "CUDA_ERROR_NO_DEVICE", 3),
        ("cuInit:1:805", "CUDA_ERROR_MPS_CONNECTION_FAILED", 6),
        ("cuDevicePrimaryCtxRetain:1:2", "CUDA_ERROR_OUT_OF_MEMORY", 5),
        ("cuCtxSetCurrent:1:806", "CUDA_ERROR_MPS_RPC_FAILURE", 6),
        ("cuDeviceGetAttribute:1:999", "unknown", 6),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("alloc", "1Mi"), ("flops", "1"), ("load", "1"), ("latency", "1"), ("hold", "--watch"), ("info", "--context")],
)
def test_an_error_on_the_way_to_the_context_ends_every_command(probe, fake_cuda, command, plan, name, exit_code):
    call, _, code = plan.split(":")
    result = run(probe, *command, **fake_cuda(), FAKE_CUDA_FAIL=plan)
    assert result.returncode == exit_code
    assert lines(result)[-1] == error(name, int(code), call, exit_code)


def test_an_error_in_the_middle_ends_alloc_with_exit_code_6(probe, fake_cuda):
    result = run(probe, "alloc", "1Mi", "1Mi", "1Mi", **fake_cuda(), FAKE_CUDA_FAIL="cuMemAlloc_v2:2:806")
    assert result.returncode == 6
    assert [line.get("result") for line in lines(result)] == ["CUDA_SUCCESS", None]
    assert lines(result)[-1] == error("CUDA_ERROR_MPS_RPC_FAILURE", 806, "cuMemAlloc", 6)


@pytest.mark.parametrize("command", [("alloc", "1Mi"), ("flops", "1"), ("hold", "--watch")])
def test_a_device_that_is_not_there_is_an_error(probe, fake_cuda, command):
    result = run(probe, *command, "--device", "1", **fake_cuda())
    assert result.returncode == 6 and lines(result)[-1] == error("CUDA_ERROR_INVALID_DEVICE", 101, "cuDeviceGet", 6)


@pytest.mark.parametrize(
    "command",
    [("alloc", "1Mi"), ("flops", "1"), ("load", "1"), ("latency", "1"), ("hold", "--watch"), ("info", "--context")],
)
def test_without_libcuda_what_needs_a_context_is_exit_code_3(probe, command):
    result = run(probe, *command)
    last = lines(result)[-1]
    assert result.returncode == 3 and "libcuda.so.1" in last["error"] and last == error(last["error"], None, None, 3)


@pytest.mark.parametrize(
    "command",
    [("alloc", "1Mi"), ("flops", "1"), ("load", "1"), ("latency", "1"), ("hold", "--watch"), ("info", "--context")],
)
def test_a_libcuda_without_contexts_is_exit_code_3(probe, fake_cuda, command):
    result = run(probe, *command, **fake_cuda("WITHOUT_CONTEXTS"))
    assert result.returncode == 3
    assert lines(result)[-1] == error("libcuda.so.1 has no cuDevicePrimaryCtxRetain", None, None, 3)


def test_a_libcuda_without_kernels_still_allocates(probe, fake_cuda):
    environment = fake_cuda("WITHOUT_KERNELS")
    assert run(probe, "alloc", "1Mi", **environment).returncode == 0
    result = run(probe, "flops", "1", **environment)
    assert result.returncode == 3
    assert lines(result) == [error("libcuda.so.1 has no cuModuleLoadData", None, None, 3)]


@pytest.mark.parametrize("sms", [8, 66, 132])
def test_flops_counts_two_operations_an_fma_on_all_granted_multiprocessors(probe, fake_cuda, sms):
    result = run(probe, "flops", "0.05", "--repeats", "2", "--warmup", "0", **fake_cuda(), FAKE_CUDA_SMS=str(sms))
    assert result.returncode == 0
    launches = [tuple(map(int, line.split())) for line in result.stderr.splitlines()]
    blocks, threads, iterations, _ = launches[0]
    # The fake GPU holds eight blocks a multiprocessor and needs 20 ms for a launch, whatever its size.
    assert blocks % (8 * sms) == 0 and {launch[:3] for launch in launches} == {(blocks, threads, iterations)}
    expected = 2 * 256 * iterations * threads * blocks / 0.020 / 1e12
    assert [(line["repeat"], line["sms"], line["device"]) for line in lines(result)] == [(1, sms, 0), (2, sms, 0)]
    for line in lines(result):
        assert line["tflops"] == pytest.approx(expected, abs=1e-4)
        assert line["seconds"] == pytest.approx(0.020 * line["launches"])
    assert sum(line["launches"] for line in lines(result)) == len(launches)


def test_flops_keeps_several_launches_queued_but_not_without_end(probe, fake_cuda):
    result = run(probe, "flops", "0.1", "--warmup", "0", **fake_cuda())
    assert max(int(line.split()[3]) for line in result.stderr.splitlines()) == 4


def test_flops_counts_no_launch_of_its_warm_up(probe, fake_cuda):
    result = run(probe, "flops", "0.05", "--warmup", "0.1", **fake_cuda())
    assert len(lines(result)) == 1
    assert 0 < lines(result)[0]["launches"] < len(result.stderr.splitlines())


@pytest.mark.parametrize("command", ["flops", "load", "latency"])
def test_kernels_need_a_real_gpu(probe, fake_cuda, command):
    # The marker is enough: nothing of the simulation is called.
    marked = run(probe, command, "1", **fake_cuda("SIMULATED"), FAKE_CUDA_FAIL="cuInit:1:999")
    assert marked.returncode == 4 and lines(marked) == [error("needs a real GPU", None, None, 4)]
    assert run(probe, "alloc", "1Mi", **fake_cuda("SIMULATED")).returncode == 0


@pytest.mark.parametrize("command", ["flops", "load", "latency"])
@pytest.mark.parametrize("call", ["cuModuleLoadData", "cuLaunchKernel"])
def test_a_gpu_without_kernels_is_exit_code_4(probe, fake_cuda, call, command):
    result = run(probe, command, "1", **fake_cuda(), FAKE_CUDA_FAIL=f"{call}:1:801")
    assert result.returncode == 4 and lines(result) == [error("needs a real GPU", 801, call, 4)]


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ("cuModuleLoadData:1:218", "CUDA_ERROR_INVALID_PTX"),
        ("cuModuleGetFunction:1:1", "CUDA_ERROR_INVALID_VALUE"),
        ("cuOccupancyMaxActiveBlocksPerMultiprocessor:1:1", "CUDA_ERROR_INVALID_VALUE"),
        ("cuEventCreate:5:1", "CUDA_ERROR_INVALID_VALUE"),
        ("cuEventRecord:1:806", "CUDA_ERROR_MPS_RPC_FAILURE"),
        ("cuLaunchKernel:7:806", "CUDA_ERROR_MPS_RPC_FAILURE"),
        ("cuEventSynchronize:3:806", "CUDA_ERROR_MPS_RPC_FAILURE"),
        ("cuEventElapsedTime:1:806", "CUDA_ERROR_MPS_RPC_FAILURE"),
    ],
)
def test_an_error_of_the_kernel_ends_flops_without_a_result(probe, fake_cuda, plan, name):
    call, _, code = plan.split(":")
    result = run(probe, "flops", "0.1", "--warmup", "0", **fake_cuda(), FAKE_CUDA_FAIL=plan)
    assert result.returncode == 6 and lines(result) == [error(name, int(code), call, 6)]


@pytest.mark.parametrize(
    ("plan", "name", "exit_code"),
    [
        ("cuLaunchKernel:7:806", "CUDA_ERROR_MPS_RPC_FAILURE", 6),
        ("cuCtxSynchronize:3:806", "CUDA_ERROR_MPS_RPC_FAILURE", 6),
        ("cuMemAlloc_v2:2:2", "CUDA_ERROR_OUT_OF_MEMORY", 5),
    ],
)
def test_an_error_of_the_kernel_ends_latency_without_a_result(probe, fake_cuda, plan, name, exit_code):
    call, _, code = plan.split(":")
    call = call.removesuffix("_v2")
    result = run(probe, "latency", "0.1", "--copy", "1Mi", "--warmup", "0", **fake_cuda(), FAKE_CUDA_FAIL=plan)
    assert result.returncode == exit_code and lines(result) == [error(name, int(code), call, exit_code)]


def test_load_has_shorter_blocks_than_flops_on_the_same_multiprocessors(probe, fake_cuda):
    flops, load = (run(probe, command, "0.05", "--warmup", "0", **fake_cuda()) for command in ("flops", "load"))
    (long, *_), (short, *_) = (result.stderr.splitlines() for result in (flops, load))
    assert long.split()[:2] == short.split()[:2] and int(long.split()[2]) == 32 * int(short.split()[2])
    assert lines(load)[0].keys() == {"repeat", "tflops", "device", "sms", "seconds", "launches"}


def test_a_copying_load_counts_what_it_reads_and_what_it_writes(probe, fake_cuda):
    result = run(probe, "load", "0.05", "--copy", "64Mi", "--warmup", "0", **fake_cuda(), FAKE_CUDA_SMS="26")
    (line,) = lines(result)
    # Of 16 bytes, in as many blocks as fit at once; a launch of the fake GPU takes 20 ms.
    assert result.stderr.split()[:3] == [str(8 * 26), "256", str((64 << 20) // 16)]
    assert line["gbytes_per_second"] == pytest.approx(2 * (64 << 20) / 0.020 / 1e9, abs=1e-3)
    assert "tflops" not in line


def test_latency_tells_percentiles_and_a_histogram_of_every_launch(probe, fake_cuda):
    times = {"FAKE_CUDA_SYNCHRONIZE_US": "300,6000"}
    result = run(probe, "latency", "0.3", "--repeats", "2", "--warmup", "0", **fake_cuda(), **times)
    assert result.returncode == 0
    assert [line["repeat"] for line in lines(result)] == [1, 2]
    for line in lines(result):
        assert line.keys() == {
            *("repeat", "p50_us", "p90_us", "p99_us", "max_us", "histogram", "device", "sms", "seconds", "launches")
        }
        # A busy machine sleeps longer than it is told, never shorter.
        assert 300 <= line["p50_us"] <= line["p90_us"] <= line["p99_us"] <= line["max_us"]
        assert line["p99_us"] >= 6000
        assert sum(bucket["count"] for bucket in line["histogram"]) == line["launches"]
        bounds = [bucket["below_us"] or math.inf for bucket in line["histogram"]]
        assert bounds == sorted(bounds) and bounds[0] >= 500
        slow = sum(bucket["count"] for bucket in line["histogram"] if (bucket["below_us"] or math.inf) > 5000)
        assert slow >= line["launches"] // 10
    launches = {tuple(launch.split()[:3]) for launch in result.stderr.splitlines()}
    ((blocks, threads, iterations),) = launches
    assert int(blocks) * int(threads) * int(iterations) * 256 == 256**3


@pytest.mark.parametrize(("received", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("command", ["flops", "load", "latency"])
def test_a_signal_ends_a_measurement_without_half_a_result(probe, fake_cuda, command, received, exit_code):
    with running(probe, command, "60", **fake_cuda(), FAKE_CUDA_SYNCHRONIZE_US="1000,1000") as process:
        assert process.stderr and process.stderr.readline()
        process.send_signal(received)
        out, _ = process.communicate(timeout=5)
        assert process.returncode == exit_code and out == ""


@pytest.mark.parametrize("seconds", [[], ["0"], ["60"]])
@pytest.mark.parametrize("received", [signal.SIGTERM, signal.SIGINT])
def test_hold_with_memory_says_what_it_has_and_exits_0_on_a_signal(probe, fake_cuda, received, seconds):
    with running(probe, "hold", *seconds, "--alloc", "1Gi", **fake_cuda(), FAKE_CUDA_SMS="26") as process:
        assert process.stdout
        assert "gpus" in json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline()) == {
            "holding": True,
            **{"pid": process.pid, "uid": os.getuid(), "device": 0, "sms": 26},
            **{"allocated_bytes": GI, "free_mib": 80488 - 1024, "total_mib": 81559},
        }
        process.send_signal(received)
        assert process.wait(timeout=5) == 0


@pytest.mark.parametrize(("command", "exit_code"), [(("hold", "--watch"), 0), (("alloc", "1Mi"), 143)])
def test_sigterm_ends_a_command_whose_driver_does_not_answer(probe, fake_cuda, command, exit_code):
    environment = {**fake_cuda(), "FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain:1:-1"}
    with running(probe, *command, **environment) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.terminate()
        assert process.wait(timeout=5) == exit_code


def test_hold_without_memory_for_it_is_exit_code_5(probe, fake_cuda):
    result = run(probe, "hold", "--alloc", "2Gi", **fake_cuda(), FAKE_CUDA_FREE_MIB="1534")
    assert result.returncode == 5 and len(lines(result)) == 2
    assert lines(result)[-1] == error("CUDA_ERROR_OUT_OF_MEMORY", 2, "cuMemAlloc", 5)


def test_hold_ends_with_the_error_when_its_context_breaks(probe, fake_cuda):
    start = time.monotonic()
    result = run(probe, "hold", "60", "--watch", **fake_cuda(), FAKE_CUDA_FAIL="cuCtxSynchronize:2:806")
    assert 0.9 <= time.monotonic() - start < 5
    assert result.returncode == 6 and lines(result)[1]["holding"] and lines(result)[1]["allocated_bytes"] == 0
    assert lines(result)[2:] == [error("CUDA_ERROR_MPS_RPC_FAILURE", 806, "cuCtxSynchronize", 6)]


def test_hold_with_a_context_ends_by_itself_after_its_seconds(probe, fake_cuda):
    start = time.monotonic()
    result = run(probe, "hold", "0.7", "--watch", **fake_cuda())
    assert result.returncode == 0 and 0.7 <= time.monotonic() - start < 5


def resident_mib(pid: int) -> float:
    """MiB of the machine's memory that a process has."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


def test_hold_fills_memory_of_the_machine_after_it_said_what_it_has(probe, fake_cuda):
    with running(probe, "hold", "--watch", "--host", "256Mi", **fake_cuda()) as process:
        assert process.stdout and "gpus" in json.loads(process.stdout.readline())
        assert json.loads(process.stdout.readline())["holding"]
        deadline = time.monotonic() + 10
        while resident_mib(process.pid) < 256:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)  # between two looks at a condition that is bounded above
        process.terminate()
        assert process.wait(timeout=5) == 0


def test_hold_on_a_machine_without_memory_for_it_is_exit_code_5(probe):
    refuses = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"}
    result = run(probe, "hold", "--host", "9000000000Gi", **refuses)
    assert result.returncode == 5
    assert lines(result)[-1] == error("the machine gives no 9663676416000000000 bytes of its memory", None, None, 5)


def test_hold_alone_needs_no_cuda(probe, fake_cuda):
    result = run(probe, "hold", "0.1", **fake_cuda(), FAKE_CUDA_FAIL="cuInit:1:100")
    assert result.returncode == 0 and len(lines(result)) == 1


def test_hold_ends_by_itself_after_its_seconds(probe):
    start = time.monotonic()
    assert run(probe, "hold", "1").returncode == 0
    assert 0.9 <= time.monotonic() - start < 5


@pytest.mark.parametrize("received", [signal.SIGTERM, signal.SIGINT])
def test_hold_prints_and_then_exits_0_on_a_signal(probe, received):
    with running(probe, "hold") as process:
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
