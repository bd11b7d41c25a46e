"""MIG devices as CUDA and MPS see them: all of a GPU, several in a container, and layouts that differ by GPU."""

import json
import re

import pytest

from gpus.mig import EMPTY, mig_line
from gpus.models import SimulatedDriver
from tests.unit.gpu_sim.driver_root import MODELS, Root, container_of
from tests.unit.gpu_sim.mig_instances import CREATE
from tests.unit.gpu_sim.mps import MIB
from tests.unit.gpu_sim.test_libcuda import CUDA

H100 = MODELS["h100-80gb"]
LISTED = (
    CUDA
    + """
    result = [-cuda.cuInit(0)]
    if result == [0]:
        result = []
        for i in range(number(cuda.cuDeviceGetCount)):
            uuid = (ctypes.c_ubyte * 16)()
            assert cuda.cuDeviceGetUuid_v2(uuid, i) == 0
            result.append([bytes(uuid).hex(), number(cuda.cuDeviceGetAttribute, 16, i)])
    print(json.dumps(result))
    """
)


def layouts(*each) -> list[str]:
    return [mig_line(H100, layout) for layout in each]


def cuda_devices(root: Root, **environment: str) -> list:
    """UUID and multiprocessors of each, or the error of cuInit."""
    return json.loads(root.python(LISTED, **environment).stdout)


def mig_uuids(root: Root) -> list[str]:
    return re.findall(r"MIG-[0-9a-f-]{36}", root.smi("-L").stdout)


def bare(uuid: str) -> str:
    return uuid.partition("-")[2].replace("-", "")


def test_gpus_of_one_node_have_layouts_of_their_own(make_root):
    root = make_root(count=4, mig=layouts(["3g.40gb@4", "2g.20gb"], [], EMPTY))
    listed = re.findall(r"GPU (\d)|MIG (\S+)", root.smi("-L").stdout)
    assert [gpu or profile for gpu, profile in listed] == ["0", "2g.20gb", "3g.40gb", "1", "2", "3"]
    modes = root.smi("--query-gpu=mig.mode.current", "--format=csv,noheader").stdout.split()
    assert modes == ["Enabled", "Disabled", "Enabled", "Disabled"]


def test_cuda_counts_every_gpu_instance_and_every_gpu_without_mig(make_root):
    # Documented for drivers from R570 on, not measured; see images/gpu-sim/src/devices.h.
    root = make_root(count=3, mig=layouts(["1g.10gb@0", "3g.40gb@4"], [], EMPTY))
    small, large = mig_uuids(root)
    found = cuda_devices(root)
    assert found[:2] == [[bare(small), 16], [bare(large), 60]]
    assert [multiprocessors for _, multiprocessors in found] == [16, 60, 132]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES=large) == [[bare(large), 60]]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES=f"{large},{small}") == [[bare(large), 60], [bare(small), 16]]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES="1") == [[bare(large), 60]]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES="3") == [-100]


def test_a_further_compute_instance_is_there_for_who_names_it(make_root):
    root = make_root(count=1)
    root.nvml(
        CREATE
        + "n.nvmlDeviceSetMigMode(d, 1)\ngi, _ = create(2, 0)\n"
        + "n.nvmlGpuInstanceCreateComputeInstance(gi, 1)\nn.nvmlGpuInstanceCreateComputeInstance(gi, 0)"
    )
    first, second = mig_uuids(root)
    assert cuda_devices(root) == [[bare(first), 40]]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES=second) == [[bare(second), 20]]
    assert cuda_devices(root, CUDA_VISIBLE_DEVICES="1") == [-100]


def test_cuda_has_at_most_64_devices(make_root):
    root = make_root(count=16, mig=layouts(*[["1g.10gb"] * 7] * 16))
    assert len(mig_uuids(root)) == 112
    assert [number for _, number in cuda_devices(root)] == [16] * 64


@pytest.mark.parametrize("granted", [["1g.10gb@0", "3g.40gb@4"], ["3g.40gb@4"], []])
def test_a_container_has_the_mig_devices_it_was_given_and_never_their_gpu(make_root, tmp_path, granted):
    root = make_root(count=1, mig=layouts(["1g.10gb@0", "3g.40gb@4"]))
    minors = {"1g.10gb@0": 3 + 1 * 9, "3g.40gb@4": 3 + 23 * 9}
    nodes = [f"nvidia-caps/nvidia-cap{minors[name] + i}" for name in granted for i in (0, 1)]
    container = container_of(root, tmp_path, "nvidia0", *nodes)
    assert cuda_devices(container) == ([[bare(uuid), *rest] for uuid, *rest in named(root, granted)] or [-100])
    assert len(mig_uuids(container)) == len(granted)


def named(root: Root, entries: list[str]) -> list[list]:
    multiprocessors = {"1g.10gb@0": 16, "3g.40gb@4": 60}
    uuids = dict(zip(multiprocessors, mig_uuids(root), strict=True))
    return [[uuids[entry], multiprocessors[entry]] for entry in entries]


def test_a_daemon_serves_the_second_mig_device_of_a_gpu_alone(make_mps):
    mps = make_mps(mig=layouts(["1g.10gb@0", "3g.40gb@4"]))
    small, large = mig_uuids(mps.root)
    mps.start(CUDA_VISIBLE_DEVICES=large)
    rows = [row.split() for row in mps.control("device_query").splitlines()[2:]]
    assert [row[2] for row in rows] == [large]
    client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="50")
    assert client("[start(), number(cuda.cuDeviceGetCount), multiprocessors(), info()[1], uuid(0)]") == [
        *("CUDA_SUCCESS", 1, 30, 40448 * MIB, bare(large))
    ]
    assert mps.control("ps").splitlines()[1].split()[3] == large[:22]
    assert mps.once("init()", CUDA_VISIBLE_DEVICES=small) == "CUDA_ERROR_NO_DEVICE"


def test_one_daemon_serves_two_mig_devices_each_with_its_own_share(make_mps):
    mps = make_mps(mig=layouts(["4g.40gb@0", "3g.40gb@4"]))
    mps.start()
    client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="50")
    assert client("[init(), number(cuda.cuDeviceGetCount), multiprocessors(0), multiprocessors(1)]") == [
        *("CUDA_SUCCESS", 2, 30, 32)
    ]
    client("[context(0), allocate(1000 * MIB), context(1)]")
    other = mps.client()
    assert other("[start(1), free() > 39000 * MIB]") == ["CUDA_SUCCESS", True], "memory of one is not the other's"


@pytest.mark.parametrize("switch", [None, "ignored", "applied"])
def test_a_memory_limit_by_mig_uuid_holds_only_where_the_switch_says_so(make_mps, switch):
    # Others' measurement on an A100, not this project's; see images/gpu-sim/src/config.h.
    mps = make_mps(mig=layouts(["3g.40gb"]), driver=SimulatedDriver(mps_memory_limit_by_mig_uuid=switch))
    uuid = mig_uuids(mps.root)[0]
    mps.start()
    set_default, set_running = "set_default_device_pinned_mem_limit", "set_device_pinned_mem_limit"
    mps.control(f"{set_default} {uuid} 4G")
    assert mps.control(f"get_default_device_pinned_mem_limit {uuid}") == "4G\n", "kept, whether it holds or not"
    limited = switch == "applied"
    assert (mps.once("[start(), free() < 4096 * MIB]")) == ["CUDA_SUCCESS", limited]
    server = mps.server
    mps.control(f"{set_running} {server} {uuid} 2G")
    assert mps.control(f"get_device_pinned_mem_limit {server} {uuid}") == "2G\n"
    assert mps.once("[start(), free() < 2048 * MIB]") == ["CUDA_SUCCESS", limited]
    mps.control(f"{set_running} {server} 0 2G")
    assert mps.once("[start(), free() < 2048 * MIB]") == ["CUDA_SUCCESS", True], "by ordinal it always holds"


def test_a_slice_has_fewer_mps_contexts_than_a_gpu(make_mps):
    # In proportion by NVIDIA's documentation; rounding not measured.
    mps = make_mps(mig=layouts(["1g.10gb"]))
    mps.start()
    contexts = "[init(), *[number(cuda.cuCtxCreate_v2, 0, 0, kind=ctypes.c_void_p) for _ in range(8)]]"
    results = mps.once(contexts)
    assert [isinstance(result, int) for result in results[1:]] == [True] * 6 + [False] * 2
    assert results[-1] == "CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED"


MAKE_ANEW = (
    CREATE
    + """
n.nvmlDeviceSetMigMode(d, 1)
result = []
for _ in range(3):
    gi, ci = create(2, 4, 2)
    result.append(migs()[0][1])
    n.nvmlComputeInstanceDestroy(ci)
    n.nvmlGpuInstanceDestroy(gi)
create(2, 4, 2)
result.append(migs()[0][1])
"""
)


def test_a_mig_device_that_is_made_anew_has_another_uuid_and_its_container_knows_it(make_root, tmp_path):
    root = make_root(count=1)
    capability = root.path / "sim/proc-driver/nvidia/capabilities/gpu0/mig/gi23/ci0/access"
    capability.parent.mkdir(parents=True)
    capability.write_text("as installed")
    uuids = root.nvml(MAKE_ANEW)
    assert len(set(uuids)) == 4
    assert mig_uuids(root) == uuids[3:], "a later process knows the last one"
    minor = 3 + 23 * 9
    shown = re.fullmatch(r"DeviceFileMinor: (\d+)\nDeviceFileMode: 292\nDeviceFileModify: 1\n", capability.read_text())
    assert shown and int(shown[1]) == minor + 1 + 4 * 16 * 32 * 9
    container = container_of(root, tmp_path, "nvidia0", *(f"nvidia-caps/nvidia-cap{m}" for m in (minor, shown[1])))
    assert mig_uuids(container) == uuids[3:]
    assert cuda_devices(container) == [[bare(uuids[3]), 60]]


def test_a_uuid_that_no_container_could_know_is_not_given(make_root):
    assert len(set(make_root(count=1).nvml(MAKE_ANEW))) == 1


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        ([], ""),
        (EMPTY, "on"),
        (["1g.10gb", "1g.10gb", "3g.40gb"], "1g.10gb@0,1g.10gb@1,3g.40gb@4"),
        (["3g.40gb", "4g.40gb@0"], None),
        (["3g.40gb@4", "4g.40gb"], "3g.40gb@4,4g.40gb@0"),
        (["1g.10gb+me", "1g.10gb+me"], None),
        (["1g.10gb"] * 8, None),
        (["2g.20gb@1"], None),
        (["2g.20gb@x"], None),
        (["5g.50gb"], None),
        ("full", None),
    ],
)
def test_a_layout_becomes_the_drivers_line_or_is_refused(layout, line):
    if line is not None:
        assert mig_line(H100, layout) == line
        return
    with pytest.raises(ValueError, match=r"MIG .*; "):
        mig_line(H100, layout)


def test_layouts_need_a_model_with_mig_and_as_many_gpus(make_root):
    with pytest.raises(ValueError, match="l40s has no MIG"):
        mig_line(MODELS["l40s"], EMPTY)
    with pytest.raises(ValueError, match="layouts of 2 GPUs, but it has 1"):
        make_root(count=1, mig=layouts([], EMPTY))
