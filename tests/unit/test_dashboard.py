"""Queries of the dashboard as a check asks them: what they read, and which labels an answer may have."""

import pytest

from checks.dashboard import ERRORS, MAY_LACK, Query, queries


@pytest.mark.parametrize(
    ("expression", "metrics", "labels"),
    [
        ('max by (Hostname, gpu) (a{Hostname=~".*"})', {"a"}, {"Hostname", "gpu"}),
        ('sum(max by (Hostname, gpu) (a{Hostname=~".*"}))', {"a"}, set()),
        ('mps_up{Hostname=~".*"}', {"mps_up"}, set()),
        (
            'histogram_quantile(0.50, sum by (le, node) (rate(a_bucket{operation="prepare",node=~".*"}[1m])))',
            {"a_bucket"},
            {"node"},
        ),
        ('sum by (node, x) (b{node=~".*"}) > 0', {"b"}, {"node", "x"}),
    ],
)
def test_query_tells_what_it_reads_and_what_its_answer_is_grouped_by(
    expression: str, metrics: set[str], labels: set[str]
):
    query = Query("a panel", expression)
    assert (query.metrics, query.labels) == (metrics, labels)


def test_every_query_of_the_dashboard_is_one_that_prometheus_can_be_asked():
    found = list(queries())
    assert len({query.expression for query in found}) == len(found) > 20
    for query in found:
        # Grafana's variables are filled in, and each query reads something.
        assert "$" not in query.expression and len(query.metrics) == 1, query
        if " by (" in query.expression and not query.expression.startswith("sum(max by"):
            assert query.labels, query


def test_exceptions_of_the_check_are_of_panels_and_metrics_that_are_there():
    assert MAY_LACK.keys() <= {query.panel for query in queries()}
    assert {metric for query in queries() for metric in query.metrics} >= ERRORS
