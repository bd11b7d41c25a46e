"""Memory and CPU of the driver's plugin and of the workshop's daemons while nothing happens.

Processes are read in the nodes from /proc. What a probe of the kubelet starts is a process of its own, so the kubelet's
figures of the whole containers stand beside them. nvidia-cuda-mps-control and -server are the simulated ones: theirs
say nothing of NVIDIA's.
"""

import json
import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from checks.live import LiveStack, wait_for
from components import dra_driver, gpu_exporter, mps_daemon, simulated_gpus, taint_keeper
from settings import Settings
from tests.bench.figures import Container, Process, containers, processes, save, show
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

pytestmark = pytest.mark.bench
MODEL = "phase2"
STACK = "rest"
REST_SECONDS = 60
# Caches fill, start-up probes end, and garbage of the start is collected.
SETTLE_SECONDS = 30
TICKS = os.sysconf("SC_CLK_TCK")  # of the kernel, which is the nodes' as well
AIM_MIB = 192
AIM_CORES = 0.05
SERVER = "nvidia-cuda-mps-server"
# Namespaces of the programs, for what the kubelet knows.
NAMESPACES = tuple(
    component.NAMESPACE for component in (dra_driver, simulated_gpus, mps_daemon, gpu_exporter, taint_keeper)
)
# Prints a block for each process whose command line matches $1; figures.processes reads it. The status is that of no
# process: one that ends meanwhile lacks lines, which the reader sees.
READ = r"""
for file in $(grep -lEa "$1" /proc/[0-9]*/cmdline); do
    folder=${file%/cmdline}
    printf 'process\t%s\t%s\n' "${folder#/proc/}" "$(tr '\0\n' '\t ' < "$file")"
    cat "$folder/stat"
    grep VmRSS: "$folder/status"
    grep ^Pss: "$folder/smaps_rollup"
done
exit 0
"""


def expected(settings: Settings) -> dict[str, int]:
    """Program -> how many of it must run in the cluster, by what the stack's modules bring."""
    nodes = len(settings.gpu_nodes)
    counts = {"gpu-kubelet-plugin": nodes}
    if settings.gpu.source == "simulated":
        counts["gpu-sim"] = nodes
    if "04" in settings.modules and settings.mps.mode == "daemon":
        # A server starts with the first client, and only the first node has clients.
        counts |= {"mps-daemon": nodes, "nvidia-cuda-mps-control": nodes, SERVER: 1}
    if "08" in settings.modules and settings.observability.exporter == "nvml":
        counts[gpu_exporter.NAME] = nodes
    if "09" in settings.modules:
        counts[taint_keeper.NAME] = 1
    return counts


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStack]:
    """The stack of `--stack`; without it one of its own, of phase2's configuration."""
    if name := request.config.getoption("--stack"):
        live = LiveStack.find(CHECKOUT, name)
        if live.settings.cluster.provider != "kind":
            pytest.skip(f"stack {name} is on an existing cluster, and only Kind's nodes can be entered to read /proc")
        yield live
        return
    workspace = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp(STACK))
    model: Any = yaml.safe_load((CHECKOUT / "stacks" / f"Pulumi.{MODEL}.yaml").read_text())
    workspace.write_stack(STACK, yaml.safe_dump({"config": model["config"]}))
    with workspace.up(STACK) as live:
        yield live


def running(stack: LiveStack, wanted: dict[str, int]) -> dict[tuple[str, tuple[int, int]], Process]:
    """(node, process) -> what it has used by now."""
    by_key = {}
    for node in stack.nodes():
        name = node["metadata"]["name"]
        text = stack.in_node(name, "bash", "-c", READ, "read", "|".join(wanted))
        by_key |= {(name, process.key): process for process in processes(text, wanted)}
    return by_key


def missing(by_key: dict[tuple[str, tuple[int, int]], Process], wanted: dict[str, int]) -> dict[str, str]:
    counts = {name: sum(process.program == name for process in by_key.values()) for name in wanted}
    return {name: f"{counts[name]} of {number}" for name, number in wanted.items() if counts[name] < number}


def all_containers(stack: LiveStack) -> dict[tuple[str, str, str, str], Container]:
    """(node, namespace, pod, container) -> what its kubelet says, of what the stack brings."""
    by_key = {}
    for node in stack.nodes():
        name = node["metadata"]["name"]
        summary = json.loads(stack.kubectl("get", "--raw", f"/api/v1/nodes/{name}/proxy/stats/summary"))
        here = containers(summary)
        by_key |= {(name, *key): container for key, container in here.items() if key[0] in NAMESPACES}
    return by_key


def test_programs_take_little_at_rest(stack: LiveStack) -> None:
    wanted = expected(stack.settings)
    wait_for(f"all of {', '.join(wanted)} run", lambda: not missing(running(stack, wanted), wanted))
    time.sleep(SETTLE_SECONDS)  # what is measured is rest, and nothing tells when it begins
    whole, before, started = all_containers(stack), running(stack, wanted), time.monotonic()
    time.sleep(REST_SECONDS)  # the time over which rest is measured
    after, seconds = running(stack, wanted), time.monotonic() - started
    later = all_containers(stack)

    # What is there only once is of a probe, or has started again, and then it is missing.
    both = {key: process for key, process in after.items() if key in before}
    assert not (lost := missing(both, wanted)), f"not there for {REST_SECONDS} s on end: {lost}"
    rows = sorted(
        (
            process.program,
            key[0],
            process.rss_mib,
            process.pss_mib,
            (process.ticks - before[key].ticks) / TICKS,
            (process.ticks - before[key].ticks) / TICKS / seconds,
        )
        for key, process in both.items()
    )
    note = "PSS is memory with what is shared counted in parts; a dash where the node does not let it be read."
    if stack.settings.gpu.source == "simulated":
        note += " Simulated: gpu-sim, nvidia-cuda-mps-control and nvidia-cuda-mps-server are not NVIDIA's programs."
    columns = ("program", "node", "RSS MiB", "PSS MiB", "CPU s", "cores")
    show(
        f"Processes over {seconds:.0f} s of rest",
        columns,
        [(*row[:4], f"{row[4]:.2f}", f"{row[5]:.4f}") for row in rows],
        note,
    )
    boxes = sorted(at_rest(whole, later))
    assert {box[1] for box in boxes} >= {dra_driver.NAMESPACE}, "the kubelets' summaries do not have the driver's pods"
    box_columns = ("node", "namespace", "pod", "container", "working set MiB", "cores")
    box_note = "The kubelet's figures; the difference to the processes is what its probes start, and a shell."
    shown = [(*box[:4], box[4], f"{box[5]:.4f}") for box in boxes]
    show("Containers, with all that runs in them", box_columns, shown, box_note)
    save(
        "at-rest",
        {
            "stack": stack.name,
            "modules": list(stack.settings.modules),
            "simulated": stack.settings.gpu.source == "simulated",
            "seconds": round(seconds, 1),
            "processes": [dict(zip(columns, row, strict=True)) for row in rows],
            "containers": [dict(zip(box_columns, box, strict=True)) for box in boxes],
        },
    )
    greedy = {}
    for name in wanted:
        of_program = [row for row in rows if row[0] == name]
        memory, cores = statistics.fmean(row[2] for row in of_program), statistics.fmean(row[5] for row in of_program)
        if memory > AIM_MIB or cores > AIM_CORES:
            greedy[name] = f"{memory:.0f} MiB, {cores:.3f} cores"
    assert not greedy, f"more than {AIM_MIB} MiB or {AIM_CORES} cores at rest: {greedy}"


def at_rest(
    before: dict[tuple[str, str, str, str], Container], after: dict[tuple[str, str, str, str], Container]
) -> Iterator[tuple[str, str, str, str, float, float]]:
    """Working set and cores of each container; its kubelet looks at it when it likes, so the time is the kubelet's."""
    for key, container in after.items():
        if first := before.get(key):
            seconds = (container.at - first.at).total_seconds()
            assert seconds > REST_SECONDS / 2, f"the kubelet looked at {key} {seconds} s apart; rest longer"
            yield (*key, container.working_set_mib, (container.cpu_seconds - first.cpu_seconds) / seconds)
