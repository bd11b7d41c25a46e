"""Checks of module 06.5: speed of a vLLM server with a part of a GPU, alone and beside a busy neighbour."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from checks.live import LiveStack
from checks.measured import NO_MPS, NOBODY, VLLM, VLLM_CHAT, VLLM_SERVER, VLLM_TENANTS
from checks.mps import Daemon
from checks.vllm_server import MORE_SECONDS, Job, command, python, ready_pod, remove_left_over_jobs, server_like_job
from gpus import vllm as vllm_memory
from gpus.mps import granted_multiprocessors
from gpus.quantity import mps_memory, quantity_mib
from images.loadgen.plan import PROFILES, WHOLE, Plan
from images.loadgen.points import Points, Summary
from machine.gpus import gpu_model
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.gpu

RESULTS = CHECKOUT / "results"
CHAT = ("closed", 1)  # one caller, who asks again when he has his answer
# Two servers in one pod need the machine's memory twice.
TENANTS = 2


def plan_of(stack: LiveStack) -> Plan:
    sweep = stack.settings.vllm.sweep
    plan = PROFILES[sweep.profile].of(sweep.percentages, sweep.repeats)
    # NVIDIA's driver makes the GPU exclusive to one process for a claim with MPS, so nobody runs beside its server.
    return replace(plan, time_sliced=plan.time_sliced and stack.settings.mps.mode == "daemon")


@pytest.fixture(scope="module")
def measured(stack: LiveStack) -> Points:
    """All points of the plan: those that an earlier run left, and the others measured now.

    The daemon's own limit is lifted meanwhile, since it caps every client, and put back.
    """
    plan = plan_of(stack)
    points = Points(RESULTS / f"{stack.name}-vllm", conditions(stack, plan))
    wanted = [point.key for point in plan.all_points]
    if not set(wanted) <= set(points.done):
        ready_pod(stack)
        # The server itself is idle, but its weights and cache lie in the GPU's memory, under its own limit.
        daemon = Daemon(stack)
        with daemon.limits():
            daemon.apply(100, mps_memory(stack.settings.mps.effective_memory_limit))
            measure(stack, plan, points)
    points.write()
    return points


def measure(stack: LiveStack, plan: Plan, points: Points) -> None:
    vllm = stack.settings.vllm
    model, limit = gpu_model(stack.settings), quantity_mib(stack.settings.vllm_limit)
    # The context of a client of the whole GPU is the largest; with one share of memory for all only SMs differ.
    share = None
    if model:
        total = model.memory_mib - model.reserved_memory_mib
        share = vllm_memory.utilization(limit, granted_multiprocessors(model, 100), total)
    servers = len(list(plan.servers))
    each = plan.seconds + plan.warmup_seconds + plan.drain_seconds
    deadline = math.ceil(len(plan.all_points) * each + servers * vllm.startup_seconds + MORE_SECONDS)
    arguments = {
        "plan": json.loads(plan.to_json()),
        "done": points.done,
        "command": command(stack, share),
        "model": stack.settings.vllm_model_name,
        "memory": mps_memory(stack.settings.vllm_limit),
        "start_seconds": vllm.startup_seconds,
        "folder": "/scratch/logs",
    }
    words = [python(stack), "-m", "loadgen", "sweep"]
    remove_left_over_jobs(stack)
    failures, ended = [], False
    manifest = server_like_job(stack, words, {"SWEEP": json.dumps(arguments)}, deadline)
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container["resources"]["limits"]["memory"] = f"{TENANTS * quantity_mib(vllm.memory)}Mi"
    with Job(stack, manifest) as job:
        for line in job.lines():
            if "key" in line:
                points.add(line)
            elif "error" in line:
                failures.append(f"{line['percentage']} % beside {line['neighbour']}: {line['error']}")
            else:
                ended = line.get("end", False)
        assert ended, f"the Job stopped before its end: {job.state()}"
    assert not failures, failures


def conditions(stack: LiveStack, plan: Plan) -> dict[str, Any]:
    """Conditions under which points are comparable; the percentages and the number of repeats are none."""
    vllm = stack.settings.vllm
    lengths = ("seconds", "warmup_seconds", "prompt_tokens", "output_tokens", "noise")
    return {
        "gpu": sorted(gpu.get("productName", "") for gpu in stack.devices().values()),
        "model": stack.settings.vllm_model_name,
        "weights": stack.outputs["vllm"]["weights"],
        "memory": stack.settings.vllm_limit,
        "maxModelLen": vllm.max_model_len,
        "extraArgs": list(vllm.extra_args),
        "image": template_image(stack),
        **{name: getattr(plan, name) for name in lengths},
    }


def server_facts(stack: LiveStack, plan: Plan) -> list[tuple[str, str | int | float]]:
    """Facts that hold for every point, for a reader of the figures."""
    told = conditions(stack, plan)
    weights = "random: what it writes means nothing" if told["weights"] == "dummy" else "real"
    return [
        ("GPU", ", ".join(told["gpu"])),
        ("model", told["model"]),
        ("weights", weights),
        ("memory limit of each server", told["memory"]),
        ("tokens in, tokens out", f"{plan.prompt_tokens}, {plan.output_tokens}"),
        ("seconds of each load that count, after a warm-up of", f"{plan.seconds:g}, {plan.warmup_seconds:g}"),
        ("requests that a busy neighbour has under way", plan.noise),
        ("arguments of vLLM", " ".join(told["extraArgs"]) or "none but the stack's"),
        ("image", told["image"]),
    ]


def template_image(stack: LiveStack) -> str:
    return stack.one("deployments.apps", "vllm", "mps")["spec"]["template"]["spec"]["containers"][0]["image"]


def row(summary: Summary) -> list[str | float]:
    """Columns of the server's tables for one load."""
    mean, least, most = summary.tokens_per_second
    times = (summary.ttft_p50, summary.ttft_p99, summary.tpot_p50, summary.tpot_p99, summary.itl_p99)
    return [
        *(summary.multiprocessors, summary.loop, summary.level, summary.repeats, round(mean, 1), least, most),
        *("-" if math.isnan(value) else round(value, 2) for value in times),
        summary.unfinished,
    ]


def summaries_alone(points: Points) -> list[Summary]:
    return [summary for summary in points.summaries() if summary.neighbour is None]


def test_every_point_of_the_plan_is_measured(
    stack: LiveStack, measured: Points, table: Callable, observed: Callable[[str], None]
) -> None:
    """Fails if one is missing, a request failed, or a server did not start; its cause is told."""
    plan = plan_of(stack)
    wanted = {point.key for point in plan.all_points}
    assert wanted <= set(measured.done)
    for point in measured.all:
        assert not point["failed"], f"{point['key']}: {point['failed']} requests failed: {point['failures']}"
        assert point["requests"] or point["unfinished"], f"{point['key']}: no request was due in it"
    table(*VLLM, [[summary.percentage, *row(summary)] for summary in summaries_alone(measured)])
    table(*VLLM_SERVER, [[words, str(value)] for words, value in server_facts(stack, plan)])
    observed(f"{len(wanted)} points; CSV and JSON in {measured.folder.relative_to(RESULTS.parent)}")


def test_vllms_own_process_has_the_multiprocessors_of_its_percentage(
    stack: LiveStack, measured: Points, observed: Callable[[str], None]
) -> None:
    """Fails if it has others than the rule says, alone or as a tenant."""
    model = gpu_model(stack.settings)
    sms_by_percentage = {point["percentage"]: point["multiprocessors"] for point in measured.all}
    for point in measured.all:
        if point["neighbour"] is not None:
            sms_by_percentage[point["neighbour"]] = point["neighbourMultiprocessors"]
    if model is None:
        pytest.skip(f"the rule is not known for this GPU; vLLM's processes have {sms_by_percentage}")
    assert sms_by_percentage == {
        percentage: granted_multiprocessors(model, percentage) for percentage in sms_by_percentage
    }
    observed(
        ", ".join(f"{percentage} %: {sms} SMs" for percentage, sms in sorted(sms_by_percentage.items(), reverse=True))
    )


def test_less_of_the_gpu_serves_less_at_saturation(
    measured: Points, plot: Callable, observed: Callable[[str], None]
) -> None:
    """Fails if the smallest percentage's best repeat is not below the largest one's worst, under the most requests."""
    closed = [one for one in summaries_alone(measured) if one.loop == "closed"]
    busiest = max(one.level for one in closed)
    curve = {one.percentage: one for one in closed if one.level == busiest}
    least, most = min(curve), max(curve)
    if most == least:
        pytest.skip(f"vllm.sweep.percentages is {most} alone, and one percentage makes no curve")
    assert curve[least].tokens_per_second[2] < curve[most].tokens_per_second[1], (
        f"{least} % was at most as slow as {most} %, so the load did not fill the GPU, or its limit does not hold"
    )
    levels = sorted({one.level for one in closed})
    throughput = {
        f"{level:g} under way": [(one.percentage, one.tokens_per_second[0]) for one in closed if one.level == level]
        for level in levels
    }
    plot(
        "Throughput by thread percentage, closed loop", "thread percentage in %", "output tokens/s", ordered(throughput)
    )
    for name, key in (("Time to first token", "ttft_p50"), ("Time per output token", "tpot_p50")):
        lines = {
            f"{level:g} under way": [(one.percentage, getattr(one, key)) for one in closed if one.level == level]
            for level in levels
        }
        plot(f"{name} by thread percentage, closed loop", "thread percentage in %", "p50 in ms", ordered(lines))
    opened = [one for one in summaries_alone(measured) if one.loop == "open" and not math.isnan(one.ttft_p50)]
    lines = {
        f"{percentage} %": [(one.level, one.ttft_p50) for one in opened if one.percentage == percentage]
        for percentage in sorted({one.percentage for one in opened}, reverse=True)
    }
    plot(
        "Time to first token by request rate, open loop",
        "requests/s",
        "p50 from when it was due, in ms",
        ordered(lines),
    )
    pareto = {
        f"{percentage} %": [(one.tpot_p50, one.tokens_per_second[0]) for one in closed if one.percentage == percentage]
        for percentage in sorted(curve, reverse=True)
    }
    plot(
        "Throughput against latency, closed loop",
        "time per output token, p50 in ms",
        "output tokens/s",
        ordered(pareto),
    )
    observed(
        f"{busiest:g} under way: "
        + ", ".join(f"{p} %: {curve[p].tokens_per_second[0]:.0f} tokens/s" for p in sorted(curve, reverse=True))
    )


def chat_rows(summaries: Sequence[Summary]) -> list[list[str | float]]:
    """Rows of `VLLM_CHAT`: one caller at a time, alone and beside a neighbour that is busy."""

    def limits(one: Summary) -> tuple[str, str]:
        if not one.mps:
            return NO_MPS, NO_MPS
        return f"{one.percentage} %", NOBODY if one.neighbour is None else f"{one.neighbour} %"

    return [
        [
            *(*limits(one), one.multiprocessors, one.repeats, round(one.ttft_p50, 2)),
            *(round(value, 2) for value in (one.ttft_p99, *one.ttft_p99_spread)),
            *(round(value, 2) for value in (one.tpot_p50, one.itl_p99, *one.itl_p99_spread)),
            "-" if math.isnan(one.neighbour_tokens_per_second) else round(one.neighbour_tokens_per_second, 1),
        ]
        for one in summaries
        if (one.loop, one.level) == CHAT and not math.isnan(one.ttft_p50)
    ]


def ordered(lines: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, list[tuple[float, float]]]:
    """Lines sorted by x; without points that a load had no answer for."""
    kept = {name: sorted(point for point in line if not math.isnan(point[1])) for name, line in lines.items()}
    return {name: line for name, line in kept.items() if line}


def test_busy_neighbour_is_compared_with_none(
    measured: Points, table: Callable, plot: Callable, observed: Callable[[str], None]
) -> None:
    """Fails if a neighbour was idle, or a tenant was not measured alone."""
    without = {(one.percentage, one.loop, one.level): one for one in summaries_alone(measured)}
    rows, sentences, lines = [], [], {}
    for one in measured.summaries():
        if one.neighbour is None:
            continue
        base = without[one.percentage, one.loop, one.level]
        kept = one.tokens_per_second[0] / base.tokens_per_second[0]
        slower = one.tpot_p50 / base.tpot_p50
        name = f"{one.percentage}/{one.neighbour}" if one.mps else NO_MPS
        rows.append([name, *row(one), round(kept, 3), round(slower, 3)])
        load = f"{one.loop} {one.level:g}"
        sentences.append(f"{name}, {load}: {kept:.0%} of the throughput, TPOT x {slower:.2f}")
        if not one.mps:
            continue  # the plot is by the own percentage
        lines.setdefault(f"{load}, alone", []).append((one.percentage, base.tpot_p50))
        lines.setdefault(f"{load}, beside a busy one", []).append((one.percentage, one.tpot_p50))
    assert rows, "no tenants were measured; the profile has none"
    # Nobody may have answered fewer than one request: a neighbour that is idle is none.
    assert all(point["neighbourRequests"] > 0 for point in measured.all if point["neighbour"] is not None)
    table(*VLLM_TENANTS, rows)
    title = "Time per output token beside a busy neighbour"
    plot(title, "own thread percentage in %", "p50 in ms", ordered(lines))
    observed("; ".join(sentences))


def test_neighbour_of_a_chat_is_what_has_to_be_limited(
    measured: Points, table: Callable, observed: Callable[[str], None]
) -> None:
    """Fails if the longest waits between its tokens are not shorter beside a batch of 90 % than beside one of 100 %."""
    chats = {
        (one.percentage, one.neighbour, one.mps): one
        for one in measured.summaries()
        if (one.loop, one.level) == CHAT and not math.isnan(one.itl_p99)
    }
    unlimited, limited = chats.get((WHOLE, WHOLE, True)), chats.get((WHOLE, 90, True))
    if unlimited is None or limited is None:
        pytest.skip("the profile has no chat beside a batch of 100 and of 90 %; `standard` has")
    table(*VLLM_CHAT, chat_rows(list(chats.values())))
    assert limited.itl_p99_spread[1] < unlimited.itl_p99_spread[0], (
        f"p99 between two tokens was {limited.itl_p99:.1f} ms beside a batch of 90 %, "
        f"{unlimited.itl_p99:.1f} without a limit"
    )
    observed(
        "p99 between two tokens: "
        + ", ".join(
            f"{one.itl_p99:.1f} ms {'without MPS' if not mps else f'{own} % beside {other} %'}"
            for (own, other, mps), one in chats.items()
            if other is not None
        )
    )
