"""Figures of docs/reference/modules/06.5-vllm-experiment.md are those of the points that were measured."""

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks import test_06_5_vllm_experiment as experiment
from checks.test_06_5_vllm_experiment import chat_rows
from images.loadgen.plan import PROFILES
from images.loadgen.points import Points
from toolchain.paths import CHECKOUT
from toolchain.progress import duration

PODS = CHECKOUT / "results" / "h100-80gb-2026-11-28-vllm-pods.json"
IN_PODS = json.loads(PODS.read_text())
FILE = CHECKOUT / "results" / "h100-80gb-2026-11-28-vllm.json"
MEASURED = json.loads(FILE.read_text())
PAGE = (CHECKOUT / "docs" / "reference" / "modules" / "06.5-vllm-experiment.md").read_text()
SECTION, _, AFTER = PAGE.partition("## What an H100 says")[2].partition("\n## ")[0].partition("### The chat in pods")
POD_SECTION = AFTER.partition("\n### ")[0]
CHATS = r"chat alone|time-sliced[^|]*|MPS,[^|]*"
CASES = {
    "chat alone": (100, None, True),
    "time-sliced, without MPS": (100, 100, False),
    "MPS, batch 100 %, chat 100 %": (100, 100, True),
    "MPS, batch 90 %, chat 100 %": (100, 90, True),
    "MPS, batch 90 %, chat 10 %": (10, 90, True),
    "MPS, batch 50 %, chat 50 %": (50, 50, True),
}


def rows(first: str, section: str = SECTION) -> list[list[str]]:
    """Rows whose first cell is of that pattern."""
    lines = [line for line in section.splitlines() if re.match(rf"\| ({first}) \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def repeats(
    servers: tuple[int, int | None, bool], loop: str, level: float, measured: dict[str, Any] = MEASURED, times: int = 3
) -> list[dict[str, Any]]:
    found = [
        point
        for point in measured["points"]
        if (point["percentage"], point["neighbour"], point["mps"]) == servers
        and (point["loop"], point["level"]) == (loop, level)
    ]
    assert [point["repeat"] for point in found] == list(range(1, times + 1))
    return found


def told(points: list[dict[str, Any]], value: Callable[[dict[str, Any]], float], digits: int) -> str:
    """A cell: mean, least and most."""
    values = [value(point) for point in points]
    mean, least, most = (f"{number:.{digits}f}" for number in (statistics.fmean(values), min(values), max(values)))
    return f"{mean} ({least} to {most})"


def measured_points(folder: Path, **changed: Any) -> Points:
    """The committed points; `changed` in those of the chat beside a batch of 90 %."""
    points = Points(folder, MEASURED["about"])
    for point in MEASURED["points"]:
        points.add(point | changed if point["neighbour"] == 90 and point["percentage"] == 100 else point)
    return points


def test_the_standard_profile_was_measured_whole_and_nothing_failed():
    points = MEASURED["points"]
    assert [point["key"] for point in points] == [point.key for point in PROFILES["standard"].all_points]
    assert not any(point["failed"] or point["unfinished"] for point in points)
    assert all(point["seconds"] >= 10 for point in points)
    assert all((point["neighbour"] is None) == (point["neighbourRequests"] == 0) for point in points)


def test_card_driver_and_date_stand_above_the_tables():
    (gpu,) = MEASURED["about"]["gpu"]
    head = " ".join(SECTION.split())
    assert f"{gpu.removeprefix('NVIDIA ')}, driver {MEASURED['about']['driver']}, default compute mode" in head
    assert "28 November 2026" in head and FILE.stem in PAGE


@pytest.mark.parametrize("row", rows(r"\d+"), ids=lambda row: row[0])
def test_rows_of_percentages_are_what_was_measured(row: list[str]):
    alone = (int(row[0]), None, True)
    batch, chat, opened = (repeats(alone, *load) for load in (("closed", 64), ("closed", 1), ("open", 16)))
    assert row[1:] == [
        str(batch[0]["multiprocessors"]),
        told(batch, lambda point: point["outputTokensPerSecond"], 0),
        told(batch, lambda point: point["ttft"]["p50"], 0),
        told(chat, lambda point: point["tpot"]["p50"], 2),
        # In an open loop a caller waits from when it was due.
        told(opened, lambda point: point["ttftFromDue"]["p50"], 0),
        told(opened, lambda point: point["tpot"]["p50"], 2),
    ]


@pytest.mark.parametrize("row", rows(CHATS), ids=lambda row: row[0])
def test_rows_of_the_chat_are_what_was_measured(row: list[str]):
    assert row[1:] == chat_cells(repeats(CASES[row[0]], "closed", 1))


def chat_cells(points: list[dict[str, Any]]) -> list[str]:
    alone = points[0]["neighbour"] is None
    return [
        told(points, lambda point: point["ttft"]["p50"], 0),
        told(points, lambda point: point["ttft"]["p99"], 0),
        told(points, lambda point: point["tpot"]["p50"], 2),
        told(points, lambda point: point["itl"]["p99"], 1),
        "-" if alone else told(points, lambda point: point["neighbourOutputTokensPerSecond"], 0),
    ]


@pytest.mark.parametrize("row", rows(CHATS, POD_SECTION), ids=lambda row: row[0])
def test_rows_of_the_chat_in_pods_are_what_was_measured(row: list[str]):
    assert row[1:] == chat_cells(repeats(CASES[row[0]], "closed", 1, IN_PODS, 2))


def test_what_was_measured_in_pods_is_whole_and_what_the_page_says_of_it():
    points, words = IN_PODS["points"], " ".join(POD_SECTION.split())
    assert [point["key"] for point in points] == [point.key for point in PROFILES["standard"].of([100], 2).all_points]
    assert not any(point["failed"] or point["unfinished"] for point in points)
    starts = [point["startSeconds"] for point in points]
    servers = list(PROFILES["standard"].of([100], 2).servers)
    assert f"{len(points)} points and {len(servers)} servers or pairs" in words
    assert f"a start took {min(starts):.0f} to {max(starts):.0f} s" in words
    batch = told(repeats((100, None, True), "closed", 64, IN_PODS, 2), lambda point: point["outputTokensPerSecond"], 0)
    assert f"64 requests under way give {batch} tokens a second" in words
    half, tenth = (
        told(repeats((percentage, None, True), "closed", 1, IN_PODS, 2), lambda point: point["tpot"]["p50"], 2)
        for percentage in (50, 10)
    )
    assert f"{half} and {tenth} ms for a token" in words
    (gpu,) = IN_PODS["about"]["gpu"]
    assert f"{gpu.removeprefix('NVIDIA ')} with driver {IN_PODS['about']['driver']}" in words
    assert PODS.stem in PAGE and f"in pods](#the-chat-in-pods) {duration(IN_PODS['seconds']['verify 06.5'])}" in PAGE


def test_what_the_limits_cost_in_pods_is_what_the_page_says():
    words = " ".join(POD_SECTION.split())
    tokens, waits = (
        {
            name: statistics.fmean(value(point) for point in repeats(CASES[name], "closed", 1, IN_PODS, 2))
            for name in CASES
            if name != "chat alone"
        }
        for value in (lambda point: point["neighbourOutputTokensPerSecond"], lambda point: point["itl"]["p99"])
    )
    free, limited, sliced = "MPS, batch 100 %, chat 100 %", "MPS, batch 90 %, chat 100 %", "time-sliced, without MPS"
    assert f"from {waits[free]:.1f} to {waits[limited]:.1f} ms" in words
    assert f"costs {1 - tokens[limited] / tokens[free]:.0%} of its tokens".replace("%", " %") in words
    assert f"Time-slicing costs the batch {1 - tokens[sliced] / tokens[free]:.0%}".replace("%", " %") in words


def test_time_of_the_server_in_pods_is_that_of_the_page():
    page = (CHECKOUT / "docs" / "reference" / "modules" / "06-vllm.md").read_text()
    seconds = IN_PODS["seconds"]
    words = " ".join(page.split())
    assert f"`make up` took {duration(seconds['up'])}, {seconds['firstGpuPod']:.0f} s of them until" in words


def test_every_case_has_its_row():
    assert [row[0] for row in rows(CHATS, POD_SECTION)] == list(CASES)
    assert [row[0] for row in rows(r"\d+")] == ["100", "50", "20", "10"]
    assert [row[0] for row in rows(CHATS)] == list(CASES)


def test_table_of_the_check_has_the_same_chats(tmp_path: Path):
    found = chat_rows(list(measured_points(tmp_path).summaries()))
    # Alone at 100, 50, 20 and 10 %, and the five pairs.
    assert [row[:4] for row in found] == [
        *(["100 %", "nobody", 132, 3], ["50 %", "nobody", 66, 3], ["20 %", "nobody", 26, 3]),
        *(["10 %", "nobody", 12, 3], ["no MPS", "no MPS", 132, 3], ["100 %", "100 %", 132, 3]),
        *(["100 %", "90 %", 132, 3], ["10 %", "90 %", 12, 3], ["50 %", "50 %", 66, 3]),
    ]
    by_limits = {(row[0], row[1]): row for row in found}
    unlimited, limited = by_limits["100 %", "100 %"], by_limits["100 %", "90 %"]
    assert limited[9:12] == [10.69, 9.81, 12.29] and unlimited[9:12] == [19.5, 19.23, 19.8]
    assert limited[12] == 9464.9 and by_limits["100 %", "nobody"][12] == "-"


def check(points: Points) -> list[str]:
    """Run the check of whom to limit; returns what it recorded."""
    recorded: list[str] = []
    experiment.test_neighbour_of_a_chat_is_what_has_to_be_limited(
        points, lambda title, columns, rows: recorded.append(f"{title}: {len(rows)} x {len(columns)}"), recorded.append
    )
    return recorded


def test_check_passes_where_the_limit_of_the_batch_helps(tmp_path: Path):
    table, words = check(measured_points(tmp_path))
    assert table == "A chat beside a busy neighbour: 9 x 13"
    assert "19.5 ms 100 % beside 100 %" in words and "13.3 ms without MPS" in words


def test_check_fails_where_a_limit_of_the_batch_does_not_help(tmp_path: Path):
    with pytest.raises(AssertionError, match=r"was 25\.0 ms beside a batch of 90 %, 19\.5 without a limit"):
        check(measured_points(tmp_path, itl={"p99": 25.0}))


def test_check_is_skipped_for_a_profile_without_the_two_cases(tmp_path: Path):
    points = Points(tmp_path, MEASURED["about"])
    for point in MEASURED["points"]:
        if point["neighbour"] != 90:
            points.add(point)
    with pytest.raises(pytest.skip.Exception, match="`standard` has"):
        check(points)


@pytest.mark.parametrize(("mode", "sliced"), [("daemon", True), ("claim", False)])
def test_nobody_takes_turns_on_a_gpu_that_is_exclusive_to_mps(mode: str, sliced: bool):
    sweep = SimpleNamespace(profile="standard", percentages=(), repeats=None)
    settings = SimpleNamespace(vllm=SimpleNamespace(sweep=sweep), mps=SimpleNamespace(mode=mode))
    stack: Any = SimpleNamespace(settings=settings)
    assert experiment.plan_of(stack).time_sliced is sliced


def test_one_percentage_makes_no_curve(tmp_path: Path):
    points = Points(tmp_path, IN_PODS["about"])
    for point in IN_PODS["points"]:
        if point["percentage"] == 100:
            points.add(point)
    with pytest.raises(pytest.skip.Exception, match="is 100 alone, and one percentage makes no curve"):
        experiment.test_less_of_the_gpu_serves_less_at_saturation(points, lambda *_: None, lambda _: None)
