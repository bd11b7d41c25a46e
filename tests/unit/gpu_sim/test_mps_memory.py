"""Memory of MPS clients: what each way of limiting it leaves, and what clients share.

Figures are those of a real H100 with driver 580.159.04, unless a test says otherwise.
"""

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import MODELS
from tests.unit.gpu_sim.mps import MIB, close_to

GPU = MODELS["h100-80gb"]
TOTAL = 85017493504


@pytest.mark.parametrize(("percentage", "free"), [("100", 84397981696), ("20", 84810858496)])
def test_free_memory_of_one_client_is_the_measured_one(make_mps, percentage, free):
    mps = make_mps()
    mps.start()
    client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=percentage)
    client("start()")
    assert client("info()") == [close_to(free), TOTAL]


LIMITS = [
    ("100", "0=1G", 535402352),
    ("100", "0=2G", 1609144176),
    ("100", "0=3000M", 2607388528),
    ("100", "0=1g", 535402352),
    ("100", "0=2048MB", 1609144176),
    ("100", "0=2Gi", 1609144176),
    ("50", "0=1500M", 1289014192),
    ("10", "0=1G", 998504048),
    ("20", "0=4G", 4166205616),
    ("70", "0=6G", 6058347632),
    ("20", "0=256M", 139673776),
    ("20", "0=512M", 408109232),
    # No limits at all.
    ("100", "0=1073741824", 84397981696),
    ("100", "1G", 84397981696),
    ("100", "junk", 84397981696),
    ("100", "0=0", 84397981696),
    ("100", "7=1G", 84397981696),
]


def test_a_clients_own_limit_leaves_what_was_measured(make_mps):
    mps = make_mps()
    mps.start()
    for percentage in sorted({entry[0] for entry in LIMITS}):
        client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=percentage)
        for _, limit, free in (entry for entry in LIMITS if entry[0] == percentage):
            assert client(f"free_under({limit!r})") == close_to(free), (percentage, limit)


def test_a_limit_names_its_device_by_ordinal_or_uuid_and_leaves_the_others_alone(make_mps):
    mps = make_mps(count=2)
    mps.start()
    uuid = simulated_gpus("node", GPU, 2)[1].uuid
    for limit in (f"{uuid}=1500M", "1=1500M", f"0=5000M,{uuid}=1500M"):
        client = mps.client(CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=limit, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="50")
        assert client("[start(1), free()]") == ["CUDA_SUCCESS", close_to(1289014192)]
        assert client("[context(0), free() > 2 * 2**30]") == ["CUDA_SUCCESS", True]


@pytest.mark.parametrize("by_uuid", [False, True])
def test_a_default_limit_is_enforced_and_its_total_stays_the_devices(make_mps, by_uuid):
    mps = make_mps()
    mps.start()
    device = simulated_gpus("node", GPU, 1)[0].uuid if by_uuid else "0"
    commands = [f"set_default_device_pinned_mem_limit {device} 1500M", "set_default_active_thread_percentage 50"]
    assert mps.control(*commands, f"get_default_device_pinned_mem_limit {device}") == "50.0\n1G\n"
    client = mps.client(CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=8G")
    assert client("[start(), info()]") == ["CUDA_SUCCESS", [close_to(1289014192), TOTAL]]
    assert client("number(cuda.cuDeviceTotalMem_v2, 0, kind=ctypes.c_size_t)") == TOTAL
    assert isinstance(client("allocate(500 * MIB)"), int)
    assert client("free()") == close_to(764726192)
    assert client("allocate(900 * MIB)") == client("allocate(3000 * MIB)") == "CUDA_ERROR_OUT_OF_MEMORY"
    assert client("free()") == close_to(764726192)


def test_a_limit_of_a_running_server_counts_for_clients_that_come_later_until_0_lifts_it(make_mps):
    mps = make_mps()
    mps.start()
    first = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    first("start()")
    server = mps.server
    assert mps.control(f"set_device_pinned_mem_limit {server} 0 4G") == ""
    assert mps.control(f"get_device_pinned_mem_limit {server} 0") == "4G\n"
    second = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=2G")
    assert second("[start(), free()]")[1] == close_to(2018721968)
    assert first("free()") > 70 * 1024 * MIB
    mps.control(f"set_device_pinned_mem_limit {server} 0 0")
    third = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    assert third("[start(), free()]")[1] > 70 * 1024 * MIB


def test_a_limit_too_small_for_the_context_leaves_nothing(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client(CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=100M")
    assert client("[start(), free(), allocate(1)]") == ["CUDA_SUCCESS", 0, "CUDA_ERROR_OUT_OF_MEMORY"]


def test_allocations_are_rounded_up_to_2_mib_and_come_back(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    before = client("free()")
    address = client("allocate(1)")
    assert client("free()") == before - 2 * MIB
    assert client(f"release({address})") == "CUDA_SUCCESS"
    assert client(f"[free(), release({address})]") == [before, "CUDA_ERROR_INVALID_VALUE"]


def test_two_clients_share_the_devices_memory(make_mps):
    mps = make_mps()
    mps.start()
    first, second = mps.client(), mps.client()
    first("start()")
    assert first("[free(), type(allocate(50000 * MIB)).__name__, free()]") == [
        *(close_to(84397981696), "int", close_to(31969181696))
    ]
    second("start()")
    assert second("[free(), type(allocate(20000 * MIB)).__name__, free()]") == [
        *(close_to(31427133440), "int", close_to(10455613440))
    ]
    assert second("allocate(20000 * MIB)") == "CUDA_ERROR_OUT_OF_MEMORY"
    assert first("free()") == second("free()")


@pytest.mark.parametrize("by_uuid", [False, True])
def test_a_daemons_limits_count_by_the_clients_own_numbers_of_its_gpus(make_mps, by_uuid):
    mps = make_mps(count=2)
    mps.start()
    gpus = [gpu.uuid for gpu in simulated_gpus("node", GPU, 2)]
    names = gpus if by_uuid else ["0", "1"]
    mps.control(
        *(f"set_default_device_pinned_mem_limit {name} {size}G" for name, size in zip(names, (2, 4), strict=True))
    )
    two, four = close_to(1609144176), close_to(1609144176 + 2 * 2**30)
    for devices in ("0", "1", gpus[1], "1,0"):
        assert mps.once("[start(), free()]", CUDA_VISIBLE_DEVICES=devices) == ["CUDA_SUCCESS", two], devices
    assert mps.once("[start(1), free()]") == ["CUDA_SUCCESS", four]
    server = mps.server
    assert mps.control(f"get_device_pinned_mem_limit {server} 1") == "4G\n"
    assert mps.control(f"get_device_pinned_mem_limit {server} {gpus[1]}") == "4G\n"
    assert mps.control("get_default_device_pinned_mem_limit 1") == ("" if by_uuid else "4G\n")
    assert f"Device pinned memory limit for device {names[1]} set to 0x100000000 bytes" in mps.server_log()


def test_a_clients_variable_lowers_the_daemons_limit_or_lifts_it(make_mps):
    """As measured: whatever is wrong in it leaves no limit at all."""
    mps = make_mps(count=2)
    mps.start()
    mps.control("set_default_device_pinned_mem_limit 0 2G")
    gpus = [gpu.uuid for gpu in simulated_gpus("node", GPU, 2)]
    one, two, none = close_to(535402352), close_to(1609144176), close_to(84397981696)
    expected = {
        **{"": two, "0=1G": one, "0=8G": two, f"{gpus[0]}=1G": one, f"{gpus[0]}=8G": two},
        **dict.fromkeys(("1=1G", "7=1G", "junk", "0=0", "0=junk", f"{gpus[1]}=1G", "0=1G,1=1G", "1=1G,0=8G"), none),
    }
    client = mps.client(CUDA_VISIBLE_DEVICES="0")
    assert {limit: client(f"free_under({limit!r})") for limit in expected} == expected
    assert mps.once("[start(), free()]", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="1=1G") == ["CUDA_SUCCESS", two], (
        "valid, but for the other GPU"
    )
