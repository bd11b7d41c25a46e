"""The report of a run: its page, its JSON, its table for the docs, what checks record, and what it refuses."""

import fcntl
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from checks.report import plots
from checks.report.__main__ import main
from checks.report.document import document
from checks.report.page import render
from checks.results import Check, CheckName, Fault, Plot, ReportError, Results, Table, check_of, printable, title_of
from checks.verify import Recorder, check_table, fault_table
from tests.unit.report_sample import FAULTS, MODULES, sample
from toolchain.paths import CHECKOUT

BROKEN = "test_changed_limit_reaches_new_clients_at_once"
# Elements that have no end tag in HTML.
VOID = {"meta"}


class Page(HTMLParser):
    """What is on the page: elements in order with their attributes and text, and whether every one ends."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never ended: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice: {attrs}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> ends another element"

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, attribute: str) -> Iterator[str]:
        for _, attributes in self.elements:
            if (found := attributes.get(attribute)) is not None:
                yield found


def folder_of(tmp_path: Path, results: Results) -> Path:
    folder = tmp_path / "results" / results.stack
    (folder / "diagnostics" / BROKEN).mkdir(parents=True)
    results.write(folder / "verify.json")
    return folder


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(document(sample(), folder_of(tmp_path_factory.mktemp("page"), sample())))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def page_of(results: Results, tmp_path: Path) -> tuple[str, Page]:
    """The page of a run without its plots, which take most of the time."""
    html = render(document(results.model_copy(update={"plots": ()}), tmp_path))
    return html, Page(html)


def test_page_needs_nothing_beside_it(html: str, page: Page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "foreignObject"}
    for attribute in ("src", "srcset", "data", "action", "background", "poster"):
        assert not list(page.values(attribute))
    assert all(target.startswith("#") for target in page.values("href"))
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "http://" not in html and "https://" not in html and "@import" not in html
    (policy,) = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_link_and_label_leads_to_an_id_of_its_own(page: Page):
    ids = list(page.values("id"))
    assert len(ids) == len(set(ids))
    assert {target.removeprefix("#") for target in page.values("href")} <= set(ids)
    for attribute in ("aria-labelledby", "aria-describedby"):
        assert {word for words in page.values(attribute) for word in words.split()} <= set(ids)


def test_headings_are_in_order(page: Page):
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_page_says_its_language_and_fits_a_telephone(html: str, page: Page):
    assert html.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_every_check_is_there_with_what_it_saw(page: Page):
    rows = iter([" ".join(text.split()) for text in page.texts["tr"]])
    for found in MODULES.values():
        for name, seen in found.items():
            result = {"!": "failed", "?": "skipped"}.get(seen[0], "passed")
            words = "Its message and diagnostics" if result == "failed" else " ".join(seen.lstrip("?").split())
            # `in` goes on where the row before was, so the order is the run's.
            assert any(row.lower().startswith(f"{result} {title_of(name)} {words}".lower()) for row in rows), (
                f"{result} {name}: {words}"
            )


def test_every_table_cell_has_a_heading_with_a_scope(page: Page):
    assert {heading.get("scope") for heading in page.all("th")} == {"col", "row"}
    assert len(page.all("table")) == len(MODULES) + 2 + 2 + 3 + 1  # checks, overview, measured, plots' data, faults


def test_what_was_seen_is_text_and_no_markup(html: str, page: Page):
    assert "&lt;b&gt;that is the danger&lt;/b&gt;" in html
    assert "claim &lt;template&gt; &amp; |" in html
    assert not {"b", "template", "holder", "client"} & {tag for tag, _ in page.elements}


def test_failed_checks_come_first_with_message_and_diagnostics(html: str, page: Page):
    assert page.texts["h2"][:2] == ["Contents", "Failed checks"]
    (message,) = page.texts["pre"]
    assert "a new pod has 66 SMs" in message and "assert 66 == 38" in message
    assert f"results/phase1/diagnostics/{BROKEN}" in page.texts["article"][0]
    assert html.index(f"diagnostics/{BROKEN}") < html.index('id="modules"')


def test_failure_without_diagnostics_says_so(tmp_path: Path):
    _, page = page_of(sample(), tmp_path)
    assert "It has no diagnostics" in page.texts["article"][0]


def test_page_without_failures_has_no_such_section(tmp_path: Path):
    html, page = page_of(sample(failing=False), tmp_path)
    assert "Failed checks" not in page.texts["h2"] and "article" not in page.texts
    assert "No check failed; 58 of 60 passed" in " ".join(html.split())


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_or_real_is_said_before_any_figure(simulated: bool, tmp_path: Path):
    html, page = page_of(sample(simulated), tmp_path)
    said = "Simulated GPUs: no figure of performance is shown." if simulated else "Real GPUs."
    assert page.texts["strong"][0] == said
    assert html.index(said) < html.index('class="strip"')
    assert ("Simulated GPUs" in html) is simulated
    assert ("Real GPUs" in html.replace("Real GPUs speed", "")) is not simulated  # a check's name


def test_versions_substitutions_and_gpus_are_there(page: Page):
    text = " ".join(" ".join(page.texts["table"]).split())
    for words in (
        "v1.37.2",
        "v0.5.0, with substitutions",
        "containerd://2.4.2",
        "go-nvfm v0.1.0 is a stub",
        "08: on in",
    ):
        assert words in text
    assert sum("NVIDIA H100 80GB HBM3" in item for item in page.texts["li"]) == 2


def test_run_that_did_not_end_is_no_success(tmp_path: Path):
    html, _ = page_of(sample(failing=False).model_copy(update={"complete": False}), tmp_path)
    assert "The checks did not run to their end." in html and 'class="verdict bad"' in html


def test_run_of_nothing_is_no_success(tmp_path: Path):
    nothing = {"checks": (), "tables": (), "plots": (), "faults": ()}
    html, page = page_of(sample().model_copy(update=nothing), tmp_path)
    assert "No check ran." in html and "svg" not in {tag for tag, _ in page.elements}


def test_plots_are_described_and_have_their_data_beside_them(page: Page):
    assert len(page.all("svg")) == 4
    for svg in page.all("svg"):
        assert svg["role"] == "img" and svg["aria-labelledby"]
    titles = page.texts["title"]
    assert "Multiprocessors granted for a thread percentage" in titles
    assert "Seconds to recover from each fault" in titles
    data = page.texts["details"][0].split()
    assert data.count("H100") == 8 and "80GB" in data and any(word.endswith("132") for word in data)


def test_plots_follow_the_page_in_colour_and_font(html: str):
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "var(--series-1)" in svg and "var(--ink)" in svg
    assert "#0000" not in svg and "DejaVu" not in svg and "<style" not in svg


# Text on what it stands on, and at least how much lighter or darker (WCAG 2: 4.5 for text, 3 for lines and bars).
TEXTS = [
    *(
        ("ink", "page"),
        ("ink", "raised"),
        ("faint", "page"),
        ("faint", "raised"),
        ("accent", "page"),
        ("accent", "raised"),
    ),
    *((result, f"{result}-back") for result in ("passed", "failed", "skipped", "simulated", "real")),
    *(("ink", "failed-back"), ("accent", "failed-back"), ("passed", "page"), ("failed", "page")),
]
LINES = [(f"series-{number}", "page") for number in range(1, 7)]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_colours_can_be_told_apart(mode: str):
    style = (CHECKOUT / "checks" / "report" / "page.css").read_text()
    _, light, dark = style.split(":root {")[:3]
    colours = dict(re.findall(r"--([\w-]+): #([0-9a-f]{6});", light if mode == "light" else dark))
    for pairs, least in ((TEXTS, 4.5), (LINES, 3.0)):
        for above, below in pairs:
            found = contrast(colours[above], colours[below])
            assert found >= least, f"{above} on {below} in {mode}: {found:.2f}, and {least} is the least"


def contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_faults_are_in_the_order_of_the_run_with_seconds(page: Page):
    rows = [row for row in page.texts["tr"] if "nobody" in row or "finalizer" in row]
    assert [next(fault[0] for fault in FAULTS if fault[0] in row) for row in rows] == [
        fault[0] for fault in FAULTS if "nobody" in fault[1] or "finalizer" in fault[1]
    ]
    assert "2.8" in next(row for row in page.texts["tr"] if row.startswith("MPS daemon killed"))


def test_fault_of_a_failed_check_is_marked(tmp_path: Path):
    run = sample()
    checks = tuple(
        check.model_copy(update={"result": "failed"}) if check.name == run.faults[0].check else check
        for check in run.checks
    )
    _, page = page_of(run.model_copy(update={"checks": checks}), tmp_path)
    assert "kubelet plugin of NVIDIA's driver killed failed" in page.texts["th"]


def test_same_run_gives_the_same_bytes(tmp_path: Path, html: str):
    # In another process, where hashes of texts differ.
    folder_of(tmp_path, sample())
    code = f"from pathlib import Path; from checks.report.__main__ import main; main([], Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, check=True, capture_output=True)
    assert (tmp_path / "results/phase1/report.html").read_text() == html


def test_bars_of_no_length_are_drawn():
    assert "0.0" in plots.bars("key", "title", "seconds", [("same", 0.0), ("same", 0.0)])


def test_negative_values_stay_in_sight():
    assert "\u22124</text>" in plots.lines("key", "title", "x", "y", {"a": ((0, -5), (1, 5))})


def test_command_writes_page_and_json_and_prints_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = folder_of(tmp_path, sample())
    assert main(["--stack", "phase1"], tmp_path) == 0
    assert capsys.readouterr().out.split() == ["results/phase1/report.html", "results/phase1/report.json"]
    found = json.loads((folder / "report.json").read_text())
    assert list(found) == [
        *("schema", "stack", "cluster", "simulated", "finished", "seconds", "complete", "versions", "gpus"),
        *("summary", "modules", "notChecked", "faults"),
    ]
    assert found["summary"] == {"checks": 60, "passed": 57, "failed": 1, "skipped": 2}
    module = next(module for module in found["modules"] if module["number"] == "05")
    assert module["summary"] == {"checks": 13, "passed": 11, "failed": 1, "skipped": 1}
    (broken,) = [check for check in module["checks"] if check["result"] == "failed"]
    assert broken["diagnostics"] == f"diagnostics/{BROKEN}"
    assert module["plots"][0]["series"]["H100 80GB"][0] == [1, 8]
    assert module["tables"][0]["rows"][0] == ["1G", 132, 513, 510.9, "ok", "CUDA_ERROR_OUT_OF_MEMORY"]
    assert [fault["fault"] for fault in found["faults"]] == [fault[0] for fault in FAULTS]
    assert {fault["result"] for fault in found["faults"]} == {"passed"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file, so stack phase1 was not checked"),
        ("{", "is not what `make verify` writes"),
        ("[]", "is not what `make verify` writes"),
        ('{"stack": "phase1", "checks": []}', "has schema 1, and this report needs schema 2"),
        ('{"schema": 3}', "has schema 3, and this report needs schema 2"),
        ('{"schema": 2, "stack": 5}', "stack: Input should be a valid string"),
    ],
)
def test_run_that_cannot_be_read_is_told_with_the_remedy(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "results" / "phase1"
    folder.mkdir(parents=True)
    if text is not None:
        (folder / "verify.json").write_text(text)
    assert main([], tmp_path) == 2
    said = capsys.readouterr()
    assert words in said.err and "run `make verify STACK=phase1` first" in said.err and not said.out
    assert not (folder / "report.html").exists()


def test_faults_go_between_the_markers_of_a_page(tmp_path: Path):
    folder_of(tmp_path, sample(failing=False))
    page = tmp_path / "page.md"
    page.write_text("# Before\n\n<!-- faults: begin -->\nthe last one\n<!-- faults: end -->\n\nafter\n")
    words = ["--faults-to", str(page), "--machine", "two cores"]
    assert main(words, tmp_path) == 0
    first = page.read_text()
    assert first.startswith(
        "# Before\n\n<!-- faults: begin -->\n\nMeasured on 25 November 2026, 15:06 UTC, on simulated"
    )
    origin = first.partition("begin -->")[2].partition("| fault")[0]
    assert "Kubernetes v1.37.2, NVIDIA DRA driver v0.5.0 (go-nvfm v0.1.0 is a stub" in " ".join(origin.split())
    assert origin.endswith("two cores.\n\n") and max(map(len, origin.splitlines())) <= 120
    assert "| MPS daemon killed | its clients, at the next call | their contexts | 2.8 |" in first
    assert r"| claim &lt;template&gt; &amp; \| `claim` deleted" in first
    assert first.endswith("\n\n<!-- faults: end -->\n\nafter\n") and "the last one" not in first
    assert main(words, tmp_path) == 0
    assert page.read_text() == first


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no such file"),
        ("<!-- faults: begin -->\n", "0 lines are <!-- faults: end -->, and one has to be"),
        ("<!-- faults: end -->\n", "0 lines are <!-- faults: begin -->, and one has to be"),
        ("<!-- faults: begin -->\n" * 2 + "<!-- faults: end -->\n", "2 lines are <!-- faults: begin -->"),
        ("<!-- faults: end -->\n<!-- faults: begin -->\n", "stands before"),
    ],
)
def test_page_without_its_markers_is_left_as_it_is(
    text: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = folder_of(tmp_path, sample(failing=False))
    page = tmp_path / "page.md"
    if text is not None:
        page.write_text(text)
    assert main(["--faults-to", str(page), "--machine", "two cores"], tmp_path) == 2
    assert words in capsys.readouterr().err
    assert (page.read_text() if page.exists() else None) == text
    assert not (folder / "report.html").exists()


def test_faults_need_the_machine_that_they_were_measured_on(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["--faults-to", "page.md"])
    assert "add --machine" in capsys.readouterr().err


@pytest.mark.parametrize("failed", [False, True])
def test_docs_get_no_faults_of_a_run_that_has_none_or_failed(
    failed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run = sample()
    name = run.faults[0].check
    checks = [c.model_copy(update={"result": "failed"}) if c.name == name else c for c in run.checks]
    change: dict[str, Any] = {"checks": tuple(checks)} if failed else {"faults": ()}
    folder_of(tmp_path, run.model_copy(update=change))
    assert main(["--faults-to", str(tmp_path / "page.md"), "--machine", "two cores"], tmp_path) == 2
    words = f"{name}: failed, and a page shows figures of passed checks only" if failed else "has no faults"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("record", "values", "words"),
    [
        (Table, {"title": "t", "columns": ("a", "b"), "rows": ((1,),)}, "has 1 values for 2 columns"),
        (Table, {"title": "t", "columns": ("a",), "rows": ()}, "at least 1 item"),
        (Table, {"title": "t", "columns": ("a",), "rows": ((float("nan"),),)}, "finite number"),
        (Table, {"title": "", "columns": ("a",), "rows": ((1,),)}, "at least 1 character"),
        (Plot, {"title": "t", "x": "x", "y": "y", "series": {}}, "at least 1 item"),
        (Plot, {"title": "t", "x": "x", "y": "y", "series": {"a": ()}}, "at least 1 item"),
        (Plot, {"title": "t", "x": "x", "y": "y", "series": {"a": ((1.0, float("inf")),)}}, "finite number"),
        (
            Fault,
            {"fault": "f", "noticed": "n", "broke": "b", "lost": "l", "seconds": -1.0},
            "greater than or equal to 0",
        ),
        (Fault, {"fault": "f", "noticed": "", "broke": "b", "lost": "l", "seconds": 1.0}, "at least 1 character"),
        (Check, {"name": "n", "result": "xfailed", "seen": "", "seconds": 0.0}, "'passed', 'failed' or 'skipped'"),
    ],
)
def test_what_is_no_measurement_is_refused_where_it_is_recorded(record: Any, values: dict[str, Any], words: str):
    of = {"module": "05"} if record is Check else {"module": "05", "check": "test_it"}
    with pytest.raises(ValidationError, match=words):
        record(**of, **values)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("checks", "measured something, but is none of the checks"),
        ("modules", "checks of 00, 01, .* none of the modules"),
    ],
)
def test_run_whose_parts_do_not_belong_together_is_refused(key: str, words: str):
    written = json.loads(sample().model_dump_json(by_alias=True))
    with pytest.raises(ValidationError, match=words):
        Results.model_validate_json(json.dumps({**written, key: []}))


def test_run_survives_being_written_and_read(tmp_path: Path):
    sample().write(tmp_path / "verify.json")
    assert Results.read(tmp_path / "verify.json", "phase1") == sample()
    with pytest.raises(ReportError, match="there is no such file"):
        Results.read(tmp_path / "other.json", "phase1")


def test_terminals_colours_and_control_characters_do_not_reach_a_page():
    assert printable("\x1b[31mred\x1b[0m\r\nnext\x00\x07") == "red\nnext\ufffd\ufffd"


def test_names_of_checks_read_as_words():
    assert title_of("test_nvidia_smi_lists_the_gpus_of_mps") == "nvidia-smi lists the GPUs of MPS"
    assert check_of("checks/test_05_mps_limits.py::test_it[a-b]") == ("05", "test_it[a-b]")


CHECKS = """
import pytest

@pytest.fixture
def leaves_a_mess():
    yield
    raise RuntimeError("could not clean up")

def test_measures(table, plot, fault, observed):
    observed("all of it")
    table("Grants", ["percentage", "SMs"], [[50, 66], [20, 26]])
    plot("Curve", "%", "SMs", {"h100": [(50, 66), (20.5, 26)]})
    fault("daemon killed", "its clients", "their [contexts]", 2.84, "nothing")
    assert True

def test_fails_after_it_measured(fault):
    fault("node restarted", "nobody", "all", 99, "all")
    assert 1 == 2

def test_is_skipped(table):
    pytest.skip("no GPU here")

def test_tear_down_fails(leaves_a_mess, observed):
    observed("well until then")

def test_records_nonsense(table):
    table("Grants", ["percentage", "SMs"], [[50]])
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorder, str]:
    """What the Recorder kept of a run with the real fixtures, and the run's JUnit XML."""
    folder = tmp_path_factory.mktemp("checks")
    source = (CHECKOUT / "checks" / "conftest.py").read_text()
    (folder / "conftest.py").write_text(source)
    (folder / "pytest.ini").write_text("[pytest]\n")
    checks = folder / "test_09_resilience.py"
    checks.write_text(CHECKS)
    recorder, junit = Recorder(Console(file=StringIO())), folder / "verify.xml"
    plugins = [recorder]
    words = [str(checks), "-q", "--stack=none", f"--junit-xml={junit}", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    assert pytest.main([*words, "--import-mode=importlib", "--confcutdir", str(folder)], plugins=plugins) == 1
    return recorder, junit.read_text()


def test_recorder_keeps_what_checks_measured_once(recorded: tuple[Recorder, str]):
    recorder, _ = recorded
    of = {"module": "09", "check": "test_measures"}
    assert recorder.tables == [Table(**of, title="Grants", columns=("percentage", "SMs"), rows=((50, 66), (20, 26)))]
    assert recorder.plots == [Plot(**of, title="Curve", x="%", y="SMs", series={"h100": ((50, 66), (20.5, 26))})]
    assert [(fault.check, fault.seconds) for fault in recorder.faults] == [
        ("test_measures", 2.84),
        ("test_fails_after_it_measured", 99),
    ]


def test_recorder_keeps_one_outcome_of_each_check(recorded: tuple[Recorder, str]):
    recorder, _ = recorded
    assert [(check.name, check.result) for check in recorder.checks] == [
        ("test_measures", "passed"),
        ("test_fails_after_it_measured", "failed"),
        ("test_is_skipped", "skipped"),
        ("test_tear_down_fails", "failed"),
        ("test_records_nonsense", "failed"),
    ]
    seen = [check.seen for check in recorder.checks]
    assert seen[0] == "all of it"
    assert "assert 1 == 2" in seen[1]
    assert seen[2] == "no GPU here"
    assert "could not clean up" in seen[3]
    assert "has 1 values for 2 columns" in seen[4]


def test_junit_has_what_was_measured_as_properties(recorded: tuple[Recorder, str]):
    _, junit = recorded
    assert 'name="seen" value="all of it"' in junit
    assert junit.count('name="table"') == 1 and junit.count('name="fault"') == 2


def test_verify_prints_the_faults_with_their_words(recorded: tuple[Recorder, str]):
    recorder, _ = recorded
    out = StringIO()
    Console(file=out, width=160).print(fault_table(recorder.faults))
    assert "daemon killed" in out.getvalue() and "their [contexts]" in out.getvalue() and "2.8" in out.getvalue()


def verified(checkout: Path, checks: str, settings: dict[str, Any], *options: str) -> subprocess.CompletedProcess[str]:
    """`make verify` of these checks, as module 00, in a folder with what it needs of a checkout; no stack is up."""
    (checkout / "checks").mkdir(parents=True, exist_ok=True)
    for file in ("pyproject.toml", "checks/conftest.py"):
        (checkout / file).write_text((CHECKOUT / file).read_text())
    (checkout / "source.json").write_text('{"way": "built", "reason": "for a test"}')
    (checkout / "checks/test_00_prerequisites.py").write_text(checks)
    command = [sys.executable, "-c", VERIFY, str(checkout), json.dumps(settings), *options]
    return subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)


def test_each_check_has_its_line_when_it_has_ended_where_the_output_is_no_terminal(tmp_path: Path):
    done = verified(tmp_path, CHECKS, {})
    progress = done.stdout.partition("┏")[0].splitlines()[1:]
    assert progress[0] == "5 checks"
    assert [re.sub(r"in [\d.]+s", "in 0s", line) for line in progress[1:] if "/5" in line] == [
        "  1/5  00  passed in 0s  measures",
        "  2/5  00  failed in 0s  fails after it measured",
        "  3/5  00  skipped in 0s  is skipped",
        "  4/5  00  passed in 0s  tear down fails",
        "  4/5  00  failed in 0s  tear down fails",
        "  5/5  00  failed in 0s  records nonsense",
    ]


def test_nothing_is_cut_in_a_terminal_of_80_columns():
    words = {
        "module": "06.5",
        "name": "test_vllms_own_process_has_the_multiprocessors_of_its_percentage",
        "seen": "GPU-96929019-09c9-5fca-b5f2-03251ceb639e is dra-workshop-phase1-worker's, CUDA_ERROR_MPS_RPC_FAILURE",
    }
    check = Check(result="skipped", seconds=1234.5, **words)
    fault = Fault(module="09", check="c", fault=words["seen"], noticed=words["seen"], broke="b", seconds=98.7, lost="l")
    for table, shown in (
        (check_table([check]), (check.title, check.seen, "skipped", "1234.5", "what was seen", "seconds")),
        (fault_table([fault]), (fault.fault, "98.7", "who noticed", "what was lost")),
    ):
        out = StringIO()
        Console(file=out, width=80).print(table)
        assert "…" not in out.getvalue() and max(map(len, out.getvalue().splitlines())) == 80
        cells = [re.split("[│┃]", line)[1:-1] for line in out.getvalue().splitlines() if line[0] in "│┃"]
        columns = ["".join(column).replace(" ", "") for column in zip(*cells, strict=True)]
        for text in shown:
            assert any(text.replace(" ", "") in column for column in columns), text


def test_run_that_is_killed_leaves_the_checks_that_ended(tmp_path: Path):
    killed = "\n\ndef test_that_is_killed():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    done = verified(tmp_path, CHECKS + killed, {})
    assert done.returncode == -9, done.stdout + done.stderr
    run = Results.read(tmp_path / "results" / "test" / "verify.json", "test")
    assert not run.complete and len(run.checks) == 5 and len(run.tables) == 1
    assert run.not_run == (CheckName(module="00", name="test_that_is_killed"),) and not run.whole


def test_run_that_is_killed_leaves_them_where_it_was_told_to_keep_them(tmp_path: Path):
    killed = "\n\ndef test_that_is_killed():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    kept = tmp_path / "kept.json"
    assert verified(tmp_path / "checkout", CHECKS + killed, {}, "--keep", str(kept)).returncode == -9
    assert len(Results.read(kept, "test").checks) == 5
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["kept.json"]
    assert verified(tmp_path / "again", CHECKS, {}, "--keep", str(kept)).returncode == 1
    assert Results.read(kept, "test").not_run == () and Results.read(kept, "test").complete


def test_run_that_is_interrupted_tells_how_many_checks_did_not_run(tmp_path: Path):
    interrupted = "def test_first():\n    pass\n\ndef test_second():\n    raise KeyboardInterrupt\n\n"
    done = verified(tmp_path, f"{interrupted}{CHECKS}", {})
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 7 checks passed or were skipped with a reason, 0 failed, 6 did not run, in " in done.stdout
    assert "error: the checks did not run to their end" in done.stdout
    assert not Results.read(tmp_path / "results" / "test" / "verify.json", "test").complete


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["is_skipped"], ["is skipped"]),
        (["is_skipped or measures"], ["measures", "is skipped"]),
        (["is_skipped measures"], ["measures", "is skipped"]),
        (["is_skipped", "measures"], ["measures", "is skipped"]),
        (["(measures or skipped) and not skipped"], ["measures"]),
    ],
)
def test_checks_are_chosen_by_words_or_by_an_expression(words: list[str], names: list[str], tmp_path: Path):
    done = verified(tmp_path, CHECKS, {}, *(option for word in words for option in ("--check", word)))
    run = Results.read(tmp_path / "results" / "test" / "verify.json", "test")
    # `fails after it measured` has no word of these: "measures" is another one.
    assert [check.title for check in run.checks] == names, done.stdout + done.stderr
    assert f"{len(names)} of {len(names)} checks passed" in done.stdout


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("or measures", "must be words of names of checks"),
        ("measures or (", "must be words of names of checks"),
        ("not", "must be words of names of checks"),
        ("a; b", "must be words of names of checks"),
        ("nothing_of_that_name", "no check of 00 has a name that fits"),
    ],
)
def test_choice_that_is_none_is_refused_with_the_rule(words: str, rule: str, tmp_path: Path):
    done = verified(tmp_path, CHECKS, {}, "--check", words)
    assert done.returncode == 2, done.stdout + done.stderr
    assert rule in done.stdout and "Traceback" not in done.stdout + done.stderr
    assert "checks passed" not in done.stdout


def test_options_of_another_projects_tests_change_no_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "PYTEST_ADDOPTS": "--collect-only --exitfirst",
        "PYTEST_PLUGINS": "of_another_project",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "NO_COLOR": "1",
        "COLUMNS": "40",
    }.items():
        monkeypatch.setenv(name, value)
    done = verified(tmp_path, CHECKS, {})
    assert "2 of 5 checks passed or were skipped with a reason, 3 failed" in done.stdout, done.stdout + done.stderr


def test_second_run_of_a_stacks_checks_is_refused_while_the_first_one_lasts_and_not_after(tmp_path: Path):
    stack = tmp_path / "stacks" / "Pulumi.test.yaml"
    stack.parent.mkdir()
    stack.write_text("config: {}\n")
    with stack.open() as first:
        fcntl.flock(first, fcntl.LOCK_EX)
        done = verified(tmp_path, CHECKS, {})
        assert done.returncode == 2, done.stdout + done.stderr
        assert "stack test: another `make verify` runs its checks" in done.stdout
        assert not (tmp_path / "results").exists()
    assert "3 failed" in verified(tmp_path, CHECKS, {}).stdout
    # Nothing but the results is left, which `make down` would not know of.
    assert [file.name for file in (tmp_path / "results").iterdir()] == ["test"]


VERIFY = """
import json, sys
from pathlib import Path
from types import SimpleNamespace
from checks import verify
from settings import Settings

class Stack:
    name, kubeconfig, api = "test", "/its/kubeconfig", None
    settings = Settings.parse(json.loads(sys.argv[2]), "test")
    outputs = {"gpus": ["worker gpu-0: NVIDIA H100 80GB HBM3 (simulated)"]}

    def kubectl(self, *words, check=True):
        if words[0] == "version":
            return json.dumps({"serverVersion": {"gitVersion": "v1.37.2"}})
        return ""  # nothing that an earlier run has left

    def nodes(self):
        return [{"status": {"nodeInfo": {"containerRuntimeVersion": "containerd://2.4.2"}}}]

verify.CHECKOUT = Path(sys.argv[1])
verify.SOURCE_FILE = verify.CHECKOUT / "source.json"
verify.LiveStack = SimpleNamespace(find=lambda checkout, name: Stack())
sys.argv[1:] = ["--stack", "test", "--module", "00", *sys.argv[3:]]
sys.exit(verify.main())
"""


@pytest.mark.parametrize(
    ("settings", "substitutions", "words"),
    [
        ({}, 2, ")"),
        ({"images": {"draDriver": "registry.example/it:1"}}, 2, "), if `make setup` made registry.example/it:1"),
        ({"driver": {"version": "0.4.1"}}, 0, ""),
    ],
)
def test_verify_writes_what_the_report_reads(
    settings: dict[str, Any], substitutions: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    done = verified(tmp_path, CHECKS, settings)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 of 5 checks passed or were skipped with a reason, 3 failed" in done.stdout
    assert "faults and recovery" in done.stdout and "daemon killed" in done.stdout
    # What failed is told again where the output ends, which is all that is seen of a long one.
    closing = done.stdout.rpartition("3 failed")[2].splitlines()
    assert sum(line.startswith("failed 00  ") for line in closing) == 3, closing
    run = Results.read(tmp_path / "results" / "test" / "verify.json", "test")
    assert (run.simulated, run.complete, run.kubernetes) == (True, True, "v1.37.2")
    assert run.driver_version == settings.get("driver", {}).get("version", "0.5.0")
    assert run.container_runtimes == ("containerd://2.4.2",)
    assert [module.title for module in run.modules] == ["Prerequisites"]
    assert run.not_checked[:2] == ("01", "02")
    assert len(run.substitutions) == substitutions
    assert all(found.endswith(words) for found in run.substitutions)
    assert [table.module for table in run.tables] == ["00"]
    assert main(["--stack", "test"], tmp_path) == 0
    assert "results/test/report.html" in capsys.readouterr().out
