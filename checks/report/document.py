"""Report as plain data: content of report.json and of the page. docs/reference/report.md has its keys."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from checks.results import Check, Results

SCHEMA = 1  # of report.json


def document(results: Results, folder: Path) -> dict[str, Any]:
    """The report on `results`, whose diagnostics are in `folder`; paths in it are relative to the folder."""
    outcome = {(check.module, check.name): check.result for check in results.checks}
    return {
        "schema": SCHEMA,
        **results.model_dump(by_alias=True, include={"stack", "cluster", "simulated", "finished", "seconds"}),
        "complete": results.complete,
        "versions": {
            "kubernetes": results.kubernetes,
            "containerRuntimes": list(results.container_runtimes),
            "draDriver": results.driver_version,
            "substitutions": list(results.substitutions),
        },
        "gpus": list(results.gpus),
        "summary": _counts(results.checks),
        "modules": [_module(results, number.number, number.title, folder) for number in results.modules],
        "notChecked": list(results.not_checked),
        "faults": [
            {**fault.model_dump(by_alias=True), "result": outcome[fault.module, fault.check]}
            for fault in results.faults
        ],
    }


def _counts(checks: Iterable[Check]) -> dict[str, int]:
    counts = Counter(check.result for check in checks)
    return {"checks": counts.total(), **{result: counts[result] for result in ("passed", "failed", "skipped")}}


def _module(results: Results, number: str, title: str, folder: Path) -> dict[str, Any]:
    checks = [check for check in results.checks if check.module == number]
    return {
        "number": number,
        "title": title,
        "summary": _counts(checks),
        "seconds": round(sum(check.seconds for check in checks), 3),
        "checks": [_check(check, folder) for check in checks],
        "tables": [_measured(table) for table in results.tables if table.module == number],
        "plots": [_measured(plot) for plot in results.plots if plot.module == number],
    }


def _check(check: Check, folder: Path) -> dict[str, Any]:
    diagnostics = Path("diagnostics") / check.name
    diagnostics_folder = str(diagnostics) if check.result == "failed" and (folder / diagnostics).is_dir() else None
    return {
        **check.model_dump(include={"name", "result", "seen", "seconds"}),
        "title": check.title,
        "diagnostics": diagnostics_folder,
    }


def _measured(record: Any) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"module"})
