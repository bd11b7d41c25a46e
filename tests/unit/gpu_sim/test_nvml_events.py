"""XID events: written into the root's run folder, read by a process that waits."""

import textwrap

from tests.unit.gpu_sim.driver_root import container_of

WAIT = textwrap.dedent("""
    events = n.nvmlEventSetCreate()
    for i in range(n.nvmlDeviceGetCount()):
        n.nvmlDeviceRegisterEvents(n.nvmlDeviceGetHandleByIndex(i), n.nvmlEventTypeXidCriticalError, events)
    def wait(milliseconds):
        try:
            e = n.nvmlEventSetWait_v2(events, milliseconds)
            return [n.nvmlDeviceGetIndex(e.device), e.eventType, e.eventData, e.gpuInstanceId, e.computeInstanceId]
        except n.NVMLError as error:
            return error.value
""")


def test_an_xid_reaches_the_waiting_process_once_with_device_and_instances(make_root):
    root = make_root()
    (root.path / "run/xid").write_text("1 79\n0 31 5 0\n")
    found = root.nvml(WAIT + "result = [wait(1000), wait(1000), wait(100)]")
    assert found == [[1, 8, 79, 0xFFFFFFFF, 0xFFFFFFFF], [0, 8, 31, 5, 0], 10]
    assert not (root.path / "run/xid").exists()


def test_an_unfinished_or_wrong_xid_file_raises_no_event(make_root):
    root = make_root()
    (root.path / "run/xid").write_text("1 7")
    assert root.nvml(WAIT + "result = wait(100)") == 10
    assert (root.path / "run/xid").read_text() == "1 7"
    (root.path / "run/xid").write_text("9 79\nnonsense\n")
    assert root.nvml(WAIT + "result = wait(100)") == 10


def test_a_container_is_told_that_it_gets_no_events(make_root, tmp_path):
    container = container_of(make_root(), tmp_path, "nvidia0")
    code = """
        gpu = n.nvmlDeviceGetHandleByIndex(0)
        result = [n.nvmlDeviceGetSupportedEventTypes(gpu)]
        try:
            n.nvmlDeviceRegisterEvents(gpu, n.nvmlEventTypeXidCriticalError, n.nvmlEventSetCreate())
        except n.NVMLError as error:
            result.append(error.value)
    """
    assert container.nvml(textwrap.dedent(code)) == [0, 3]  # 3: NVML_ERROR_NOT_SUPPORTED
