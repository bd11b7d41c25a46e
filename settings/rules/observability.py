"""Rules of the block `observability`."""

from collections.abc import Iterator

from settings.blocks import Draft, Observability
from settings.problems import Problem


def observability_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the exporter with the source of the GPUs, and of Grafana without what it shows."""
    block = draft.block(Observability)
    if block and block.grafana and not block.prometheus:
        rule = "needs Prometheus, whose metrics it shows"
        yield Problem("observability.grafana", True, rule, "set observability.prometheus to true, or drop it")
    if block and block.exporter == "dcgm" and draft.gpu and draft.gpu.source == "simulated":
        rule = "needs a real GPU: NVIDIA's DCGM talks to the kernel module, and a simulated GPU has none"
        yield Problem("observability.exporter", block.exporter, rule, "drop it or set gpu.source to host")
