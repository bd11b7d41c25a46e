"""MPS clients: what they are granted, and who they are to the daemon.

Figures are those of a real H100 with driver 580.159.04, unless a test says otherwise.
"""

import os
import subprocess
from pathlib import Path

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import MODELS
from tests.unit.gpu_sim.mps import MIB, PATIENCE, close_to, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
GPU = MODELS["h100-80gb"]
# Percentage to multiprocessors.
MEASURED = {
    **{"1": 8, "2": 8, "3": 8, "4": 8, "5": 8, "6": 8, "7": 8, "8": 10, "9": 10, "10": 12, "11": 14, "12.5": 16},
    **{"13": 16, "14": 18, "15": 18, "16": 20, "17": 22, "18": 22, "19": 24, "20": 26, "25": 32, "30": 38, "33": 42},
    **{"33.3": 42, "40": 52, "45": 58, "49": 64, "50": 66, "51": 66, "60": 78, "66": 86, "70": 92, "75": 98},
    **{"80": 104, "90": 118, "95": 124, "98": 128, "99": 130, "99.9": 130, "100": 132},
}
IGNORED = ("0", "junk", "150", "-5", "")
TOTAL = 85017493504


def test_multiprocessors_are_those_measured_for_each_percentage(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    found = {percentage: client(f"granted({percentage!r})") for percentage in (*MEASURED, *IGNORED)}
    expected = {**MEASURED, **dict.fromkeys(IGNORED, 132)}
    assert found == {key: ["CUDA_SUCCESS", value, "CUDA_SUCCESS", value] for key, value in expected.items()}


@pytest.mark.parametrize(("model", "granted"), [("l40s", [2, 2, 12, 142]), ("a100-80gb", [2, 2, 8, 108])])
def test_other_models_follow_the_same_rule(make_mps, model, granted):
    mps = make_mps(model)
    mps.start()
    client = mps.client()
    assert [client(f"granted({percentage!r})")[1] for percentage in ("1", "2.7", "9", "100")] == granted


def test_without_a_daemon_every_multiprocessor_and_all_memory_are_there(make_mps):
    client = make_mps().client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="10", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=1G")
    assert client("[start(), multiprocessors()]") == ["CUDA_SUCCESS", 132]
    assert client("info()") == [close_to(84465090560), TOTAL]


def test_the_smaller_of_the_servers_and_the_clients_percentage_counts(make_mps):
    mps = make_mps()
    mps.start()
    mps.control("set_default_active_thread_percentage 50")
    client = mps.client()
    assert [client(f"granted({percentage!r})")[1] for percentage in ("5", "20", "50", "80", "100")] == [
        *(8, 26, 66, 66, 66)
    ]


def test_a_percentage_of_a_running_server_is_for_clients_that_come_later(make_mps):
    mps = make_mps()
    mps.start()
    before, after = mps.client(), mps.client()
    assert before("[start(), multiprocessors()]")[1] == 132
    assert mps.control(f"set_active_thread_percentage {mps.server} 20") == "20.0\n"
    assert after("[start(), multiprocessors()]")[1] == 26
    assert before("multiprocessors()") == 132
    mps.control("set_default_active_thread_percentage 70", "set_default_device_pinned_mem_limit 0 6G")
    late = mps.client()
    assert late("[start(), multiprocessors()]")[1] == 26, "the default is for later servers"
    assert late("free()") > 70 * 1024 * MIB


def test_the_daemons_environment_sets_the_percentage_but_no_memory_limit(make_mps):
    mps = make_mps()
    mps.start(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="30", CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="0=2G")
    assert mps.control("get_default_active_thread_percentage", "get_default_device_pinned_mem_limit 0") == "30.0\n"
    client = mps.client()
    assert client("[start(), multiprocessors()]")[1] == 38
    assert client("free()") == close_to(84764983296)


def test_ps_and_the_lists_show_every_client_and_its_namespace(make_mps):
    mps = make_mps()
    mps.start()
    first, second = mps.client(), mps.client()
    first("start()")
    second("start()")
    server, uuid = mps.server, simulated_gpus("node", GPU, 1)[0].uuid
    namespace = str(Path("/proc/self/ns/pid").readlink()).removeprefix("pid:[").removesuffix("]")
    comm = first("open('/proc/self/comm').read().strip()")
    rows = [
        ("PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND"),
        (first.pid, 1, server, uuid[:22], namespace, comm),
        (second.pid, 2, server, uuid[:22], namespace, comm),
    ]
    table = "".join("{:<10}{:<10}{:<15}{:<26}{:<15}{:<15}\n".format(*row) for row in rows)
    assert mps.control("ps") == mps.control(f"ps -p {server}") == table
    assert mps.control(f"get_client_list {server}") == f"{first.pid}\n{second.pid}\n"
    assert mps.control("get_device_client_list") == mps.control(f"get_device_client_list {server}")
    assert mps.control("get_device_client_list") == (
        f"[0] 00:00.0, NVIDIA H100 80GB HBM3\n{first.pid}.1\n{second.pid}.1\n"
    )
    assert mps.control(f"get_server_status {server}") == "ACTIVE\n"


def test_a_client_without_a_context_is_listed_without_a_device(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("init()")
    assert mps.control("ps").splitlines()[1].split()[:4] == [str(client.pid), "1", str(mps.server), "N/A"]
    client("context()")
    assert "GPU-" in mps.control("ps")
    client("name(cuda.cuDevicePrimaryCtxRelease_v2(0))")
    assert "N/A" in mps.control("ps")


def test_a_server_stays_when_its_clients_have_left(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    server = mps.server
    client.end()
    # The server learns of an end by the connection's, which takes a moment on a busy machine.
    wait_until(lambda: mps.control("ps", "get_server_list") == f"{server}\n", "the client has left, its server not")
    late = mps.client()
    late("start()")
    assert mps.server == server
    assert f"Client process {client.pid} disconnected" in mps.server_log()


def test_a_client_counts_the_daemons_gpus_in_the_daemons_order(make_mps):
    mps = make_mps(count=4)
    gpus = [gpu.uuid for gpu in simulated_gpus("node", GPU, 4)]
    plain = [uuid.removeprefix("GPU-").replace("-", "") for uuid in gpus]
    mps.start(CUDA_VISIBLE_DEVICES=f"2,{gpus[1]},3")
    rows = mps.control("device_query").splitlines()[2:]
    assert [(row.split()[0], row.split()[2]) for row in rows] == [("0", gpus[2]), ("1", gpus[1]), ("2", gpus[3])]
    listed = "[init(), *[uuid(i) for i in range(number(cuda.cuDeviceGetCount))]]"
    assert mps.once(listed) == ["CUDA_SUCCESS", plain[2], plain[1], plain[3]]
    assert mps.once(listed, CUDA_VISIBLE_DEVICES=f"2,{gpus[2]}") == ["CUDA_SUCCESS", plain[3], plain[2]]
    assert (
        mps.once("init()", CUDA_VISIBLE_DEVICES="3")
        == mps.once("init()", CUDA_VISIBLE_DEVICES=gpus[0])
        == "CUDA_ERROR_NO_DEVICE"
    )
    client = mps.client()
    client("[start(1), context(2)]")
    assert mps.control("get_device_client_list") == (
        f"[1] 00:01.0, NVIDIA H100 80GB HBM3\n{client.pid}.1\n[2] 00:02.0, NVIDIA H100 80GB HBM3\n{client.pid}.2\n"
    )


def test_the_partitioning_switch_escapes_the_servers_percentage(make_mps):
    mps = make_mps()
    mps.start()
    mps.control("set_default_active_thread_percentage 20")
    client = mps.client(CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING="1")
    assert [client(f"granted({percentage!r})")[1] for percentage in ("100", "50", "junk")] == [132, 66, 132]


def test_a_mig_device_is_shared_like_a_gpu(make_mps):
    mps = make_mps(static_mig=["3g.40gb@0"])
    mps.start()
    client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="50")
    assert client("[start(), multiprocessors(), info()[1]]") == ["CUDA_SUCCESS", 30, 40448 * MIB]


def test_a_fork_of_a_client_is_no_client_and_does_not_keep_the_connection(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    assert client("in_fork(lambda: [init(), multiprocessors()])") == ["CUDA_ERROR_NOT_INITIALIZED"] * 2
    assert client("synchronize()") == "CUDA_SUCCESS"


def test_terminate_client_ends_its_work_and_frees_its_memory(make_mps):
    mps = make_mps()
    mps.start()
    first, second = mps.client(), mps.client()
    second("start()")
    before = second("free()")
    first("[start(), allocate(5000 * MIB)]")
    mps.control(f"terminate_client {mps.server} {first.pid}")
    ended = f"Client {{PID: {first.pid}}} terminated"
    wait_until(lambda: ended in mps.server_log(), "the server has ended the client's work")
    assert first("[synchronize(), allocate(1)]") == ["CUDA_ERROR_MPS_CLIENT_TERMINATED"] * 2
    assert second("[free(), synchronize()]") == [before, "CUDA_SUCCESS"]


def in_a_pid_namespace(*command: str) -> tuple[str, ...]:
    unshare = ("unshare", "--pid", "--fork", "--kill-child", *command)
    if subprocess.run([*unshare, "true"], capture_output=True).returncode != 0:
        pytest.skip("unshare --pid is not permitted here")
    return unshare


def test_a_client_of_a_namespace_below_is_shown_as_the_daemon_sees_it(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client(before=in_a_pid_namespace())
    assert client("[os.getpid(), start()]") == [1, "CUDA_SUCCESS"]
    row = mps.control("ps").splitlines()[1].split()
    assert int(row[0]) > 1
    assert f"pid:[{row[4]}]" != str(Path("/proc/self/ns/pid").readlink())


def test_clients_of_other_namespaces_are_one_to_the_daemon(make_mps):
    # As pods are to each other. Measured: PID 0, no namespace, no command, one row for all.
    mps = make_mps()
    daemon = mps.start(before=in_a_pid_namespace())
    first, second = mps.client(), mps.client()
    assert first("start()") == second("start()") == "CUDA_SUCCESS"
    _, row = mps.control("ps").splitlines()
    assert (row.split()[0], row.split()[4:]) == ("0", ["?", "?"])
    assert mps.control(f"get_client_list {mps.server}") == "0\n"
    assert mps.control("get_device_client_list").splitlines()[1:] == ["0.1", "0.1"]
    # By itself: `unshare` takes no SIGTERM while its child runs.
    for client in (first, second):
        client.end()
    mps.control("quit")
    assert daemon.wait(timeout=PATIENCE) == 0


REFUSED = (
    "Insufficient privileges for UID 1000. Control deamon settings can only be modified by the user who started it "
    "or by the root user.\n"
)


@needs_root
def test_another_user_may_ask_but_change_nothing(make_mps):
    mps = make_mps()
    mps.start("-M")
    client = mps.client()
    client("start()")
    assert mps.control("get_server_list", user=1000) == f"{mps.server}\n"
    for command in (
        "set_default_active_thread_percentage 20",
        f"set_active_thread_percentage {mps.server} 20",
        "set_default_device_pinned_mem_limit 0 2G",
        f"set_device_pinned_mem_limit {mps.server} 0 2G",
        f"terminate_client {mps.server} {client.pid}",
    ):
        assert mps.control(command, user=1000) == REFUSED
    assert mps.control("quit", user=1000) == "Not enough privilege to execute quit command\n"
    assert mps.control("get_default_active_thread_percentage") == "100.0\n"
    assert client("synchronize()") == "CUDA_SUCCESS"


@needs_root
def test_another_users_client_waits_until_the_server_is_free(make_mps):
    mps = make_mps()
    mps.start()
    first, second = mps.client(), mps.client(user=1000)
    first("start()")
    old = mps.server
    second.ask("start()")
    mps.control("ps")
    assert mps.server == old and second.process.poll() is None
    first.end()
    assert second.answer() == "CUDA_SUCCESS"
    new = mps.server
    assert new != old and Path(f"/proc/{new}").stat().st_uid == 1000
    log = (mps.folder / "foreground.log").read_text()
    assert f"NEW CLIENT {second.pid} from user 1000: Server is not ready, push client to pending list" in log
    assert f"Server {old} exited with status 0" in log and f"NEW SERVER {new}: Ready" in log


@needs_root
def test_with_multiuser_one_server_serves_every_user(make_mps):
    mps = make_mps()
    mps.start("-multiuser-server")
    clients = [mps.client(user=user) for user in (0, 1000, 2000)]
    assert [client("start()") for client in clients] == ["CUDA_SUCCESS"] * 3
    assert clients[0]("free()") == close_to(83313819648)
    assert len(mps.control("ps").splitlines()) == 4
    assert Path(f"/proc/{mps.server}").stat().st_uid == 0


@needs_root
def test_a_daemon_that_cannot_become_the_user_refuses_the_client(make_mps):
    mps = make_mps()
    mps.start(user=1000)
    assert mps.client()("init()") == "CUDA_ERROR_MPS_CONNECTION_FAILED"
    assert mps.client(user=1000)("start()") == "CUDA_SUCCESS"


def test_the_49th_client_is_refused(make_mps):
    mps = make_mps()
    mps.start()
    assert mps.client()("in_held_forks(49)") == ["CUDA_SUCCESS"] * 48 + ["CUDA_ERROR_MPS_MAX_CLIENTS_REACHED"]
