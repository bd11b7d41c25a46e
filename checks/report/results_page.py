"""Page docs/measured/results.md: what a real GPU was measured to do, in tables and plots, beside the original workshop.

The same file gives the same page and plots. What stands outside the two marker lines is a person's.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from checks import measured as sheets
from checks.aims import Repeats, aims, clients_of, peak, rules
from checks.measured import Machine, Measurement, Sheet
from checks.report import plots
from checks.report.markdown import cell
from checks.report.page import day
from checks.results import Fault, Plot, ReportError
from toolchain.progress import duration

BEGIN = "<!-- results: begin -->"
END = "<!-- results: end -->"
PLOTS = "results"  # the folder of the plots beside the page
NOTHING = (
    "**No measurement is committed yet.** `make measure` on a machine with a GPU makes one; "
    "[how](#how-it-is-measured) is above."
)
ORIGIN = "What was measured on"
# Of a section whose figures are of some tables only; the others are of everything that was measured.
SHEETS_OF_SECTION = {
    "Throughput": (sheets.TOGETHER, sheets.THROTTLE),
    "Limits": (sheets.MEMORY, sheets.NEIGHBOUR, sheets.LIVE, sheets.USERS),
    "Consumable capacity with MPS": (sheets.CAPACITY,),
    "Metrics": (sheets.BESIDE_SMI,),
    "vLLM": (sheets.VLLM_SERVER, sheets.VLLM, sheets.VLLM_TENANTS, sheets.VLLM_CHAT),
}
# TFLOPS of the original workshop, by its own page, on an RTX 4090.
ORIGINAL_GPU = "RTX 4090"
ORIGINAL_WHOLE, ORIGINAL_HUNDREDTH, ORIGINAL_FIFTHS = 5.29, 0.078, 0.86
# 128 SMs x 128 lanes x 2 x 2.52 GHz, NVIDIA's Ada GPU architecture whitepaper.
ORIGINAL_PEAK = 82.6
# The page's style sheet has these for report.html; a picture of its own brings them along.
STYLE = (
    "svg{--ink:#1b1f24;--faint:#6a737d;--rule:#d8dee4;--series-1:#1f6f3f;--series-2:#b3541e;--series-3:#3b5bdb;"
    "--series-4:#8a2b75;--series-5:#7a6200;--series-6:#4a4a4a;font-family:sans-serif;background:#fff}"
    "@media(prefers-color-scheme:dark){svg{--ink:#e6edf3;--faint:#9aa4af;--rule:#30363d;--series-1:#5ac37d;"
    "--series-2:#f0965a;--series-3:#8ea6ff;--series-4:#e08acb;--series-5:#d9b84a;--series-6:#b8b8b8;background:#0d1117}}"
)


def write_page(measurement: Measurement, page: Path, source: str) -> list[Path]:
    """Replace what stands between the page's markers, and the plots beside it; returns the files.

    `source` is the measurement's file as the page shall name it. Raises `ReportError`, and then changes nothing.
    """
    text = replaced(page, generated(measurement, source))
    drawn = drawings(measurement)
    folder = page.parent / PLOTS
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    files = [page]
    page.write_text(text, encoding="utf-8")
    for name, svg in drawn.items():
        files.append(folder / f"{name}.svg")
        files[-1].write_text(svg, encoding="utf-8")
    return files


def replaced(page: Path, lines: Sequence[str]) -> str:
    """The page with these lines between its markers. Raises `ReportError` where it has not one of each, in order."""
    try:
        text = page.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{page}: there is no such file; name a page with the lines {BEGIN} and {END}") from None
    old = text.split("\n")
    for marker in (BEGIN, END):
        if old.count(marker) != 1:
            raise ReportError(f"{page}: {old.count(marker)} lines are {marker}, and one has to be; write it there")
    begin, end = old.index(BEGIN), old.index(END)
    if end < begin:
        raise ReportError(f"{page}: {END} stands before {BEGIN}; turn them round, the results go between them")
    return "\n".join([*old[: begin + 1], "", *lines, "", *old[end:]])


def generated(measurement: Measurement | None, source: str = "") -> list[str]:
    """The lines between the markers. Raises `ReportError` for simulated GPUs, which have no performance."""
    if measurement is None:
        return [NOTHING]
    if measurement.simulated:
        raise ReportError(f"{source}: is of simulated GPUs, and the page shows figures of real ones; measure on one")
    sections = (
        _origin(measurement, source),
        _aims(measurement),
        _throughput(measurement),
        _original(measurement),
        _limits(measurement),
        _rules(measurement),
        _capacity(measurement),
        _metrics(measurement),
        _faults(measurement),
        _vllm(measurement),
        _times(measurement),
        _checks(measurement),
    )
    lines = [line for section in sections for line in ["", *_dated(measurement, section)] if section]
    return lines[1:]


def _dated(measurement: Measurement, section: Sequence[str]) -> Sequence[str]:
    """The section, below its heading the card, its driver and the days on which the figures of the section came.

    The first section says it in a table, with everything else that they were measured on.
    """
    title = section[0].removeprefix("## ") if section else ORIGIN
    if title == ORIGIN:
        return section
    recorded = {sheet.title for sheet in SHEETS_OF_SECTION.get(title, ())}
    parts = [
        (run, results)
        for run, results in measurement.parts
        if not recorded or recorded & {table.title for table in results.tables}
    ]
    cards = dict.fromkeys(f"{gpu.product_name}, driver {gpu.driver_version}" for run, _ in parts for gpu in run.gpus)
    days = dict.fromkeys(day(finished).partition(",")[0] for finished in sorted(r.finished for _, r in parts))
    return [section[0], "", f"On {'; '.join(cards)}; {', '.join(days)}.", *section[1:]]


def drawings(measurement: Measurement) -> dict[str, str]:
    """Name -> plot, each a picture of its own."""
    drawn = {}
    rows = sorted(measurement.rows(sheets.THROTTLE))
    if rows:
        percentages = [float(row[0]) for row in rows]
        means = [_of(row).mean for row in rows]
        granted = [means[-1] * float(row[1]) / float(rows[-1][1]) for row in rows]
        series = {
            "share of the granted SMs": list(zip(percentages, granted, strict=True)),
            "measured": list(zip(percentages, means, strict=True)),
        }
        drawn["throttle"] = picture(
            plots.lines("throttle", sheets.THROTTLE.title, "thread percentage in %", "FP32 TFLOPS", series)
        )
    bars = [
        (f"{who}, client {number}" if len(clients) > 1 else who, client.mean)
        for who, clients in _ways(measurement)
        for number, client in enumerate(clients, 1)
    ]
    if bars:
        drawn["together"] = picture(plots.bars("together", sheets.TOGETHER.title, "FP32 TFLOPS", bars))
    if faults := _passed_faults(measurement):
        values = [(fault.fault, fault.seconds) for fault in faults]
        drawn["faults"] = picture(plots.bars("faults", "Seconds to recover", "seconds to recover", values))
    for plot in measurement.plots(sheets.VLLM_MODULE):
        drawn[_key(plot)] = picture(plots.lines(_key(plot), plot.title, plot.x, plot.y, plot.series))
    return drawn


def _key(plot: Plot) -> str:
    """Name of the picture of a check's own plot."""
    return "vllm-" + re.sub(r"[^a-z0-9]+", "-", plot.title.lower()).strip("-")


def picture(svg: str) -> str:
    """A plot of the page as a file of its own: with names of XML, colours and a size."""
    head = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert head, "a plot has a viewBox"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{head[1]}" height="{head[2]}"'
    opened = svg.replace("<svg ", f"<svg {size} ", 1)
    return opened.replace(">", f"><style>{STYLE}</style>", 1) + "\n"


def _origin(measurement: Measurement, source: str) -> list[str]:
    gpu = measurement.gpu
    _, first = next(measurement.parts)
    stacks = ", ".join(f"`{run.stack}`" for run in measurement.runs)
    substitutions = f" ({'; '.join(map(cell, first.substitutions))})" if first.substitutions else ""
    rows = (
        ("GPU", f"{gpu.product_name}, {gpu.memory_mib} MiB, compute capability {gpu.compute_capability}"),
        ("NVIDIA's driver", f"{gpu.driver_version}, CUDA {gpu.cuda_driver_version}"),
        *(("machine", _machine(measurement, machine)) for machine in measurement.machines),
        ("Kubernetes", f"{first.kubernetes}, {', '.join(first.container_runtimes)}"),
        ("NVIDIA's DRA driver", f"v{first.driver_version}{substitutions}"),
        ("stacks", stacks),
        ("end of the measurement", day(measurement.finished)),
        ("file", f"[{source}](../../{source})"),
    )
    return [f"## {ORIGIN}", "", *table(("what", "value"), [(what, value) for what, value in rows])]


def _machine(measurement: Measurement, machine: Machine) -> str:
    words = f"{machine.cores} cores ({machine.processor}), {machine.memory_mib} MiB, Linux {machine.kernel}"
    if len(measurement.machines) == 1:
        return words
    return f"{words}: {', '.join(f'`{stack}`' for stack in measurement.machines[machine])}"


def _aims(measurement: Measurement) -> list[str]:
    rows = [(aim.aim, aim.measured, aim.verdict) for aim in aims(measurement)]
    return ["## Aims", "", *table(("aim", "measured", "result"), rows)]


def _throughput(measurement: Measurement) -> list[str]:
    lines = ["## Throughput", ""]
    exclusive, most = clients_of(measurement, sheets.EXCLUSIVE), peak(measurement)
    ways = _ways(measurement)
    if not ways and not measurement.rows(sheets.THROTTLE):
        return [*lines, "Not measured."]
    if ways:
        columns = ("who", "SMs of each", "FP32 TFLOPS of each", "spread", "together", "of exclusive", "of the peak")
        rows = [
            _way(who, clients, _sms(measurement, who), exclusive[0].mean if exclusive else None, most)
            for who, clients in ways
        ]
        lines += table(columns, rows, right=range(1, len(columns)))
        lines += ["", "Each figure is the mean of three repeats; the spread is from the least to the most of them."]
        lines += ["", f"![{sheets.TOGETHER.title}]({PLOTS}/together.svg)"]
    if rows := measurement.rows(sheets.THROTTLE):
        whole = _of(rows[0]).mean
        curve = [
            (f"{float(row[0]):g}", *row[1:3], f"{of.mean:.2f}", f"{of.spread:.2%}", f"{of.mean / whole:.1%}")
            for row, of in ((row, _of(row)) for row in rows)
        ]
        columns = ("percentage", "SMs", "SMs by the rule", "FP32 TFLOPS", "spread", f"of {float(rows[0][0]):g} %")
        lines += ["", *table(columns, curve, right=range(len(columns)))]
        lines += ["", f"![{sheets.THROTTLE.title}]({PLOTS}/throttle.svg)"]
    return lines


def _ways(measurement: Measurement) -> list[tuple[str, list[Repeats]]]:
    names = (sheets.EXCLUSIVE, sheets.WHOLE, sheets.HALVES, sheets.FIFTHS)
    return [(who, clients) for who in names if (clients := clients_of(measurement, who))]


def _sms(measurement: Measurement, who: str) -> str:
    return " / ".join(str(row[2]) for row in measurement.rows(sheets.TOGETHER) if row[0] == who)


def _way(who: str, clients: list[Repeats], sms: str, exclusive: float | None, most: float | None) -> tuple[str, ...]:
    total = sum(client.mean for client in clients)
    return (
        who,
        sms,
        " / ".join(f"{client.mean:.2f}" for client in clients),
        " / ".join(f"{client.spread:.2%}" for client in clients),
        f"{total:.2f}",
        f"{total / exclusive:.1%}" if exclusive else "",
        f"{total / most:.1%}" if most else "",
    )


def _original(measurement: Measurement) -> list[str]:
    """The original workshop's figures beside these."""
    curve = {float(row[0]): _of(row).mean for row in measurement.rows(sheets.THROTTLE)}
    whole, hundredth, fifths = curve.get(100), curve.get(1), clients_of(measurement, sheets.FIFTHS)
    if whole is None or hundredth is None or not fifths:
        return []
    most = peak(measurement)
    rows = [
        (
            "100 %",
            f"{ORIGINAL_WHOLE:.2f}",
            f"{whole:.2f}",
            f"{ORIGINAL_WHOLE / ORIGINAL_PEAK:.1%} of {ORIGINAL_PEAK}",
            f"{whole / most:.1%} of {most:.1f}" if most else "",
        ),
        ("1 %", f"{ORIGINAL_HUNDREDTH}", f"{hundredth:.2f}", *_parts(ORIGINAL_HUNDREDTH, hundredth, whole)),
        (
            "three at 20 %, each",
            f"{ORIGINAL_FIFTHS}",
            f"{fifths[0].mean:.2f}",
            *_parts(ORIGINAL_FIFTHS, fifths[0].mean, whole),
        ),
    ]
    columns = ("FP32 TFLOPS", ORIGINAL_GPU, measurement.gpu.product_name, f"{ORIGINAL_GPU}, share", "here, share")
    return [
        "## Beside the original workshop",
        "",
        *table(columns, rows, right=range(1, 5)),
        "",
        "The share is of the chip's FP32 peak in the first row, and of 100 % in the others.",
    ]


def _parts(original: float, here: float, whole: float) -> tuple[str, str]:
    return f"{original / ORIGINAL_WHOLE:.1%} of its 100 %", f"{here / whole:.1%} of 100 %"


def _limits(measurement: Measurement) -> list[str]:
    lines: list[str] = []
    for sheet in (sheets.MEMORY, sheets.NEIGHBOUR, sheets.LIVE):
        lines += _sheet(measurement, sheet)
    if rows := measurement.rows(sheets.USERS):
        columns = ("user", "percentage", "SMs", "FP32 TFLOPS", "spread")
        users = [
            (str(row[0]), f"{float(row[1]):g}", str(row[2]), f"{of.mean:.2f}", f"{of.spread:.2%}")
            for row, of in ((row, _of(row)) for row in rows)
        ]
        lines += ["", f"### {sheets.USERS.title}", "", *table(columns, users, right=range(1, 5))]
    return ["## Limits", *lines] if lines else []


def _rules(measurement: Measurement) -> list[str]:
    lines = ["## Rules of the simulated GPU", ""]
    compared = rules(measurement)
    if not compared:
        return [*lines, "Not compared: the simulated models have none of this name, or nothing was measured."]
    rows = [(rule.rule, rule.simulated, rule.real, "yes" if rule.same else "**no**") for rule in compared]
    different = sum(not rule.same for rule in compared)
    words = f"{len(rows) - different} of {len(rows)} are the same."
    return [*lines, words, "", *table(("rule", "simulated", "measured", "same"), rows, right=(1, 2))]


def _capacity(measurement: Measurement) -> list[str]:
    lines = _sheet(measurement, sheets.CAPACITY)
    return ["## Consumable capacity with MPS", *lines] if lines else []


def _metrics(measurement: Measurement) -> list[str]:
    lines = _sheet(measurement, sheets.BESIDE_SMI)
    return ["## Metrics", *lines] if lines else []


def _passed_faults(measurement: Measurement) -> list[Fault]:
    """Faults of checks that passed: in another one the seconds do not end when all was well."""
    return [
        fault
        for _, results in measurement.parts
        for fault in results.faults
        if any((c.module, c.name, c.result) == (fault.module, fault.check, "passed") for c in results.checks)
    ]


def _faults(measurement: Measurement) -> list[str]:
    faults = _passed_faults(measurement)
    if not faults:
        return []
    columns = ("fault", "who noticed", "what broke", "seconds to recover", "what was lost")
    rows = [(f.fault, f.noticed, f.broke, f"{f.seconds:.1f}", f.lost) for f in faults]
    return ["## Faults", "", *table(columns, rows, right=(3,)), "", f"![Seconds to recover]({PLOTS}/faults.svg)"]


def _vllm(measurement: Measurement) -> list[str]:
    """Section on module 06.5: every load, and the plots of the checks."""
    lines: list[str] = []
    for sheet in (sheets.VLLM_SERVER, sheets.VLLM, sheets.VLLM_TENANTS, sheets.VLLM_CHAT):
        lines += _sheet(measurement, sheet)
    if not lines:
        return []
    pictures = [f"![{plot.title}]({PLOTS}/{_key(plot)}.svg)" for plot in measurement.plots(sheets.VLLM_MODULE)]
    words = (
        "How it is measured, what the columns are and what follows: "
        "[module 06.5](../reference/modules/06.5-vllm-experiment.md)."
    )
    return ["## vLLM", "", words, *lines, *(line for picture in pictures for line in ("", picture))]


def _times(measurement: Measurement) -> list[str]:
    timed = [(run.stack, run.timeline, sum(r.seconds for r in run.results)) for run in measurement.runs]
    columns = ("stack", "from nothing to the first pod on a GPU", "`pulumi up`", "checks", "`pulumi destroy`")
    rows = [
        (f"`{stack}`", _seconds(t.first_gpu_pod), _seconds(t.up), duration(checks), _seconds(t.down))
        for stack, t, checks in timed
    ]
    lines = ["## Times", "", *table(columns, rows, right=range(1, 5))]
    lines += ["", "Programs and images were made before; nothing of the cluster was there."]
    if starts := measurement.rows(sheets.START):
        totals = sorted(float(row[-1]) for row in starts)
        middle = totals[len(totals) // 2]
        lines += ["", f"### {sheets.START.title}", ""]
        lines += [
            f"{len(totals)} pods, one after the other, created to running: median {middle:.2f} s, "
            f"{totals[0]:.2f} to {totals[-1]:.2f} s."
        ]
        lines += ["", *table(sheets.START.columns, [_words(row) for row in starts], right=range(1, 5))]
    return lines


def _seconds(value: float | None) -> str:
    return "-" if value is None else duration(value)


def _checks(measurement: Measurement) -> list[str]:
    rows, failed = [], []
    for run in measurement.runs:
        checks = [check for results in run.results for check in results.checks]
        counts = [sum(check.result == result for check in checks) for result in ("passed", "failed", "skipped")]
        rows.append((f"`{run.stack}`", *map(str, counts)))
        failed += [
            f"- `{run.stack}` {check.module}, {check.title}: {cell(check.seen.splitlines()[0])}"
            for check in checks
            if check.result == "failed" and check.seen
        ]
    lines = ["## Checks", "", *table(("stack", "passed", "failed", "skipped"), rows, right=range(1, 4))]
    return [*lines, "", "Failed:", "", *failed] if failed else lines


def _of(row: Sequence[str | int | float]) -> Repeats:
    return Repeats(tuple(float(value) for value in row[-len(sheets.REPEATS) :]))


def _sheet(measurement: Measurement, sheet: Sheet) -> list[str]:
    """A table as it was recorded; nothing if it was not."""
    rows = measurement.rows(sheet)
    if not rows:
        return []
    numeric = [n for n in range(len(sheet.columns)) if all(isinstance(row[n], int | float) for row in rows)]
    return ["", f"### {sheet.title}", "", *table(sheet.columns, [_words(row) for row in rows], right=numeric)]


def _words(row: Iterable[str | int | float]) -> tuple[str, ...]:
    return tuple(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> list[str]:
    at_right = set(right)
    rule = "|".join("---:" if number in at_right else "---" for number in range(len(columns)))
    cells = [f"| {' | '.join(_marked(str(value)) for value in row)} |" for row in rows]
    return [f"| {' | '.join(columns)} |", f"|{rule}|", *cells]


def _marked(text: str) -> str:
    """A cell; what this module itself marks as strong or as a link stays so."""
    return text if text.startswith(("**", "[")) else cell(text)
