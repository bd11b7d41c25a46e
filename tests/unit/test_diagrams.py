"""Every Mermaid diagram of the pages, drawn by a browser: it is one, it has what its source names, nothing is cut off.

All are drawn in one start of the browser, with the Mermaid of tests/mermaid, which `make browser` installs.
"""

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.chromium import Chromium
from toolchain import npm
from toolchain.bundle import unpacked
from toolchain.paths import CHECKOUT, store_root
from toolchain.steps import Store

# What set-up, stacks and bundles leave in a checkout, and packages of others in it, are no pages of ours.
NO_PAGES = {"results", "dist", "bundle", "node_modules"}
FENCE = re.compile(r"^( *)```mermaid[ \t]*\n(.*?)^\1```[ \t]*$", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r'"([^"]+)"')
DIRECTIVE = re.compile(r"%%\{.*?\}%%", re.DOTALL)
TAG = re.compile(r"<[^>]*>")
# GitHub draws diagrams as wide as its column, 830 pixels or so. A wider one is made smaller until nobody can read it.
WIDEST = 1250

# Draws one diagram after the other. Mermaid puts the text of a node into a box of HTML that it has measured before:
# what is larger than its box is cut off.
DRAW = """
const drawn = [];
const draw = async () => {
  mermaid.initialize({ startOnLoad: false, securityLevel: "strict" });
  for (const [number, source] of SOURCES.entries()) {
    const place = document.body.appendChild(document.createElement("section"));
    try {
      const { svg, diagramType } = await mermaid.render(`diagram-${number}`, source, place);
      place.innerHTML = svg;
      const picture = place.querySelector("svg");
      const view = picture.viewBox.baseVal;
      const boxes = [...picture.querySelectorAll("foreignObject")].filter((box) => box.textContent.trim());
      const cut = boxes.filter((box) => {
        const text = box.firstElementChild.getBoundingClientRect(), room = box.getBoundingClientRect();
        return text.width > room.width + 2 || text.height > room.height + 2;
      });
      drawn.push({
        type: diagramType, width: view.width, height: view.height, text: picture.textContent.replace(/\\s+/g, ""),
        cut: cut.map((box) => box.textContent), error: "",
      });
    } catch (error) {
      place.textContent = "";
      drawn.push({ type: "", width: 0, height: 0, text: "", cut: [], error: String(error.message || error) });
    }
  }
  document.body.dataset.drawn = JSON.stringify(drawn);
};
draw();
"""


@dataclass(frozen=True)
class Diagram:
    """Source of a diagram, and where it stands."""

    place: str
    source: str

    @property
    def labels(self) -> list[str]:
        """Texts in quotation marks, as the picture has them: without tags, entities and white space."""
        return [
            re.sub(r"\s+", "", html.unescape(TAG.sub("", label)))
            for label in QUOTED.findall(DIRECTIVE.sub("", self.source))
        ]


@dataclass(frozen=True)
class Drawn:
    """What the browser made of a diagram: size in pixels, all text without white space, texts that are cut off."""

    type: str
    width: float
    height: float
    text: str
    cut: list[str]
    error: str

    def faults(self, diagram: Diagram) -> Iterator[str]:
        """What is wrong with the picture, each with its place and remedy."""
        if self.error:
            yield f"{diagram.place}: Mermaid does not draw it: {self.error}"
            return
        if self.width < 50 or self.height < 50:
            yield f"{diagram.place}: it is empty, {self.width:.0f} by {self.height:.0f} pixels"
        if self.width > WIDEST:
            yield (
                f"{diagram.place}: it is {self.width:.0f} pixels wide, and a page shows {WIDEST} that can be read; "
                "use `flowchart TB`, fewer nodes beside each other, or <br/> in long labels"
            )
        yield from (
            f'{diagram.place}: the label "{label}" is not drawn' for label in diagram.labels if label not in self.text
        )
        yield from (f'{diagram.place}: the text "{text}" is cut off; break it with <br/>' for text in self.cut)


def diagrams(page: Path) -> list[Diagram]:
    """The diagrams of a page of Markdown, in order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(CHECKOUT) if page.is_relative_to(CHECKOUT) else page.name
    return [Diagram(f"{name}:{text.count(chr(10), 0, m.start()) + 1}", m[2]) for m in FENCE.finditer(text)]


def pages() -> list[Path]:
    """All pages of Markdown in the checkout."""
    found = [*CHECKOUT.glob("*.md")]
    for top in CHECKOUT.iterdir():
        if top.is_dir() and not top.name.startswith(".") and top.name not in NO_PAGES:
            found += (page for page in top.rglob("*.md") if NO_PAGES.isdisjoint(page.parts))
    return sorted(found)


def draw(browser: Chromium, sources: list[str], style: str = "") -> list[Drawn]:
    """Draw the sources on one page, one below the other, and measure each."""
    script = npm.mermaid_script(Store(store_root()))
    if unpacked.here() and not script.is_file():
        pytest.skip("an unpacked bundle has no Mermaid, and reaches no registry to take it from")
    assert script.is_file(), f"{script} is not there; run `make browser`, which installs it"
    page = browser.folder / f"diagrams-{len(list(browser.folder.iterdir()))}.html"
    data = json.dumps(sources).replace("<", "\\u003c")
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{style}</style><body><script src="{script.as_uri()}"></script>'
        f"<script>const SOURCES = {data};{DRAW}</script></body>",
        encoding="utf-8",
    )
    # Virtual time: the page is written out as soon as nothing is left to do, not at its load.
    dom = browser.run(page, "--dump-dom", "--virtual-time-budget=60000")
    found = re.search(r'data-drawn="([^"]*)"', dom)
    assert found, f"the diagrams were not drawn: {dom[-2000:]}"
    return [Drawn(**one) for one in json.loads(html.unescape(found[1]))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Chromium:
    return Chromium.find(tmp_path_factory.mktemp("browser"))


def test_every_diagram_of_the_pages_is_drawn_whole(browser: Chromium):
    found = [diagram for page in pages() for diagram in diagrams(page)]
    assert found, "no page has a diagram"
    drawn = draw(browser, [diagram.source for diagram in found])
    assert not [fault for diagram, one in zip(found, drawn, strict=True) for fault in one.faults(diagram)]


def test_what_is_wrong_with_a_diagram_is_told(browser: Chromium, tmp_path: Path):
    page = tmp_path / "page.md"
    wide = "\n".join(f'  n{n} --> n{n + 1}["a node of some width {n}"]' for n in range(12))
    page.write_text(
        '# A\n\n```mermaid\nflowchart LR\n  a["one"] --> b["two <br/>lines"]\n```\n\n- item\n\n'
        "  ```mermaid\n  sequenceDiagram\n    A->>B: asks\n  ```\n\n"
        "```mermaid\nflowchart LR\n  a[one --> b\n```\n\n"
        '```mermaid\nflowchart LR\n  a --> b\n  %% "not in the picture"\n```\n\n'
        f"```mermaid\nflowchart LR\n{wide}\n```\n\n```text\nflowchart\n```\n"
    )
    found = diagrams(page)
    assert [diagram.place for diagram in found] == [f"page.md:{line}" for line in (3, 10, 15, 20, 26)]
    drawn = draw(browser, [diagram.source for diagram in found])
    assert [one.type for one in drawn] == ["flowchart-v2", "sequence", "", "flowchart-v2", "flowchart-v2"]
    faults = [list(one.faults(diagram)) for diagram, one in zip(found, drawn, strict=True)]
    assert faults[:2] == [[], []]
    assert faults[2][0].startswith("page.md:15: Mermaid does not draw it: Parse error on line")
    assert faults[3] == ['page.md:20: the label "notinthepicture" is not drawn']
    assert re.match(r"page\.md:26: it is \d+ pixels wide", faults[4][0])


def test_text_that_is_cut_off_is_told(browser: Chromium):
    diagram = Diagram("page.md:1", "flowchart LR\n  a[large] --> b[small]\n")
    # Where the picture is laid into the page, not where Mermaid measures it.
    style = "section > svg .node:first-child foreignObject > div { min-width: 300px }"
    (one,) = draw(browser, [diagram.source], style)
    assert list(one.faults(diagram)) == ['page.md:1: the text "large" is cut off; break it with <br/>']
