"""`make report`: writes report.html and report.json of the last `make verify` to results/<stack>.

With `--faults-to` also the table of faults into a page of the docs. With `--results` it writes what `make measure`
measured into docs/measured/results.md instead. Ends with 2 if there is nothing to report on.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from checks.measured import Measurement
from checks.report.document import document
from checks.results import ReportError, Results
from toolchain.paths import CHECKOUT


def main(words: Sequence[str] | None = None, checkout: Path = CHECKOUT) -> int:
    parser = argparse.ArgumentParser(prog="make report", description=__doc__)
    parser.add_argument("--stack", default="phase1", help="the stack that was checked (default: phase1)")
    parser.add_argument("--faults-to", type=Path, metavar="PAGE", help="put the table of faults between its markers")
    parser.add_argument("--machine", help="words for the machine that was measured on; needed for --faults-to")
    parser.add_argument("--results", type=Path, metavar="FILE", help="a measurement, results/<gpu>-<date>.json")
    parser.add_argument("--results-doc", type=Path, metavar="PAGE", help="put it between the markers of this page")
    chosen = parser.parse_args(words)
    if bool(chosen.results) != bool(chosen.results_doc):
        parser.error("--results and --results-doc need each other: name the file and the page docs/measured/results.md")
    if chosen.results:
        return _write_results(chosen.results, chosen.results_doc)
    if chosen.faults_to and not chosen.machine:
        parser.error("--faults-to: figures need the machine that they are of; add --machine 'two cores, 8 GiB'")
    folder = checkout / "results" / chosen.stack
    try:
        report = document(Results.read(folder / "verify.json", chosen.stack), folder)
        if chosen.faults_to:
            from checks.report.markdown import write_faults

            write_faults(report, chosen.faults_to, chosen.machine)
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # Imported here: it brings a template engine, which an error needs none of.
    from checks.report.page import render

    written = {
        "report.html": render(report),
        "report.json": json.dumps(report, indent=2, ensure_ascii=False) + "\n",
    }
    for name, text in written.items():
        (folder / name).write_text(text, encoding="utf-8")
        print((folder / name).relative_to(checkout))
    if chosen.faults_to:
        print(chosen.faults_to)
    return 0


def _write_results(file: Path, page: Path) -> int:
    from checks.report.results_page import write_page

    try:
        written = write_page(Measurement.read(file), page, f"results/{file.name}")
    except ReportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*written, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
