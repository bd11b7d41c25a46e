"""The checks of a real GPU against one that is made of the rules: what they record, and that they can fail.

Its speed is a constant for each SM, made up for these tests and shown nowhere else.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from checks import measured as sheets
from checks import mps, test_04_mps, test_05_mps_limits, test_08_observability, throughput
from checks.mps import MEMORY, PERCENTAGE, ClientEnd
from gpus.mps import context_mib, granted_multiprocessors
from gpus.quantity import MIB, quantity_mib
from settings import GPU_MODELS, Settings

MODEL = GPU_MODELS["h100-80gb"]
SETTINGS = Settings.parse({"modules": ["01", "02", "04", "05"]}, "test")
TOTAL_MIB = 81079


class Rules:
    """What the made-up GPU does; a test changes one of them to see a check fail."""

    def __init__(self) -> None:
        self.percentage: float = 50
        self.memory: int | None = 8192
        self.clock = 1000.0
        self.per_sm = 0.505
        self.slow: dict[str, float] = {}  # who -> part of the speed that is left
        self.sms: Callable[[float], int] = lambda percentage: granted_multiprocessors(MODEL, percentage)
        self.refuses_junk = False
        self.neighbour: float | None = None
        self.limit_is_ignored = False


class FakeClient:
    """A client that has run as soon as it is started."""

    def __init__(self, rules: Rules, args: tuple[str, ...], percentage: float | None, memory: int | None) -> None:
        self.rules, self.args, self.name = rules, args, "client-1"
        self.began = rules.clock
        rules.clock += 1  # clients start one after another
        self.percentage, self.memory = percentage, memory
        self.sms = 132 if percentage is None else rules.sms(percentage)
        if args[0] == "load":
            rules.neighbour = rules.percentage
        self.free = (TOTAL_MIB if memory is None else memory) - context_mib(self.sms)

    def lines(self) -> list[dict[str, Any]]:
        return [line for _, line in self.timed_lines()]

    def timed_lines(self) -> list[tuple[float, dict[str, Any]]]:
        first: dict[str, Any] = {"gpus": []}
        if self.args[0] == "info":
            return [(self.began, first), (self.began, {"sms": self.sms, "free_mib": self.free})]
        if self.args[0] == "alloc":
            sizes = [int(word.removesuffix("Mi")) for word in self.args[1:]]
            results = ["CUDA_SUCCESS" if size <= self.free else "CUDA_ERROR_OUT_OF_MEMORY" for size in sizes]
            said = [{"requested_bytes": s * MIB, "result": r} for s, r in zip(sizes, results, strict=True)]
            return [(self.began, line) for line in [*said, {"error": results[-1]}]]
        if self.args[0] == "latency":
            return [(self.began, self.latency(number)) for number in (1, 2, 3)]
        options = dict(zip(self.args[2::2], self.args[3::2], strict=True))
        seconds, warmup = float(self.args[1]), float(options.get("--warmup", 1))
        part = self.rules.slow.get("mps" if self.percentage is not None else "exclusive", 1)
        part *= self.rules.slow.get(f"{self.began:g}", 1)
        line = {"sms": self.sms, "tflops": self.sms * self.rules.per_sm * part, "seconds": seconds}
        return [
            (self.began + warmup + seconds * number, line) for number in range(1, int(options.get("--repeats", 1)) + 1)
        ]

    def latency(self, repeat: int) -> dict[str, Any]:
        """One time alone and beside a neighbour that leaves SMs, another beside one that has them all."""
        filled = self.rules.neighbour == 100 or (self.rules.limit_is_ignored and self.rules.neighbour is not None)
        microseconds = 500.0 if filled else 20.0
        return {"repeat": repeat, "sms": self.sms, "p50_us": microseconds, "p99_us": microseconds}

    def wait_end(self, seconds: float) -> dict[str, Any]:
        return {"exitCode": 0}

    def wait_line(self, key: str) -> dict[str, Any]:
        self.rules.clock += 3
        return next(line for line in self.lines() if key in line)

    def ended(self) -> ClientEnd:
        return ClientEnd(0, self.lines(), self.began, self.began + 1)

    def remove(self) -> None:
        pass


class FakeDaemon:
    by_claim, node = False, "n"

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def apply(self, percentage: float, memory: str) -> None:
        self.rules.percentage = percentage
        self.rules.memory = int(memory.removesuffix("M")) or None

    def ask(self, *commands: str) -> str:
        assert all(command.startswith("set_default_") for command in commands)
        return ""  # for servers that start later

    def devices(self) -> list[int]:
        return [0]

    def servers(self) -> list[int]:
        return [31]

    @contextmanager
    def limits(self) -> Iterator[None]:
        yield
        self.apply(50, "8192M")


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Rules:
    found = Rules()

    def start(stack: Any, *args: str, percentage: float | None = None, memory: str | None = None) -> FakeClient:
        own = {word.partition("=")[0]: word.partition("=")[2] for word in args if "=" in word}
        shares = percentage if percentage is not None else _number(own.get(PERCENTAGE, ""))
        share = min(found.percentage, shares) if shares and shares <= 100 else found.percentage
        limit, text = found.memory, own.get(MEMORY, "")
        mib = _number(text.removeprefix("0=").removesuffix("M"))
        if mib is not None:
            limit = min(int(mib), limit or TOTAL_MIB)
        elif text and not found.refuses_junk:
            limit = None
        return FakeClient(found, args, share, limit)

    def manifest(stack: Any, args: tuple[str, ...], env: dict[str, str], namespace: str = "mps") -> dict[str, Any]:
        return {"args": args, "env": env, "spec": {"securityContext": {}, "containers": []}}

    def create(stack: Any, pod: dict[str, Any]) -> FakeClient:
        return start(stack, *pod["args"], percentage=float(pod["env"][PERCENTAGE]))

    for name, stand_in in (("start", start), ("manifest", manifest), ("create", create)):
        monkeypatch.setattr(mps.Client, name, stand_in)
    for module in (test_04_mps, test_05_mps_limits):
        monkeypatch.setattr(module, "model_of", lambda stack: MODEL)
    monkeypatch.setattr(test_05_mps_limits, "carried_percentage", lambda stack: 100)
    monkeypatch.setattr(test_05_mps_limits, "Daemon", lambda stack: FakeDaemon(found))
    monkeypatch.setattr(test_05_mps_limits, "pod_of", lambda stack, env, **changed: "")
    monkeypatch.setattr(test_04_mps, "shared_gpu", lambda stack: "GPU-1")
    monkeypatch.setattr(test_04_mps, "outside_namespace", lambda *_: _nothing())
    monkeypatch.setattr(
        test_04_mps, "pod_without_pipe", lambda stack, playground, args: FakeClient(found, tuple(args), None, None)
    )
    chip = throughput.Chip(MODEL.product_name, "9.0", 132, 128, 1980)
    monkeypatch.setattr(throughput, "chip", lambda stack, uuid, sms: chip)
    return found


def _number(text: str) -> float | None:
    return float(text) if text.replace(".", "").isdecimal() else None


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@pytest.fixture
def stack() -> Any:
    settings = replace(SETTINGS, gpu=SETTINGS.gpu.model_copy(update={"source": "host"}))
    return SimpleNamespace(settings=settings, kubectl_fails=lambda *words, stdin: "runAsNonRoot has to be true")


class Recorded:
    """The fixtures by which a check records."""

    def __init__(self) -> None:
        self.tables: dict[str, list[tuple]] = {}
        self.plots: list[str] = []
        self.texts: list[str] = []

    def table(self, title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
        assert all(len(row) == len(columns) for row in rows)
        self.tables[title] = list(rows)

    def plot(self, title: str, *_: Any) -> None:
        self.plots.append(title)

    def of(self, sheet: sheets.Sheet) -> list[tuple]:
        return self.tables[sheet.title]

    @property
    def fixtures(self) -> dict[str, Any]:
        return {"table": self.table, "observed": self.texts.append}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def curve(stack: Any) -> Any:
    fixture: Any = test_05_mps_limits.curve
    return fixture.__wrapped__(stack)  # its own function


def test_exclusive_use_is_compared_with_mps_and_the_peak(rules: Rules, stack: Any, recorded: Recorded):
    daemon: Any = FakeDaemon(rules)
    daemon.apply(100, "0")
    test_04_mps.test_mps_costs_no_throughput_and_two_halves_are_a_whole(stack, daemon, **recorded.fixtures)
    assert [row[:3] for row in recorded.of(sheets.TOGETHER)] == [
        (sheets.EXCLUSIVE, 1, 132),
        (sheets.WHOLE, 1, 132),
        (sheets.HALVES, 1, 66),
        (sheets.HALVES, 2, 66),
    ]
    assert recorded.of(sheets.CHIP)[0][-1] == pytest.approx(66.9, abs=0.1)


@pytest.mark.parametrize("slow", [{"exclusive": 0.94, "mps": 0.94}, {"mps": 0.98}, {"1002": 0.98}])
def test_missed_aim_fails_and_is_recorded_all_the_same(
    rules: Rules, stack: Any, recorded: Recorded, slow: dict[str, float]
):
    rules.slow = slow
    daemon: Any = FakeDaemon(rules)
    daemon.apply(100, "0")
    with pytest.raises(AssertionError):
        test_04_mps.test_mps_costs_no_throughput_and_two_halves_are_a_whole(stack, daemon, **recorded.fixtures)
    assert recorded.of(sheets.TOGETHER) and recorded.of(sheets.CHIP)


def test_speed_is_measured_at_every_percentage(rules: Rules, stack: Any, recorded: Recorded):
    test_05_mps_limits.test_speed_follows_the_granted_multiprocessors(
        stack, curve(stack), plot=recorded.plot, **recorded.fixtures
    )
    assert [row[:3] for row in recorded.of(sheets.THROTTLE)] == [
        *((100, 132, 132), (50, 66, 66), (20, 26, 26), (10, 12, 12), (5, 8, 8), (1, 8, 8))
    ]
    assert recorded.plots == [sheets.THROTTLE.title]
    assert (rules.percentage, rules.memory) == (50, 8192), "the stack's limits were not put back"


def test_other_grants_than_the_rules_fail(rules: Rules, stack: Any, recorded: Recorded):
    rules.sms = lambda percentage: max(4, granted_multiprocessors(MODEL, percentage) - 2)
    with pytest.raises(AssertionError):
        test_05_mps_limits.test_speed_follows_the_granted_multiprocessors(
            stack, curve(stack), plot=recorded.plot, **recorded.fixtures
        )
    assert recorded.of(sheets.THROTTLE)


def test_grants_are_recorded_with_what_a_context_takes(rules: Rules, stack: Any, recorded: Recorded):
    daemon: Any = FakeDaemon(rules)
    check = test_05_mps_limits.test_throttle_curve_grants_exactly_what_the_rule_says
    check(stack, daemon, "default", plot=recorded.plot, **recorded.fixtures)
    assert recorded.of(sheets.GRANTS)[1] == (50, 66, 66, 271, 271)


@pytest.mark.parametrize("slow", [None, "1030"])
def test_three_clients_are_compared(rules: Rules, stack: Any, recorded: Recorded, slow: str | None):
    measured, daemon = curve(stack), FakeDaemon(rules)
    rules.clock = 1030
    rules.slow = {slow: 0.98} if slow else {}
    fixtures: Any = {"daemon": daemon, **recorded.fixtures}
    check = test_05_mps_limits.test_three_clients_at_20_percent_are_equally_fast
    if slow:
        with pytest.raises(AssertionError):
            check(stack, measured, **fixtures)
    else:
        check(stack, measured, **fixtures)
    assert [row[:3] for row in recorded.of(sheets.TOGETHER)] == [(sheets.FIFTHS, number, 26) for number in (1, 2, 3)]


def test_neighbour_is_told_apart_before_meanwhile_and_after(rules: Rules, stack: Any, recorded: Recorded):
    test_05_mps_limits.test_client_that_is_refused_memory_slows_no_neighbour(stack, **recorded.fixtures)
    assert [row[0] for row in recorded.of(sheets.NEIGHBOUR)] == ["before", "meanwhile", "after"]


@pytest.mark.parametrize("limit_is_ignored", [False, True])
def test_small_client_is_measured_beside_neighbours(
    rules: Rules, stack: Any, recorded: Recorded, limit_is_ignored: bool
):
    rules.limit_is_ignored = limit_is_ignored
    fixtures: Any = {"daemon": FakeDaemon(rules), **recorded.fixtures}
    check = test_05_mps_limits.test_limit_of_a_neighbour_keeps_a_small_client_fast
    if limit_is_ignored:
        with pytest.raises(AssertionError):
            check(stack, **fixtures)
    else:
        check(stack, **fixtures)
        assert "p99 20 us alone, 500 beside a neighbour of 100 %, 500 with 10 % of its own, 20" in recorded.texts[0]
    rows = recorded.of(sheets.LATENCY)
    assert len(rows) == 7 * 3
    assert [row[:3] for row in rows[::3]] == [
        *((sheets.NOBODY, 100, 132), (100, 100, 132), (100, 10, 12), (90, 100, 132), (90, 10, 12)),
        *((70, 30, 38), (50, 50, 66)),
    ]


def test_users_are_measured_at_once(rules: Rules, stack: Any, recorded: Recorded):
    test_05_mps_limits.test_clients_of_different_users_run_at_once(stack, **recorded.fixtures)
    assert [row[:3] for row in recorded.of(sheets.USERS)] == [("65532", 50, 66), ("1000", 20.0, 26)]
    assert "a pod of root is refused" in recorded.texts[0]


def test_who_wins_has_every_case(rules: Rules, stack: Any, recorded: Recorded):
    daemon: Any = FakeDaemon(rules)
    test_05_mps_limits.test_who_wins_between_default_live_change_and_client(stack, daemon, **recorded.fixtures)
    assert [row[1:] for row in recorded.of(sheets.WINS_PERCENTAGE)] == [
        *((50, 66, 66), (50, 66, 66), (30.0, 38, 38), (10.0, 12, 12), (30.0, 38, 38)),
        *((30.0, 38, 38), (30.0, 38, 38), (30.0, 38, 38)),
    ]
    none = (sheets.NO_LIMIT, sheets.NO_LIMIT)
    assert [row[1:] for row in recorded.of(sheets.WINS_MEMORY)] == [
        *((8192, 8192), (8192, 8192), (2048, 2048), (1024, 1024), (2048, 2048), none, none)
    ]


def test_rule_that_no_longer_holds_is_named(rules: Rules, stack: Any, recorded: Recorded):
    rules.refuses_junk = True
    daemon: Any = FakeDaemon(rules)
    check = test_05_mps_limits.test_who_wins_between_default_live_change_and_client
    with pytest.raises(AssertionError, match="sets junk: 2048 MiB instead of no limit"):
        check(stack, daemon, **recorded.fixtures)
    assert recorded.of(sheets.WINS_MEMORY)


def test_memory_within_and_beyond_a_limit_is_recorded(rules: Rules, stack: Any, recorded: Recorded):
    check = test_05_mps_limits.test_memory_limit_of_the_daemon_or_claim_holds_for_a_client_that_sets_none
    check(stack, **recorded.fixtures)
    limit = quantity_mib(SETTINGS.mps.effective_memory_limit)
    assert recorded.of(sheets.MEMORY) == [
        (limit, 100, "CUDA_SUCCESS"),
        (limit, limit, "CUDA_ERROR_OUT_OF_MEMORY"),
    ]


@pytest.mark.parametrize(
    "check",
    [
        test_05_mps_limits.test_client_that_is_refused_memory_slows_no_neighbour,
        test_05_mps_limits.test_clients_of_different_users_run_at_once,
    ],
)
def test_nothing_is_measured_on_a_simulated_gpu(rules: Rules, recorded: Recorded, check: Callable[..., None]):
    simulated: Any = SimpleNamespace(settings=SETTINGS)
    with pytest.raises(pytest.skip.Exception, match="needs a real GPU"):
        check(simulated, **recorded.fixtures)
    assert not recorded.tables


class Exporter:
    """What nvidia-smi and the exporter say of a GPU, at rest and while a client runs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rules: Rules, power_of_exporter: float) -> None:
        self.load = False
        start = mps.Client.start

        def starts(stack: Any, *args: str) -> Any:
            self.load = True
            return start(stack, *args)

        def query(stack: Any, node: str, uuid: str, *fields: str) -> list[str]:
            power = "600.5" if self.load else "120.5"
            values = {"power.draw": power, "utilization.gpu": "100" if self.load else "0"}
            return [values.get(field, "1000") for field in fields]

        def value_of_gpu(samples: Any, metric: str, uuid: str) -> float:
            field, _ = test_08_observability.BESIDE_SMI[metric]
            (value,) = query(None, "n", uuid, field)
            return power_of_exporter if field == "power.draw" and self.load else float(value)

        monkeypatch.setattr(mps.Client, "start", starts)
        monkeypatch.setattr(throughput, "query", query)
        monkeypatch.setattr(test_08_observability, "value_of_gpu", value_of_gpu)
        monkeypatch.setattr(test_08_observability, "exporter_samples", lambda stack, node: [])
        monkeypatch.setattr(test_08_observability, "shared_gpu", lambda stack: "GPU-1")
        # One look, and then no more time.
        monkeypatch.setattr(test_08_observability, "wait_for", _once)


def _once(what: str, look: Callable[[], Any], seconds: float) -> None:
    assert look(), f"after {seconds} s still not so: {what}"


def test_exporter_is_compared_at_rest_and_under_load(
    rules: Rules, stack: Any, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
):
    Exporter(monkeypatch, rules, power_of_exporter=610)
    daemon: Any = FakeDaemon(rules)
    test_08_observability.test_exporter_says_what_nvidia_smi_says(stack, daemon, **recorded.fixtures)
    rows = recorded.of(sheets.BESIDE_SMI)
    assert len(rows) == 2 * len(test_08_observability.BESIDE_SMI)
    assert ("DCGM_FI_DEV_POWER_USAGE", "under load", 600.5, 610, 600.5, 25) in rows


def test_exporter_that_says_something_else_is_named(
    rules: Rules, stack: Any, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
):
    Exporter(monkeypatch, rules, power_of_exporter=120)
    daemon: Any = FakeDaemon(rules)
    with pytest.raises(AssertionError, match=r"POWER_USAGE under load: 120, and nvidia-smi 600.5 and 600.5"):
        test_08_observability.test_exporter_says_what_nvidia_smi_says(stack, daemon, **recorded.fixtures)
    assert recorded.of(sheets.BESIDE_SMI)
