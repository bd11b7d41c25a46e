"""Page docs/measured/fleet.md: tables and plots of what allocation cost in a fleet, from the bench's file.

`python -m checks.report.fleet_page results/fleet-2-cores.json` writes them: what stands between the page's markers, and
the plots beside it. The same file gives the same page. All else is a person's.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from checks.report import plots
from checks.report.results_page import picture, replaced, table
from checks.results import ReportError
from toolchain.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "measured" / "fleet.md"
PLOTS = "fleet"  # the folder of the plots beside the page
CLIENTS = {"as they are": "defaults", "tuned": "raised"}
PROGRAMS = ("kube-apiserver", "kube-scheduler", "kube-controller-manager", "etcd")
STEPS = ("look round", "search", "filters", "writes", "controller's client")
# Rounds that go on from each other are no sizes of one thing.
STEADY = ("fill to 90 %", "churn at 90 %")
WITH_STEPS = "one GPU"


def generated(rounds: Sequence[dict[str, Any]]) -> list[str]:
    """The lines between the markers."""
    speed = [
        (
            *_which(one),
            one["pods"],
            f"{one['podsASecond']:.1f}",
            f"{one['p50']:.2f}",
            f"{one['p99']:.2f}",
            " to ".join(f"{load:.0f}" for load in one["load"]),
        )
        for one in rounds
    ]
    steps = [(*_which(one), *(f"{one['stepsMs'].get(step, 0):.1f}" for step in STEPS)) for one in rounds]
    used = [
        (*_which(one), *(f"{one['cores'].get(name, 0):.2f}, {one['rssMib'].get(name, 0)}" for name in PROGRAMS))
        for one in rounds
    ]
    which = ("nodes", "pods with", "clients")
    return [
        *table((*which, "pods", "pods a second", "p50, s", "p99, s", "load"), speed, right=(0, 3, 4, 5, 6, 7)),
        "",
        f"![Pods scheduled a second by nodes]({PLOTS}/rate.svg)",
        "",
        "## Where a pod's time goes",
        "",
        "Mean milliseconds, as Kubernetes' own metrics have them:",
        "",
        *table((*which, *STEPS), steps, right=(0, *range(3, 3 + len(STEPS)))),
        "",
        f"![Milliseconds of the scheduler for a pod with one GPU]({PLOTS}/steps.svg)",
        "",
        "## CPU and memory of the control plane",
        "",
        "Cores and resident MiB while the pods of a round were scheduled:",
        "",
        *table((*which, *PROGRAMS), used, right=(0,)),
    ]


def _which(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["nodes"], one["claim"], CLIENTS[one["clients"]]


def drawings(rounds: Sequence[dict[str, Any]]) -> dict[str, str]:
    """SVG of each plot by its name."""
    sizes = [one for one in rounds if one["clients"] == "tuned" and one["claim"] not in STEADY]
    rates: dict[str, list[tuple[float, float]]] = {}
    for one in sizes:
        rates.setdefault(one["claim"], []).append((one["nodes"], one["podsASecond"]))
    of_one = [one for one in sizes if one["claim"] == WITH_STEPS]
    steps = {step: [(one["nodes"], one["stepsMs"].get(step, 0)) for one in of_one] for step in STEPS[:-1]}
    return {
        "rate": picture(
            plots.lines("rate", "Pods scheduled a second by nodes", "nodes", "pods a second", rates, tenfold=True)
        ),
        "steps": picture(
            plots.lines("steps", "The scheduler's part of a pod", "nodes", "milliseconds a pod", steps, tenfold=True)
        ),
    }


def main(file: Path, page: Path = PAGE) -> int:
    try:
        rounds = json.loads(file.read_text(encoding="utf-8"))["rounds"]
        text = replaced(page, generated(rounds))
    except (OSError, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    folder = page.parent / PLOTS
    folder.mkdir(exist_ok=True)
    page.write_text(text, encoding="utf-8")
    for name, svg in drawings(rounds).items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
