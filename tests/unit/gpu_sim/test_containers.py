"""A container: which GPUs and MIG devices it sees, and that it changes nothing outside itself."""

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import MODELS, container_of
from tests.unit.gpu_sim.mig_instances import CREATE


def test_a_container_sees_the_gpu_it_was_given_by_the_copied_configuration(make_root, tmp_path):
    container = container_of(make_root(count=4), tmp_path, "nvidia2")
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 4)[2].uuid
    assert container.smi("-L").stdout == f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {uuid})\n"


def test_a_container_sees_the_mig_device_whose_capability_it_was_given_and_no_other(make_root, tmp_path):
    root = make_root()
    made, ids = root.nvml(
        CREATE
        + "n.nvmlDeviceSetMigMode(d, 1)\ncreate(0, 0, 0)\ngi, _ = create(2, 4, 2)\n"
        + "result = [migs(), n.nvmlGpuInstanceGetInfo(gi).id]"
    )
    minor = 3 + (0 * 32 + ids) * 9
    container = container_of(
        root, tmp_path, "nvidia0", f"nvidia-caps/nvidia-cap{minor}", f"nvidia-caps/nvidia-cap{minor + 1}"
    )
    assert container.nvml(CREATE + "result = migs()") == [mig for mig in made if "3g.40gb" in mig[0]]


def test_a_container_may_not_change_mig_mode(make_root, tmp_path):
    container = container_of(make_root(), tmp_path, "nvidia0")
    for arguments in (["-mig", "1"], ["-r"]):
        done = container.smi(*arguments)
        assert done.returncode == 4 and "Insufficient Permissions" in done.stdout
    assert container.nvml("result = n.nvmlDeviceGetMigMode(n.nvmlDeviceGetHandleByIndex(0))") == [0, 0]


def test_a_container_changes_nothing_outside_its_process(make_root, tmp_path):
    container = container_of(make_root(), tmp_path, "nvidia0")
    (container.path / "run").mkdir()
    container.nvml("n.nvmlDeviceSetComputeMode(n.nvmlDeviceGetHandleByIndex(0), 3)")
    assert list((container.path / "run").iterdir()) == []
