"""The load generator against a server with known times, and what becomes of its figures."""

import asyncio
import json
import math
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from images.loadgen import sweep as sweeping
from images.loadgen.client import TOKENS, Answer, ask, completion, prompt
from images.loadgen.figures import between_tokens, figures, percentile, spread, time_of_a_token, tokens_per_second
from images.loadgen.load import Load, Window, closed, noise, opened, session
from images.loadgen.plan import PROFILES, Plan, Point, Servers
from images.loadgen.points import OtherMeasurement, Points
from images.loadgen.server import MEMORY, PERCENTAGE, PIPE, STOP_SECONDS, Limits, Server, ServerFailed, cause
from tests.unit.fake_openai import FakeServer
from toolchain.paths import CHECKOUT

# Two cores, and other work beside: what a timer and a socket may add to each wait.
LATE = 0.06
FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture(autouse=True)
def fake_finds_its_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))


async def answer_of(server: FakeServer, output_tokens: int = 5) -> Answer:
    async with server.serving(), session() as http:
        return await ask(http, server.url, completion("m", [1], output_tokens), Answer(due=time.perf_counter()))


def test_tokens_are_timed_as_they_come():
    server = FakeServer(first=0.2, between=0.1)
    answer = asyncio.run(answer_of(server))
    assert answer.failure is None and answer.counted_by == "token ids"
    assert answer.count == 5 and len(answer.tokens) == 5
    gaps = [later - earlier for earlier, later in pairwise(server.sent)]
    assert answer.first - answer.sent >= 0.2 and min(gaps) >= 0.1
    assert answer.first == pytest.approx(server.sent[0], abs=LATE)
    assert time_of_a_token(answer) == pytest.approx(sum(gaps) / 4, abs=LATE / 2)
    assert between_tokens(answer) == pytest.approx(gaps, abs=LATE)


def test_server_without_token_ids_is_counted_by_chunks():
    answer = asyncio.run(answer_of(FakeServer(ids=False)))
    assert (answer.count, answer.counted_by, answer.failure) == (5, "chunks", None)


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (FakeServer(status=404), "HTTP 404: no such model"),
        (FakeServer(error="the engine is dead"), "the engine is dead"),
        (FakeServer(lost=2), "5 tokens came, and the server counted 7"),
    ],
)
def test_failure_is_the_answers(server: FakeServer, words: str):
    assert asyncio.run(answer_of(server)).failure == words


def test_server_that_is_not_there_is_a_failure_of_the_answer():
    async def run() -> Answer:
        async with session() as http:
            return await ask(http, "http://127.0.0.1:9", completion("m", [1], 1), Answer(due=0))

    assert "ClientConnector" in (asyncio.run(run()).failure or "")


def test_prompts_are_of_fixed_length_and_the_same_for_one_seed_only():
    first, again, other = (prompt(64, random.Random(seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 64 and set(first) <= set(TOKENS)
    body = completion("m", first, 16)
    assert (body["max_tokens"], body["ignore_eos"], body["stream"]) == (16, True, True)


def test_closed_loop_keeps_so_many_under_way_and_counts_tokens_in_its_window():
    server = FakeServer(first=0.05, between=0.05)

    async def run() -> Window:
        async with server.serving():
            return await closed(Load(server.url, "m", 8, 4), 4, warmup=0.3, seconds=1.2, drain=1)

    window = asyncio.run(run())
    found = figures(window)
    # Each caller has 4 tokens every 0.2 s, or later where the machine is busy.
    sent = sum(window.begin <= at < window.end for at in server.sent)
    assert 0 < sent <= 4 * 4 * 1.2 / 0.2 + 16
    assert found["outputTokensPerSecond"] == pytest.approx(sent / (window.end - window.begin), rel=0.3)
    assert found["failed"] == found["unfinished"] == 0
    assert found["ttft"]["p50"] >= 50 and found["tpot"]["p50"] >= 50
    assert found["itl"]["count"] == found["requests"] * 3
    assert {len(body["prompt"]) for body in server.bodies} == {8}


def test_open_loop_begins_requests_at_its_rate_whatever_the_server_does():
    server = FakeServer(first=0.01, between=0, slots=1)

    async def run() -> Window:
        async with server.serving():
            return await opened(Load(server.url, "m", 8, 1, seed=3), 30, warmup=0, seconds=2, drain=2)

    window = asyncio.run(run())
    assert len(window.answers) == pytest.approx(60, rel=0.4)
    dues = [answer.due for answer in window.answers]
    assert all(window.begin <= due < window.end for due in dues)
    late = figures(window)["late"]
    assert late["p50"] < LATE * 1000


def test_open_loop_counts_what_a_slow_server_makes_callers_wait_from_when_they_were_due():
    # One at a time, 0.2 s each, and 20 a second: each waits for all that came before it.
    server = FakeServer(first=0.2, between=0, slots=1)

    async def run() -> Window:
        async with server.serving():
            return await opened(Load(server.url, "m", 8, 1, seed=3), 20, warmup=0, seconds=1, drain=0.5)

    window = asyncio.run(run())
    found = figures(window)
    assert found["unfinished"] > 0
    assert found["requests"] + found["unfinished"] == pytest.approx(20, abs=12)
    assert found["ttftFromDue"]["max"] > 600


def test_noise_lasts_as_long_as_its_block():
    server = FakeServer(first=0.01, between=0.01)

    async def run() -> int:
        async with server.serving():
            async with noise(Load(server.url, "m", 8, 2), 3) as made:
                async with asyncio.timeout(30):
                    while len(made.answers) <= 3:
                        await asyncio.sleep(0.05)
            await asyncio.sleep(0.1)  # what was on its way when the block ended
            begun = len(server.bodies)
            await asyncio.sleep(0.1)
            assert len(server.bodies) == begun
            assert len(made.begun) == begun
            return sum(answer.failure is None for answer in made.answers)

    assert asyncio.run(run()) > 3


def test_tokens_of_a_neighbours_request_count_before_it_is_answered():
    server = FakeServer(first=0.01, between=0.01)

    async def run() -> tuple[int, float]:
        async with server.serving():
            began = time.perf_counter()
            async with noise(Load(server.url, "m", 8, 10_000), 2) as made:
                async with asyncio.timeout(30):
                    while sum(answer.count for answer in made.begun) < 4:
                        await asyncio.sleep(0.05)
            return len(made.answers), tokens_per_second(made.begun, Window(began, time.perf_counter()))

    answered_, rate = asyncio.run(run())
    assert answered_ == 0 and rate > 0


def test_percentiles_lie_between_their_neighbours():
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, at) for at in (0, 50, 99, 100)] == pytest.approx([1, 2.5, 3.97, 4])
    assert spread([]) is None
    assert spread([0.002]) == {"mean": 2.0, "p50": 2.0, "p99": 2.0, "max": 2.0, "deviation": 0.0, "count": 1}


def answered(due: float, *tokens: tuple[float, int]) -> Answer:
    return Answer(due=due, sent=due + 0.001, tokens=list(tokens), counted_by="token ids")


def test_figures_count_tokens_by_time_and_requests_by_when_they_were_due():
    early = answered(9.0, (9.5, 1), (10.5, 2), (11.5, 1))
    mine = answered(10.0, (10.1, 1), (10.3, 2))
    failed = Answer(due=10.5, failure="HTTP 500: ")
    window = Window(10, 12, answers=[mine, failed], all=[early, mine, failed], unfinished=1)
    found = figures(window)
    assert found["outputTokensPerSecond"] == 3.0  # 2 + 1 of the early one, 3 of its own, in 2 seconds
    assert (found["requests"], found["failed"], found["unfinished"]) == (1, 1, 1)
    assert found["failures"] == ["HTTP 500: "]
    assert (found["ttft"]["mean"], found["ttftFromDue"]["mean"]) == (99.0, 100.0)
    assert found["tpot"]["mean"] == 100.0 and found["itl"]["mean"] == 200.0
    assert found["requestsPerSecond"] == 0.5


def test_answer_of_one_token_has_no_time_of_a_token():
    assert time_of_a_token(answered(0, (1, 1))) is None


@pytest.mark.parametrize("profile", PROFILES)
def test_plan_survives_its_journey_and_names_each_point_once(profile: str):
    plan = PROFILES[profile]
    assert Plan.from_json(plan.to_json()) == plan
    keys = [point.key for point in plan.all_points]
    assert len(keys) == len(set(keys))
    # Every tenant's load was measured alone as well, or there is nothing to compare it with.
    alone = {(p.percentage, p.loop, p.level) for p in plan.all_points if p.neighbour is None}
    assert {(p.percentage, p.loop, p.level) for p in plan.all_points if p.neighbour is not None} <= alone


def test_plan_has_the_splits_between_two_tenants():
    assert all(PROFILES[name].tenants == ((50, 50), (30, 70), (20, 80)) for name in ("quick", "full"))


def test_standard_profile_asks_whom_to_limit_in_twenty_minutes():
    plan = PROFILES["standard"]
    servers = list(plan.servers)
    # A chat beside a batch: in turns, with no limit, one of the chat's, one of the neighbour's, one of each.
    assert Servers(100, 100, mps=False) in servers
    assert {Servers(100, 100), Servers(10, 90), Servers(100, 90), Servers(50, 50)} <= set(servers)
    assert plan.repeats >= 3 and plan.seconds >= 10
    loads = {(point.loop, point.level) for point in plan.points(Servers(100))}
    assert len(loads) == 3
    # On an H100 the first server answered after 138 s, the others, which find what it compiled, after 59 to 76.
    seconds = 138 + 70 * (len(servers) - 1) + len(plan.all_points) * (plan.seconds + plan.warmup_seconds)
    assert seconds <= 21.5 * 60


def test_time_slicing_is_measured_without_mps():
    plan = replace(TINY, time_sliced=True)
    assert list(plan.servers) == [
        *(Servers(50), Servers(100)),
        *(Servers(100, 100, mps=False), Servers(50, 50)),
    ]
    assert Plan.from_json(plan.to_json()) == plan


def test_plan_takes_other_percentages_and_repeats():
    plan = PROFILES["quick"].of((40,), 7)
    assert (plan.alone, plan.repeats) == ((40,), 7)
    assert PROFILES["quick"].of() == PROFILES["quick"]


def test_key_of_a_point():
    assert Point(20, 80, "open", 8.0, 2).key == "20/beside-80/open/8/2"
    assert Point(50, None, "closed", 16, 1).key == "50/alone/closed/16/1"
    assert Point(100, 100, "closed", 1, 3, mps=False).key == "100/beside-100-time-sliced/closed/1/3"


TINY = Plan(
    alone=(50,),
    tenants=((50, 50),),
    closed=(2,),
    open=(20,),
    tenant_closed=(2,),
    tenant_open=(),
    time_sliced=False,
    repeats=1,
    seconds=0.4,
    warmup_seconds=0.1,
    drain_seconds=0.5,
    prompt_tokens=4,
    output_tokens=3,
    noise=2,
)


def run_sweep(folder: Path, capsys: pytest.CaptureFixture[str], **changed: Any) -> list[dict[str, Any]]:
    arguments = {
        "plan": json.loads(TINY.to_json()),
        "done": [],
        "command": [sys.executable, str(FAKE), "--port=8000"],
        "model": "m",
        "memory": "1024M",
        "start_seconds": 30,
        "folder": str(folder),
        **changed,
    }
    assert sweeping.main(arguments) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def free_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    # Those of one process id are not those of another test that runs beside this one.
    base = 20000 + os.getpid() % 10000 * 2
    monkeypatch.setattr(sweeping, "PORT", base)
    monkeypatch.setattr(sweeping, "NEIGHBOURS_PORT", base + 1)


def test_sweep_measures_every_point_on_servers_with_their_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_ports: None
):
    *points, end = run_sweep(tmp_path, capsys)
    assert end == {"end": True, "failed": 0}
    assert [point["key"] for point in points] == [point.key for point in TINY.all_points]
    assert all(point["requests"] and not point["failed"] for point in points)
    # The fake answers with its percentage: it is the server's own process that is asked.
    assert {point["multiprocessors"] for point in points} == {50}
    assert points[-1]["neighbourMultiprocessors"] == 50 and points[-1]["neighbourRequests"] > 0
    assert points[-1]["neighbourOutputTokensPerSecond"] > 0 and points[0]["neighbourOutputTokensPerSecond"] is None


def test_servers_that_share_by_time_are_no_clients_of_mps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], free_ports: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(PERCENTAGE, "70")
    plan = replace(TINY, alone=(100,), tenants=(), open=(), time_sliced=True)
    *_, point, _ = run_sweep(tmp_path, capsys, plan=json.loads(plan.to_json()))
    assert point["key"] == "100/beside-100-time-sliced/closed/2/1" and point["mps"] is False
    # The fake answers 0 where it has no limit.
    assert (point["multiprocessors"], point["neighbourMultiprocessors"]) == (0, 0)
    assert point["neighbourRequests"] > 0
    assert {file.name for file in tmp_path.glob("server-time-sliced-*.log")} == {
        f"server-time-sliced-{port}.log" for port in (sweeping.PORT, sweeping.NEIGHBOURS_PORT)
    }


def test_sweep_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_ports: None):
    first, *rest = (point.key for point in TINY.all_points)
    *points, _ = run_sweep(tmp_path, capsys, done=[first])
    assert [point["key"] for point in points] == rest


def test_sweep_says_why_a_server_did_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str], free_ports: None):
    *failures, end = run_sweep(tmp_path, capsys, command=[sys.executable, str(FAKE), "--fail"])
    assert end == {"end": True, "failed": 2}
    assert [failure["neighbour"] for failure in failures] == [None, 50]
    assert all("torch.OutOfMemoryError: CUDA out of memory." in failure["error"] for failure in failures)


def test_server_that_never_answers_is_given_up(tmp_path: Path, free_ports: None):
    server = Server([sys.executable, str(FAKE), "--hang"], Limits(50, "1M"), sweeping.PORT, tmp_path)

    async def run() -> None:
        try:
            await server.start(1)
        finally:
            await server.stop()

    with pytest.raises(ServerFailed, match="did not answer within 1 s"):
        asyncio.run(run())
    assert server.process is not None and server.process.returncode is not None


ORPHAN = """
import asyncio, ctypes, subprocess, sys, time
from pathlib import Path
from images.loadgen.server import Server

PR_SET_CHILD_SUBREAPER = 36  # as a container's first process is: who loses its parent becomes a child of this
assert ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
server = Server([], None, 1, Path("."))
# The one that is left behind; SIGTERM ends it long before its time.
server.process = subprocess.Popen(["sh", "-c", "sleep 60 & exit 0"], start_new_session=True)
server.process.wait()
began = time.perf_counter()
asyncio.run(server.stop())
print(time.perf_counter() - began)
"""


def test_server_is_gone_once_whom_it_left_behind_has_ended():
    # vLLM's process that tracks shared memory outlives it, and nobody else waits for that one in a container.
    done = subprocess.run([sys.executable, "-c", ORPHAN], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < STOP_SECONDS / 4


def test_server_has_limits_of_its_own_and_nobody_elses(tmp_path: Path):
    server = Server(["vllm"], Limits(20, "1024M"), 1, tmp_path)
    env = server.environment({PERCENTAGE: "100", MEMORY: "0=1M", "PYTHONPATH": "/mine"})
    assert (env[PERCENTAGE], env[MEMORY]) == ("20", "0=1024M")
    assert env["PYTHONPATH"].endswith(f"{os.pathsep}/mine")


def test_server_without_limits_finds_no_daemon(tmp_path: Path):
    own = {PERCENTAGE: "100", MEMORY: "0=1M", PIPE: "/mps"}
    env = Server(["vllm"], None, 1, tmp_path).environment(own)
    assert PERCENTAGE not in env and MEMORY not in env
    assert env[PIPE] != "/mps" and not Path(env[PIPE]).exists()


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (
            "(EngineCore pid=9) ERROR 11-24 [core.py:1] ValueError: Free memory on device cuda:0 (0.7/79.2 GiB) on "
            "startup is less than desired GPU memory utilization\nRuntimeError: Engine core initialization failed.\n",
            "ValueError: Free memory on device",
        ),
        (
            "Traceback\ntorch.OutOfMemoryError: CUDA out of memory. Tried\n",
            "torch.OutOfMemoryError: CUDA out of memory.",
        ),
        (
            # Of a log of vLLM 0.26: the warnings come first, and are of no error.
            "(APIServer pid=1) WARNING 11-26 05:08:22 [system_utils.py:299] Found ulimit of 1024 and failed to "
            "automatically increase. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.\n"
            "(EngineCore pid=107) ERROR 11-26 05:08:40 [core.py:1330] torch.AcceleratorError: CUDA error: out of "
            "memory\n(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n",
            "torch.AcceleratorError: CUDA error: out of memory",
        ),
        (
            # Of a log of vLLM 0.26 without a network, of a model that is neither a folder nor in its cache.
            "(APIServer pid=1)     raise LocalEntryNotFoundError(\n"
            "(APIServer pid=1) huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached "
            "snapshot folder for the specified revision on the local disk and outgoing traffic has been disabled.\n",
            "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
        ),
        ("one\ntwo\nthree\nfour\n", "two / three / four"),
    ],
)
def test_cause_is_the_first_error_or_the_end(log: str, words: str):
    assert cause(log).startswith(words)


def point(key: str, tokens: float, **changed: Any) -> dict[str, Any]:
    percentage, _, loop, level, repeat = key.split("/")
    times = spread([0.1, 0.2])
    return {
        "key": key,
        "percentage": int(percentage),
        "neighbour": None,
        "loop": loop,
        "level": float(level),
        "repeat": int(repeat),
        "multiprocessors": 66,
        "neighbourMultiprocessors": None,
        "startSeconds": 30.0,
        **figures(Window(0, 1)),
        "outputTokensPerSecond": tokens,
        "ttft": times,
        "ttftFromDue": times,
        "tpot": times,
        "itl": times,
        **changed,
    }


def test_points_are_kept_at_once_and_a_line_that_was_cut_off_is_measured_again(tmp_path: Path):
    points = Points(tmp_path, {"gpu": "H100"})
    points.add(point("50/alone/closed/16/1", 100))
    with open(points.file, "a") as out:
        out.write('{"key": "50/al')
    again = Points(tmp_path, {"gpu": "H100"})
    assert again.done == ["50/alone/closed/16/1"]
    again.add(point("50/alone/closed/16/2", 110))
    assert Points(tmp_path, {"gpu": "H100"}).done[-1] == "50/alone/closed/16/2"


def test_points_of_something_else_are_not_mixed(tmp_path: Path):
    Points(tmp_path, {"gpu": "H100", "model": "m"})
    with pytest.raises(OtherMeasurement, match="is of another gpu; move the folder away"):
        Points(tmp_path, {"gpu": "L40S", "model": "m"})


def test_points_become_csv_json_and_means_over_their_repeats(tmp_path: Path):
    points = Points(tmp_path, {"gpu": "H100"})
    points.add(point("50/alone/closed/16/1", 100))
    points.add(point("50/alone/closed/16/2", 110, unfinished=3))
    points.add(point("50/alone/open/8/1", 90, ttftFromDue=None, ttft=None))
    points.write()
    header, *rows = (tmp_path / "points.csv").read_text().splitlines()
    assert len(rows) == 3 and {len(row.split(",")) for row in rows} == {len(header.split(","))}
    assert json.loads((tmp_path / "points.json").read_text())["about"] == {"gpu": "H100"}
    closed_, open_ = points.summaries()
    assert (closed_.repeats, closed_.tokens_per_second, closed_.unfinished) == (2, (105.0, 100, 110), 3)
    assert closed_.ttft_p50 == 150.0
    assert (closed_.ttft_p99_spread, closed_.mps) == ((199.0, 199.0), True)
    assert math.isnan(closed_.neighbour_tokens_per_second)
    assert open_.ttft_p50 != open_.ttft_p50  # nothing was answered in time
