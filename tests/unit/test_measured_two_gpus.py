"""Figures of docs/measured/two-gpus.md, and of latency.md in pods, are those of the runs' file."""

import json
import re
import statistics
from collections import Counter
from typing import Any

import pytest

from toolchain.paths import CHECKOUT

MEASURED = CHECKOUT / "docs" / "measured"
PAGE = " ".join((MEASURED / "two-gpus.md").read_text().split())
LATENCY = (MEASURED / "latency.md").read_text()
FILE: dict[str, Any] = json.loads((CHECKOUT / "results" / "h100-80gb-2026-11-27-two-gpus.json").read_text())
RUNS, UNTOUCHED = FILE["runs"], FILE["untouchedGpu"]


def counts(checks: list[dict[str, Any]], *modules: str) -> Counter[str]:
    return Counter(check["result"] for check in checks if check["module"] in modules)


@pytest.mark.parametrize(
    ("checks", "modules", "words"),
    [
        (RUNS["second"]["checks"], ("04", "05"), "{passed} passed, {skipped} skipped with a reason, {failed} failed"),
        (RUNS["both"]["checksOfTheLog"], ("02", "03", "04"), "02, 03 and 04: {passed} passed, {skipped} skipped"),
        (RUNS["both"]["checks"], ("05",), "policy and neighbours: {passed} passed."),
        (RUNS["shared"]["checks"], ("07", "08"), "modules 07 and 08, {passed} passed, {skipped} skipped"),
    ],
    ids=["second", "both", "both, 05", "shared"],
)
def test_page_counts_what_was_run(checks: list[dict[str, Any]], modules: tuple[str, ...], words: str):
    found = counts(checks, *modules)
    assert words.format(**{result: found[result] for result in ("passed", "skipped", "failed")}) in PAGE
    assert not found["failed"]


def test_gpu_of_somebody_else_was_left_alone():
    samples, steps = UNTOUCHED["samples"], [step[1] for step in UNTOUCHED["steps"]]
    memory, clocks = {sample[1] for sample in samples}, [sample[3] for sample in samples]
    assert len({tuple(sample[5]) for sample in samples}) == len(samples[0][5]) == 1
    assert {sample[4] for sample in samples} == {"Default"}
    assert (
        f"two seconds, {len(samples)} times" in PAGE and f"| memory | {min(memory)} MiB |" in PAGE and len(memory) == 1
    )
    assert f"| {min(clocks)} to {max(clocks)} MHz |" in PAGE
    least, most, median = min(steps[1:]), max(steps), statistics.median(steps)
    assert f"{least} to {most} products in five seconds, median {median:.0f}; {steps[0]} in the first five" in PAGE


def test_page_has_the_times():
    assert f"| {RUNS['second']['upSeconds']} s |" in PAGE
    for fault in RUNS["faults"]["faults"]:
        assert f"| {fault['fault']} | {fault['seconds']:.1f} |" in PAGE


def test_client_of_two_gpus_was_held_on_each():
    (seen,) = [one["seen"] for one in RUNS["both"]["checks"] if one["name"].endswith("hold_on_every_gpu_of_a_client")]
    assert seen == "8192Mi: CUDA_ERROR_OUT_OF_MEMORY on each of 2 GPUs of one client"


def test_rows_in_pods_are_medians_of_three_repeats():
    part = LATENCY.partition("## In pods")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (\w+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.-]+) \|$", part)
    (table,) = RUNS["second"]["tables"]
    cases: dict[tuple[str, str], list[list[Any]]] = {}
    for row in table["rows"]:
        cases.setdefault((str(row[0]), str(row[1])), []).append(row)
    expected = [
        (who, own, *(f"{statistics.median(row[at] for row in repeats):.1f}" for at in (4, 5)), rate(repeats[0][6]))
        for (who, own), repeats in cases.items()
    ]
    assert rows == expected and all(len(repeats) == 3 for repeats in cases.values())


def rate(tflops: float | str) -> str:
    return tflops if isinstance(tflops, str) else f"{tflops:.1f}"
