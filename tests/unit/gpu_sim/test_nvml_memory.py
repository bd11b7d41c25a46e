"""Memory in use as NVML and nvidia-smi tell it: what MPS servers publish, and what of it counts."""

import fcntl
import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import MODELS
from tests.unit.gpu_sim.mps import MIB, PATIENCE, Mps, is_running, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
SERVER = 64 * MIB
USED = """
def used(d):
    m, m2 = n.nvmlDeviceGetMemoryInfo(d), n.nvmlDeviceGetMemoryInfo(d, version=n.nvmlMemory_v2)
    assert m.used == m2.used and m.free == m.total - m.used
    assert m2.free == m2.total - m2.reserved - m2.used
    return m.used
result = [used(n.nvmlDeviceGetHandleByIndex(i)) for i in range(n.nvmlDeviceGetCount())]
"""


def used(mps: Mps, code: str = USED, pipe: Path | None = None) -> list[int]:
    """Bytes in use of each GPU, as a process says that sees the pipe directory."""
    found = mps.root.nvml(code, CUDA_MPS_PIPE_DIRECTORY=str(pipe or mps.pipe))
    assert isinstance(found, list)
    return found


def smi(mps: Mps, field: str) -> list[int]:
    done = mps.root.smi(
        f"--query-gpu=memory.{field}", "--format=csv,noheader,nounits", CUDA_MPS_PIPE_DIRECTORY=str(mps.pipe)
    )
    assert done.returncode == 0, done.stdout
    return [int(line) for line in done.stdout.split()]


def held(client) -> int:
    """Of the client's current device, as CUDA says."""
    free, total = client("info()")
    return total - free


def files(mps: Mps) -> list[Path]:
    return sorted(mps.pipe.glob("server_memory.*"))


def published(mps: Mps) -> Path:
    (file,) = files(mps)
    return file


def test_what_clients_hold_is_used_until_they_end_or_are_killed(make_mps):
    mps = make_mps()
    mps.start()
    assert used(mps) == [0], "no server runs"
    ends, dies = mps.client(), mps.client(CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="20")
    ends("start()")
    one = held(ends)
    assert used(mps) == [one]
    dies("[start(), allocate(30000 * MIB + 1)]")
    ends("allocate(5000 * MIB)")
    both = held(ends)
    assert both > 35000 * MIB and both == held(dies)
    assert used(mps) == [both]
    assert (smi(mps, "used"), smi(mps, "total")) == ([both // MIB], [MODELS["h100-80gb"].memory_mib])
    assert smi(mps, "free") == [MODELS["h100-80gb"].memory_mib - both // MIB - (both % MIB > 0)]
    dies.kill()
    wait_until(lambda: held(ends) == one + 5000 * MIB, "the server has seen the client's end")
    assert used(mps) == [one + 5000 * MIB]
    ends.end()
    assert wait_until(lambda: used(mps) == [SERVER], "the server has seen the client's end")


def test_a_context_and_an_allocation_that_go_are_no_longer_used(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    with_context = used(mps)
    address = client("allocate(1)")
    assert used(mps) == [with_context[0] + 2 * MIB]
    assert client("[allocate(2**40), allocate(2**40)]") == ["CUDA_ERROR_OUT_OF_MEMORY"] * 2
    assert used(mps) == [with_context[0] + 2 * MIB], "what was refused"
    assert client(f"release({address})") == "CUDA_SUCCESS"
    assert used(mps) == with_context
    assert client("name(cuda.cuDevicePrimaryCtxReset_v2(0))") == "CUDA_SUCCESS"
    assert used(mps) == [SERVER]


def test_a_terminated_client_holds_nothing(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("[start(), allocate(1000 * MIB)]")
    mps.control(f"terminate_client {mps.server} {client.pid}")
    assert wait_until(lambda: used(mps) == [SERVER], "the server has ended what the client had")


def test_each_gpu_has_its_own_clients(make_mps):
    mps = make_mps(count=2)
    mps.start()
    first, second = mps.client(), mps.client(CUDA_VISIBLE_DEVICES="1")
    first("[start(0), allocate(1000 * MIB)]")
    assert used(mps) == [held(first), SERVER]
    second("[start(), allocate(2000 * MIB)]")
    assert used(mps) == [held(first), held(second)]
    assert smi(mps, "used") == [held(first) // MIB, held(second) // MIB]


def test_a_daemon_of_one_gpu_says_nothing_of_the_others(make_mps):
    mps = make_mps(count=2)
    uuid = simulated_gpus("node", MODELS["h100-80gb"], 2)[1].uuid
    mps.start(CUDA_VISIBLE_DEVICES=uuid)
    client = mps.client(CUDA_VISIBLE_DEVICES=uuid)
    client("start()")
    assert used(mps) == [0, held(client)]


def test_a_mig_devices_clients_count_for_it_and_for_its_gpu(make_mps):
    mps = make_mps(static_mig=["3g.40gb@0", "3g.40gb@4"])
    mps.start()
    client = mps.client()
    client("[start(), allocate(1000 * MIB)]")
    code = USED + "result += [used(n.nvmlDeviceGetMigDeviceHandleByIndex(d, i)) for i in range(2)]"
    code = code.replace("result +=", "d = n.nvmlDeviceGetHandleByIndex(0)\nresult +=")
    # The server takes its own part of every device that it has, as it does of every GPU.
    server = 64 * MIB
    assert used(mps, code) == [held(client) + server, held(client), server]


def test_without_a_pipe_nothing_is_seen(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    empty = mps.folder / "empty"
    empty.mkdir()
    assert used(mps) == [held(client)]
    for pipe in (empty, mps.folder / "missing", published(mps)):
        assert used(mps, pipe=pipe) == [0], pipe


def test_a_program_without_mps_is_not_seen(make_mps):
    mps = make_mps()
    client = mps.client()
    assert client("[start(), type(allocate(1000 * MIB)).__name__]") == ["CUDA_SUCCESS", "int"]
    assert used(mps) == [0]


def test_the_file_is_the_daemons_users_whatever_the_umask_and_goes_with_the_server(make_mps):
    mps = make_mps()
    daemon = mps.start(before=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    mps.client()("start()")
    file = published(mps)
    status = file.stat()
    assert file.name == f"server_memory.{mps.server}"
    assert (status.st_mode & 0o7777, status.st_uid) == (0o644, os.geteuid())
    daemon.terminate()
    daemon.wait(timeout=PATIENCE)
    assert files(mps) == []


def test_a_killed_server_holds_nothing_even_before_its_daemon_knows(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    server, file = mps.server, published(mps)
    os.kill(daemon.pid, signal.SIGSTOP)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not is_running(server), "the server has ended")
    assert used(mps) == [0] and file.exists()
    os.kill(daemon.pid, signal.SIGCONT)
    wait_until(lambda: not file.exists(), "the daemon has removed the server's file")
    late = mps.client()
    late("start()")
    assert used(mps) == [held(late)]


def test_a_killed_daemons_file_is_ignored_and_the_next_daemon_removes_it(make_mps):
    mps = make_mps()
    daemon = mps.start()
    client = mps.client()
    client("start()")
    server, file = mps.server, published(mps)
    daemon.kill()
    daemon.wait(timeout=PATIENCE)
    wait_until(lambda: not is_running(server), "the server sees that its daemon is gone")
    assert used(mps) == [0] and file.exists()
    mps.start()
    assert files(mps) == []


@needs_root
def test_a_server_of_another_user_publishes_in_a_directory_that_it_cannot_write(make_mps):
    mps = make_mps()
    mps.pipe.chmod(0o755)
    mps.start()
    client = mps.client(user=1000)
    assert client("start()") == "CUDA_SUCCESS"
    assert Path(f"/proc/{mps.server}").stat().st_uid == 1000
    assert (used(mps), published(mps).stat().st_uid) == ([held(client)], 0)


@needs_root
def test_a_daemon_without_privilege_publishes_too(make_mps):
    mps = make_mps()
    mps.start(user=1000)
    client = mps.client(user=1000)
    assert client("start()") == "CUDA_SUCCESS"
    assert (used(mps), published(mps).stat().st_uid) == ([held(client)], 1000)


def test_a_daemon_that_cannot_make_the_file_says_so_and_serves(make_mps):
    mps = make_mps()
    user = 1000 if os.geteuid() == 0 else None
    leaked = mps.folder / "leaked"
    leaked.write_text("untouched")
    leaked.chmod(0o666)
    # Under the number that the file would have, as careless parents leave descriptors open.
    mps.start(user=user, before=("sh", "-c", f'exec 5<>{leaked}; exec "$@"', "sh"))
    mps.pipe.chmod(0o555)
    client = mps.client(user=user)
    assert client("[start(), type(allocate(1000 * MIB)).__name__]") == ["CUDA_SUCCESS", "int"]
    mps.pipe.chmod(0o777)
    assert (used(mps), files(mps), leaked.read_text()) == ([0], [], "untouched")
    said = f"NVML will not know what server {mps.server} holds: cannot create its file in {mps.pipe}: Permission denied"
    assert said in (mps.folder / "foreground.log").read_text()


def test_no_reader_ever_sees_a_value_that_never_was(make_mps):
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    # Numbers of which every digit differs.
    low = held(client)
    client.ask("sum(release(allocate(70000 * MIB)) == 'CUDA_SUCCESS' for _ in range(20000))")
    code = """
        d, seen, looks = n.nvmlDeviceGetHandleByIndex(0), set(), 0
        while looks < 3000 or len(seen) < 2 and looks < 300000:
            seen.add(n.nvmlDeviceGetMemoryInfo(d).used)
            looks += 1
        result = sorted(seen)
    """
    assert used(mps, code) == [low, low + 70000 * MIB]
    assert client.answer() == 20000


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """As a server holds its file."""
    with path.open("r+b") as file:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        yield


@pytest.fixture
def served(make_mps) -> tuple[Mps, int, bytes]:
    """A server, what its GPU has in use, and the text that it published."""
    mps = make_mps()
    mps.start()
    client = mps.client()
    client("start()")
    return mps, held(client), published(mps).read_bytes()


def halves(text: bytes) -> tuple[bytes, bytes]:
    return text[: len(text) // 2], text[len(text) // 2 :]


def test_a_second_server_adds_to_the_first_as_long_as_it_holds_its_lock(served):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(text)
    assert used(mps) == [one]
    with locked(other):
        assert used(mps) == [2 * one]
        for torn in (b"\0" * len(halves(text)[0]) + halves(text)[1], halves(text)[0] + b"9" * len(halves(text)[1])):
            other.write_bytes(torn)
            assert used(mps) == [2 * one], "one copy is whole"
    assert used(mps) == [one]


def test_a_lock_that_a_reader_can_take_makes_no_server_live(served):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(text)
    with other.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        assert used(mps) == [one]


def test_more_than_the_gpu_has_is_all_that_it_has(served):
    mps, one, text = served
    with ExitStack() as locks:
        for i in range(80 * 1024 * MIB // one + 1):
            other = mps.pipe / f"server_memory.{4000000 + i}"
            other.write_bytes(text)
            locks.enter_context(locked(other))
        model = MODELS["h100-80gb"]
        assert used(mps) == [(model.memory_mib - model.reserved_memory_mib) * MIB]


WRONG: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda text: b"",
    "garbage": lambda text: b"\xff\0junk\n" * 20,
    "text": lambda text: b"GPU-none 1\n" * 2,
    "truncated": lambda text: text[:-1],
    "truncated by two": lambda text: text[1:-1],
    "one copy": lambda text: halves(text)[0],
    "three copies": lambda text: text + halves(text)[0],
    "without sums": lambda text: text.split(b"sum")[0] * 2,
    "other digits": lambda text: text.replace(b" 0000", b" 0001"),
    "negative": lambda text: text.replace(b" 0000", b" -000"),
    "NUL": lambda text: text.replace(b" ", b"\0"),
    "other sum": lambda text: text.replace(b"sum ", b"sum 0"),
    "lines without end": lambda text: text.split(b"sum")[0] * 1000,
    "huge": lambda text: text + b"\n" * 2**20,
    "one line": lambda text: b"9" * 2**20,
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_with_wrong_content_does_not_count(served, kind):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(WRONG[kind](text))
    with locked(other):
        assert used(mps) == [one]


def test_a_sparse_file_of_a_tebibyte_does_not_count(served):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(text)
    os.truncate(other, 2**40)
    with locked(other):
        assert used(mps) == [one]


def test_what_is_no_regular_file_does_not_count(served):
    mps, one, text = served
    target = mps.folder / "target"
    target.write_bytes(text)
    with locked(target):
        (mps.pipe / "server_memory.1").symlink_to(target)
        (mps.pipe / "server_memory.2").symlink_to("server_memory.2")
        (mps.pipe / "server_memory.3").symlink_to("nothing")
        (mps.pipe / "server_memory.4").mkdir()
        os.mkfifo(mps.pipe / "server_memory.5")
        assert used(mps) == [one]
        os.link(target, mps.pipe / "server_memory.6")
        assert used(mps) == [2 * one], "the target itself would"


def test_a_file_that_cannot_be_read_does_not_count(served):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(text)
    # Root may read everything, so it must not be root that asks.
    become = "import os\nif os.geteuid() == 0:\n    os.setresuid(1000, 1000, 1000)\n"
    with locked(other):
        assert used(mps, become + USED) == [2 * one]
        other.chmod(0)
        assert used(mps, become + USED) == [one]


@needs_root
def test_a_file_of_another_user_than_the_daemons_does_not_count(served):
    mps, one, text = served
    other = mps.pipe / "server_memory.4000000"
    other.write_bytes(text)
    with locked(other):
        os.chown(other, 1000, 1000)
        assert used(mps) == [one]
        os.chown(other, 0, 0)
        assert used(mps) == [2 * one]
