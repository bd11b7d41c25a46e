"""Figures of answers: throughput, and the milliseconds that a caller waits."""

import math
import statistics
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from .client import Answer
from .load import Window

MILLISECONDS = 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which that share lies, between its two neighbours where it falls between them."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low, high = math.floor(place), math.ceil(place)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(seconds: Sequence[float]) -> dict[str, float] | None:
    """Of a number of times, in milliseconds; None for no times at all."""
    if not seconds:
        return None
    found = {
        "mean": statistics.fmean(seconds),
        "p50": percentile(seconds, 50),
        "p99": percentile(seconds, 99),
        "max": max(seconds),
        "deviation": statistics.pstdev(seconds),
    }
    return {name: round(value * MILLISECONDS, 3) for name, value in found.items()} | {"count": len(seconds)}


def time_of_a_token(answer: Answer) -> float | None:
    """TPOT: from the first token to the last by those after the first. None for an answer of one token."""
    others = answer.count - answer.tokens[0][1]
    return (answer.last - answer.first) / others if others else None


def between_tokens(answer: Answer) -> list[float]:
    """ITL: each wait between two deliveries; tokens that come at once are one delivery."""
    times = [time for time, _ in answer.tokens]
    return [later - earlier for earlier, later in pairwise(times)]


def tokens_per_second(answers: Iterable[Answer], window: Window) -> float:
    """Tokens that came within the window, of whichever request, by its seconds."""
    came = sum(number for answer in answers for time, number in answer.tokens if window.begin <= time < window.end)
    return round(came / (window.end - window.begin), 1)


def figures(window: Window) -> dict[str, Any]:
    """What a load showed.

    Throughput counts the tokens that came within the window, of whichever request; latencies those of the requests that
    were due in it. `ttft` is from sending, `ttftFromDue` from when a request was due: in an open loop that is what a
    caller sees. `late` is how much this program was behind, which must be little.
    """
    seconds = window.end - window.begin
    done = [answer for answer in window.answers if answer.failure is None]
    failures = sorted({answer.failure for answer in window.answers if answer.failure})
    return {
        "seconds": round(seconds, 3),
        "requests": len(done),
        "failed": len(window.answers) - len(done),
        "unfinished": window.unfinished,
        "failures": failures[:3],
        "countedBy": "/".join(sorted({answer.counted_by for answer in done})),
        "outputTokensPerSecond": tokens_per_second(window.all, window),
        "requestsPerSecond": round(len(done) / seconds, 3),
        "ttft": spread([answer.first - answer.sent for answer in done]),
        "ttftFromDue": spread([answer.first - answer.due for answer in done]),
        "tpot": spread([tpot for answer in done if (tpot := time_of_a_token(answer)) is not None]),
        "itl": spread([wait for answer in done for wait in between_tokens(answer)]),
        "late": spread([answer.sent - answer.due for answer in done]),
    }
