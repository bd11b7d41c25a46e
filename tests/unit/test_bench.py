"""What the benchmarks compute: percentiles, means by stage, the driver's metrics, processes of a node."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from checks.timeline import STAGES, Moments
from settings import PROJECT, Settings
from tests.bench import figures, test_allocation_latency, test_at_rest, test_fleet
from tests.bench.figures import (
    Container,
    Prepared,
    Process,
    breakdown,
    containers,
    percentile,
    processes,
    program,
    spread,
)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([3.0], 50, 3.0),
        ([3.0], 99, 3.0),
        ([2.0, 1.0], 50, 1.0),
        ([5.0, 1.0, 4.0, 2.0, 3.0], 50, 3.0),
        ([float(n) for n in range(1, 101)], 99, 99.0),
        ([float(n) for n in range(1, 201)], 99, 198.0),
        ([1.0, 2.0], 0, 1.0),
        ([1.0, 2.0], 100, 2.0),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[float], percent: float, expected: float):
    assert percentile(values, percent) == expected


def test_percentile_of_nothing_is_an_error():
    with pytest.raises(ValueError, match="p99 of no values"):
        percentile([], 99)


def test_spread_has_number_mean_percentiles_and_greatest():
    assert spread([1.0, 2.0, 6.0]) == {"count": 3, "mean": 3.0, "p50": 2.0, "p99": 6.0, "max": 6.0}


def test_differences_of_the_stages_add_up_to_the_difference_of_the_means():
    claim = [Moments(0.0, 0.5, 1.5, 3.5), Moments(0.0, 1.5, 2.0, 4.5)]
    plain = [Moments(0.0, None, 0.5, 1.5), Moments(0.0, None, 1.0, 2.5)]
    found = breakdown(claim, plain)
    assert tuple(found) == STAGES
    assert found["claim made"] == (1.0, 0.0, 1.0)
    assert found["scheduled"] == (0.75, 0.75, 0.0)
    assert found["started"] == (2.25, 1.25, 1.0)
    assert sum(difference for _, _, difference in found.values()) == 4.0 - 2.0


METRICS = """\
# TYPE nvidia_dra_request_duration_seconds histogram
nvidia_dra_request_duration_seconds_bucket{driver="gpu.nvidia.com",operation="prepare",le="0.05"} 3
nvidia_dra_request_duration_seconds_bucket{driver="gpu.nvidia.com",operation="prepare",le="+Inf"} 4
nvidia_dra_request_duration_seconds_sum{driver="gpu.nvidia.com",operation="prepare"} 0.5
nvidia_dra_request_duration_seconds_count{driver="gpu.nvidia.com",operation="prepare"} 4
nvidia_dra_request_duration_seconds_sum{driver="gpu.nvidia.com",operation="unprepare"} 9
nvidia_dra_request_duration_seconds_count{driver="gpu.nvidia.com",operation="unprepare"} 9
nvidia_dra_request_duration_seconds_sum{driver="compute-domain.nvidia.com",operation="prepare"} 7
nvidia_dra_request_duration_seconds_count{driver="compute-domain.nvidia.com",operation="prepare"} 7
# TYPE nvidia_dra_node_prepare_errors_total counter
nvidia_dra_node_prepare_errors_total{driver="gpu.nvidia.com",error_type="lock_acquire"} 1
nvidia_dra_node_prepare_errors_total{driver="gpu.nvidia.com",error_type="prepare_devices"} 2
# TYPE nvidia_dra_node_unprepare_errors_total counter
nvidia_dra_node_unprepare_errors_total{driver="gpu.nvidia.com",error_type="lock_acquire"} 5
"""


def test_drivers_metrics_are_those_of_prepare():
    assert Prepared.parse(METRICS) == Prepared(requests=4, seconds=0.5, errors=3)


def test_driver_without_an_error_has_no_metric_of_it():
    without = METRICS.split("# TYPE nvidia_dra_node_prepare_errors_total")[0]
    assert Prepared.parse(without) == Prepared(requests=4, seconds=0.5, errors=0)


def test_metrics_of_something_else_are_an_error():
    with pytest.raises(ValueError, match=r"no nvidia_dra_request_duration_seconds_count of gpu\.nvidia\.com"):
        Prepared.parse(METRICS.replace("gpu.nvidia.com", "gpu.example.com"))


def test_prepare_between_two_looks_is_of_all_plugins():
    before = Prepared(2, 0.25, 1) + Prepared(1, 0.25, 0)
    later = (Prepared(4, 0.5, 1) + Prepared(3, 1.0, 0)).since(before)
    assert later == Prepared(4, 1.0, 0)
    assert later.mean == 0.25
    assert Prepared().mean == 0.0


def test_plugin_that_started_again_in_between_is_an_error():
    with pytest.raises(AssertionError, match="a plugin started again"):
        Prepared(1, 0.1, 0).since(Prepared(4, 0.5, 0))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["gpu-kubelet-plugin", "-v", "4"], "gpu-kubelet-plugin"),
        (["/usr/bin/python3", "/usr/bin/gpu-exporter"], "gpu-exporter"),
        (["/usr/bin/python3"], "python3"),
        (["bash", "-c", "gpu-kubelet-plugin -v 4"], "bash"),
        ([], ""),
    ],
)
def test_program_is_the_script_where_an_interpreter_runs_one(arguments: list[str], expected: str):
    assert program(arguments) == expected


def stat(pid: int, name: str, own: tuple[int, int], children: tuple[int, int], started: int) -> str:
    times = " ".join(str(ticks) for ticks in (*own, *children))
    return f"{pid} ({name}) S 1 {pid} {pid} 0 -1 4194560 100 0 0 0 {times} 20 0 9 0 {started} 1000 200"


def test_processes_are_read_with_their_children_that_ended():
    text = "\n".join(
        [
            "process\t12\tgpu-kubelet-plugin\t-v\t4\t",
            stat(12, "gpu-kubelet-plu", (100, 20), (3, 4), 777),
            "VmRSS:\t   20480 kB",
            "Pss:               10240 kB",
            "process\t13\t/usr/bin/python3\t/usr/bin/gpu-exporter\t",
            stat(13, "odd ) S 9 name", (1, 1), (0, 0), 778),
            "VmRSS:\t    1024 kB",
            "process\t14\tbash\t-c\tgpu-kubelet-plugin, a process\tagain\t",
            stat(14, "bash", (1, 1), (0, 0), 779),
            "VmRSS:\t    1024 kB",
            "process\t15\tgpu-exporter\t",
            "",
        ]
    )
    assert processes(text, ["gpu-kubelet-plugin", "gpu-exporter"]) == [
        Process("gpu-kubelet-plugin", 12, 777, 127, 20.0, 10.0),
        Process("gpu-exporter", 13, 778, 2, 1.0, None),
    ]


def test_containers_without_figures_are_left_out():
    cpu = {"time": "2026-11-25T12:00:00Z", "usageCoreNanoSeconds": 1_500_000_000}
    complete = {"name": "gpus", "cpu": cpu, "memory": {"workingSetBytes": 64 * 1024 * 1024}}
    pod = {"podRef": {"namespace": "driver", "name": "plugin"}, "containers": [complete, {"name": "new", "cpu": cpu}]}
    found = containers({"pods": [pod, {"podRef": {"namespace": "driver", "name": "starting"}}]})
    assert found == {("driver", "plugin", "gpus"): Container(datetime(2026, 11, 25, 12, tzinfo=UTC), 1.5, 64.0)}


def test_figures_are_kept_with_their_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "bench")
    kept = json.loads(figures.save("some", {"seconds": 1.5}).read_text())
    assert kept["seconds"] == 1.5
    assert kept["machine"]["cores"] > 0
    assert kept["machine"]["memoryMib"] > 0


def test_latency_stack_is_a_valid_one_whose_claims_share_gpus():
    settings = Settings.parse(test_allocation_latency.CONFIG, "latency")
    assert settings.consumable_shares == "memory"
    assert [node.count for node in settings.gpu_nodes] == [8, 8]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"modules": ["01", "02"]}, {"gpu-kubelet-plugin": 1, "gpu-sim": 1}),
        (
            {"modules": ["01", "02", "04"], "cluster": {"workers": 2}},
            {
                "gpu-kubelet-plugin": 2,
                "gpu-sim": 2,
                "mps-daemon": 2,
                "nvidia-cuda-mps-control": 2,
                "nvidia-cuda-mps-server": 1,
            },
        ),
        (
            {"modules": ["01", "02", "04"], "mps": {"mode": "claim"}},
            {"gpu-kubelet-plugin": 1, "gpu-sim": 1},
        ),
    ],
    ids=["driver", "daemon", "mps by claim"],
)
def test_programs_at_rest_are_those_of_the_stacks_modules(config: dict[str, Any], expected: dict[str, int]):
    assert test_at_rest.expected(Settings.parse(config, "test")) == expected


def test_every_program_of_the_issue_is_measured_in_the_stack_at_rest():
    file = test_at_rest.CHECKOUT / "stacks" / f"Pulumi.{test_at_rest.MODEL}.yaml"
    config = yaml.safe_load(file.read_text())["config"]
    settings = Settings.parse({key.removeprefix(f"{PROJECT}:"): value for key, value in config.items()}, "rest")
    assert test_at_rest.expected(settings) == {
        "gpu-kubelet-plugin": 2,
        "gpu-sim": 2,
        "mps-daemon": 2,
        "nvidia-cuda-mps-control": 2,
        "nvidia-cuda-mps-server": 1,
        "gpu-exporter": 2,
        "taint-keeper": 1,
    }


def test_steps_of_a_round_are_means_of_what_was_taken_in_it():
    before, after = {"search": (2.0, 10.0), "writes": (1.0, 4.0)}, {"search": (2.5, 20.0), "writes": (1.0, 4.0)}
    assert test_fleet.mean_ms(before, after) == {"search": 50.0}
