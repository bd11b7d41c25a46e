"""nvidia-cuda-mps-control: its command line, its daemon's files and log, and every command's answer.

Answers and log lines are those of NVIDIA's program, driver 580.159.04, except that they say what is simulated.
"""

import os
import re
import signal
import stat
import subprocess

import pytest

from gpus.models import simulated_gpus
from tests.unit.gpu_sim.driver_root import LIBRARIES, MODELS, container_of
from tests.unit.gpu_sim.mps import PATIENCE, is_running, wait_until

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")
UUID = simulated_gpus("node", MODELS["h100-80gb"], 1)[0].uuid
LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (Control|Server|Other) +(\d+)\] (.*)")


def texts(log: str) -> list[str]:
    """The log without times and process IDs; every line has the form."""
    found = [LINE.fullmatch(line) for line in log.splitlines()]
    assert all(found), log
    return [match[3] for match in found if match]


def in_background(mps) -> int:
    done = mps.program("-d")
    assert (done.returncode, done.stdout) == (0, "")
    pid = int((mps.pipe / "nvidia-cuda-mps-control.pid").read_text())
    mps.background.append(pid)
    return pid


def test_help_and_version_say_that_it_is_simulated(make_mps):
    mps = make_mps()
    for option in ("-h", "--help"):
        done = mps.program(option)
        assert done.returncode == 0 and "simulated" in done.stdout
        assert "-f,--forground" in done.stdout and "set_default_device_pinned_mem_limit <dev> <value>" in done.stdout
    done = mps.program("-v")
    assert done.returncode == 0
    assert done.stdout == "CUDA MPS Control for Linux/Unix/QNX. Binary version: 13000 (simulated)\n"


def test_an_unknown_option_is_told_with_the_usage(make_mps):
    done = make_mps().program("-x")
    assert done.returncode == 1 and done.stdout.startswith("Unrecognized option -x\nCUDA MPS Control")


def test_the_server_does_nothing_by_itself(make_mps):
    program = make_mps().root.path / "usr/bin/nvidia-cuda-mps-server"
    done = subprocess.run([program], capture_output=True, text=True, env={}, timeout=PATIENCE, close_fds=True)
    assert done.returncode == 1 and "simulated" in done.stderr


def test_without_a_daemon_commands_fail(make_mps):
    mps = make_mps()
    for done in (mps.program(text="get_server_list\n"), mps.program()):
        assert (done.returncode, done.stdout) == (1, "Cannot find MPS control daemon process\n")


def test_a_pipe_directory_too_long_for_a_socket_is_told_to_the_daemon_and_no_mps_to_others(make_mps):
    mps = make_mps()
    long = str(mps.folder / ("x" * 100))
    done = mps.program("-d", CUDA_MPS_PIPE_DIRECTORY=long)
    assert done.returncode == 1 and "File name too long" in done.stdout
    assert mps.program(text="ps\n", CUDA_MPS_PIPE_DIRECTORY=long).stdout == "Cannot find MPS control daemon process\n"
    assert mps.client(CUDA_MPS_PIPE_DIRECTORY=long)("init()") == "CUDA_SUCCESS"


def test_a_daemon_in_the_background_makes_the_measured_files(make_mps):
    mps = make_mps()
    pid = in_background(mps)
    assert is_running(pid)
    modes = {path.name: stat.filemode(path.stat().st_mode) for path in mps.pipe.iterdir()}
    assert modes == {
        "control": "srw-rw-rw-",
        "control_lock": "-rw-rw-rw-",
        "control_privileged": "srwxr-xr-x",
        "nvidia-cuda-mps-control.pid": "-rw-rw-rw-",
    }
    assert mps.control("get_server_list", "get_default_active_thread_percentage") == "100.0\n"
    assert mps.program(text="quit\n").returncode == 0
    wait_until(lambda: not is_running(pid), "the daemon ends after quit")
    assert texts((mps.log / "control.log").read_text())[:3] == [
        f"Starting control daemon using socket {mps.pipe}/control",
        f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={mps.pipe}",
        "CUDA MPS Control binary version: 13000 (simulated)",
    ]


def test_directories_that_are_missing_are_made(make_mps):
    mps = make_mps()
    mps.pipe.rmdir()
    mps.log.rmdir()
    in_background(mps)
    assert mps.control("get_default_active_thread_percentage") == "100.0\n"
    assert (mps.log / "control.log").exists()


def test_a_daemon_in_the_foreground_logs_to_standard_error_and_ends_by_its_signal(make_mps):
    mps = make_mps()
    for number in (signal.SIGTERM, signal.SIGINT):
        process = mps.start()
        client = mps.client()
        client("start()")
        server = mps.server
        process.send_signal(number)
        assert process.wait(timeout=PATIENCE) == -number
        assert not is_running(server)
        assert client("synchronize()") == "CUDA_ERROR_MPS_RPC_FAILURE"
    assert f"Starting control daemon using socket {mps.pipe}/control" in (mps.folder / "foreground.log").read_text()
    assert not (mps.log / "control.log").exists()
    assert {path.name for path in mps.pipe.iterdir()} >= {"control", "control_lock"}


@pytest.mark.parametrize("option", ["-d", "-f"])
def test_a_second_daemon_on_a_pipe_directory_is_refused(make_mps, option):
    mps = make_mps()
    mps.start()
    done = mps.program(option)
    assert (done.returncode, done.stdout) == (1, "An instance of this daemon is already running\n")
    assert mps.control("get_default_active_thread_percentage") == "100.0\n"


def test_a_daemon_starts_over_what_a_killed_one_left(make_mps):
    mps = make_mps()
    pid = in_background(mps)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the killed daemon is gone")
    assert mps.program().returncode == 1
    assert (mps.pipe / "control").exists()
    in_background(mps)
    assert mps.control("get_server_list") == ""


@needs_root
def test_only_root_may_ask_for_multiuser(make_mps):
    mps = make_mps()
    program = mps.root.path / "usr/bin/nvidia-cuda-mps-control"
    for option in ("-M", "--multiuser-server", "-multiuser-server"):
        done = subprocess.run(
            [program, "-d", option], user=1000, capture_output=True, text=True, env=mps.environment(LD_PRELOAD="")
        )
        assert done.returncode == 1 and done.stdout.endswith("\nOnly root user may enable -multiuser-server!\n")
        assert "[options]" in done.stdout
    assert list(mps.pipe.iterdir()) == []


BEFORE_ANY_CLIENT = [
    ("help", 'Unknown command "help"\n'),
    ("get_server_list", ""),
    ("get_default_active_thread_percentage", "100.0\n"),
    ("get_default_device_pinned_mem_limit 0", ""),
    ("get_default_device_pinned_mem_limit 7", ""),
    ("ps", "Server not found\n"),
    ("ps -p 1", "Server 1 not found\n"),
    ("get_client_list 1", "Server 1 not found\n"),
    ("get_active_thread_percentage 1", "Server 1 not found\n"),
    ("get_device_pinned_mem_limit 1 0", "Server 1 not found\n"),
    ("set_active_thread_percentage 99999 20", "Server 99999 not found\n"),
    ("set_device_pinned_mem_limit 99999 0 1G", "Server 99999 not found\n"),
    ("terminate_client 1 1", "Server 1 not found\n"),
    ("bogus", 'Unknown command "bogus"\n'),
    ("lsdev", 'Unknown command "lsdev"\n'),
    ("set_default_active_thread_percentage 0", "100.0\n"),
    ("set_default_active_thread_percentage 101", "100.0\n"),
    ("set_default_active_thread_percentage -5", "100.0\n"),
    ("set_default_active_thread_percentage abc", "100.0\n"),
    ("set_default_active_thread_percentage 33.3", "33.3\n"),
    ("get_default_active_thread_percentage", "33.3\n"),
    ("set_default_active_thread_percentage", "33.3\n"),
    ("set_default_active_thread_percentage 99.96", "100.0\n"),
    ("set_default_active_thread_percentage 0.01", "0.0\n"),
    ("set_default_device_pinned_mem_limit 0 2G", ""),
    ("get_default_device_pinned_mem_limit 0", "2G\n"),
    ("set_default_device_pinned_mem_limit 0 2X", ""),
    ("set_default_device_pinned_mem_limit 9 2G", ""),
    ("set_default_device_pinned_mem_limit 0 100000G", ""),
    ("set_default_device_pinned_mem_limit 0 1500M", ""),
    ("get_default_device_pinned_mem_limit 0", "1G\n"),
    ("set_default_device_pinned_mem_limit 0 900M", ""),
    ("get_default_device_pinned_mem_limit 0", "900M\n"),
    ("set_default_device_pinned_mem_limit 0 0", ""),
    ("get_default_device_pinned_mem_limit 0", ""),
    (f"set_default_device_pinned_mem_limit {UUID} 3G", ""),
    (f"get_default_device_pinned_mem_limit {UUID}", "3G\n"),
    ("get_default_device_pinned_mem_limit 0", ""),
    ("set_default_device_pinned_mem_limit 0 99999999999999999999G", ""),
    ("get_default_device_pinned_mem_limit 0", ""),
    ("get_default_device_pinned_mem_limit GPU-nonsense", ""),
    ("get_server_status 1", "Server 1 not found\n"),
    ("get_device_client_list", ""),
    ("get_device_client_list 0", ""),
    ("get_default_client_priority", "0\n"),
    ("set_default_client_priority 1", ""),
    ("set_default_client_priority 7", ""),
    ("get_default_client_priority", "1\n"),
    (
        "device_query",
        "Default\n"
        "Device Ordinal  PCI IDs        UUID                                      Name                              "
        "Attributes\n"
        f"0               0000:0a.00.00  {UUID}  NVIDIA H100 80GB HBM3             N/A\n",
    ),
    (
        "device_query --csv",
        f"Default\nDevice Ordinal,PCI IDs,UUID,Name,Attributes\n0,0000:0a.00.00,{UUID},NVIDIA H100 80GB HBM3,N/A\n",
    ),
    ("device_query 5", "Server 5 not found\n"),
]


def test_every_commands_answer_before_any_client(make_mps):
    mps = make_mps()
    mps.start()
    assert [(command, mps.control(command)) for command, _ in BEFORE_ANY_CLIENT] == BEFORE_ANY_CLIENT


def test_several_lines_and_blank_ones(make_mps):
    mps = make_mps()
    mps.start()
    many = mps.program(text="\n  get_default_active_thread_percentage \r\n\nset_default_active_thread_percentage 20")
    assert (many.returncode, many.stdout) == (0, "100.0\n20.0\n")


def test_a_command_as_arguments_does_nothing_and_says_nothing(make_mps):
    # As NVIDIA's program did on an H100 (driver 580.159.04): who checks its exit status only, believes that it worked.
    mps = make_mps()
    mps.start()
    ignored = mps.program("set_default_active_thread_percentage", "30")
    assert (ignored.returncode, ignored.stdout) == (0, "")
    assert mps.control("get_default_active_thread_percentage") == "100.0\n"


def test_the_log_has_command_and_answer_and_the_reason_that_the_answer_lacks(make_mps):
    mps = make_mps()
    mps.start()
    log = mps.folder / "foreground.log"
    for commands in (
        ("set_default_active_thread_percentage 101", "set_default_device_pinned_mem_limit 0 2G"),
        ("get_default_device_pinned_mem_limit 7",),
    ):
        # The daemon notices an end when it next looks, so the log of one dialogue may end in the next.
        wait_until(lambda: log.read_text().count("NEW UI") == log.read_text().count("UI closed"), "the last one ended")
        mps.control(*commands)
    found = texts(log.read_text())
    start = found.index("Cmd:set_default_active_thread_percentage 101")
    assert found[start - 2 :][:12] == [
        "Accepting connection...",
        "NEW UI",
        "Cmd:set_default_active_thread_percentage 101",
        "Invalid percentage, expected between (0.0, 100.0]",
        "100.0",
        "Cmd:set_default_device_pinned_mem_limit 0 2G",
        "set_default_device_pinned_mem_limit 0 2G.",
        "UI closed",
        "Accepting connection...",
        "NEW UI",
        "Cmd:get_default_device_pinned_mem_limit 7",
        "No default pinned memory limit set for the device!",
    ]


def test_the_servers_log_says_what_it_was_given(make_mps):
    mps = make_mps()
    mps.start()
    mps.control("set_default_active_thread_percentage 50", "set_default_device_pinned_mem_limit 0 1500M")
    mps.client()("start()")
    mps.control(f"set_device_pinned_mem_limit {mps.server} 0 4G")
    expected = "Device pinned memory limit for device 0 set to 0x100000000 bytes"
    wait_until(lambda: expected in mps.server_log(), "the server has the limit")
    assert texts(mps.server_log())[:10] == [
        "Startup (simulated: no CUDA code runs)",
        f"Connecting to control daemon on socket: {mps.pipe}/control",
        "Initializing server process",
        "Creating server context on device 0 (NVIDIA H100 80GB HBM3)",
        "CUDA MPS Server for Linux/Unix. Binary version: 13000 (simulated)",
        "Display Driver version: 580",
        "Active Threads Percentage set to 50.0",
        "Device pinned memory limit for device 0 set to 0x5dc00000 bytes",
        "Server Priority set to 0",
        "Server has started",
    ]


def test_start_server_starts_one_before_any_client(make_mps):
    mps = make_mps()
    mps.start()
    assert mps.control(f"start_server -uid {os.geteuid()}") == ""
    server = mps.server
    wait_until(lambda: mps.control(f"get_server_status {server}") == "ACTIVE\n", "the server is ready")
    assert mps.control("ps", f"get_client_list {server}", "get_device_client_list") == ""
    assert mps.control(f"device_query {server}").startswith(f"Server {server}\n")
    client = mps.client()
    client("start()")
    assert mps.server == server


def test_the_programs_work_in_a_container_that_got_driver_files_only(make_mps, tmp_path):
    mps = make_mps(count=2)
    mps.root = container_of(mps.root, mps.folder, "nvidia1")
    libraries = mps.root.path / LIBRARIES
    libraries.rename(libraries.parents[1] / "lib64")
    mps.start()
    assert [row.split()[2] for row in mps.control("device_query").splitlines()[2:]] == [
        simulated_gpus("node", MODELS["h100-80gb"], 2)[1].uuid
    ]


@needs_root
def test_the_programs_work_in_a_chroot_that_has_nothing_but_the_driver_root(make_mps):
    mps = make_mps()
    if mps.root.build.preload:
        pytest.skip("a sanitized program is not static")
    (mps.root.path / "tmp").mkdir()
    (mps.root.path / "var/log").mkdir(parents=True)
    program = ["chroot", mps.root.path, "nvidia-cuda-mps-control"]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    subprocess.run([*program, "-d"], check=True, env=environment, timeout=PATIENCE)
    mps.background.append(int((mps.root.path / "tmp/nvidia-mps/nvidia-cuda-mps-control.pid").read_text()))
    client = mps.client(CUDA_MPS_PIPE_DIRECTORY=str(mps.root.path / "tmp/nvidia-mps"))
    assert client("[start(), synchronize()]") == ["CUDA_SUCCESS"] * 2
    asked = {"input": b"ps\n", "env": environment, "timeout": PATIENCE, "capture_output": True}
    assert str(client.pid) in subprocess.run(program, check=True, **asked).stdout.decode()
    assert "Server has started" in (mps.root.path / "var/log/nvidia-mps/server.log").read_text()


def test_no_library_is_needed_to_run_the_programs(build):
    if build.preload:
        pytest.skip("a sanitized program is not static")
    for name in ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server"):
        headers = subprocess.run(["readelf", "-l", build.out / "root/usr/bin" / name], capture_output=True, text=True)
        assert "INTERP" not in headers.stdout
