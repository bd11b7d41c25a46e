"""The simulated driver root: NVML and CUDA libraries, nvidia-smi, and the installer, plain and under ASan and UBSan."""

import json
import os
import re
import signal
import stat
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpu_models import load_models, render_node_config, simulated_gpus

SOURCE = Path(__file__).resolve().parents[2] / "images" / "gpu-sim"
DRIVER = "580.159.04"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
MODELS = load_models()
MIG_MODELS = [key for key, model in MODELS.items() if model.mig_profiles]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mknod needs root")


@pytest.fixture(scope="session")
def nvml_include(tmp_path_factory) -> Path:
    if folder := os.environ.get("NVML_INCLUDE"):
        return Path(folder)
    module = tmp_path_factory.mktemp("module")
    command = ["go", "mod", "download", "-json", "github.com/NVIDIA/go-nvml@v0.13.3-1"]
    (module / "go.mod").write_text("module nvml\n")
    found = subprocess.run(command, cwd=module, check=True, capture_output=True, text=True).stdout
    return Path(json.loads(found)["Dir"]) / "pkg" / "nvml"


@pytest.fixture(scope="session")
def built(tmp_path_factory, nvml_include) -> Path:
    out = tmp_path_factory.mktemp("gpu-sim")
    before = sorted(SOURCE.rglob("*"))
    command = ["make", "-s", "-j2", "-f", SOURCE / "Makefile", f"OUT={out}", f"NVML_INCLUDE={nvml_include}"]
    subprocess.run([*command, "all"], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    subprocess.run([*command, "sanitize"], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert sorted(SOURCE.rglob("*")) == before
    return out


@dataclass(frozen=True)
class Build:
    """One way the code was compiled, and how a program must start to use it."""

    out: Path
    preload: str

    def environment(self) -> dict[str, str]:
        # Python itself leaks by design; everything else that a sanitizer finds ends the process.
        env = {"PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=0", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**env, "LD_PRELOAD": self.preload} if self.preload else env


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def build(built, request) -> Build:
    if request.param == "plain":
        return Build(built, "")
    names = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return Build(built / "sanitize", ":".join(names))


@dataclass(frozen=True)
class Root:
    """A driver root made by hand, with plain files for device nodes, so that these tests need no privilege."""

    build: Build
    path: Path

    def nvml(self, code: str, **environment: str) -> object:
        """Runs code with pynvml as n after nvmlInit; returns what it puts into result."""
        start = "import json\nimport pynvml as n\nn.nvmlInit()\nresult = None\n"
        script = start + textwrap.dedent(code) + "\nprint(json.dumps(result))"
        return json.loads(self.python(script, **environment).stdout)

    def python(self, script: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        env = {**self.build.environment(), "LD_LIBRARY_PATH": str(self.path / LIBRARIES), **environment}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=env, timeout=60
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def smi(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        env = {**self.build.environment(), **environment}
        return subprocess.run(
            [self.path / "usr/bin/nvidia-smi", *arguments], capture_output=True, text=True, env=env, timeout=20
        )


@pytest.fixture
def make_root(build, tmp_path):
    def make(
        model: str = "h100-80gb", count: int = 2, *, text: str | None = None, visible: int | None = None, **kwargs
    ):
        path = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        for folder in ("etc", "dev", "run"):
            (path / folder).mkdir(parents=True)
        subprocess.run(["cp", "-a", f"{build.out}/root/usr", path], check=True)
        (path / "etc/gpu-sim.ini").write_text(text or render_node_config("node", MODELS[model], count, **kwargs))
        for minor in range(count if visible is None else visible):
            (path / f"dev/nvidia{minor}").touch()
        return Root(build, path)

    return make


def container_of(root: Root, tmp_path: Path, *nodes: str) -> Root:
    """What a container gets of the root: libraries by version, nvidia-smi, and the granted device nodes."""
    path = tmp_path / "container"
    subprocess.run(["cp", "-a", root.path, path], check=True)
    (path / "etc/gpu-sim.ini").rename(path / LIBRARIES / f"libnvidia-simcfg.so.{DRIVER}")
    subprocess.run(["rm", "-r", path / "dev", path / "run"], check=True)
    (path / "dev/nvidia-caps").mkdir(parents=True)
    for node in nodes:
        (path / "dev" / node).touch()
    return Root(root.build, path)


@pytest.mark.parametrize("key", list(MODELS))
def test_nvml_reports_the_model_as_its_file_states_it(make_root, key):
    model = MODELS[key]
    found = make_root(key, 2).nvml("""
        d = n.nvmlDeviceGetHandleByIndex(1)
        m2 = n.nvmlDeviceGetMemoryInfo(d, version=n.nvmlMemory_v2)
        pci = n.nvmlDeviceGetPciInfo(d)
        result = [n.nvmlDeviceGetCount(), n.nvmlDeviceGetName(d), n.nvmlDeviceGetUUID(d),
                  n.nvmlDeviceGetMemoryInfo(d).total >> 20, m2.total >> 20, m2.used, pci.busId, pci.pciDeviceId,
                  n.nvmlDeviceGetMinorNumber(d), n.nvmlDeviceGetNumGpuCores(d),
                  "%d.%d" % n.nvmlDeviceGetCudaComputeCapability(d), n.nvmlDeviceGetPowerManagementLimit(d),
                  n.nvmlSystemGetDriverVersion(), n.nvmlSystemGetCudaDriverVersion()]
    """)
    gpu = simulated_gpus("node", model, 2)[1]
    cores = model.multiprocessors * (64 if model.cuda_compute_capability == "8.0" else 128)
    assert found == [
        *(2, model.product_name, gpu.uuid, model.memory_mib, model.memory_mib, 0, "00000000:1A:00.0"),
        *(model.pci_device_id, 1, cores, model.cuda_compute_capability, model.power_limit_watts * 1000, DRIVER, 13000),
    ]


def test_architecture_and_brand_are_nvmls_numbers(make_root):
    code = "d = n.nvmlDeviceGetHandleByIndex(0); result = [n.nvmlDeviceGetArchitecture(d), n.nvmlDeviceGetBrand(d)]"
    found = {key: make_root(key, 1).nvml(code) for key in ("rtx-4090", "a100-40gb", "h100-80gb", "b200-180gb")}
    assert found == {"rtx-4090": [8, 5], "a100-40gb": [7, 14], "h100-80gb": [9, 14], "b200-180gb": [10, 14]}


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


def initialise(root: Root, call: str = "n.nvmlInit()", **environment: str) -> tuple[int, str]:
    script = f"""
        import pynvml as n
        try:
            {call}
            print(0)
        except n.NVMLError as error:
            print(error.value)
    """
    done = root.python(script, **environment)
    return int(done.stdout), done.stderr


def test_a_node_without_gpus_initialises_only_with_the_no_gpus_flag(make_root):
    root = make_root(visible=0)
    assert initialise(root)[0] == 28
    assert initialise(root, "n.nvmlInitWithFlags(1)")[0] == 0


def test_use_before_init_and_after_the_last_shutdown_is_uninitialized(make_root):
    root = make_root()
    assert initialise(root, "n.nvmlDeviceGetCount()")[0] == 1
    call = "n.nvmlInit(); n.nvmlInit(); n.nvmlShutdown(); n.nvmlDeviceGetCount(); n.nvmlShutdown(); "
    assert initialise(root, call)[0] == 0
    assert initialise(root, call + "n.nvmlDeviceGetCount()")[0] == 1
    assert initialise(root, call + "n.nvmlShutdown()")[0] == 1


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("memory_mib = 81559", "memory_mib = many", "gpu-sim.ini:11: "),
        ("[gpu 1]", "[gpu 2]", "numbered 0, 1, 2"),
        ("[driver]", "driver", "gpu-sim.ini:2: "),
        ("minor = 1", "minor = 0", "share a minor"),
        ("uuid = GPU-", "uuid = XXX-", "uuid must be"),
        ("profile_id = 19", "profile_id = 19\nprofile = 1", "unknown key"),
        ("cuda = 13.0", "cuda = 13.0\n" + "x" * 600, "longer than"),
        ("pci_bus_id = 0000:0a:00.0", "pci_bus_id = 0a:00.0", "must read like"),
        ("power_limit_watts = 700\n", "", "lacks a key"),
        ("version = 580.159.04", "version =", "the value is empty"),
    ],
)
def test_a_broken_configuration_fails_init_and_is_named_on_stderr(make_root, old, new, told):
    text = render_node_config("node", MODELS["h100-80gb"], 2)
    assert old in text
    code, stderr = initialise(make_root(text=text.replace(old, new, 1)))
    assert code == 9
    assert "etc/gpu-sim.ini" in stderr and told in stderr


def test_a_configuration_that_is_nowhere_fails_init(make_root):
    root = make_root()
    (root.path / "etc/gpu-sim.ini").unlink()
    code, stderr = initialise(root)
    assert code == 9 and "GPU_SIM_CONFIG" in stderr


def test_the_environment_names_another_configuration(make_root, tmp_path):
    other = tmp_path / "other.ini"
    other.write_text(render_node_config("node", MODELS["l40s"], 1))
    code = "result = n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByIndex(0))"
    assert make_root().nvml(code, GPU_SIM_CONFIG=str(other)) == "NVIDIA L40S"


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
    assert exported == set(prototypes) | {"gpuSimulated", "gpuSimSetTimeslice", "gpuSimGetTimeslice"}


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


def test_threads_that_init_use_and_shut_down_at_once_never_fail(make_root):
    make_root(count=8).python("""
        import pynvml as n
        from concurrent.futures import ThreadPoolExecutor
        def work(i):
            for _ in range(50):
                n.nvmlInit()
                d = n.nvmlDeviceGetHandleByIndex(i)
                assert n.nvmlDeviceGetIndex(d) == i
                n.nvmlShutdown()
        n.nvmlInit()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    """)


CREATE = """
    d = n.nvmlDeviceGetHandleByIndex(0)
    def code(call, *arguments):
        try:
            call(*arguments)
            return 0
        except n.NVMLError as error:
            return error.value
    def placements(profile_id):
        count = n.c_uint()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(d, profile_id, None, n.byref(count))
        found = (n.c_nvmlGpuInstancePlacement_t * count.value)()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(d, profile_id, found, n.byref(count))
        return found
    def create(index, start=None, compute=None):
        profile = n.nvmlDeviceGetGpuInstanceProfileInfo(d, index)
        if start is None:
            gi = n.nvmlDeviceCreateGpuInstance(d, profile.id)
        else:
            placement = n.c_nvmlGpuInstancePlacement_t(start, placements(profile.id)[0].size)
            gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(d, profile.id, n.byref(placement))
        if compute is None:
            return gi, None
        info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, compute, 0)
        return gi, n.nvmlGpuInstanceCreateComputeInstance(gi, info.id)
    def migs():
        found = []
        for i in range(n.nvmlDeviceGetMaxMigDeviceCount(d)):
            if code(n.nvmlDeviceGetMigDeviceHandleByIndex, d, i) == 0:
                m = n.nvmlDeviceGetMigDeviceHandleByIndex(d, i)
                a = n.nvmlDeviceGetAttributes(m)
                found.append([n.nvmlDeviceGetName(m), n.nvmlDeviceGetUUID(m), a.multiprocessorCount, a.memorySizeMB])
        return found
"""


@pytest.mark.parametrize("key", MIG_MODELS)
def test_every_profile_and_placement_can_be_created_read_back_and_destroyed(make_root, key):
    found = make_root(key, 1).nvml(
        textwrap.dedent(CREATE)
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        result = []
        for index in range(18):
            if code(n.nvmlDeviceGetGpuInstanceProfileInfo, d, index):
                continue
            p = n.nvmlDeviceGetGpuInstanceProfileInfo(d, index)
            places = [x.start for x in placements(p.id)]
            full = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[p.sliceCount]
            names = set()
            for start in places:
                gi, ci = create(index, start, full)
                info = n.nvmlGpuInstanceGetInfo(gi)
                assert (info.profileId, info.placement.start) == (p.id, start)
                assert n.nvmlDeviceGetMaxMigDeviceCount(d) == 7
                names.add(migs()[0][0].split(" MIG ")[1])
                assert code(n.nvmlGpuInstanceDestroy, gi) == 19
                n.nvmlComputeInstanceDestroy(ci)
                n.nvmlGpuInstanceDestroy(gi)
                assert migs() == []
            result.append([*names, p.id, index, p.multiprocessorCount, p.memorySizeMB, places])
        """)
    )
    expected = [
        [p.name, p.profile_id, p.profile_index, p.multiprocessors, p.memory_mib, list(p.placements)]
        for p in sorted(MODELS[key].mig_profiles, key=lambda profile: profile.profile_index)
    ]
    assert found == expected


def test_instances_that_overlap_exceed_a_limit_or_lack_mig_mode_are_refused(make_root):
    assert make_root().nvml(
        textwrap.dedent(CREATE)
        + textwrap.dedent("""
        result = [code(create, 0, 0)]
        n.nvmlDeviceSetMigMode(d, 1)
        create(2, 0, 2)
        result += [code(create, 0, 3), code(create, 0, 7), code(create, 7, 4), code(create, 7, 5), code(create, 4),
                   code(n.nvmlDeviceSetMigMode, d, 0), code(n.nvmlDeviceCreateGpuInstance, d, 99)]
        result += [n.nvmlDeviceGetGpuInstanceRemainingCapacity(d, profile) for profile in (19, 9)]
        """)
    ) == [3, 23, 2, 0, 23, 23, 19, 2, 2, 0]


def test_seven_smallest_instances_fit_and_an_eighth_does_not(make_root):
    names = make_root().nvml(
        textwrap.dedent(CREATE)
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        for _ in range(7):
            create(0, None, 0)
        assert code(create, 0) == 23
        result = migs()
        """)
    )
    assert len({uuid for _, uuid, _, _ in names}) == 7
    assert {tuple(rest) for _, _, *rest in names} == {(16, 9984)}


def test_a_gpu_instance_can_be_split_into_compute_instances(make_root):
    assert make_root().nvml(
        textwrap.dedent(CREATE)
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        gi, _ = create(2, 0)
        result = [code(n.nvmlGpuInstanceGetComputeInstanceProfileInfo, gi, index, 0) for index in range(9)]
        for index in (0, 1):
            info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, index, 0)
            result.append([info.sliceCount, info.instanceCount, info.multiprocessorCount])
        n.nvmlGpuInstanceCreateComputeInstance(gi, 1)
        n.nvmlGpuInstanceCreateComputeInstance(gi, 0)
        result += [code(n.nvmlGpuInstanceCreateComputeInstance, gi, 0), [m[0].split(" MIG ")[1] for m in migs()]]
        """)
    ) == [0, 0, 0, 3, 3, 3, 3, 3, 3, [1, 3, 20], [2, 1, 40], 23, ["2c.3g.40gb", "1c.3g.40gb"]]


@pytest.mark.parametrize("compute_profile", [4, 8])
def test_the_largest_instance_takes_either_of_its_compute_profiles_and_keeps_it(make_root, compute_profile):
    root = make_root(count=1)
    made = root.nvml(
        textwrap.dedent(CREATE) + f"n.nvmlDeviceSetMigMode(d, 1)\ngi, ci = create(4, 0, {compute_profile})\n"
        "result = [n.nvmlComputeInstanceGetInfo_v2(ci).profileId, migs()]"
    )
    assert made[0] == compute_profile and made[1][0][2:] == [132, 81152]
    assert root.nvml(textwrap.dedent(CREATE) + "result = migs()") == made[1]


def test_mig_devices_and_their_uuids_survive_the_process(make_root):
    root = make_root()
    code = textwrap.dedent(CREATE) + "n.nvmlDeviceSetMigMode(d, 1)\ncreate(2, 4, 2)\ncreate(1, 0, 0)\nresult = migs()"
    made = root.nvml(code)
    assert len(made) == 2
    assert root.nvml(textwrap.dedent(CREATE) + "result = migs()") == made


@pytest.mark.parametrize("key", ["rtx-4090", "l40s"])
def test_a_model_without_mig_says_so(make_root, key):
    assert make_root(key).nvml(
        textwrap.dedent(CREATE)
        + "result = [code(n.nvmlDeviceGetMigMode, d), code(n.nvmlDeviceGetGpuInstanceProfileInfo, d, 0), "
        "n.nvmlDeviceGetMaxMigDeviceCount(d)]"
    ) == [3, 3, 0]


def test_static_mig_exists_from_the_start_on_every_gpu(make_root):
    root = make_root(static_mig=["3g.40gb@0", "1g.10gb@4"])
    listed = root.smi("-L").stdout
    assert re.findall(r"^(?:GPU \d|  MIG \S+ +Device +\d)", listed, re.MULTILINE) == [
        *("GPU 0", "  MIG 1g.10gb     Device  0", "  MIG 3g.40gb     Device  1"),
        *("GPU 1", "  MIG 1g.10gb     Device  0", "  MIG 3g.40gb     Device  1"),
    ]
    assert (
        len(set(re.findall(r"UUID: (MIG-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})", listed)))
        == 4
    )


def test_a_container_sees_the_gpu_it_was_given_by_the_copied_configuration(make_root, tmp_path):
    container = container_of(make_root(count=4), tmp_path, "nvidia2")
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 4)[2].uuid
    assert container.smi("-L").stdout == f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {uuid})\n"


def test_a_container_sees_the_mig_device_whose_capability_it_was_given_and_no_other(make_root, tmp_path):
    root = make_root()
    made, ids = root.nvml(
        textwrap.dedent(CREATE)
        + "n.nvmlDeviceSetMigMode(d, 1)\ncreate(0, 0, 0)\ngi, _ = create(2, 4, 2)\n"
        + "result = [migs(), n.nvmlGpuInstanceGetInfo(gi).id]"
    )
    minor = 3 + (0 * 32 + ids) * 9
    container = container_of(
        root, tmp_path, "nvidia0", f"nvidia-caps/nvidia-cap{minor}", f"nvidia-caps/nvidia-cap{minor + 1}"
    )
    assert container.nvml(textwrap.dedent(CREATE) + "result = migs()") == [mig for mig in made if "3g.40gb" in mig[0]]


def test_a_container_changes_nothing_outside_its_process(make_root, tmp_path):
    container = container_of(make_root(), tmp_path, "nvidia0")
    (container.path / "run").mkdir()
    container.nvml("n.nvmlDeviceSetComputeMode(n.nvmlDeviceGetHandleByIndex(0), 3)")
    assert list((container.path / "run").iterdir()) == []


WAIT = """
    events = n.nvmlEventSetCreate()
    for i in range(n.nvmlDeviceGetCount()):
        n.nvmlDeviceRegisterEvents(n.nvmlDeviceGetHandleByIndex(i), n.nvmlEventTypeXidCriticalError, events)
    def wait(milliseconds):
        try:
            e = n.nvmlEventSetWait_v2(events, milliseconds)
            return [n.nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId, e.computeInstanceId]
        except n.NVMLError as error:
            return error.value
"""


def test_an_xid_reaches_the_waiting_process_once_with_device_and_instances(make_root):
    root = make_root()
    (root.path / "run/xid").write_text("1 79\n0 31 5 0\n")
    found = root.nvml(textwrap.dedent(WAIT) + "result = [wait(1000), wait(1000), wait(100)]")
    assert found == [[1, 8, 79, 0xFFFFFFFF, 0xFFFFFFFF], [0, 8, 31, 5, 0], 10]
    assert not (root.path / "run/xid").exists()


def test_an_unfinished_or_wrong_xid_file_raises_no_event(make_root):
    root = make_root()
    (root.path / "run/xid").write_text("1 7")
    assert root.nvml(textwrap.dedent(WAIT) + "result = wait(100)") == 10
    assert (root.path / "run/xid").read_text() == "1 7"
    (root.path / "run/xid").write_text("9 79\nnonsense\n")
    assert root.nvml(textwrap.dedent(WAIT) + "result = wait(100)") == 10


def test_nvidia_smi_lists_gpus_as_parsers_expect_and_marks_them_on_stderr(make_root):
    done = make_root().smi("-L")
    gpus = simulated_gpus("node", MODELS["h100-80gb"], 2)
    assert done.stdout == "".join(f"GPU {g.index}: NVIDIA H100 80GB HBM3 (UUID: {g.uuid})\n" for g in gpus)
    assert "simulated" in done.stderr and done.returncode == 0


def test_nvidia_smi_csv_has_header_and_units_unless_told_otherwise(make_root):
    root = make_root(count=1)
    query = "--query-gpu=index,gpu_name,memory.total,memory.used,pci.bus_id,compute_cap,mig.mode.current,count"
    values = ["0", "NVIDIA H100 80GB HBM3", "81559 MiB", "0 MiB", "00000000:0A:00.0", "9.0", "Disabled", "1"]
    header = "index, gpu_name, memory.total [MiB], memory.used [MiB], pci.bus_id, compute_cap, mig.mode.current, count"
    assert root.smi(query, "--format=csv").stdout.splitlines() == [header, ", ".join(values)]
    bare = root.smi(query, "--format=csv,noheader,nounits").stdout
    assert bare == ", ".join(values).replace(" MiB", "") + "\n"


def test_nvidia_smi_prints_na_for_what_it_knows_and_refuses_what_it_does_not(make_root):
    root = make_root("rtx-4090", 1)
    known = root.smi("--query-gpu=temperature.gpu,power.draw,mig.mode.current,serial", "--format=csv,noheader")
    assert known.stdout == "[N/A], [N/A], [N/A], [N/A]\n"
    unknown = root.smi("--query-gpu=name,colour", "--format=csv")
    assert unknown.returncode == 2 and 'Field "colour" is not a valid field to query.' in unknown.stdout


def test_nvidia_smi_remembers_modes_as_the_driver_sets_them(make_root):
    root = make_root()
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 2)[1].uuid
    preload = f"{root.build.preload}:{root.path}/{LIBRARIES}/libnvidia-ml.so.{DRIVER}".lstrip(":")
    assert root.smi("-i", uuid, "-c", "EXCLUSIVE_PROCESS", LD_PRELOAD=preload).returncode == 0
    assert root.smi("compute-policy", "-i", uuid, "--set-timeslice", "2", LD_PRELOAD=preload).returncode == 0
    assert root.smi("-i", "0000:1a:00.0", "-pm", "1").returncode == 0
    shown = root.smi("--query-gpu=compute_mode,persistence_mode", "--format=csv,noheader").stdout
    assert shown == "Default, Disabled\nExclusive_Process, Enabled\n"
    assert (root.path / "run/gpu1.timeslice").read_text() == "2\n"
    assert root.smi("-i", uuid, "-c", "DEFAULT").returncode == 0
    assert root.smi("-i", "1", "--query-gpu=compute_mode", "--format=csv,noheader").stdout == "Default\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-h"], 0),
        (["--version"], 0),
        ([], 0),
        (["-i", "5"], 6),
        (["-i", "GPU-none", "-L"], 6),
        (["--bogus"], 2),
        ([""], 2),
        (["-i"], 2),
        (["-c", "FAST"], 2),
        (["-c", "1"], 2),
        (["-pm", "2"], 2),
        (["--query-gpu=name"], 2),
        (["--query-gpu=name", "--format=xml"], 2),
        (["compute-policy"], 2),
        (["compute-policy", "--set-timeslice", "4"], 2),
        (["--set-timeslice", "1"], 2),
    ],
)
def test_nvidia_smi_exit_codes_are_nvidias(make_root, arguments, code):
    assert make_root().smi(*arguments).returncode == code


def test_nvidia_smi_without_gpus_driver_or_library_tells_them_apart(make_root):
    assert make_root(visible=0).smi("-L").returncode == 6
    broken = make_root(text="nonsense\n")
    assert broken.smi().returncode == 9
    (broken.path / LIBRARIES / f"libnvidia-ml.so.{DRIVER}").unlink()
    assert broken.smi().returncode == 12


def test_nvidia_smi_table_and_version_say_that_they_are_simulated(make_root):
    root = make_root()
    table = root.smi().stdout.splitlines()
    assert "(simulated)" in table[1] and len({len(line) for line in table}) == 1
    assert all("(simulated)" in line for line in root.smi("--version").stdout.splitlines())


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
                      [number(cuda.cuDeviceGetAttribute, a, 2) for a in (16, 75, 76, 33, 1)],
                      error(number(cuda.cuDeviceGet, 3) * -1)]))
    """
    )
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 3)[2].uuid
    assert json.loads(done.stdout) == [
        *(3, "NVIDIA H100 80GB HBM3", uuid.removeprefix("GPU-").replace("-", ""), 81559, "0000:2A:00.0"),
        *([132, 9, 0, 0x2A, -801], "CUDA_ERROR_INVALID_DEVICE"),
    ]


def test_cuda_refuses_kernels_and_says_why(make_root):
    done = make_root().python(
        CUDA
        + """
    function = ctypes.c_void_p()
    assert cuda.cuGetProcAddress_v2(b"cuLaunchKernel", ctypes.byref(function), 13000, ctypes.c_uint64(0), None) == 0
    assert function.value == ctypes.cast(cuda.cuLaunchKernel, ctypes.c_void_p).value
    assert cuda.cuGetProcAddress_v2(b"cuMemAlloc", ctypes.byref(function), 13000, ctypes.c_uint64(0), None) == 500
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


def test_cuda_without_gpus_is_no_device(make_root):
    assert make_root(visible=0).python(CUDA + "    print(error(cuda.cuInit(0)))").stdout == "CUDA_ERROR_NO_DEVICE\n"


def gpu_sim(build: Build, *arguments: object) -> subprocess.CompletedProcess:
    env = {"ASAN_OPTIONS": "detect_leaks=1"}
    return subprocess.run([build.out / "gpu-sim", *arguments], capture_output=True, text=True, env=env, timeout=30)


def install(build: Build, root: Path, count: int = 2, model: str = "h100-80gb", *extra: object, **kwargs) -> None:
    config = root.parent / "node.ini"
    config.write_text(render_node_config("node", MODELS[model], count, **kwargs))
    done = gpu_sim(build, "install", "--config", config, "--root", root, "--source", build.out / "root", *extra)
    assert done.returncode == 0, done.stderr


def snapshot(root: Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        content = str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(root))] = (status.st_mode, status.st_rdev, status.st_ino, content)
    return found


@needs_root
def test_install_makes_nodes_configuration_and_kernel_views(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    nodes = {path.name: path.stat() for path in (root / "dev").iterdir()}
    assert {name: (os.major(s.st_rdev), os.minor(s.st_rdev)) for name, s in nodes.items()} == {
        "nvidia0": (195, 0),
        "nvidia1": (195, 1),
        "nvidiactl": (195, 255),
        "nvidia-uvm": (511, 0),
        "nvidia-uvm-tools": (511, 1),
    }
    assert all(stat.S_ISCHR(s.st_mode) and stat.S_IMODE(s.st_mode) == 0o666 for s in nodes.values())
    configuration = (tmp_path / "node.ini").read_text()
    assert (root / "etc/gpu-sim.ini").read_text() == configuration
    assert (root / LIBRARIES / f"libnvidia-simcfg.so.{DRIVER}").read_text() == configuration
    link = str((root / "sim/pci-devices/0000:1a:00.0").readlink())
    assert link == "../../../devices/pci0000:00/0000:00:01.0/0000:1a:00.0"
    assert re.search(
        r"Character devices:.*?\n237 nvidia-caps\n.*Block devices:", (root / "sim/proc-devices").read_text(), re.S
    )


@needs_root
def test_every_mig_device_that_can_exist_has_a_capability_of_its_own(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    files = sorted((root / "sim/proc-driver/nvidia/capabilities").rglob("access"))
    minors = [int(re.search(r"DeviceFileMinor: (\d+)\n", file.read_text())[1]) for file in files]
    profiles = MODELS["h100-80gb"].mig_profiles
    assert len(files) == 2 * sum(len(p.placements) * (1 + p.slices) for p in profiles)
    assert len(set(minors)) == len(minors)


@needs_root
def test_a_second_install_changes_nothing(build, tmp_path):
    root = tmp_path / "root"
    install(build, root)
    (root / "run/gpu0.compute-mode").write_text("3\n")
    before = snapshot(root)
    install(build, root)
    assert snapshot(root) == before


@needs_root
def test_another_install_leaves_what_a_first_one_would_have_made(build, tmp_path):
    (tmp_path / "dev").mkdir()
    install(build, tmp_path / "root", 4, "h100-80gb", "--dev", tmp_path / "dev")
    (tmp_path / "root/run/gpu3.mig").write_text("1\n")
    (tmp_path / "root/usr/lib/x86_64-linux-gnu/libnvidia-simcfg.so.1.2.3").write_text("old")
    (tmp_path / "dev/sda").write_text("not ours")
    install(build, tmp_path / "root", 1, "l40s", "--dev", tmp_path / "dev")
    install(build, tmp_path / "fresh", 1, "l40s")

    def without_inodes(root):
        return {name: (mode, rdev, content) for name, (mode, rdev, _, content) in snapshot(root).items()}

    assert without_inodes(tmp_path / "root") == without_inodes(tmp_path / "fresh")
    assert {path.name for path in (tmp_path / "dev").iterdir()} == {
        "nvidia0",
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-uvm-tools",
        "sda",
    }


@needs_root
@pytest.mark.parametrize("name", ["usr", "usr/lib", "etc", "dev", "sim"])
def test_install_never_writes_through_a_link_out_of_the_root(build, tmp_path, name):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(outside)
    (tmp_path / "node.ini").write_text(render_node_config("node", MODELS["h100-80gb"], 1))
    source = build.out / "root"
    done = gpu_sim(build, "install", "--config", tmp_path / "node.ini", "--root", root, "--source", source)
    assert list(outside.iterdir()) == []
    assert done.returncode == 1 or not (root / name).is_symlink()


@needs_root
def test_a_link_in_place_of_a_file_is_replaced_and_its_target_kept(build, tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.write_text("mine")
    (root / "etc").mkdir(parents=True)
    (root / "etc/gpu-sim.ini").symlink_to(outside)
    install(build, root)
    assert outside.read_text() == "mine" and not (root / "etc/gpu-sim.ini").is_symlink()


@needs_root
def test_the_installed_root_works_as_it_is(build, tmp_path):
    root = tmp_path / "root"
    install(build, root, 3, "b200-180gb")
    assert Root(build, root).smi("-L").stdout.count("NVIDIA B200 (UUID: GPU-") == 3


def test_a_version_the_libraries_were_not_built_for_is_refused_with_the_remedy(build, tmp_path):
    (tmp_path / "node.ini").write_text(render_node_config("node", MODELS["l40s"], 1, "570.1.1"))
    arguments = ["--config", tmp_path / "node.ini", "--root", tmp_path / "root", "--source", build.out / "root"]
    done = gpu_sim(build, "install", *arguments)
    assert done.returncode == 1 and "DRIVER_VERSION=570.1.1" in done.stderr
    assert not (tmp_path / "root").exists()


@needs_root
def test_remove_empties_the_root_and_takes_only_its_nodes_from_dev(build, tmp_path):
    (tmp_path / "dev").mkdir()
    install(build, tmp_path / "root", 2, "h100-80gb", "--dev", tmp_path / "dev")
    (tmp_path / "dev/nvidia9").write_text("not a device")
    assert gpu_sim(build, "remove", "--root", tmp_path / "root", "--dev", tmp_path / "dev").returncode == 0
    assert list((tmp_path / "root").iterdir()) == []
    assert [path.name for path in (tmp_path / "dev").iterdir()] == ["nvidia9"]


@pytest.mark.parametrize("remove", [True, False])
def test_hold_ends_on_sigterm_and_empties_the_root_only_when_told_to(build, tmp_path, remove):
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    (root / "link").symlink_to(tmp_path / "outside")
    command = [build.out / "gpu-sim", "hold", "--root", root, *(["--remove-on-exit"] if remove else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert "waiting" in process.stdout.readline()
        assert (root / "usr/lib").is_dir()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 0
    assert {path.name for path in root.iterdir()} == (set() if remove else {"usr", "link"})
    assert (tmp_path / "outside/file").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        ([], 2),
        (["dance", "--root", "/nowhere"], 2),
        (["install", "--root", "/nowhere"], 2),
        (["hold"], 2),
        (["remove", "--root"], 2),
        (["remove", "--root", "/nowhere", "--force"], 2),
    ],
)
def test_gpu_sim_usage_errors_are_exit_code_2(build, arguments, code):
    assert gpu_sim(build, *arguments).returncode == code
