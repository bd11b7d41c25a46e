"""Queries of the dashboard, asked of the Prometheus of a stack that is up."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from checks.live import LiveStack, wait_for
from checks.metrics import Holder
from components import prometheus
from components.manifests import find

# What Grafana fills in: every node, and four scrapes.
VARIABLES = {"$node": ".*", "$__rate_interval": "1m"}
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SECONDS = 120  # two scrapes of everybody, and a claim prepared between them
# Counters that begin with the first error of a plugin's life.
ERRORS = frozenset({"nvidia_dra_node_prepare_errors_total", "nvidia_dra_node_unprepare_errors_total"})
# Labels that a series may lack: those of a MIG device, or of what has no instance or no holder.
MAY_LACK = {"MIG devices": {"GPU_I_ID", "namespace", "pod", "container"}}
OF_MIG = {"GPU_I_PROFILE", "GPU_I_ID", "dra_mig_device_uuid"}


@dataclass(frozen=True)
class Query:
    """Query of a panel, as Grafana sends it."""

    panel: str
    expression: str

    @property
    def metrics(self) -> frozenset[str]:
        """Metrics that it reads."""
        return frozenset(re.findall(rf"({NAME})\{{", self.expression))

    @property
    def labels(self) -> frozenset[str]:
        """Labels that a series of its answer may have: those of the outermost `by`, or any where there is none."""
        grouped = re.search(r"\bby \(([^)]*)\)", self.expression)
        # Around an aggregation there may be another that leaves no label, and a quantile that takes `le`.
        if not grouped or self.expression.startswith("sum(max by"):
            return frozenset()
        return frozenset(label.strip() for label in grouped[1].split(",")) - {"le"}


@dataclass(frozen=True)
class Series:
    """Series of an answer: its labels that are not empty, and its value, which may be NaN."""

    labels: dict[str, str]
    value: float


def queries() -> Iterator[Query]:
    """Queries of every panel."""
    for panel in json.loads(find("dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            yield Query(panel["title"], expression)


def ask(stack: LiveStack, service: str, port: int, path: str) -> Any:
    """Answer of a service beside Prometheus, through the API server."""
    where = f"/api/v1/namespaces/{prometheus.NAMESPACE}/services/{service}:{port}/proxy/{path}"
    return json.loads(stack.kubectl("get", "--raw", where))


def answer(stack: LiveStack, expression: str) -> list[Series]:
    """Series that Prometheus answers an instant query with."""
    path = f"api/v1/query?query={quote(expression, safe='')}"
    told = ask(stack, prometheus.PROMETHEUS, prometheus.PROMETHEUS_PORT, path)
    assert told["status"] == "success", told
    return [Series(one["metric"], float(one["value"][1])) for one in told["data"]["result"]]


def targets(stack: LiveStack) -> list[dict[str, Any]]:
    """Targets that Prometheus scrapes."""
    told = ask(stack, prometheus.PROMETHEUS, prometheus.PROMETHEUS_PORT, "api/v1/targets?state=active")
    return told["data"]["activeTargets"]


def wait_for_targets(stack: LiveStack) -> dict[str, int]:
    """Number of targets by job, once there are some of every job and all are up."""

    def up() -> list[dict[str, Any]] | None:
        active = targets(stack)
        jobs = {target["labels"]["job"] for target in active}
        return active if jobs == set(prometheus.JOBS) and all(t["health"] == "up" for t in active) else None

    active = wait_for("every target is up", up)
    return {job: sum(target["labels"]["job"] == job for target in active) for job in prometheus.JOBS}


def wait_for_answers(stack: LiveStack, absent: frozenset[str]) -> dict[Query, list[Series]]:
    """Answers to the queries, each from the moment at which it had a number in it.

    Those that ask for metrics of `absent` have no data, since nobody publishes these; of errors there may be some or
    none. An AssertionError names the queries that are otherwise, or whose series have other labels than the panel
    groups by.
    """
    asked = list(queries())
    pending = {query for query in asked if not query.metrics & (absent | ERRORS)}
    assert pending, "every query asks for what nobody publishes"
    answers: dict[Query, list[Series]] = {}

    def all_answered() -> bool:
        # One by one: the quantile of what happens now and then has a number for less than a minute.
        for query in sorted(pending, key=lambda query: query.expression):
            series = answer(stack, query.expression)
            # A quantile of requests that nobody made is NaN.
            if any(not math.isnan(one.value) for one in series):
                answers[query] = series
                pending.discard(query)
        return not pending

    try:
        wait_for("every query of the dashboard has data", all_answered, SECONDS)
    except AssertionError as error:
        words = "\n".join(sorted(f"{query.panel}: {query.expression}" for query in pending))
        raise AssertionError(f"no data after {SECONDS} s for\n{words}") from error
    for query in asked:
        if query not in answers:
            answers[query] = answer(stack, query.expression)
        series = answers[query]
        assert not series or not query.metrics & absent, f"{query.expression}: has data, and was to have none"
        for one in series if query.labels else ():
            lacking = query.labels - one.labels.keys() - MAY_LACK.get(query.panel, OF_MIG)
            assert not lacking and one.labels.keys() <= query.labels, f"{query.expression}: {one.labels}"
    return answers


def memory_mib(answers: dict[Query, list[Series]]) -> float:
    """Memory of all devices, as the panel has it."""
    ((total,),) = [found for query, found in answers.items() if query.expression.startswith("sum(max by")]
    return total.value


def holders(stack: LiveStack) -> set[Holder]:
    """Who holds which device, as the panel has it: what the last scrape of each exporter told."""
    (expression,) = [query.expression for query in queries() if query.panel == "Who holds which GPU"]
    return {
        Holder(
            node=one.labels["Hostname"],
            device=one.labels["dra_device_name"],
            namespace=one.labels["namespace"],
            pod=one.labels["pod"],
            container=one.labels["container"],
            claim=one.labels["dra_claim_name"],
        )
        for one in answer(stack, expression)
    }
