"""Plots as SVG for a page of their own: no font, date or colour in them, so the page decides how they look.

The same values give the same bytes. matplotlib is imported when the first plot is drawn, since it takes a second.
"""

import io
import re
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH = 7.2  # inches at 72 dots: between a telephone's width and that of a page on a desk, so that text suits both
LABEL_WIDTH = 30  # characters of a bar's label in one line
LEGEND_WIDTH = 66  # characters of the legend in one line
# A line's points differ in shape too, for who cannot tell the colours apart or prints in grey.
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":")

# matplotlib wants colours; each of these stands for a property of the page's style sheet.
INK, FAINT, GRID = "#000001", "#000002", "#000003"
SERIES = tuple(f"#0000{number}" for number in range(11, 17))
PROPERTIES = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    GRID: "var(--rule)",
    **{color: f"var(--series-{number})" for number, color in enumerate(SERIES, 1)},
}
SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dra-workshop",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the layout is the same everywhere
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "figure.dpi": 72,
}
SVG = "{http://www.w3.org/2000/svg}"
XLINK = "{http://www.w3.org/1999/xlink}"


def lines(
    key: str,
    title: str,
    x: str,
    y: str,
    series: Mapping[str, Sequence[tuple[float, float]] | Sequence[list[float]]],
    *,
    tenfold: bool = False,
) -> str:
    """One line for each of `series`; `key` is what the ids in the SVG begin with, unique on the page.

    With `tenfold` equal steps across are equal factors, and each value that there is has its number.
    """

    def draw(axes: "Axes") -> None:
        for number, (name, points) in enumerate(series.items()):
            axes.plot(
                [point[0] for point in points],
                [point[1] for point in points],
                label=textwrap.shorten(name, LEGEND_WIDTH - 8, placeholder=" ..."),
                color=SERIES[number % len(SERIES)],
                linestyle=DASHES[number // len(SERIES) % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linewidth=1.8,
            )
        if tenfold:
            across = sorted({point[0] for points in series.values() for point in points})
            axes.set_xscale("log")
            axes.set_xticks(across, [f"{value:g}" for value in across])
            axes.minorticks_off()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(True)
        axes.margins(y=0.08)
        # Zero belongs to a scale of amounts; what is below it stays in sight.
        if min(point[1] for points in series.values() for point in points) >= 0:
            axes.set_ylim(bottom=0)
        if len(series) > 1:
            # Above the axes, where no line can be; as many side by side as fit, or it would squeeze the axes.
            columns = max(1, LEGEND_WIDTH // (max(map(len, series)) + 8))
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)

    words = f"{title}. Across: {x}. Up: {y}. Lines: {', '.join(series)}."
    return _svg(key, title, words, 3.5, draw)


def bars(key: str, title: str, x: str, values: Sequence[tuple[str, float]]) -> str:
    """One bar for each of `values`, from top to bottom, with its number at its end."""
    labels = [textwrap.fill(label, LABEL_WIDTH, max_lines=2, placeholder=" ...") for label, _ in values]
    seconds = [value for _, value in values]

    def draw(axes: "Axes") -> None:
        # By position: two bars may have the same label.
        drawn = axes.barh(range(len(values)), seconds, height=0.62, color=SERIES[0])
        axes.set_yticks(range(len(values)), labels, linespacing=1.05)
        axes.bar_label(drawn, [f"{value:.1f}" for value in seconds], padding=4)
        axes.invert_yaxis()
        axes.set_xlabel(x)
        axes.grid(True, axis="x")
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.1, y=0.02)
        axes.set_xlim(left=0, right=None if any(seconds) else 1)

    lines_each = 2 if any("\n" in label for label in labels) else 1
    height = 0.75 + len(values) * (0.2 + 0.16 * (lines_each - 1) + 0.06)
    return _svg(key, title, f"{title}: {len(values)} bars. {x}.", height, draw)


def _svg(key: str, title: str, words: str, height: float, draw: Callable[["Axes"], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **SETTINGS}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.subplots()
        axes.patch.set_visible(False)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _for_a_page(ET.fromstring(out.getvalue()), key, title, words)


def _for_a_page(svg: ET.Element, key: str, title: str, words: str) -> str:
    """The SVG as a part of an HTML page: ids of its own, no names of XML, described for who does not see it."""
    for parent in list(svg.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in svg.iter():
        element.tag = element.tag.removeprefix(SVG)
        element.attrib = {
            name.removeprefix(XLINK): _own(name.removeprefix(XLINK), value, key)
            for name, value in element.attrib.items()
        }
    box = svg.attrib["viewBox"]
    svg.attrib = {"viewBox": box, "role": "img", "aria-labelledby": f"{key}-title {key}-words"}
    described = [ET.Element("title", id=f"{key}-title"), ET.Element("desc", id=f"{key}-words")]
    described[0].text, described[1].text = title, words
    svg[:] = [*described, *svg]
    return ET.tostring(svg, encoding="unicode")


def _own(name: str, value: str, key: str) -> str:
    """An attribute's value with ids that begin with `key`, the page's font and the page's colours."""
    if name == "id":
        return f"{key}-{value}"
    if name == "href":
        return value.replace("#", f"#{key}-", 1)
    value = re.sub(r"url\(#", f"url(#{key}-", value)
    if name == "style":
        value = re.sub(r"font-family: [^;]+; ?", "", value)
        value = re.sub(r"#0000[01]\d", lambda match: PROPERTIES[match[0]], value)
    return value
