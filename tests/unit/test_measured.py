"""Measurement of a real GPU: its file, the aims and rules it is compared with, and docs/measured/results.md."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from checks import measured as sheets
from checks.aims import aims, rules
from checks.measured import Measurement, Run, Sheet, newest
from checks.report.__main__ import main
from checks.report.document import document
from checks.report.page import render
from checks.report.results_page import BEGIN, END, NOTHING, drawings, generated, replaced, write_page
from checks.results import ReportError
from tests.unit.measured_sample import MACHINE, MODEL, measured, repeats, results, run
from toolchain.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "measured" / "results.md"
THROUGHPUT = "vllm-throughput-by-thread-percentage-closed-loop"
COMMITTED = newest(CHECKOUT / "results")


def with_rows(sheet: Sheet, rows: list[tuple]) -> Measurement:
    """The sample with other rows in one of its tables, of which there is one."""
    found = measured()
    changed = []
    for one in found.runs:
        parts = tuple(
            part.model_copy(
                update={
                    "tables": tuple(
                        table.model_copy(update={"rows": tuple(rows)}) if table.title == sheet.title else table
                        for table in part.tables
                    )
                }
            )
            for part in one.results
        )
        changed.append(one.model_copy(update={"results": parts}))
    return measured(*changed)


def page(tmp_path: Path) -> Path:
    file = tmp_path / "docs" / "measured" / "results.md"
    file.parent.mkdir(parents=True)
    file.write_text(f"# Title\n\n{BEGIN}\nold\n{END}\n\nthe end\n")
    return file


def test_file_is_read_as_it_was_written(tmp_path: Path):
    file = measured().write(tmp_path)
    assert file.name == "h100-80gb-2026-11-20.json"
    assert Measurement.read(file) == measured()


def test_simulated_measurement_is_named_so_and_is_never_the_newest(tmp_path: Path):
    file = measured(run("phase1", "04", simulated=True)).write(tmp_path)
    assert file.name == "simulated-h100-80gb-2026-11-20.json"
    assert newest(tmp_path) is None


def test_unknown_gpu_names_the_file_by_its_product_and_has_no_rules():
    one = run("gpu-mps", "04", "05")
    other = one.gpus[0].model_copy(update={"product_name": "NVIDIA GB300 (next)"})
    found = measured(one.model_copy(update={"gpus": (other,)}))
    assert found.name == "nvidia-gb300-next-2026-11-20"
    assert rules(found) == []
    assert "Not compared" in "\n".join(generated(found, "results/x.json"))


def test_newest_is_that_of_the_last_day(tmp_path: Path):
    for name in ("h100-80gb-2026-11-20", "a100-40gb-2026-12-01", "simulated-h100-80gb-2026-12-24"):
        (tmp_path / f"{name}.json").touch()
    found = newest(tmp_path)
    assert found and found.stem == "a100-40gb-2026-12-01"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not what `make measure` writes"),
        ("[]", "is not what `make measure` writes"),
        ('{"schema": 7}', "has schema 7, and schema 1 is needed"),
        ('{"schema": 1}', "runs: Field required"),
    ],
)
def test_file_of_another_kind_is_refused_with_the_remedy(tmp_path: Path, text: str, words: str):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(ReportError, match=re.escape(words)) as raised:
        Measurement.read(file)
    assert "name one that `make measure` wrote" in str(raised.value)


def test_missing_file_is_refused_with_the_remedy(tmp_path: Path):
    with pytest.raises(ReportError, match=r"no such file; name one that `make measure` wrote"):
        Measurement.read(tmp_path / "none.json")


def test_of_a_check_that_ran_twice_the_last_rows_count():
    late = results("gpu-mps", ["05"])
    tables = tuple(
        table.model_copy(update={"rows": ((sheets.LIVE_SECONDS, 1.5), (sheets.LIVE_SERVERS, 0))})
        for table in late.tables
        if table.title == sheets.LIVE.title
    )
    one = run("gpu-mps", "04", "05")
    later = late.model_copy(update={"tables": tables})
    found = measured(one.model_copy(update={"results": (*one.results, later)}))
    assert found.rows(sheets.LIVE)[0] == (sheets.LIVE_SECONDS, 1.5)


def test_table_of_an_older_check_is_refused():
    older = Sheet(sheets.LIVE.title, ("what", "seconds", "more"))
    with pytest.raises(ReportError, match=r"columns what, value, and what, seconds, more are needed; run `make meas"):
        measured().rows(older)


def test_every_aim_of_the_sample_is_met():
    assert [aim.verdict for aim in aims(measured())] == ["met"] * 5


def test_aim_of_which_nothing_was_measured_is_not_met():
    found = measured(run("gpu-exclusive", "03"))
    assert [(aim.verdict, aim.measured) for aim in aims(found)] == [("not measured", "")] * 5


EXCLUSIVE = (sheets.EXCLUSIVE, 1, 132, *repeats(132))
MISSED = {
    "peak": (sheets.CHIP, [(MODEL.product_name, "9.0", 132, 128, 1980, 70.0)], 0),
    "cost": (sheets.TOGETHER, [EXCLUSIVE, (sheets.WHOLE, 1, 132, *repeats(132, 0.49))], 1),
    "fairness": (sheets.TOGETHER, [(sheets.FIFTHS, n, 26, *repeats(26, 0.5 + n / 100)) for n in (1, 2, 3)], 2),
    "two instead of three": (sheets.TOGETHER, [(sheets.FIFTHS, n, 26, *repeats(26)) for n in (1, 2)], 2),
    "grants": (sheets.GRANTS, [(50, 64, 66, 264, 264)], 3),
    "grants of the curve": (sheets.THROTTLE, [(100, 132, 132, *repeats(132)), (1, 6, 8, *repeats(6))], 3),
    "live": (sheets.LIVE, [(sheets.LIVE_SECONDS, 5.0), (sheets.LIVE_SERVERS, 0)], 4),
    "restarted": (sheets.LIVE, [(sheets.LIVE_SECONDS, 2.0), (sheets.LIVE_SERVERS, 1)], 4),
}


@pytest.mark.parametrize("name", MISSED)
def test_aim_that_is_missed_is_said_to_be(name: str):
    sheet, rows, number = MISSED[name]
    found = with_rows(sheet, rows)
    assert aims(found)[number].met is False
    assert "**missed**" in "\n".join(generated(found, "results/x.json"))


def test_rules_of_the_sample_are_the_same():
    compared = rules(measured())
    assert compared and all(rule.same for rule in compared)
    assert {rule.rule for rule in compared} >= {"SMs at 1 %", "context of a client with 132 SMs, in MiB"}


DIFFERENT = {
    "SMs": (sheets.GRANTS, [(50, 64, 66, 264, 264)]),
    "context": (sheets.GRANTS, [(50, 66, 66, 300, 271)]),
    "percentage": (sheets.WINS_PERCENTAGE, [("default", 50, 66, 132)]),
    "memory": (sheets.WINS_MEMORY, [("default", 8192, 4096)]),
    "lifted": (sheets.WINS_MEMORY, [("default", 8192, sheets.NO_LIMIT)]),
    "held": (sheets.WINS_MEMORY, [("default", sheets.NO_LIMIT, 8192)]),
    "out of memory": (sheets.MEMORY, [(1024, 2048, "CUDA_SUCCESS")]),
    "no room": (sheets.MEMORY, [(1024, 100, "CUDA_ERROR_OUT_OF_MEMORY")]),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_rule_that_differs_is_shown(name: str):
    found = with_rows(*DIFFERENT[name])
    assert [rule for rule in rules(found) if not rule.same]
    assert "| **no** |" in "\n".join(generated(found, "results/x.json"))


def test_prediction_is_computed_anew_and_not_read_from_the_file():
    found = with_rows(sheets.GRANTS, [(50, 64, 64, 264, 264)])
    assert [rule.simulated for rule in rules(found) if rule.rule == "SMs at 50 %"] == ["66"]


def test_page_has_every_section_and_figure():
    text = "\n".join(generated(measured(), "results/h100-80gb-2026-11-20.json"))
    for heading in (
        *("What was measured on", "Aims", "Throughput", "Beside the original workshop", "Limits"),
        *("Rules of the simulated GPU", "Consumable capacity with MPS", "Metrics", "Faults", "vLLM", "Times", "Checks"),
    ):
        assert f"\n## {heading}\n" in f"\n{text}\n"
    assert "| three at 20 %, each | 0.86 | 13.00 | 16.3% of its 100 % | 19.7% of 100 % |" in text
    assert "| MPS, two at 50 % | 66 / 66 | 33.00 / 33.00 | 0.02% / 0.02% | 66.00 | 100.0% | 98.6% |" in text
    assert "| 1 | 8 | 8 | 4.00 | 0.02% | 6.1% |" in text
    assert "median 2.50 s, 2.00 to 3.00 s" in text
    assert "| `gpu-mps` | 55s | 1m00s | 1m40s | 5.0s |" in text
    assert "kubelet: `socket \\| closed`" in text
    assert "| 10 | 12 | closed | 64 | 2 | 3000.00 |" in text and "| 50/50 | 66 | closed |" in text
    assert "| weights | random: what it writes means nothing |" in text


def test_machines_are_told_apart_by_their_stacks():
    first, second = run("gpu-mps", "04"), run("gpu-shared", "07")
    other = second.machine.model_copy(update={"cores": 26})
    text = "\n".join(generated(measured(first, second.model_copy(update={"machine": other})), "results/x.json"))
    assert "| machine | 16 cores (a sample), 131072 MiB, Linux 6.1.0: `gpu-mps` |" in text
    assert "| machine | 26 cores (a sample), 131072 MiB, Linux 6.1.0: `gpu-shared` |" in text


def test_every_section_says_card_and_day_of_its_figures():
    exclusive, mps, *rest = measured().runs
    later = tuple(part.model_copy(update={"finished": "2026-11-22T08:00:00Z"}) for part in exclusive.results)
    card = exclusive.gpus[0].model_copy(update={"driver_version": "590.1"})
    first = exclusive.model_copy(update={"results": later, "gpus": (card,)})
    lines = generated(measured(first, mps, *rest), "results/x.json")
    said = {
        line: lines[number + 2]
        for number, line in enumerate(lines)
        if line.startswith("## ") and line != "## What was measured on"
    }
    old, new = "NVIDIA H100 80GB HBM3, driver 580.159.04", "NVIDIA H100 80GB HBM3, driver 590.1"
    # Module 03, which ran two days later under another driver, measured nothing of the throughput.
    assert said["## Throughput"] == f"On {old}; 20 November 2026."
    assert said["## Times"] == f"On {new}; {old}; 20 November 2026, 22 November 2026."
    assert len(said) > 8 and all(line.startswith("On NVIDIA H100") for line in said.values())


def test_page_of_a_part_leaves_out_what_was_not_measured():
    text = "\n".join(generated(measured(run("gpu-exclusive", "03")), "results/x.json"))
    assert "Not measured." in text and "## Beside" not in text and "## Faults" not in text
    assert text.count("not measured") == 5


def test_failed_checks_are_named_and_their_faults_left_out():
    text = "\n".join(generated(measured(run("gpu-shared", "07", "09", failed=True)), "results/x.json"))
    assert "- `gpu-shared` 07, of module 07: broken \\| by the sample" in text
    assert "## Faults" not in text


def test_page_of_simulated_gpus_is_refused():
    with pytest.raises(ReportError, match=r"is of simulated GPUs, and the page shows figures of real ones"):
        generated(measured(run("phase1", "04", simulated=True)), "results/x.json")


def test_plots_are_pictures_of_their_own_and_the_same_each_time():
    drawn = drawings(measured())
    assert set(drawn) == {"throttle", "together", "faults", THROUGHPUT}
    for svg in drawn.values():
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert float(root.attrib["width"]) > 300
        assert "<script" not in svg and len(svg) < 60_000
    assert drawings(measured()) == drawn


def test_page_is_written_between_its_markers_with_its_plots(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file, doc = measured().write(tmp_path), page(tmp_path)
    stale = doc.parent / "results" / "stale.svg"
    stale.parent.mkdir()
    stale.touch()
    assert main(["--results", str(file), "--results-doc", str(doc)]) == 0
    text = doc.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n\n## What was measured on\n") and text.endswith(
        f"\n{END}\n\nthe end\n"
    )
    assert "old" not in text
    pictures = set(re.findall(r"\]\(results/([\w-]+)\.svg\)", text))
    assert pictures == {svg.stem for svg in (doc.parent / "results").iterdir()}
    assert str(doc) in capsys.readouterr().out
    write_page(measured(), doc, f"results/{file.name}")
    assert doc.read_text() == text


@pytest.mark.parametrize(
    ("text", "words"),
    [("", f"0 lines are {BEGIN}"), (f"{BEGIN}\n", f"0 lines are {END}"), (f"{END}\n{BEGIN}\n", "turn them round")],
)
def test_page_without_its_markers_is_refused_and_left(tmp_path: Path, text: str, words: str):
    doc = tmp_path / "results.md"
    doc.write_text(text)
    with pytest.raises(ReportError, match=re.escape(words)):
        write_page(measured(), doc, "results/x.json")
    assert doc.read_text() == text and list(tmp_path.iterdir()) == [doc]


def test_page_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(ReportError, match=r"no such file; name a page"):
        replaced(tmp_path / "none.md", [])


def test_file_and_page_need_each_other(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--results", "x.json"])
    assert "need each other" in capsys.readouterr().err


def test_error_is_told_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--results", str(tmp_path / "none.json"), "--results-doc", str(page(tmp_path))]) == 2
    assert "error: " in capsys.readouterr().err


def test_merged_page_has_every_check_once_with_its_worst_result(tmp_path: Path):
    found = measured(run("gpu-mps", "04", "05"), run("gpu-shared", "04", "07", failed=True))
    merged = found.merged()
    assert [(check.module, check.result) for check in merged.checks] == [
        *(("04", "failed"), ("05", "passed"), ("07", "failed"))
    ]
    assert merged.checks[0].seen == "gpu-shared: broken | by the sample (also in gpu-mps)"
    assert merged.stack == "gpu-mps, gpu-shared"
    html = render(document(merged.model_copy(update={"plots": ()}), tmp_path))
    assert "Real GPUs." in html and "stack gpu-mps, gpu-shared" in html


def test_committed_measurements_predictions_are_what_was_measured():
    if COMMITTED is None:
        pytest.skip("no results/<gpu>-<date>.json is committed yet; `make measure` on a GPU makes one")
    found = Measurement.read(COMMITTED)
    assert rules(found)
    assert [f"{rule.rule}: {rule.real}, not {rule.simulated}" for rule in rules(found) if not rule.same] == []


def test_page_is_that_of_the_committed_measurement():
    found = Measurement.read(COMMITTED) if COMMITTED else None
    source = f"results/{COMMITTED.name}" if COMMITTED else ""
    assert PAGE.read_text() == replaced(PAGE, generated(found, source))
    if found is None:
        assert NOTHING in PAGE.read_text()
        return
    text = PAGE.read_text()
    assert all(aim.aim in text and aim.verdict != "not measured" for aim in aims(found))
    pictures = {file.stem: file.read_text() for file in (PAGE.parent / "results").glob("*.svg")}
    assert pictures == drawings(found)


def test_run_needs_results():
    with pytest.raises(ValueError, match="results"):
        Run(stack="x", machine=MACHINE, timeline=run("x", "03").timeline, gpus=(), results=())
