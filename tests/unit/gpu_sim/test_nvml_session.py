"""NVML's start and end: when init succeeds, which configuration it reads, and how a wrong one is told."""

import pytest

from gpus.models import render_node_config
from tests.unit.gpu_sim.driver_root import MODELS, Root


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
