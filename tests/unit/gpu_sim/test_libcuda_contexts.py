"""Contexts and memory of one process without MPS, lookup of functions, and what is refused."""

import subprocess

import pytest

from tests.unit.gpu_sim.driver_root import DRIVER, LIBRARIES
from tests.unit.gpu_sim.mps import MIB

SUCCESS, INVALID = "CUDA_SUCCESS", "CUDA_ERROR_INVALID_CONTEXT"


@pytest.fixture
def client(make_mps):
    """A CUDA program on two H100s."""
    return make_mps(count=2).client()


def test_nothing_works_before_cuinit(client):
    calls = ("context()", "info()", "allocate(1)", "synchronize()", "release(1)", "multiprocessors()")
    assert {client(call) for call in calls} == {"CUDA_ERROR_NOT_INITIALIZED"}


def test_memory_needs_a_current_context(client):
    client("init()")
    calls = ("info()", "allocate(1)", "release(1)", "synchronize()", "number(cuda.cuCtxGetDevice)")
    assert {client(call) for call in calls} == {INVALID}
    assert client("number(cuda.cuCtxGetCurrent, kind=ctypes.c_void_p)") is None
    assert client("name(cuda.cuCtxPopCurrent_v2(None))") == INVALID


def test_a_primary_context_lives_as_long_as_it_is_retained(client):
    client("init()")
    state = "[[cuda.cuDevicePrimaryCtxGetState(1, ctypes.byref(f), ctypes.byref(a)), f.value, a.value]"
    state += " for f, a in [(ctypes.c_uint(), ctypes.c_int())]][0]"
    assert client(state) == [0, 0, 0]
    assert client("name(cuda.cuDevicePrimaryCtxSetFlags_v2(1, 4))") == SUCCESS
    assert client("[context(1), context(1), number(cuda.cuCtxGetDevice), number(cuda.cuCtxGetFlags)]") == [
        *(SUCCESS, SUCCESS, 1, 4)
    ]
    assert client(state) == [0, 4, 1]
    before = client("free()")
    assert isinstance(client("allocate(64 * MIB)"), int)
    release = "name(cuda.cuDevicePrimaryCtxRelease_v2(1))"
    assert client(f"[{release}, synchronize(), {release}]") == [SUCCESS] * 3
    assert client(state) == [0, 4, 0]
    assert client(f"[synchronize(), {release}]") == ["CUDA_ERROR_CONTEXT_IS_DESTROYED", INVALID]
    assert client("[context(1), free()]") == [SUCCESS, before], "its memory went with it"
    assert client("[name(cuda.cuDevicePrimaryCtxReset_v2(1)), synchronize()]") == [
        *(SUCCESS, "CUDA_ERROR_CONTEXT_IS_DESTROYED")
    ]
    assert client("name(cuda.cuDevicePrimaryCtxReset_v2(7))") == "CUDA_ERROR_INVALID_DEVICE"


def test_created_contexts_are_a_stack_and_have_their_own_memory(client):
    client("init()")
    create = "number(cuda.cuCtxCreate_v2, 0, {}, kind=ctypes.c_void_p)"
    first = client(create.format(0))
    alone = client("free()")
    second = client(create.format(0))
    assert isinstance(first, int) and isinstance(second, int) and first != second
    with_both = client("free()")
    assert alone - with_both == pytest.approx(542048256, abs=2 * MIB)
    address = client("allocate(10 * MIB)")
    current = "number(cuda.cuCtxGetCurrent, kind=ctypes.c_void_p)"
    pop = "number(cuda.cuCtxPopCurrent_v2, kind=ctypes.c_void_p)"
    destroy = "name(cuda.cuCtxDestroy_v2(ctypes.c_void_p({})))"
    assert client(f"[{current}, {pop}, {current}]") == [second, second, first]
    assert client("free()") == with_both - 10 * MIB
    assert client(f"[{destroy.format(second)}, free()]") == [SUCCESS, alone]
    assert client(f"release({address})") == "CUDA_ERROR_INVALID_VALUE"
    assert client(f"[{destroy.format(second)}, {destroy.format(first)}, {current}]") == [INVALID, SUCCESS, None]
    for call in ("cuCtxSetCurrent", "cuCtxPushCurrent_v2"):
        assert client(f"name(cuda.{call}(ctypes.c_void_p({first})))") == INVALID
    assert client("name(cuda.cuCtxSetCurrent(ctypes.c_void_p(12345)))") == INVALID


def test_newer_ways_to_create_a_context_take_no_further_wishes(client):
    client("init()")
    plain = "[name(cuda.cuCtxCreate_v3(ctypes.byref(ctypes.c_void_p()), None, 0, 0, 1)), number(cuda.cuCtxGetDevice)]"
    assert client(plain) == [SUCCESS, 1]
    assert client("name(cuda.cuCtxCreate_v4(ctypes.byref(ctypes.c_void_p()), None, 0, 0))") == SUCCESS
    assert client("[cuda.cuCtxGetApiVersion(None, ctypes.byref(v)) or v.value for v in [ctypes.c_uint()]]") == [3020]
    assert client("name(cuda.cuCtxCreate_v3(ctypes.byref(ctypes.c_void_p()), None, 1, 0, 1))") == (
        "CUDA_ERROR_NOT_SUPPORTED"
    )


def test_the_current_context_is_each_threads_own(client):
    client("start(1)")
    in_thread = (
        "(lambda r: (t := __import__('threading').Thread(target=lambda: r.append({})), t.start(), t.join(), r)[3])([])"
    )
    assert client(in_thread.format("number(cuda.cuCtxGetDevice)")) == [INVALID]
    assert client(in_thread.format("[context(0), number(cuda.cuCtxGetDevice)]")) == [[SUCCESS, 0]]
    assert client("number(cuda.cuCtxGetDevice)") == 1


def test_many_threads_at_once_leave_the_accounts_right(make_mps):
    mps = make_mps()
    client = mps.client()
    client("start()")
    before = client("free()")
    work = "[(context(), [release(allocate(3 * MIB)) for _ in range(50)])[1] for _ in [0]]"
    threads = f"list(__import__('concurrent.futures').futures.ThreadPoolExecutor(8).map(lambda _: {work}, range(8)))"
    assert {code for found in client(threads) for code in found[0]} == {SUCCESS}
    assert client("free()") == before


def test_memory_is_counted_and_bounded(client):
    client("start()")
    total, before = client("info()[1]"), client("free()")
    assert client("allocate(0)") == "CUDA_ERROR_INVALID_VALUE"
    assert client(f"allocate({total})") == client("allocate(2**64 - 1)") == "CUDA_ERROR_OUT_OF_MEMORY"
    addresses = [client("allocate(3 * MIB)") for _ in range(3)]
    assert len(set(addresses)) == 3 and client("free()") == before - 3 * 4 * MIB
    assert client(f"release({addresses[1]} + 1)") == "CUDA_ERROR_INVALID_VALUE"
    assert [client(f"release({address})") for address in (*addresses, 0)] == [SUCCESS] * 4
    assert client("free()") == before
    assert client("number(cuda.cuMemGetInfo_v2, None, kind=ctypes.c_size_t)") == "CUDA_ERROR_INVALID_VALUE"


def test_bytes_are_never_pretended(client):
    client("start()")
    address = client("allocate(100)")
    for call in (
        "cuMemcpyHtoD_v2(ctypes.c_uint64({a}), b'x' * 100, ctypes.c_size_t({n}))",
        "cuMemcpyDtoH_v2(ctypes.create_string_buffer(100), ctypes.c_uint64({a}), ctypes.c_size_t({n}))",
        "cuMemsetD8_v2(ctypes.c_uint64({a}), 0, ctypes.c_size_t({n}))",
    ):
        codes = [
            client(f"name(cuda.{call.format(a=a, n=n)})")
            for a, n in [(address, 100), (address + 60, 40), (address + 60, 41), (address - 1, 1), (0, 1)]
        ]
        assert codes == ["CUDA_ERROR_NOT_SUPPORTED"] * 2 + ["CUDA_ERROR_INVALID_VALUE"] * 3, call


def test_what_needs_a_real_gpu_says_so_by_name(make_mps):
    mps = make_mps()
    client = mps.client()
    client("start()")
    names = ["cuModuleLoadData", "cuLaunchKernel", "cuStreamCreate", "cuMemAllocManaged", "cuEventCreate"]
    assert client(f"[name(getattr(cuda, n)(*[None] * 11)) for n in {names}]") == ["CUDA_ERROR_NOT_SUPPORTED"] * 5
    assert mps.client_errors().splitlines() == [
        f"simulated CUDA: {name}: this GPU is simulated and runs no CUDA code" for name in names
    ]
    table = "[cuda.cuGetExportTable(ctypes.byref(p), ctypes.create_string_buffer(16)) for p in [ctypes.c_void_p(1)]]"
    assert client(table) == [801]


def test_getprocaddress_finds_the_newest_form_that_the_callers_version_knows(client):
    address = (
        "(lambda p: cuda.cuGetProcAddress_v2({!r}.encode(), ctypes.byref(p), {}, ctypes.c_uint64(0), None) or p.value)"
        "(ctypes.c_void_p())"
    )
    own = "ctypes.cast(cuda.{}, ctypes.c_void_p).value"
    expected = [
        ("cuMemAlloc", 13000, "cuMemAlloc_v2"),
        ("cuMemGetInfo", 12000, "cuMemGetInfo_v2"),
        ("cuDevicePrimaryCtxRelease", 13000, "cuDevicePrimaryCtxRelease_v2"),
        ("cuDevicePrimaryCtxRelease", 10000, "cuDevicePrimaryCtxRelease"),
        ("cuCtxCreate", 13000, "cuCtxCreate_v4"),
        ("cuCtxCreate", 12000, "cuCtxCreate_v3"),
        ("cuCtxCreate", 11000, "cuCtxCreate_v2"),
        ("cuDeviceGetUuid", 11000, "cuDeviceGetUuid"),
        ("cuGetProcAddress", 13000, "cuGetProcAddress_v2"),
        ("cuModuleLoadData", 13000, "cuModuleLoadData"),
        ("cuStreamDestroy", 13000, "cuStreamDestroy_v2"),
    ]
    for name, version, symbol in expected:
        assert client(f"{address.format(name, version)} == {own.format(symbol)}"), (name, version)
    for name in ("cuNoSuchFunction", "", "cuMemAlloc_v3"):
        assert client(address.format(name, 13000)) == 500


def test_every_exported_function_is_found_by_name(build, client):
    library = build.out / "root" / LIBRARIES / f"libcuda.so.{DRIVER}"
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in symbols.splitlines() if " T cu" in line}
    plain = sorted({name.removesuffix("_v2").removesuffix("_v3").removesuffix("_v4") for name in exported})
    lookup = "cuda.cuGetProcAddress(n.encode(), ctypes.byref(ctypes.c_void_p()), 13000, ctypes.c_uint64(0))"
    assert client(f"[n for n in {plain} if {lookup}]") == []
    assert len(plain) > 75


def test_no_function_crashes_on_null_before_and_after_cuda_starts(build, client):
    library = build.out / "root" / LIBRARIES / f"libcuda.so.{DRIVER}"
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names = sorted({line.split()[-1] for line in symbols.splitlines() if " T cu" in line} - {"cuInit"})
    nothing = f"[getattr(cuda, n)(*[ctypes.c_void_p(None)] * 8) for n in {names}]"
    before = client(nothing)
    assert set(before) <= {1, 3, 801}
    client("start()")
    assert set(client(nothing)) <= {0, 1, 201, 709, 801}


def test_attributes_are_those_that_cuda_fixes_and_speed_is_never_invented(make_mps):
    client = make_mps("l40s").client()
    client("init()")
    fixed = {
        1: 1024,
        4: 64,
        5: 2**31 - 1,
        8: 49152,
        10: 32,
        12: 65536,
        18: 0,
        39: 1536,
        81: 102400,
        97: 101376,
        106: 24,
    }
    assert client(f"[number(cuda.cuDeviceGetAttribute, a, 0) for a in {list(fixed)}]") == list(fixed.values())
    # Clock rate, memory clock, bus width, L2 size; an unknown number.
    assert client("[number(cuda.cuDeviceGetAttribute, a, 0) for a in (13, 36, 37, 38, 9999)]") == (
        ["CUDA_ERROR_NOT_SUPPORTED"] * 5
    )


def test_the_compute_mode_is_the_one_that_nvidia_smi_set(make_mps):
    mps = make_mps()
    assert mps.root.smi("-c", "EXCLUSIVE_PROCESS").returncode == 0
    assert mps.client()("[init(), number(cuda.cuDeviceGetAttribute, 20, 0)]") == [SUCCESS, 3]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        *((2, "CUDA_ERROR_OUT_OF_MEMORY"), (46, "CUDA_ERROR_DEVICE_UNAVAILABLE"), (201, INVALID)),
        *((709, "CUDA_ERROR_CONTEXT_IS_DESTROYED"), (805, "CUDA_ERROR_MPS_CONNECTION_FAILED")),
        *((806, "CUDA_ERROR_MPS_RPC_FAILURE"), (807, "CUDA_ERROR_MPS_SERVER_NOT_READY")),
        *((808, "CUDA_ERROR_MPS_MAX_CLIENTS_REACHED"), (809, "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED")),
        *((810, "CUDA_ERROR_MPS_CLIENT_TERMINATED"), (811, "CUDA_ERROR_CDP_NOT_SUPPORTED")),
        (812, "CUDA_ERROR_CDP_VERSION_MISMATCH"),
    ],
)
def test_errors_have_their_names_and_a_text(client, code, name):
    assert client(f"name({code})") == name
    assert client(
        f"[cuda.cuGetErrorString({code}, ctypes.byref(t)) or len(t.value) > 5 for t in [ctypes.c_char_p()]]"
    ) == [True]


def test_an_unknown_error_has_no_name(client):
    assert client("[cuda.cuGetErrorName(813, ctypes.byref(t)) for t in [ctypes.c_char_p()]]") == [1]
