"""The report as a browser shows it: on a desk and on a telephone, in light and in dark.

The page is in a frame of the wanted width, since a headless window may refuse to be as narrow as a telephone. The
frame's document is the page itself, so its own policy holds: no script of a page runs.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from checks.report.document import document
from checks.report.page import render
from tests.unit.chromium import Chromium
from tests.unit.report_sample import sample

WIDTHS = (1200, 400)
WINDOW_WIDTHS = (1400, 800, 400)
DARK = "--blink-settings=preferredColorScheme=0"
# Width and height of the page, what stands out of the frame but scrolls in no box of its own, and headline figures that
# do not stand on one line.
MEASURE = """
onload = () => {
  const page = document.getElementById("page").contentDocument, root = page.documentElement;
  page.querySelectorAll("details").forEach((details) => { details.open = OPEN; });
  const inside = root.clientWidth + 0.5;
  const outside = [...page.querySelectorAll("body *")].filter((element) =>
    element.getBoundingClientRect().right > inside && !element.closest(".scroll, svg"));
  document.body.dataset.measured = JSON.stringify({
    frame: root.clientWidth, width: root.scrollWidth, height: root.scrollHeight,
    outside: outside.map((element) => element.outerHTML.slice(0, 120)),
    broken: [...page.querySelectorAll(".strip dd")].filter((figure) =>
      figure.clientHeight > 1.9 * parseFloat(getComputedStyle(figure).fontSize)).map((figure) => figure.textContent),
    background: getComputedStyle(page.body).backgroundColor,
  });
};
"""


class Browser(Chromium):
    """A browser that shows the report in a frame."""

    def framed(self, report: str, width: int, height: int, opened: bool = False) -> Path:
        """A page that has nothing but the report in a frame of this size."""
        file = self.folder / f"frame-{len(list(self.folder.iterdir()))}.html"
        script = MEASURE.replace("OPEN", "true" if opened else "false")
        style = f"display: block; border: 0; width: {width}px; height: {height}px"
        file.write_text(
            '<!doctype html><meta charset="utf-8"><body style="margin: 0">'
            f'<iframe id="page" style="{style}" srcdoc="{html.escape(report)}"></iframe>'
            f"<script>{script}</script></body>"
        )
        return file

    def measure(self, report: str, width: int, *options: str, opened: bool = False) -> dict[str, Any]:
        dom = self.run(self.framed(report, width, 1000, opened), "--dump-dom", *options)
        found = re.search(r'data-measured="([^"]*)"', dom)
        assert found, f"the page was not measured: {dom[-2000:]}"
        return json.loads(html.unescape(found[1]))

    def shoot(self, report: str, width: int, height: int, *options: str) -> Image.Image:
        file = self.folder / f"shot-{len(list(self.folder.iterdir()))}.png"
        page = self.framed(report, width, height)
        self.run(page, f"--window-size={width},{height}", f"--screenshot={file}", *options)
        return Image.open(file).convert("RGB")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    return Browser.find(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(document(sample(), tmp_path_factory.mktemp("results")))


@pytest.mark.parametrize(("width", "opened"), [*((width, False) for width in WINDOW_WIDTHS), (400, True)])
def test_nothing_stands_out_of_the_page(browser: Browser, report: str, width: int, opened: bool):
    found = browser.measure(report, width, opened=opened)
    assert found["frame"] == width
    assert found["outside"] == []
    assert found["broken"] == []
    assert found["width"] == width


def test_what_stands_out_of_a_page_would_be_found(browser: Browser, report: str):
    wide = report.replace("<main id", '<p style="width: 900px">wide</p><main id')
    wide = wide.replace("6m42s", "six minutes " * 9).replace(
        "white-space: nowrap; }\n.strip .long dd", "}\n.strip .long dd"
    )
    found = browser.measure(wide, 400)
    assert found["width"] > 400
    assert any("wide" in element for element in found["outside"])
    assert any("six minutes" in figure for figure in found["broken"])


@pytest.mark.parametrize("width", WIDTHS)
def test_page_has_a_sensible_length_and_is_not_blank(browser: Browser, report: str, width: int):
    height = browser.measure(report, width)["height"]
    # 60 checks, 4 plots: some 50 to 250 pixels for each check, the more the narrower.
    assert 3000 < height < 20000
    picture = browser.shoot(report, width, height)
    assert picture.size == (width, height)
    assert colours(picture, 0, height) > 50
    # Nor is any stretch of it as high as a screen.
    for top in range(0, height - 800, 800):
        assert colours(picture, top, top + 800) > 8, f"blank from {top} to {top + 800}"
    assert (255, 201, 64) in seen(picture, 0, 600), "the banner of simulated GPUs is not on the first screen"


def test_dark_mode_is_dark_and_as_long(browser: Browser, report: str):
    light, dark = browser.measure(report, 1200), browser.measure(report, 1200, DARK)
    assert (light["background"], dark["background"]) == ("rgb(255, 255, 255)", "rgb(18, 23, 29)")
    assert light["height"] == dark["height"]
    picture = browser.shoot(report, 1200, dark["height"], DARK)
    shades = picture.convert("L").histogram()
    assert sum(shades[200:]) < 0.1 * sum(shades)


def test_no_script_runs_in_the_page(browser: Browser, report: str):
    evil = report.replace("<main id", "<script>document.body.textContent = 'gone'</script><main id")
    assert browser.measure(evil, 1200)["height"] > 3000
    # It is the page's policy that keeps it from running.
    assert browser.measure(evil.replace("Content-Security-Policy", "none"), 1200)["height"] < 3000


def seen(picture: Image.Image, top: int, bottom: int) -> set[Any]:
    """The colours between two heights."""
    found = picture.crop((0, top, picture.width, bottom)).getcolors(1 << 24) or []
    return {colour for _, colour in found}


def colours(picture: Image.Image, top: int, bottom: int) -> int:
    return len(seen(picture, top, bottom))
