"""What dies, lies or goes away around MPS, and what the others then see."""

import os
import signal
import socket
import subprocess
import threading

import pytest

from tests.unit.gpu_sim.mps import MIB, PATIENCE, is_running, wait_until


def test_a_killed_daemon_takes_its_server_and_its_clients_lose_both(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    server = mps.server
    daemon.kill()
    daemon.wait(timeout=PATIENCE)
    wait_until(lambda: not is_running(server), "the server sees that its daemon is gone")
    assert client("synchronize()") == "CUDA_ERROR_MPS_RPC_FAILURE"
    # Measured: memory calls go on.
    assert client("[free(), type(allocate(1)).__name__]") == [pytest.approx(84463190016, abs=2 * MIB), "int"]


def test_a_stale_socket_means_no_mps(make_mps):
    mps = make_mps()
    daemon = mps.start()
    daemon.kill()
    daemon.wait(timeout=PATIENCE)
    assert (mps.pipe / "control").is_socket()
    client = mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="10")
    assert client("[start(), multiprocessors(), synchronize()]") == ["CUDA_SUCCESS", 132, "CUDA_SUCCESS"]
    assert client("free()") == pytest.approx(84465090560, abs=2 * MIB)


def test_no_pipe_directory_means_no_mps(make_mps):
    mps = make_mps()
    mps.pipe.rmdir()
    assert mps.client()("[start(), multiprocessors()]") == ["CUDA_SUCCESS", 132]


def test_a_new_daemon_serves_new_clients_and_the_old_clients_stay_lost(make_mps):
    mps = make_mps()
    daemon = mps.start()
    old = mps.client()
    old("start()")
    daemon.kill()
    daemon.wait(timeout=PATIENCE)
    mps.start()
    new = mps.client()
    assert new("[start(), synchronize()]") == ["CUDA_SUCCESS"] * 2
    assert old("synchronize()") == "CUDA_ERROR_MPS_RPC_FAILURE"
    assert mps.control(f"get_client_list {mps.server}") == f"{new.pid}\n"


def test_a_killed_server_is_replaced_for_the_next_client(make_mps):
    mps = make_mps()
    mps.start()
    clients = [mps.client(), mps.client()]
    for client in clients:
        client("start()")
    server = mps.server
    os.kill(server, signal.SIGKILL)
    for client in clients:
        assert client("synchronize()") == "CUDA_ERROR_MPS_RPC_FAILURE"
        refused = "[name(cuda.cuLaunchKernel(*[None] * 11)), name(cuda.cuStreamSynchronize(None))]"
        assert client(refused) == ["CUDA_ERROR_MPS_RPC_FAILURE"] * 2
        assert isinstance(client("allocate(1)"), int)
    log = mps.folder / "foreground.log"
    wait_until(lambda: f"Server {server} exited with status 0" in log.read_text(), "the daemon sees the server's end")
    assert mps.control("get_server_list", "ps") == "Server not found\n"
    late = mps.client()
    assert late("[start(), synchronize()]") == ["CUDA_SUCCESS"] * 2
    assert mps.server != server


def test_a_killed_clients_memory_comes_back(make_mps):
    mps = make_mps()
    mps.start()
    stays, dies = mps.client(), mps.client()
    stays("start()")
    before = stays("free()")
    dies("[start(), allocate(30000 * MIB)]")
    assert stays("free()") < before - 30000 * MIB
    dies.kill()
    assert wait_until(lambda: stays("free()") == before, "the server has seen the client's end")
    assert mps.control(f"get_client_list {mps.server}") == f"{stays.pid}\n"


def test_quit_without_clients_ends_daemon_and_server(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    server = mps.server
    client.end()
    assert mps.control("quit") == ""
    assert daemon.wait(timeout=PATIENCE) == 0
    assert not is_running(server)
    assert mps.client()("init()") == "CUDA_SUCCESS", "the socket that is left is stale"


def waiting_quit(mps) -> subprocess.Popen:
    """quit as a program that waits; the daemon has taken it when this returns."""
    program = mps.root.path / "usr/bin/nvidia-cuda-mps-control"
    env = {key: value for key, value in mps.environment().items() if key != "LD_PRELOAD"}
    process = subprocess.Popen([program], env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin
    process.stdin.write(b"quit\n")
    process.stdin.close()
    mps.processes.append(process)
    log = mps.folder / "foreground.log"
    wait_until(lambda: "Cmd:quit" in log.read_text(), "the daemon has the command")
    return process


def test_quit_waits_for_clients_and_refuses_new_ones(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    quitting = waiting_quit(mps)
    assert mps.client()("init()") == "CUDA_ERROR_MPS_CONNECTION_FAILED"
    assert client("synchronize()") == "CUDA_SUCCESS"
    assert mps.program("-d").stdout == "An instance of this daemon is already running\n"
    assert daemon.poll() is None and quitting.poll() is None
    client.end()
    assert daemon.wait(timeout=PATIENCE) == 0 and quitting.wait(timeout=PATIENCE) == 0


def test_quit_with_a_time_ends_the_clients_connections(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    waiting_quit(mps)
    assert mps.program(text="quit -t 0\n").returncode == 0
    assert daemon.wait(timeout=PATIENCE) == 0
    assert client("synchronize()") == "CUDA_ERROR_MPS_RPC_FAILURE"


def connect(mps, name: str = "control") -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(PATIENCE)
    connection.connect(str(mps.pipe / name))
    return connection


HEADER = (0x4D505353).to_bytes(4, "little") + (2).to_bytes(4, "little")
GARBAGE = [
    b"",
    b"x",
    b"get_server_list\n",
    b"\xff" * 100_000,
    b"\0" * 1036,
    HEADER + b"\x04\0\0\0" + b"\xff" * 2000,
    *(HEADER + kind.to_bytes(4, "little") for kind in range(32)),
]


def test_garbage_and_silence_on_the_sockets_hurt_nobody(make_mps):
    mps = make_mps()
    mps.start()
    silent = [connect(mps), connect(mps, "control_privileged")]
    for data in GARBAGE:
        with connect(mps) as connection:
            if data:
                connection.send(data)
                assert connection.recv(4096) == b"", data[:16]
    stream = socket.socket(socket.AF_UNIX)
    with pytest.raises(OSError, match="wrong type"), stream:
        stream.connect(str(mps.pipe / "control"))
    client = mps.client()
    assert client("[start(), synchronize()]") == ["CUDA_SUCCESS"] * 2
    for connection in silent:
        assert connection.recv(4096) == b"", "a connection that says nothing is closed after 5 s"
        connection.close()


def hello_size(mps) -> int:
    """Of the protocol's packets, as nvidia-cuda-mps-control sends them."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(mps.pipe / "control"))
        listener.listen()
        listener.settimeout(PATIENCE)
        asking = threading.Thread(target=mps.program, kwargs={"text": "ps\n"})
        asking.start()
        connection, _ = listener.accept()
        with connection:
            size = len(connection.recv(100_000))
        asking.join(timeout=PATIENCE)
    (mps.pipe / "control").unlink()
    return size


def test_packets_of_the_right_size_with_wrong_content_hurt_neither_daemon_nor_server(make_mps):
    mps = make_mps()
    size = hello_size(mps)
    mps.start()
    good = mps.client()
    good("start()")
    server, before = mps.server, good("free()")
    for kind in range(32):
        with connect(mps) as connection:
            packet = (HEADER + kind.to_bytes(4, "little")).ljust(size, b"\xff")
            connection.send(packet)
            connection.recv(4096)
    # A client that the server has accepted, without devices, whose requests name whatever they like.
    with connect(mps) as connection:
        connection.send((HEADER + b"\x04\0\0\0").ljust(size, b"\0"))
        assert len(connection.recv(4096)) == size
        for kind in (*range(6, 12), 30):
            connection.send((HEADER + kind.to_bytes(4, "little")).ljust(size, b"\xff"))
            assert len(connection.recv(4096)) == size
        connection.send(b"junk")
        assert connection.recv(4096) == b""
    assert good("[synchronize(), free()]") == ["CUDA_SUCCESS", before]
    assert mps.server == server


def send_often(connection: socket.socket, packet: bytes) -> None:
    for _ in range(100_000):
        connection.send(packet)


def test_a_client_that_never_reads_its_answers_is_dropped(make_mps):
    mps = make_mps()
    size = hello_size(mps)
    mps.start()
    good = mps.client()
    good("start()")
    with connect(mps) as connection:
        connection.send((HEADER + b"\x04\0\0\0").ljust(size, b"\0"))
        connection.recv(4096)
        synchronize = (HEADER + b"\x0b\0\0\0").ljust(size, b"\0")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_often(connection, synchronize)
    assert good("synchronize()") == "CUDA_SUCCESS"


def test_a_client_that_gives_up_while_it_waits_is_forgotten(make_mps):
    if os.geteuid() != 0:
        pytest.skip("changing the user needs root")
    mps = make_mps()
    mps.start()
    first, impatient, patient = mps.client(), mps.client(user=1000), mps.client(user=1000)
    first("start()")
    impatient.ask("start()")
    log = mps.folder / "foreground.log"
    wait_until(lambda: f"NEW CLIENT {impatient.pid} from user 1000" in log.read_text(), "the client waits")
    impatient.kill()
    patient.ask("start()")
    first.end()
    assert patient.answer() == "CUDA_SUCCESS"
    assert mps.control(f"get_client_list {mps.server}") == f"{patient.pid}\n"


def test_a_configuration_that_cannot_be_read_keeps_the_daemon_from_starting(make_mps):
    mps = make_mps()
    (mps.root.path / "etc/gpu-sim.ini").write_text("[nonsense]\n")
    done = mps.program("-d")
    assert done.returncode == 1 and "gpu-sim.ini:1" in done.stdout


def test_a_server_that_cannot_start_refuses_its_clients(make_mps):
    mps = make_mps()
    mps.start()
    (mps.root.path / "usr/bin/nvidia-cuda-mps-server").write_text("#!/bin/false\n")
    assert mps.client()("init()") == "CUDA_ERROR_MPS_CONNECTION_FAILED"
    assert mps.control("get_server_list") == ""
