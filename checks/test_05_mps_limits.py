"""Checks of module 05: limits of MPS that the daemon, a client and a claim set, and which of them wins."""

import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from checks import aims, start_again, throughput
from checks import measured as sheets
from checks.live import LiveStack, Playground, wait_for
from checks.mps import CLIENTS, MEMORY, PERCENTAGE, Client, ClientEnd, Daemon, deployment_pods, model_of, run_client
from checks.throughput import Burn, skip_unless_real
from components.mps_clients import CLASS_LABEL, LEVEL_LABEL, LIMITS_ANNOTATION, WAIT_FOLDER
from gpus.mps import Limits, context_mib, granted_multiprocessors
from gpus.quantity import MIB, mps_memory, quantity_mib

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"
NEEDS_A_REAL_GPU = 4  # gpu-probe's exit code for a simulated GPU that is asked for a speed
REFUSED_MEMORY = 5
THROTTLE = (100, 50, 20, 10, 5, 1)
PARTITIONING = "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING"
# The variable's value, and the limit that then holds in MiB under a daemon's 2048, None for none.
LIFTED = [("1=1024M", None), ("0=junk", None), ("0=8192M", 2048)]
HIDES_THE_PIPE = {"name": "nothing", "mountPath": "/tmp/nvidia-mps/control"}
# Driver and context round to 2 MiB each.
ROUNDING_MIB = 4
GRANT_LIMIT_MIB = 4096  # under which a context's own part is seen
NEIGHBOURS = ("flops", "1", "--warmup", "0.5", "--repeats", "12")
HARM = 0.05  # of its speed, that a neighbour may lose
Change = Callable[[dict[str, Any]], None]
"""Change of a pod's spec."""
Env = dict[str, str]
SHARE = 0.05  # by which speed may differ from the share of the SMs


@pytest.fixture
def daemon(stack: LiveStack) -> Daemon:
    return Daemon(stack)


@pytest.fixture
def unlimited(daemon: Daemon) -> Iterator[Daemon]:
    """The daemon without limits, for checks of what clients set; the stack's limits are put back afterwards."""
    with daemon.limits():
        daemon.apply(100, "0")
        yield daemon


def granted(stack: LiveStack, percentage: float) -> int:
    """SMs by the rule, on the stack's GPU."""
    model = model_of(stack)
    if model is None:
        pytest.skip("the rule's constants are known for the GPUs of images/gpu-sim/models only")
    return granted_multiprocessors(model, percentage)


def test_clients_have_what_the_stack_gives_them(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if SMs or free memory of a client of the stack differ from the rules above."""
    mps = stack.settings.mps
    for name, limits, count in (("clients", mps, 2), ("limited", mps.classes["small"], 1)):
        pods = deployment_pods(stack, name)
        assert len(pods) == count
        for pod in pods:
            holding = Client(stack, pod["metadata"]["name"]).wait_line("holding")
            sms = granted(stack, limits.active_thread_percentage)
            assert holding["sms"] == sms
            assert holding["free_mib"] == pytest.approx(expected_free(limits, sms, holding), abs=ROUNDING_MIB)
    observed(f"clients {describe(stack, mps)}; limited {describe(stack, mps.classes['small'])}")


def expected_free(limits: Limits, sms: int, holding: dict) -> int:
    return limits.memory_mib - context_mib(sms) - holding["allocated_bytes"] // MIB


def describe(stack: LiveStack, limits: Limits) -> str:
    percentage, memory = limits.active_thread_percentage, limits.pinned_device_memory_limit
    return f"{granted(stack, percentage)} SMs at {percentage} %, {memory}"


def test_memory_within_the_limit_succeeds_and_beyond_it_fails(
    stack: LiveStack, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if under class `small` (1 GiB) 100Mi is refused, 2Gi is not refused with `CUDA_ERROR_OUT_OF_MEMORY`, or a
    neighbour restarts.
    """
    neighbour = deployment_pods(stack, "clients")[0]
    before = neighbour["status"]["containerStatuses"][0]["restartCount"]
    small = stack.settings.mps.classes["small"]
    percentage, memory = small.active_thread_percentage, mps_memory(small.pinned_device_memory_limit)
    beyond = f"{quantity_mib(small.pinned_device_memory_limit) + 1024}Mi"
    ended = run_client(stack, "alloc", "100Mi", beyond, percentage=percentage, memory=memory)
    results = [line["result"] for line in ended.lines if "result" in line]
    record_memory(table, quantity_mib(small.pinned_device_memory_limit), ended)
    assert results == ["CUDA_SUCCESS", OUT_OF_MEMORY]
    assert ended.code == REFUSED_MEMORY
    assert ended.lines[-1]["error"] == OUT_OF_MEMORY
    (after,) = [p for p in deployment_pods(stack, "clients") if p["metadata"]["name"] == neighbour["metadata"]["name"]]
    assert after["status"]["containerStatuses"][0]["restartCount"] == before
    observed(f"under 0={memory}: 100Mi {results[0]}, {beyond} {results[1]}; the neighbour runs on")


def record_memory(table: Callable[..., None], limit_mib: int, ended: ClientEnd) -> None:
    """Keep what became of each allocation under a limit."""
    allocations = [line for line in ended.lines if "result" in line]
    table(*sheets.MEMORY, [(limit_mib, line["requested_bytes"] // MIB, line["result"]) for line in allocations])


def test_memory_limit_of_the_daemon_or_claim_holds_for_a_client_that_sets_none(
    stack: LiveStack, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if an allocation within the stack's own limit is refused, or one beyond it is not."""
    limit = quantity_mib(stack.settings.mps.effective_memory_limit)
    ended = run_client(stack, "alloc", "100Mi", f"{limit}Mi")
    results = [line["result"] for line in ended.lines if "result" in line]
    record_memory(table, limit, ended)
    assert results == ["CUDA_SUCCESS", OUT_OF_MEMORY]
    observed(f"under {limit} MiB: 100Mi {results[0]}, {limit}Mi {results[1]}")


def carried_percentage(stack: LiveStack) -> float:
    """Thread percentage that the stack's own clients set; 100 where they set none."""
    template = stack.one("deployments.apps", "clients", CLIENTS)["spec"]["template"]["spec"]
    (value,) = [v["value"] for v in template["containers"][0].get("env", []) if v["name"] == PERCENTAGE] or ["100"]
    return float(value)


@pytest.mark.parametrize("by", ["client", "default"])
def test_throttle_curve_grants_exactly_what_the_rule_says(
    stack: LiveStack,
    unlimited: Daemon,
    by: str,
    table: Callable[..., None],
    plot: Callable[..., None],
    observed: Callable[[str], None],
) -> None:
    """Fails if at 100, 50, 20, 10, 5, 1 % set by the daemon, or at those of them that the policy lets a client ask
    for, the SMs are not exactly those of the rule, or a context takes another part of the limit.
    """
    sms_by_percentage: dict[float, int] = {}
    if by == "client":
        # The policy holds every client of this namespace to the stack's own limits.
        most = stack.settings.mps.active_thread_percentage
        asked = [percentage for percentage in THROTTLE if percentage <= most]
        clients = {p: Client.start(stack, "info", "--context", percentage=p) for p in asked}
        sms_by_percentage = {percentage: client.ended().context["sms"] for percentage, client in clients.items()}
    else:
        rows = []
        for percentage in THROTTLE:
            unlimited.apply(percentage, f"{GRANT_LIMIT_MIB}M")
            client = run_client(stack, "info", "--context").context
            sms = sms_by_percentage[percentage] = client["sms"]
            context = GRANT_LIMIT_MIB - client["free_mib"]
            expected = granted(stack, min(percentage, carried_percentage(stack)))
            rows.append((percentage, sms, expected, context, context_mib(sms)))
        table(*sheets.GRANTS, rows)
        points = sorted(sms_by_percentage.items())
        plot("SMs that a client is granted", "thread percentage in %", "SMs", {"granted": points})
        for _, _, _, context, rule in rows:
            assert context == pytest.approx(rule, abs=ROUNDING_MIB)
    # Under module 07's policy every client has limits of its own: of the two the lower one holds.
    own = carried_percentage(stack) if by == "default" else 100
    assert sms_by_percentage == {p: granted(stack, min(p, own)) for p in sms_by_percentage}
    observed(", ".join(f"{percentage} %: {sms} SMs" for percentage, sms in sms_by_percentage.items()))


def test_three_clients_of_a_fifth_run_together(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if one has other SMs, or the daemon does not list them."""
    percentage = min(20, stack.settings.mps.active_thread_percentage)
    clients = [Client.start(stack, "hold", "0", "--alloc", "64Mi", percentage=percentage) for _ in range(3)]
    try:
        sms = [client.wait_line("holding")["sms"] for client in clients]
        assert sms == [granted(stack, percentage)] * 3
        listed = daemon.clients()
        assert listed >= len(clients) + len(deployment_pods(stack, "clients"))
    finally:
        for client in clients:
            client.remove()
    observed(f"{sms[0]} SMs each at {percentage} %, {listed} clients listed")


def test_client_can_only_lower_what_it_is_given(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    # Within what the policy lets a client ask for: the stack's own limits, of which the daemon gives a part here.
    """Fails if asking for more gives more, or asking for less does not give less."""
    mps = stack.settings.mps
    most, memory = mps.active_thread_percentage, quantity_mib(mps.effective_memory_limit)
    given, given_memory = most * 2 / 5, memory // 4
    with daemon.limits():
        daemon.apply(given, f"{given_memory}M")
        more = run_client(stack, "info", "--context", percentage=most, memory=f"{memory}M").context
        less = run_client(stack, "info", "--context", percentage=most / 5, memory=f"{memory // 8}M").context
    assert more["sms"] == granted(stack, given)
    assert more["free_mib"] == pytest.approx(given_memory - context_mib(more["sms"]), abs=ROUNDING_MIB)
    assert less["sms"] == granted(stack, most / 5)
    assert less["free_mib"] == pytest.approx(memory // 8 - context_mib(less["sms"]), abs=ROUNDING_MIB)
    observed(
        f"daemon {given:g} %, {given_memory} MiB: asking for {most} %, {memory} MiB gives {more['sms']} SMs; "
        f"for {most / 5:g} %, {memory // 8} MiB {less['sms']} SMs"
    )


# What a program sets for itself: the variable's value, and whose limit then holds.
OWN_PERCENTAGE = {
    "nothing": (None, "daemon"),
    "a lower value": ("{lower}", "client"),
    "a higher value": ("{higher}", "daemon"),
    "0": ("0", "daemon"),
    "101": ("101", "daemon"),
    "junk": ("junk", "daemon"),
}
OWN_MEMORY = {
    "nothing": (None, "daemon"),
    "a lower value": ("0={lower}M", "client"),
    "a higher value": ("0={higher}M", "daemon"),
    "junk": ("0=junk", "lifted"),
    "another GPU's": ("1={lower}M", "lifted"),
}


def test_who_wins_between_default_live_change_and_client(
    stack: LiveStack, daemon: Daemon, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if one of 8 cases of the percentage or 7 of memory is not as the table of who wins says.

    A program sets its own variables, where no policy sees them. Asserted by the rules of the simulated GPU.
    """
    mps = stack.settings.mps
    most, memory = mps.active_thread_percentage, quantity_mib(mps.effective_memory_limit)
    changed, changed_mib, lower, lower_mib = most * 3 / 5, memory // 4, most / 5, memory // 8
    shares, limits = [], []

    def share(case: str, holds: float, context: dict) -> None:
        shares.append((case, holds, granted(stack, holds), context["sms"]))

    def limit(case: str, holds: int | str, context: dict) -> None:
        mib = context["free_mib"] + context_mib(context["sms"])
        # More than any limit that was set for it.
        limits.append((case, holds, sheets.NO_LIMIT if mib > memory + ROUNDING_MIB else mib))

    def start(variable: str = "", value: str | None = None) -> Client:
        return Client.start(stack, "info", "--context", *(("--setenv", f"{variable}={value}") if value else ()))

    def both(case: str) -> None:
        context = start().ended().context
        share(case, most, context)
        limit(case, memory, context)

    both("the stack's own limits, the client sets nothing")
    with daemon.limits():
        of_memory = [f"set_default_device_pinned_mem_limit {device} {changed_mib}M" for device in daemon.devices()]
        daemon.ask(f"set_default_active_thread_percentage {changed:g}", *of_memory)
        both("the default is changed, the server runs on")
        daemon.apply(changed, f"{changed_mib}M")
        of_shares = {
            case: (start(PERCENTAGE, value and value.format(lower=f"{lower:g}", higher="100")), wins)
            for case, (value, wins) in OWN_PERCENTAGE.items()
        }
        of_limits = {
            case: (start(MEMORY, value and value.format(lower=lower_mib, higher=memory)), wins)
            for case, (value, wins) in OWN_MEMORY.items()
        }
        for case, (client, wins) in of_shares.items():
            holds = {"daemon": changed, "client": lower}[wins]
            share(f"the server's limit is changed, the client sets {case}", holds, client.ended().context)
        for case, (client, wins) in of_limits.items():
            mib = {"daemon": changed_mib, "client": lower_mib, "lifted": sheets.NO_LIMIT}[wins]
            limit(f"the server's limit is changed, the client sets {case}", mib, client.ended().context)
    table(*sheets.WINS_PERCENTAGE, shares)
    table(*sheets.WINS_MEMORY, limits)
    wrong = [f"{case}: {sms} SMs instead of {rule}" for case, _, rule, sms in shares if sms != rule]
    wrong += [f"{case}: {mib} MiB instead of {rule}" for case, rule, mib in limits if not same_limit(rule, mib)]
    assert not wrong, "; ".join(wrong)
    observed(f"{len(shares)} cases of the percentage and {len(limits)} of memory are as the rules say")


def same_limit(mib: int | str, holds: int | str) -> bool:
    """True if two limits are the same but for what the driver rounds."""
    if isinstance(mib, str) or isinstance(holds, str):
        return mib == holds
    return abs(mib - holds) <= ROUNDING_MIB


def test_live_change_reaches_new_clients_and_leaves_running_ones(
    stack: LiveStack, daemon: Daemon, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if a new client has the old limits, or a server or a running client is another one than before; on a real
    GPU also if it takes 5 s.
    """
    running = Client(stack, deployment_pods(stack, "clients")[0]["metadata"]["name"])
    before = running.wait_line("holding")["sms"]
    restarts = deployment_pods(stack, "clients")[0]["status"]["containerStatuses"][0]["restartCount"]
    servers, percentage = daemon.servers(), stack.settings.mps.active_thread_percentage * 3 / 5
    with daemon.limits():
        started = time.monotonic()
        daemon.apply(percentage, "4096M")
        new = run_client(stack, "info", "--context").context
        seconds = time.monotonic() - started
        again = set(daemon.servers()) - set(servers)
        table(*sheets.LIVE, [(sheets.LIVE_SECONDS, seconds), (sheets.LIVE_SERVERS, len(again))])
        assert daemon.servers() == servers
    assert new["sms"] == granted(stack, percentage)
    assert new["free_mib"] == pytest.approx(4096 - context_mib(new["sms"]), abs=ROUNDING_MIB)
    assert deployment_pods(stack, "clients")[0]["status"]["containerStatuses"][0]["restartCount"] == restarts
    assert running.wait_line("holding")["sms"] == before
    if stack.settings.gpu.source == "host":
        assert seconds < aims.LIVE_SECONDS
    observed(f"a new pod has {new['sms']} SMs {seconds:.1f} s after the change, the running one keeps {before}")


@pytest.mark.parametrize(("value", "free"), LIFTED)
def test_memory_variable_that_fits_no_gpu_lifts_the_limit(
    stack: LiveStack, daemon: Daemon, value: str, free: int | None, observed: Callable[[str], None]
) -> None:
    """Fails if CUDA has become stricter than what was measured: good news, and the table of who wins is out of date.

    A program may set it where no policy sees it. Measured on a real GPU, and simulated likewise.
    """
    with daemon.limits():
        daemon.apply(20, "2048M")
        context = run_client(stack, "info", "--context", "--setenv", f"{MEMORY}={value}").context
    if free is None:
        assert context["free_mib"] > 2048
    else:
        assert context["free_mib"] == pytest.approx(free - context_mib(context["sms"]), abs=ROUNDING_MIB)
    observed(f"daemon 2 GiB, the program sets {value}: {context['free_mib']} MiB free")


def test_partitioning_by_context_lifts_the_percentage(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if it no longer does: CUDA has become stricter than what was measured."""
    env = ("--setenv", f"{PARTITIONING}=1", "--setenv", f"{PERCENTAGE}=100")
    context = run_client(stack, "info", "--context", *env).context
    assert context["sms"] == granted(stack, 100)
    observed(f"{context['sms']} SMs under {stack.settings.mps.active_thread_percentage} %")


def test_pods_of_a_workload_name_the_limits_that_they_started_with(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if the annotation names other limits."""
    mps, small = stack.settings.mps, stack.settings.mps.classes["small"]
    words = f"{mps.active_thread_percentage} % of the SMs, {mps.pinned_device_memory_limit}"
    words_of_class = (
        f"{small.active_thread_percentage} % of the SMs, {small.pinned_device_memory_limit} (class small; at most "
    )
    notes = {
        name: {pod["metadata"]["annotations"][LIMITS_ANNOTATION] for pod in deployment_pods(stack, name)}
        for name in ("clients", "limited")
    }
    assert all(len(texts) == 1 for texts in notes.values())
    assert min(notes["clients"]).startswith(words)
    assert min(notes["limited"]).startswith(words_of_class + words)
    observed("; ".join(f"{name}: {min(texts)}" for name, texts in notes.items()))


def test_speed_of_a_simulated_gpu_is_not_invented(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `gpu-probe flops` prints a figure."""
    if stack.settings.gpu.source == "host":
        pytest.skip("the GPU is real: test_speed_follows_the_granted_multiprocessors measures it")
    ended = run_client(stack, "flops", "1")
    assert ended.code == NEEDS_A_REAL_GPU
    assert ended.lines[-1]["error"] == "needs a real GPU"
    observed(f"gpu-probe flops: {ended.lines[-1]['error']}")


@pytest.fixture(scope="module")
def curve(stack: LiveStack) -> dict[int, list[Burn]]:
    """The repeats of a client alone on a real GPU, by the daemon's percentage; the stack's limits are put back."""
    skip_unless_real(stack)
    daemon, repeats = Daemon(stack), {}
    with daemon.limits():
        for percentage in THROTTLE:
            daemon.apply(percentage, "0")
            repeats[percentage] = throughput.wait_repeats(Client.start(stack, *throughput.ALONE))
    return repeats


@pytest.mark.gpu
def test_speed_follows_the_granted_multiprocessors(
    stack: LiveStack,
    curve: dict[int, list[Burn]],
    table: Callable[..., None],
    plot: Callable[..., None],
    observed: Callable[[str], None],
) -> None:
    """Fails if on a real GPU a speed differs by more than 5 % from its share of the SMs, those of the rule."""
    rows = []
    for percentage, burning in curve.items():
        sms, *speeds = throughput.row(burning)
        rows.append((percentage, sms, granted(stack, percentage), *speeds))
    table(*sheets.THROTTLE, rows)
    means = {percentage: throughput.mean(burning) for percentage, burning in curve.items()}
    points = sorted((float(percentage), speed) for percentage, speed in means.items())
    plot(sheets.THROTTLE.title, "thread percentage in %", "FP32 TFLOPS", {"mean of three repeats": points})
    assert [sms for _, sms, *_ in rows] == [rule for _, _, rule, *_ in rows]
    for percentage, sms, *_ in rows:
        assert means[percentage] == pytest.approx(means[100] * sms / rows[0][1], rel=SHARE)
    observed(", ".join(f"{percentage} %: {sms} SMs, {means[percentage]:.2f} TFLOPS" for percentage, sms, *_ in rows))


@pytest.mark.gpu
def test_three_clients_at_20_percent_are_equally_fast(
    stack: LiveStack,
    curve: dict[int, list[Burn]],
    daemon: Daemon,
    table: Callable[..., None],
    observed: Callable[[str], None],
) -> None:
    """Fails if on a real GPU they differ by more than 1 %, or have together other than their SMs' share."""
    with daemon.limits():
        daemon.apply(20, "0")
        clients = [Client.start(stack, *throughput.TOGETHER) for _ in range(3)]
        together = throughput.common_repeats([throughput.wait_repeats(client) for client in clients])
    rows = [(sheets.FIFTHS, number, *throughput.row(burning)) for number, burning in enumerate(together, 1)]
    table(*sheets.TOGETHER, rows)
    speeds = [throughput.mean(burning) for burning in together]
    (sms,) = {burn.sms for burning in together for burn in burning}
    assert sms == granted(stack, 20)
    assert max(speeds) - min(speeds) <= aims.UNFAIRNESS * max(speeds)
    # What they have together is what their SMs would give one.
    whole = throughput.mean(curve[100]) * 3 * sms / curve[100][0].sms
    assert sum(speeds) == pytest.approx(whole, rel=SHARE)
    each = " / ".join(f"{speed:.2f}" for speed in speeds)
    observed(f"{each}, together {sum(speeds):.2f} TFLOPS, {sum(speeds) / throughput.mean(curve[100]):.1%} of 100 %")


@pytest.mark.gpu
def test_client_that_is_refused_memory_slows_no_neighbour(
    stack: LiveStack, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU a neighbour loses 5 % of its speed meanwhile or after."""
    skip_unless_real(stack)
    limit = quantity_mib(stack.settings.mps.effective_memory_limit)
    neighbour = Client.start(stack, *NEIGHBOURS)
    neighbour.wait_line("tflops")
    ended = run_client(stack, "alloc", "100Mi", f"{limit}Mi")
    burning = throughput.wait_repeats(neighbour)
    parts = split_by_time(burning, ended.began, ended.finished)
    rows = []
    for when, part in parts.items():
        speeds = [burn.tflops for burn in part]
        rows.append((when, len(part), min(speeds), throughput.mean(part), max(speeds)))
    table(*sheets.NEIGHBOUR, rows)
    assert ended.lines[-1]["error"] == OUT_OF_MEMORY
    least, before = min(burn.tflops for burn in burning), throughput.mean(parts["before"])
    assert least >= before * (1 - HARM)
    observed(f"{before:.2f} TFLOPS before, at least {least:.2f} while and after another was refused {limit} MiB")


def latency_rows(
    stack: LiveStack, daemon: Daemon, neighbour: int | None, client: int
) -> list[tuple[str | int | float, ...]]:
    """The repeats of a small client beside a neighbour, by the percentages that the daemon gives them."""
    load = None
    if neighbour is not None:
        daemon.apply(neighbour, "0")
        load = Client.start(stack, *throughput.LOAD)
        load.wait_line("tflops")
    daemon.apply(client, "0")  # a client that runs keeps its own
    ended = run_client(stack, *throughput.LATENCY)
    meanwhile: float | str = "-"
    if load is not None:
        speeds = [line["tflops"] for at, line in load.timed_lines() if "tflops" in line and at >= ended.began]
        assert speeds, "the neighbour had ended before the client began"
        meanwhile = sum(speeds) / len(speeds)
        load.remove()
    who = sheets.NOBODY if neighbour is None else neighbour
    lines = [line for line in ended.lines if "p99_us" in line]
    return [(who, client, line["sms"], line["repeat"], line["p50_us"], line["p99_us"], meanwhile) for line in lines]


@pytest.mark.gpu
def test_limit_of_a_neighbour_keeps_a_small_client_fast(
    stack: LiveStack, daemon: Daemon, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU a small client's p99 beside a neighbour of 90 % is more than twice that alone, or a limit
    of its own helps it.
    """
    skip_unless_real(stack)
    p99, rows = {}, []
    with daemon.limits():
        for neighbour, client in ((None, 100), (100, 100), (100, 10), (90, 100), (90, 10), (70, 30), (50, 50)):
            repeats = latency_rows(stack, daemon, neighbour, client)
            rows += repeats
            p99[neighbour, client] = statistics.median(float(row[5]) for row in repeats)
    table(*sheets.LATENCY, rows)
    alone = p99[None, 100]
    assert p99[90, 100] <= aims.LATENCY_RATIO * alone
    # A limit of its own does not help it: what fills the GPU has to leave some of it.
    assert p99[100, 10] > aims.LATENCY_RATIO * alone
    crowded, limited, beside = p99[100, 100], p99[100, 10], p99[90, 100]
    observed(
        f"p99 {alone:.0f} us alone, {crowded:.0f} beside a neighbour of 100 %, {limited:.0f} with 10 % of its own, "
        f"{beside:.0f} beside one of 90 %"
    )


def split_by_time(burning: list[Burn], began: float, finished: float) -> dict[str, list[Burn]]:
    """The repeats before, while and after a pod ran, whose times are whole seconds. AssertionError if one has none."""
    parts: dict[str, list[Burn]] = {"before": [], "meanwhile": [], "after": []}
    for burn in burning:
        when = "before" if burn.end <= began else "after" if burn.begin >= finished + 1 else "meanwhile"
        parts[when].append(burn)
    empty = [when for when, part in parts.items() if not part]
    assert not empty, f"no repeat was {', '.join(empty)}: the other pod ran from {began} to {finished}"
    return parts


@pytest.mark.gpu
def test_clients_of_different_users_run_at_once(
    stack: LiveStack, table: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if on a real GPU one of two users has other SMs or another share of the speed, or root is let in."""
    skip_unless_real(stack)
    most = stack.settings.mps.active_thread_percentage
    asked = {"65532": most, "1000": most * 2 / 5}
    clients = []
    for user, percentage in asked.items():
        pod = Client.manifest(stack, throughput.TOGETHER, {PERCENTAGE: f"{percentage:g}"})
        pod["spec"]["securityContext"]["runAsUser"] = int(user)
        clients.append(Client.create(stack, pod))
    together = throughput.common_repeats([throughput.wait_repeats(client) for client in clients])
    rows = [
        (user, percentage, *throughput.row(burning))
        for (user, percentage), burning in zip(asked.items(), together, strict=True)
    ]
    table(*sheets.USERS, rows)
    sms = [burning[0].sms for burning in together]
    assert sms == [granted(stack, percentage) for percentage in asked.values()]
    ratio = throughput.mean(together[0]) / throughput.mean(together[1])
    assert ratio == pytest.approx(sms[0] / sms[1], rel=SHARE)
    # Root could change the daemon's limits through its pipe.
    as_root = {"runAsNonRoot": False, "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    message = stack.kubectl_fails(
        *("create", "--dry-run=server", "-f", "-"), stdin=pod_of(stack, {}, securityContext=as_root)
    )
    assert "runAsNonRoot" in message
    words = ", ".join(f"uid {user}: {count} SMs" for user, count in zip(asked, sms, strict=True))
    observed(f"{words}, at once; a pod of root is refused")


def test_no_client_runs_without_its_daemon_however_it_starts_again(
    stack: LiveStack, daemon: Daemon, observed: Callable[[str], None]
) -> None:
    """Fails if with the daemon away one of 18 ways to start a client gives it more than its class, or it does not
    wait, or is not back under its limits.
    """
    skip_unless_pipe_of_the_node(stack)
    limits = stack.settings.mps
    sms = granted(stack, limits.active_thread_percentage)
    most = start_again.Most(sms, limits.memory_mib)
    contexts = start_again.try_all(stack, daemon, most)
    wrong = {
        way: context
        for way, found in contexts.items()
        for context in found
        if context["sms"] != sms or not most.allows(context)
    }
    assert not wrong
    words = f"{len(contexts)} ways to start again: each waited for the next daemon, and has {sms} SMs under it"
    absent = ", ".join(way.name for way in start_again.WAYS if way.name not in contexts)
    cluster = stack.settings.cluster
    # The Kubernetes that the workshop brings has all of them, so none may be left out by mistake.
    assert not absent or cluster.provider != "kind" or cluster.node_image, absent
    observed(f"{words}; not on this cluster: {absent}" if absent else words)


def skip_unless_pipe_of_the_node(stack: LiveStack) -> None:
    if stack.settings.mps.mode == "claim":
        pytest.skip("mps.mode is claim: the driver mounts the pipe once its daemon is ready, and no pod waits")


def pod_of(stack: LiveStack, env: dict[str, str], **changed: object) -> str:
    """A client that nobody runs: the API server only looks at it."""
    pod = Client.manifest(stack, ["info"], env)
    pod["spec"].update(changed)
    return yaml.safe_dump(pod)


def without_limits(pod: str) -> str:
    """The client without limits of its own, which the stack's clients have where module 07's claims request memory."""
    manifest = yaml.safe_load(pod)
    for container in manifest["spec"]["containers"]:
        container["env"] = [entry for entry in container["env"] if entry["name"] not in (PERCENTAGE, MEMORY)]
    return yaml.safe_dump(manifest)


LIFTS = "would lift the limit"
# name -> the variable, its value with the stack's own limits in it (MiB, GiB), and what the message has to say
REFUSED = {
    "percentage above the class": (PERCENTAGE, "{above}", "at most {most}"),
    "percentage of 0": (PERCENTAGE, "0", "above 0"),
    "percentage that is no number": (PERCENTAGE, "all", "plain number"),
    "memory above the class": (MEMORY, "0={above_mib}M", "at most 0={mib}M"),
    "memory above the class in G": (MEMORY, "0={above_gib}G", "at most 0={mib}M"),
    "memory of another GPU": (MEMORY, "1=1M", LIFTS),
    "memory that is junk": (MEMORY, "junk", LIFTS),
    "memory of 0": (MEMORY, "0=0M", LIFTS),
    "memory of two GPUs": (MEMORY, "0=1M,1=1M", LIFTS),
    "partitioning by context": (PARTITIONING, "1", "is refused"),
    "another pipe": ("CUDA_MPS_PIPE_DIRECTORY", "/tmp/none", "without limits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_policy_refuses_a_pod_that_asks_for_more(stack: LiveStack, name: str, observed: Callable[[str], None]) -> None:
    """Fails if the API server takes the pod: one check for each of 11 ways."""
    mps = stack.settings.mps
    most, mib = mps.active_thread_percentage, quantity_mib(mps.effective_memory_limit)
    values = {"most": most, "above": most + 1, "mib": mib, "above_mib": mib + 1, "above_gib": mib // 1024 + 1}
    variable, value, message = REFUSED[name]
    env = {variable: value.format(**values)}
    refusal = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, env))
    assert "dra-workshop-mps-clients" in refusal
    assert message.format(**values) in refusal
    observed(refusal.partition("denied request: ")[2].strip() or refusal.strip())


def test_policy_refuses_other_folders_of_the_node_and_host_namespaces(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if the API server takes the pod, or one that mounts something over the pipe."""
    pod = yaml.safe_load(pod_of(stack, {}))["spec"]
    volumes = [*pod.get("volumes", []), {"name": "etc", "hostPath": {"path": "/etc"}}]
    (container,) = pod["containers"]
    hidden = {**container, "volumeMounts": [*container.get("volumeMounts", []), HIDES_THE_PIPE]}
    nothing = {"name": "nothing", "emptyDir": {}}
    for changed in (
        {"volumes": volumes},
        {"hostPID": True},
        {"hostIPC": True},
        {"hostNetwork": True},
        {"containers": [hidden], "volumes": [*pod.get("volumes", []), nothing]},
    ):
        message = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, {}, **changed))
        # In mode claim Pod Security looks first, but for the last one.
        assert "dra-workshop-mps-clients" in message or (
            stack.settings.mps.mode == "claim" and "PodSecurity" in message
        )
    assert "nothing may be mounted over /tmp/nvidia-mps" in message
    observed("hostPath /etc, hostPID, hostIPC, hostNetwork and a volume over the pipe are refused")


def test_policy_allows_what_is_within_the_class(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the API server refuses a pod that asks for no more than its class has."""
    mps = stack.settings.mps
    most, memory = mps.active_thread_percentage, mps_memory(mps.effective_memory_limit)
    allowed = ({}, {PERCENTAGE: str(most)}, {PERCENTAGE: str(most / 4), MEMORY: "0=1M"}, {MEMORY: f"0={memory}"})
    for env in allowed:
        stack.kubectl("create", "--dry-run=server", "-f", "-", stdin=pod_of(stack, env))
    observed(f"no variables, {most} %, {most / 4} % with 1M, and {memory} pass")


def test_class_below_the_daemons_limits_has_to_be_set(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a pod of class `small` may leave its limits out."""
    level = stack.one("namespaces", CLIENTS)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    small = stack.settings.mps.classes["small"]
    percentage, memory = str(small.active_thread_percentage), f"0={mps_memory(small.pinned_device_memory_limit)}"
    labels = {CLASS_LABEL: "small", "pod-security.kubernetes.io/enforce": level}
    with stack.playground(labels) as playground:
        dry = ("create", "--dry-run=server", "-f", "-")
        message = stack.kubectl_fails(*dry, stdin=in_namespace(without_limits(pod_of(stack, {})), playground))
        assert "must set CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in message
        more = {PERCENTAGE: str(small.active_thread_percentage + 1), MEMORY: memory}
        assert f"at most {percentage}" in stack.kubectl_fails(*dry, stdin=in_namespace(pod_of(stack, more), playground))
        stack.kubectl(*dry, stdin=in_namespace(pod_of(stack, {PERCENTAGE: percentage, MEMORY: memory}), playground))
    observed(message.partition("denied request: ")[2].strip())


@pytest.mark.parametrize("labels", [{}, {CLASS_LABEL: "no-such-class"}], ids=["no class", "unknown class"])
def test_namespace_without_a_known_class_may_not_mount_the_pipe(
    stack: LiveStack, labels: dict[str, str], observed: Callable[[str], None]
) -> None:
    """Fails if the API server takes the pod."""
    if stack.settings.mps.mode == "claim":
        pytest.skip("mps.mode is claim: there is no pipe of the node")
    with stack.playground({"pod-security.kubernetes.io/enforce": "privileged", **labels}) as playground:
        pod = in_namespace(pod_of(stack, {}), playground)
        message = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", stdin=pod)
    assert "dra-workshop-mps-pipe" in message
    observed(message.partition("denied request: ")[2].strip())


def in_namespace(text: str, playground: Playground) -> str:
    pod = yaml.safe_load(text)
    pod["metadata"]["namespace"] = playground.namespace
    return yaml.safe_dump(pod)


def changed_container(**changed: object) -> Change:
    """Change of a pod's only container; None takes the field away."""

    def change(spec: dict[str, Any]) -> None:
        (container,) = spec["containers"]
        container |= changed
        spec["containers"] = [{key: value for key, value in container.items() if value is not None}]

    return change


def first_without_wait(spec: dict[str, Any], **changed: object) -> None:
    """Another init container that has the GPU and does not wait."""
    (container,) = spec["containers"]
    # Kubernetes 1.35 itself refuses rules of a restart beside the policy Always of a sidecar.
    plain = {key: value for key, value in container.items() if key != "restartPolicyRules"}
    spec["initContainers"].append({**plain, "name": "first", "command": [start_again.PROBE], **changed})


def without_install(spec: dict[str, Any]) -> None:
    del spec["initContainers"]


def other_image(spec: dict[str, Any]) -> None:
    spec["initContainers"][0]["image"] = spec["containers"][0]["image"]


def writable(spec: dict[str, Any]) -> None:
    for mount in spec["containers"][0]["volumeMounts"]:
        mount.pop("readOnly", None)


def hides_the_wait(spec: dict[str, Any]) -> None:
    spec["volumes"].append({"name": "own", "emptyDir": {}})
    spec["containers"][0]["volumeMounts"].append({"name": "own", "mountPath": f"{WAIT_FOLDER}/mps-daemon"})


def of_the_node(spec: dict[str, Any]) -> None:
    spec["volumes"].append({"name": "shm", "hostPath": {"path": "/run/dra-workshop/mps/shm"}})


def by_extended_resource(name: str) -> Change:
    """A container that has its GPU without a claim in sight, and nothing of a client."""

    def change(spec: dict[str, Any]) -> None:
        (container,) = spec["containers"]
        for key in ("command", "volumeMounts"):
            container.pop(key)
        container["resources"] = {"limits": {name: "1"}}
        for key in ("volumes", "initContainers", "resourceClaims"):
            spec.pop(key)

    return change


WAITS_FIRST = "must begin with [/run/dra-workshop/wait/mps-daemon, wait, --]"
EXEC = {"exec": {"command": [start_again.PROBE, "info"]}}
# Where module 07 is on, the class `default` is below the daemon's limits as well, and the API server says that first.
BELOW = "the limits of this namespace's class (default) are below the MPS daemon's own"
# name -> a change of a client's pod by which something would run without a wait for the daemon, and the message
UNGUARDED: dict[str, tuple[Change, str]] = {
    "no command": (changed_container(command=None, args=["info"]), WAITS_FIRST),
    "a command of its own": (changed_container(command=[start_again.PROBE], args=["info"]), WAITS_FIRST),
    "another program of that name": (changed_container(command=["/tmp/mps-daemon", "wait", "--"]), WAITS_FIRST),
    "init container": (first_without_wait, WAITS_FIRST),
    "sidecar": (lambda spec: first_without_wait(spec, restartPolicy="Always"), WAITS_FIRST),
    "liveness probe": (changed_container(livenessProbe=EXEC), WAITS_FIRST),
    "readiness probe": (changed_container(readinessProbe=EXEC), WAITS_FIRST),
    "startup probe": (changed_container(startupProbe=EXEC), WAITS_FIRST),
    "hook after the start": (changed_container(lifecycle={"postStart": EXEC}), WAITS_FIRST),
    "hook before the stop": (changed_container(lifecycle={"preStop": EXEC}), WAITS_FIRST),
    "no init container that installs the wait": (without_install, "an init container install-wait"),
    "the wait of another image": (other_image, "of the image"),
    "the wait writable": (writable, "readOnly"),
    "a volume over the wait": (hides_the_wait, "nothing else below /run/dra-workshop"),
    "the environment of the image": (changed_container(env=None), "its image could have set another one"),
    "extended resource": (by_extended_resource("nvidia.com/gpu"), WAITS_FIRST),
    "extended resource of a DeviceClass": (
        by_extended_resource("deviceclass.resource.kubernetes.io/gpu.nvidia.com"),
        WAITS_FIRST,
    ),
    "shared memory of the node": (of_the_node, "may be mounted"),
}


@pytest.mark.parametrize("name", UNGUARDED)
def test_policy_refuses_a_client_that_could_start_without_its_daemon(
    stack: LiveStack, name: str, observed: Callable[[str], None]
) -> None:
    """Fails if the API server takes the pod: one check for each of 18 ways."""
    skip_unless_pipe_of_the_node(stack)
    change, message = UNGUARDED[name]
    refusal = refused_pod(stack, change)
    assert message in refusal or (class_is_required(stack) and BELOW in refusal)
    observed(refusal)


def class_is_required(stack: LiveStack) -> bool:
    """True if the class `default` is below the daemon's limits, as it is where clients share by memory."""
    return stack.one("configmaps", "default", "mps-classes")["data"]["required"] == "true"


def refused_pod(stack: LiveStack, change: Change, *words: str, namespace: str = CLIENTS, env: Env | None = None) -> str:
    """Why the API server does not take a client's pod that was changed. AssertionError if it does."""
    pod = Client.manifest(stack, ["info"], env or {}, namespace)
    change(pod["spec"])
    refusal = stack.kubectl_fails("create", "--dry-run=server", "-f", "-", *words, stdin=yaml.safe_dump(pod))
    return refusal.partition("denied request: ")[2].strip() or refusal.strip()


@dataclass(frozen=True)
class Tenant:
    """Account that may make pods, what makes pods, and claims, in one namespace of the class `small`."""

    playground: Playground

    @property
    def name(self) -> str:
        return f"--as=system:serviceaccount:{self.namespace}:default"

    @property
    def namespace(self) -> str:
        return self.playground.namespace

    @property
    def env(self) -> Env:
        small = self.playground.stack.settings.mps.classes["small"]
        percentage, memory = small.mps_values
        return {PERCENTAGE: percentage, MEMORY: f"0={memory}"}

    def create(self, *documents: dict[str, Any]) -> str:
        words = ("create", self.name, "-n", self.namespace, "-f", "-")
        return self.playground.stack.kubectl(*words, stdin=yaml.safe_dump_all(documents))

    def refused(self, *documents: dict[str, Any]) -> str:
        words = ("create", "--dry-run=server", self.name, "-n", self.namespace, "-f", "-")
        return self.playground.stack.kubectl_fails(*words, stdin=yaml.safe_dump_all(documents)).strip()

    def claim(self, *requests: dict[str, Any], template: bool = False) -> dict[str, Any]:
        named = [{"name": f"r{number}", **request} for number, request in enumerate(requests)]
        spec: dict[str, Any] = {"devices": {"requests": named}}
        kind = "ResourceClaimTemplate" if template else "ResourceClaim"
        metadata = {"name": "gpus"}
        return {
            "apiVersion": "resource.k8s.io/v1",
            "kind": kind,
            "metadata": metadata,
            "spec": {"spec": spec} if template else spec,
        }


RIGHTS = {
    "": ["pods", "pods/log", "pods/ephemeralcontainers"],
    "apps": ["deployments", "statefulsets", "daemonsets", "replicasets"],
    "batch": ["jobs", "cronjobs"],
    "resource.k8s.io": ["resourceclaims", "resourceclaimtemplates"],
}


@pytest.fixture
def tenant(stack: LiveStack) -> Iterator[Tenant]:
    level = stack.one("namespaces", CLIENTS)["metadata"]["labels"][LEVEL_LABEL]
    with stack.playground({CLASS_LABEL: "small", LEVEL_LABEL: level}) as playground:
        api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "tenant"}}
        rules = [{"apiGroups": [group], "resources": kinds, "verbs": ["*"]} for group, kinds in RIGHTS.items()]
        binding = {
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "tenant"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": playground.namespace}],
        }
        documents = [{**api, "kind": "Role", "rules": rules}, {**api, "kind": "RoleBinding", **binding}]
        stack.create(*documents, namespace=playground.namespace)
        yield Tenant(playground)


GPU = {"deviceClassName": "gpu.nvidia.com"}


@pytest.mark.parametrize("template", [False, True], ids=["claim", "template"])
def test_class_below_the_daemons_limits_is_for_one_gpu_of_a_client(
    stack: LiveStack, tenant: Tenant, template: bool, observed: Callable[[str], None]
) -> None:
    """Fails if a claim or template of class `small` may be for two GPUs, or for all, or may not be for one."""
    exactly = {"exactly": GPU}
    several = {
        "a count of 2": [{"exactly": {**GPU, "count": 2}}],
        "all": [{"exactly": {**GPU, "allocationMode": "All"}}],
        "two requests": [exactly, exactly],
        "a choice with 2": [{"firstAvailable": [{"name": "two", **GPU, "count": 2}, {"name": "one", **GPU}]}],
    }
    for what, requests in several.items():
        assert "a claim must be for one GPU" in tenant.refused(tenant.claim(*requests, template=template)), what
    choice = {"firstAvailable": [{"name": "one", **GPU}]}
    for request in (exactly, {"exactly": {**GPU, "count": 1}}, choice):
        dry = ("create", "--dry-run=server", tenant.name, "-n", tenant.namespace, "-f", "-")
        stack.kubectl(*dry, stdin=yaml.safe_dump(tenant.claim(request, template=template)))
    observed(f"{', '.join(several)}: refused; one GPU: allowed")


def test_class_below_the_daemons_limits_is_for_one_claim_of_a_container(
    stack: LiveStack, tenant: Tenant, observed: Callable[[str], None]
) -> None:
    """Fails if a container may have two claims, or an extended resource beside one."""

    def two_claims(spec: dict[str, Any]) -> None:
        spec["resourceClaims"].append({"name": "other", "resourceClaimName": "other"})
        spec["containers"][0]["resources"]["claims"] = [{"name": "gpu"}, {"name": "other"}]

    def extended_as_well(spec: dict[str, Any]) -> None:
        spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = "1"

    where = {"namespace": tenant.namespace, "env": tenant.env}
    for change in (two_claims, extended_as_well):
        message = refused_pod(stack, change, tenant.name, **where)
        assert "by one entry of resources.claims, and none by an extended resource" in message
    observed(message)


def test_limits_of_the_daemon_hold_on_every_gpu_of_a_client(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a client with all GPUs of the node gets more memory than the limit on one of them."""
    skip_unless_pipe_of_the_node(stack)
    if class_is_required(stack):
        pytest.skip("with module 07 the class default is below the daemon's limits, and so for one GPU")
    limits = stack.settings.mps
    labels = {"resource.kubernetes.io/admin-access": "true", CLASS_LABEL: "default", LEVEL_LABEL: "privileged"}
    with stack.playground(labels) as playground:
        # Looks on at every GPU of the node: whatever else the stack has, and takes none.
        claim = {
            "apiVersion": "resource.k8s.io/v1",
            "kind": "ResourceClaim",
            "metadata": {"name": "shared-gpu", "namespace": playground.namespace},
            "spec": {
                "devices": {
                    "requests": [{"name": "gpus", "exactly": {**GPU, "adminAccess": True, "allocationMode": "All"}}]
                }
            },
        }
        node = stack.settings.gpu_nodes[0].node
        count = sum(on == node for on, _ in stack.devices())
        if count < 2:
            pytest.skip("the node has one GPU")
        stack.create(claim)
        results = {}
        for device in range(count):
            args = ["alloc", "100Mi", f"{limits.memory_mib}Mi", "--device", str(device)]
            ended = Client.create(stack, Client.manifest(stack, args, {}, playground.namespace)).ended()
            results[device] = [line["result"] for line in ended.lines if "result" in line]
    assert results == {device: ["CUDA_SUCCESS", OUT_OF_MEMORY] for device in range(count)}
    observed(f"{limits.memory_mib}Mi: {OUT_OF_MEMORY} on each of {count} GPUs of one client")


def test_tenant_has_no_way_to_a_gpu_around_the_policy(
    stack: LiveStack, tenant: Tenant, observed: Callable[[str], None]
) -> None:
    """Fails if an account that may make pods and claims may make a DeviceClass, label its namespace, make pods
    elsewhere, have admin access, a host namespace, or a GPU for a pod as a whole.
    """
    skip_unless_pipe_of_the_node(stack)
    where = {"namespace": tenant.namespace, "env": tenant.env}
    device_class = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass", "metadata": {"name": tenant.namespace}}
    # What the policy does not see: each is refused by Kubernetes itself, by the tenant's rights, or gives no GPU.
    assert 'cannot create resource "deviceclasses"' in tenant.refused({**device_class, "spec": {}})
    admin = tenant.refused(tenant.claim({"exactly": {**GPU, "adminAccess": True}}))
    assert "admin access" in admin
    label = ("label", "namespace", tenant.namespace, tenant.name, "--overwrite")
    for own in ("resource.kubernetes.io/admin-access=true", f"{CLASS_LABEL}=default", f"{CLASS_LABEL}-"):
        assert 'resource "namespaces"' in stack.kubectl_fails(*label, own)
    elsewhere = stack.kubectl_fails("create", tenant.name, "-f", "-", stdin=pod_of(stack, {}))
    assert 'cannot create resource "pods"' in elsewhere
    node = stack.settings.gpu_nodes[0].node
    by_node = refused_pod(stack, lambda spec: spec.update(hostPID=True, nodeName=node), tenant.name, **where)
    assert "hostPID" in by_node
    of_the_pod = {"claims": [{"name": "gpu"}]}
    for whole in (of_the_pod, {"limits": {"nvidia.com/gpu": "1"}}):
        message = refused_pod(stack, lambda spec, whole=whole: spec.update(resources=whole), tenant.name, **where)
        assert "spec.resources" in message
    observed("DeviceClass, admin access, labels, pods elsewhere, host namespaces, a GPU of the whole pod: all refused")


def test_pods_of_a_tenants_controllers_are_looked_at_as_well(
    stack: LiveStack, tenant: Tenant, observed: Callable[[str], None]
) -> None:
    """Fails if a Deployment, StatefulSet, DaemonSet or Job makes a pod that the policy would refuse."""
    skip_unless_pipe_of_the_node(stack)
    spec = Client.manifest(stack, ["hold"], tenant.env, tenant.namespace)["spec"]
    changed_container(command=None)(spec)
    for container in (*spec["containers"], *spec["initContainers"]):
        for key in ("restartPolicy", "restartPolicyRules"):
            container.pop(key, None)
    labels = {"app": "around"}
    template = {"metadata": {"labels": labels}, "spec": {**spec, "restartPolicy": "Always"}}
    once = {**template, "spec": {**spec, "restartPolicy": "Never"}}
    kept = {"selector": {"matchLabels": labels}, "template": template}
    job = {"template": once}
    kinds: dict[str, dict[str, Any]] = {
        "Deployment": {"apiVersion": "apps/v1", "spec": kept},
        "StatefulSet": {"apiVersion": "apps/v1", "spec": {**kept, "serviceName": "around"}},
        "DaemonSet": {"apiVersion": "apps/v1", "spec": kept},
        "Job": {"apiVersion": "batch/v1", "spec": job},
    }
    tenant.create(*({**rest, "kind": kind, "metadata": {"name": "around"}} for kind, rest in kinds.items()))

    def refusals() -> dict[str, str]:
        events = stack.get("events", namespace=tenant.namespace, field_selector="reason=FailedCreate")
        return {event["involvedObject"]["kind"]: event["message"] for event in events}

    makers = {"ReplicaSet", "StatefulSet", "DaemonSet", "Job"}
    wait_for("no controller could make its pod", lambda: makers <= refusals().keys())
    assert all(WAITS_FIRST in message for message in refusals().values())
    assert not stack.get("pods", namespace=tenant.namespace)
    observed(f"no pod of {', '.join(sorted(makers))}")


def test_container_without_an_entry_of_the_pods_claim_has_no_gpu(
    stack: LiveStack, tenant: Tenant, observed: Callable[[str], None]
) -> None:
    """Fails if it sees one, or an ephemeral container may have a claim or write where the wait is.

    Neither a container that only its pod's claim is for, nor one that is added to debug another.
    """
    skip_unless_pipe_of_the_node(stack)
    pod = Client.manifest(stack, ["info"], tenant.env, tenant.namespace)
    (container,), spec = pod["spec"]["containers"], pod["spec"]
    plain = {**container, "name": "plain", "command": [start_again.PROBE]}
    plain["resources"] = {"limits": {"memory": "64Mi"}}
    plain.pop("volumeMounts")
    container["args"] = ["hold", "0", "--alloc", "16Mi"]
    spec |= {"containers": [container, plain], "terminationGracePeriodSeconds": 1}
    with stack.free_gpu(), ExitStack() as afterwards:
        tenant.create({**tenant.claim({"exactly": GPU}), "metadata": {"name": "shared-gpu"}}, pod)
        name = pod["metadata"]["name"]
        # Last in, first out: the pod has to be gone before its GPU's owner comes back.
        afterwards.callback(tenant.playground.wait_gone, name)
        afterwards.callback(tenant.playground.delete_pod, name)

        def printed(container: str) -> str:

            def reports() -> list[str]:
                log = stack.log(tenant.namespace, name, container, check=False)
                return [line for line in log.splitlines() if line.startswith("{")]

            return wait_for(f"{container} printed", reports)[0]

        assert '"uuid"' in printed(container["name"])
        assert '"uuid"' not in printed("plain")
        added = {**plain, "name": "added"}
        for key in ("resources", "restartPolicy", "restartPolicyRules"):
            added.pop(key, None)
        path = f"/api/v1/namespaces/{tenant.namespace}/pods/{name}/ephemeralcontainers"

        def debug(container: dict[str, Any]) -> tuple[str, ...]:
            live = stack.one("pods", name, tenant.namespace)
            live["spec"]["ephemeralContainers"] = [container]
            # Whatever the kubelet has written meanwhile.
            del live["metadata"]["resourceVersion"]
            return (json.dumps(live),)

        words = ("replace", tenant.name, "--raw", path, "-f", "-")
        (with_claim,) = debug({**added, "resources": {"claims": [{"name": "gpu"}]}})
        refusal = stack.kubectl_fails(*words, stdin=with_claim)
        assert "resources" in refusal
        (with_the_wait,) = debug({**added, "volumeMounts": [{"name": "wait", "mountPath": "/wait"}]})
        assert "an init container install-wait" in stack.kubectl_fails(*words, stdin=with_the_wait)
        (as_allowed,) = debug(added)
        stack.kubectl(*words, stdin=as_allowed)
        assert '"uuid"' not in printed("added")
    observed(f"no GPU in them; an ephemeral container with a claim: {refusal.strip()[-160:]}")


def test_device_class_of_another_name_is_a_gpu_as_well(
    stack: LiveStack, tenant: Tenant, observed: Callable[[str], None]
) -> None:
    """Fails if a pod or claim with it, or with its extended resource, gets around the policy."""
    skip_unless_pipe_of_the_node(stack)
    name = f"{tenant.namespace}.example.com"
    device_class = {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": name},
        "spec": {
            "selectors": [{"cel": {"expression": "device.driver == 'gpu.nvidia.com'"}}],
            "extendedResourceName": "example.com/another",
        },
    }
    where = {"namespace": tenant.namespace, "env": tenant.env}
    stack.create(device_class)
    try:
        # By its claim, of whatever class, and by each name of an extended resource.
        assert WAITS_FIRST in refused_pod(stack, changed_container(command=None), tenant.name, **where)
        for resource in ("example.com/another", f"deviceclass.resource.kubernetes.io/{name}"):
            message = refused_pod(stack, by_extended_resource(resource), tenant.name, **where)
            assert "none by an extended resource" in message
        two = tenant.claim({"exactly": {"deviceClassName": name, "count": 2}})
        assert "a claim must be for one GPU" in tenant.refused(two)
    finally:
        stack.kubectl("delete", "deviceclass", name)
    observed("a claim of the class, both names of its extended resource, and two GPUs of it are refused")
