"""Figures of docs/measured/latency.md are those of the repeats that were measured."""

import csv
import re
import statistics

import pytest

from toolchain.paths import CHECKOUT

PAGE = (CHECKOUT / "docs" / "measured" / "latency.md").read_text()
H100, H200 = "h100-80gb-2026-11-27", "h200-141gb-2026-11-28"
REPEATS = {
    card: list(csv.DictReader((CHECKOUT / "results" / f"{card}-latency.csv").read_text().splitlines()))
    for card in (H100, H200)
}
# The client of each part of the page, and its neighbour.
CLIENTS = {"fma": "fma", "copy 64Mi": "copy 256Mi", "fma beside bf16": "bf16 8192"}
SECTIONS = re.split("^## ", PAGE, flags=re.M)
# On an H200 there are the first two, one below the other.
ON_H200 = re.split("^(?=To compute beside)", SECTIONS[3], flags=re.M)
PARTS = [
    *((H100, client, section) for client, section in zip(CLIENTS, SECTIONS[:3], strict=True)),
    *((H200, client, section) for client, section in zip(list(CLIENTS)[:2], ON_H200, strict=True)),
]
ROWS = [
    (card, client, *(cell.strip() for cell in line.strip("|").split("|")))
    for card, client, part in PARTS
    for line in part.splitlines()
    if re.match(r"\| (alone|time-sliced|MPS)", line)
]


def selected(card: str, client: str, case: str) -> list[dict[str, str]]:
    """The repeats of three rounds of a row of the page."""
    alone = "none (second run)" if client == "fma beside bf16" else "none"
    wanted = {"mps": "no", "neighbour": alone if case == "alone" else CLIENTS[client], "client": client}
    if limits := re.search(r"neighbour (\d+) %, client (\d+) %", case):
        wanted |= {"mps": "yes", "neighbour_percentage": limits[1], "client_percentage": limits[2]}
    found = [repeat for repeat in REPEATS[card] if all(repeat[key] == value for key, value in wanted.items())]
    # The curve has some cases again, after the rounds.
    return found[:9]


@pytest.mark.parametrize(
    ("card", "client", "case", "p50", "p99", "rate"), ROWS, ids=[": ".join(row[:3]) for row in ROWS]
)
def test_rows_are_medians_of_what_was_measured(card: str, client: str, case: str, p50: str, p99: str, rate: str):
    repeats = selected(card, client, case)
    assert [(repeat["round"], repeat["repeat"]) for repeat in repeats] == [(r, n) for r in "123" for n in "123"]
    for cell, key in ((p50, "p50_us"), (p99, "p99_us")):
        values = [float(repeat[key]) for repeat in repeats]
        assert cell == f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
    rates = [float(repeat["neighbour_rate"]) for repeat in repeats if repeat["neighbour_rate"]]
    expected = f"{statistics.median(rates):.1f}" if client == "fma" and rates else None
    assert rate == (expected or (f"{statistics.median(rates):.0f}" if rates else "-"))


def test_every_kind_of_neighbour_has_its_rows():
    assert [row[:2] for row in ROWS] == [
        *([(H100, "fma")] * 8 + [(H100, "copy 64Mi")] * 6 + [(H100, "fma beside bf16")] * 8),
        *([(H200, "fma")] * 8 + [(H200, "copy 64Mi")] * 6),
    ]


def test_each_card_is_named_with_driver_and_date():
    assert "H100 80GB HBM3, driver 580.159.04, default compute mode, 27 November 2026" in SECTIONS[0]
    assert "NVIDIA H200, driver 580.159.04, default compute mode, 28 November 2026" in " ".join(ON_H200[0].split())


@pytest.mark.parametrize(("card", "client"), [(H100, "fma"), (H100, "fma beside bf16"), (H200, "fma")])
def test_a_limited_neighbour_keeps_the_client_within_twice_its_time_alone(card: str, client: str):
    def p99(case: str) -> float:
        return statistics.median(float(repeat["p99_us"]) for repeat in selected(card, client, case))

    alone = p99("alone")
    assert p99("MPS, neighbour 90 %, client 100 %") < 2 * alone
    assert p99("MPS, neighbour 100 %, client 10 %") > 20 * alone
