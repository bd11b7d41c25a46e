"""Files of measured points: a line of JSON each as they come, then CSV and JSON of all. Runs beside the cluster."""

import csv
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LATENCIES, PARTS = ("ttft", "ttftFromDue", "tpot", "itl", "late"), ("mean", "p50", "p99", "max", "deviation")
PLAIN = (
    *("percentage", "neighbour", "mps", "loop", "level", "repeat", "multiprocessors", "neighbourMultiprocessors"),
    *("seconds", "requests", "failed", "unfinished", "outputTokensPerSecond", "requestsPerSecond", "startSeconds"),
    "neighbourOutputTokensPerSecond",
)


# Columns that points of an earlier version of this program do not have, and what held for them.
OLDER = {"mps": True}


class OtherMeasurement(Exception):
    """The points that are there are of something else; the message has the remedy."""


@dataclass(frozen=True)
class Summary:
    """One load on one server, over its repeats: means, and the least and most of what varies."""

    percentage: int
    neighbour: int | None
    mps: bool
    """False where both had the whole GPU in turns."""
    loop: str
    level: float
    multiprocessors: int
    repeats: int
    tokens_per_second: tuple[float, float, float]
    """Mean, least, most."""
    ttft_p50: float
    ttft_p99: float
    tpot_p50: float
    tpot_p99: float
    itl_p99: float
    unfinished: int
    ttft_p99_spread: tuple[float, float]
    """Least and most of the repeats, as of the others."""
    itl_p99_spread: tuple[float, float]
    neighbour_tokens_per_second: float
    """NaN without a neighbour."""


class Points:
    """Owns `points.jsonl`, `points.csv` and `points.json` of a folder.

    The first line says what was measured; a point of anything else must not stand beside it.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Raises `OtherMeasurement` if the folder's points are of another measurement."""
        self.folder, self.about = folder, json.loads(json.dumps(about))
        self.file = folder / "points.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        if not self.file.exists():
            self.file.write_text(json.dumps({"about": self.about}) + "\n")
        found = self._lines()
        was: dict[str, Any] = found[0].get("about", {}) if found else {}
        if was != self.about:
            changed = sorted(key for key in {*was, *self.about} if was.get(key) != self.about.get(key))
            raise OtherMeasurement(
                f"{self.file}: is of another {', '.join(changed)}; move the folder away to measure anew"
            )

    def _lines(self) -> list[dict[str, Any]]:
        """What is in the file; a last line that was cut off in the middle is dropped."""
        text = self.file.read_text()
        if not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            self.file.write_text(text)
        return [json.loads(line) for line in text.splitlines()]

    @property
    def all(self) -> list[dict[str, Any]]:
        return self._lines()[1:]

    @property
    def done(self) -> list[str]:
        return [point["key"] for point in self.all]

    def add(self, point: Mapping[str, Any]) -> None:
        """Keep a point at once: what was measured before an interruption is not measured again."""
        with open(self.file, "a") as out:
            out.write(json.dumps(point) + "\n")

    def write(self) -> None:
        """CSV and JSON of all points."""
        points = self.all
        (self.folder / "points.json").write_text(json.dumps({"about": self.about, "points": points}, indent=2) + "\n")
        columns = [*PLAIN, *(f"{latency} {part} ms" for latency in LATENCIES for part in PARTS)]
        with open(self.folder / "points.csv", "w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(columns)
            for point in points:
                times = [(point[latency] or {}).get(part) for latency in LATENCIES for part in PARTS]
                writer.writerow([*(point.get(name, OLDER.get(name)) for name in PLAIN), *times])

    def summaries(self) -> Iterator[Summary]:
        """Each load on each server, in the order in which they were first measured."""
        groups: dict[tuple, list[dict[str, Any]]] = {}
        for point in self.all:
            key = (point["percentage"], point["neighbour"], point.get("mps", True), point["loop"], point["level"])
            groups.setdefault(key, []).append(point)
        for (percentage, neighbour, mps, loop, level), points in groups.items():
            tokens = [point["outputTokensPerSecond"] for point in points]
            # In an open loop a caller waits from when it was due.
            ttft = "ttft" if loop == "closed" else "ttftFromDue"
            beside = [rate for point in points if (rate := point.get("neighbourOutputTokensPerSecond")) is not None]
            yield Summary(
                percentage=percentage,
                neighbour=neighbour,
                mps=mps,
                loop=loop,
                level=level,
                multiprocessors=points[0]["multiprocessors"],
                repeats=len(points),
                tokens_per_second=(statistics.fmean(tokens), min(tokens), max(tokens)),
                ttft_p50=_mean(_of(points, ttft, "p50")),
                ttft_p99=_mean(_of(points, ttft, "p99")),
                tpot_p50=_mean(_of(points, "tpot", "p50")),
                tpot_p99=_mean(_of(points, "tpot", "p99")),
                itl_p99=_mean(_of(points, "itl", "p99")),
                unfinished=sum(point["unfinished"] for point in points),
                ttft_p99_spread=_least_and_most(_of(points, ttft, "p99")),
                itl_p99_spread=_least_and_most(_of(points, "itl", "p99")),
                neighbour_tokens_per_second=_mean(beside),
            )


def _of(points: list[dict[str, Any]], latency: str, part: str) -> list[float]:
    """Of the repeats that have it; a server that answered nothing in time has none."""
    return [point[latency][part] for point in points if point[latency]]


def _mean(found: list[float]) -> float:
    return statistics.fmean(found) if found else math.nan


def _least_and_most(found: list[float]) -> tuple[float, float]:
    return (min(found), max(found)) if found else (math.nan, math.nan)
