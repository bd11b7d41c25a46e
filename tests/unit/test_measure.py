"""`make measure`: which stacks, in which order, what it keeps, and where it goes on; without a cluster."""

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks import measure
from checks.measure import Folder, main
from checks.measured import Measurement
from checks.results import CheckName
from tests.unit import measured_sample

STACKS = ("gpu-exclusive", "gpu-mps")
MODULES = {"gpu-exclusive": ["03"], "gpu-mps": ["04", "05"]}


class Killed(BaseException):
    """The end of a process of which no line runs any more."""


class Machine:
    """Runs what `make measure` would: notes the commands, and writes what the checks write."""

    def __init__(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkout, self.commands, self.fails = checkout, [], {}
        self.killed_in: str | None = None
        monkeypatch.setattr(measure, "run", self.run)
        monkeypatch.setattr(measure.LiveStack, "find", lambda checkout, stack: SimpleNamespace(stack=stack))
        monkeypatch.setattr(measure, "gpus", lambda live: measured_sample.run(live.stack, "03").gpus)
        monkeypatch.setattr(measure, "first_gpu_pod", lambda live, began: 42.0)

    def run(self, command: list[str], checkout: Path) -> int:
        keep = Path(command[command.index("--keep") + 1]) if "--keep" in command else None
        words = " ".join(word for word in command if "python" not in word and word not in ("--keep", str(keep)))
        self.commands.append(words)
        stack = words.split("--stack ")[1].split()[0] if "--stack " in words else ""
        step = next((step for step in ("up", "checks.verify", "destroy") if step in words.split()), "select")
        if step == "up":
            state = checkout / ".state" / stack
            state.mkdir(parents=True, exist_ok=True)
            (state / "kubeconfig").touch()
        if step == "destroy":
            (checkout / ".state" / stack / "kubeconfig").unlink(missing_ok=True)
        outcome = self.fails.get((stack, step), 0)
        if isinstance(outcome, BaseException):
            raise outcome
        if step == "checks.verify":
            modules = [part.split()[0] for part in words.split("--module ")[1:]] or MODULES[stack]
            ended = modules[: modules.index(self.killed_in)] if self.killed_in in modules else modules
            assert keep is not None and keep.parent == checkout / measure.MEASURED / stack
            failed = outcome != 0
            left_out = tuple(number for number in MODULES[stack] if number not in modules)
            found = measured_sample.results(stack, ended, failed=failed)
            not_run = tuple(CheckName(module=number, name=f"test_of_module_{number}") for number in modules)
            titles = measured_sample.results(stack, modules).modules
            changed = {"not_checked": left_out, "not_run": not_run[len(ended) :], "modules": titles}
            found.model_copy(update={**changed, "complete": ended == modules}).write(keep)
            if ended != modules:
                raise Killed
        return outcome

    def steps(self) -> list[str]:
        return [command for command in self.commands if "stack select" not in command]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "stacks").mkdir()
    for stack in STACKS:
        (tmp_path / "stacks" / f"Pulumi.{stack}.yaml").write_text("config:\n  dra-workshop:gpu: {source: host}\n")
    claim = "config:\n  dra-workshop:mps: {mode: claim}\n"
    (tmp_path / "stacks" / "Pulumi.gpu-claim.yaml").write_text(claim)
    (tmp_path / "stacks" / "Pulumi.phase1.yaml").write_text("config: {}\n")
    return Machine(tmp_path, monkeypatch)


def written(machine: Machine) -> Measurement:
    (file,) = (machine.checkout / "results").glob("*-??.json")
    return Measurement.read(file)


UP, DOWN = "pulumi up --yes --skip-preview --stack {}", "pulumi destroy --yes --skip-preview --stack {}"
VERIFY = "-m checks.verify --stack {}"


def test_every_stack_is_brought_up_checked_and_taken_down(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert main([], machine.checkout) == 0
    assert machine.steps() == [step.format(stack) for stack in STACKS for step in (UP, VERIFY, DOWN)]
    found = written(machine)
    assert [run.stack for run in found.runs] == list(STACKS)
    assert all(run.timeline.first_gpu_pod == 42 and run.timeline.up is not None for run in found.runs)
    assert {check.module for check in found.merged().checks} == {"03", "04", "05"}
    page = machine.checkout / "results" / f"{found.name}.html"
    assert "Real GPUs." in page.read_text()
    printed = capsys.readouterr().out
    assert "gpu-claim is left out: it changes the GPU's compute mode" in printed
    assert "[2/2] stack gpu-mps" in printed and f"results/{found.name}.json" in printed


def test_failed_check_is_kept_and_the_next_stack_follows(machine: Machine, capsys: pytest.CaptureFixture[str]):
    machine.fails["gpu-exclusive", "checks.verify"] = 1
    assert main([], machine.checkout) == 1
    assert len(machine.steps()) == 6
    assert [check.result for check in written(machine).merged().checks] == ["failed", "passed", "passed"]
    assert "failed: gpu-exclusive: verify" in capsys.readouterr().out


def test_stack_that_does_not_come_up_is_taken_down_unchecked(machine: Machine):
    machine.fails["gpu-exclusive", "up"] = 255
    assert main([], machine.checkout) == 1
    assert machine.steps()[:3] == [UP.format(STACKS[0]), DOWN.format(STACKS[0]), UP.format(STACKS[1])]
    assert [run.stack for run in written(machine).runs] == ["gpu-mps"]


def test_interrupted_run_leaves_the_stack_and_goes_on_with_it(machine: Machine, capsys: pytest.CaptureFixture[str]):
    machine.fails["gpu-mps", "checks.verify"] = KeyboardInterrupt()
    assert main([], machine.checkout) == 130
    assert DOWN.format("gpu-mps") not in machine.steps()
    assert "`make down STACK=gpu-mps` takes it down" in capsys.readouterr().out
    machine.fails.clear()
    machine.commands.clear()
    assert main([], machine.checkout) == 0
    assert machine.steps() == [step.format("gpu-mps") for step in (UP, VERIFY, DOWN)]
    assert "gpu-exclusive" not in " ".join(machine.commands)
    # It was not from nothing the second time, but the first time's figure is still true.
    assert all(run.timeline.up is not None for run in written(machine).runs)


def test_killed_run_loses_no_check_that_ended_and_the_next_one_makes_the_others(
    machine: Machine, capsys: pytest.CaptureFixture[str]
):
    machine.killed_in = "05"
    with pytest.raises(Killed):
        main([], machine.checkout)
    assert main(["--merge"], machine.checkout) == 1
    assert [check.module for check in written(machine).merged().checks] == ["03", "04"]
    said = capsys.readouterr().out
    assert "missing: gpu-mps: 1 checks did not run, since their run did not end: 05 of module 05" in said
    assert "missing: gpu-mps: pulumi down did not end well" in said and "missing: gpu-exclusive" not in said
    machine.killed_in = None
    machine.commands.clear()
    assert main([], machine.checkout) == 0
    verify = f"{VERIFY.format('gpu-mps')} --module 05 --check test_of_module_05"
    assert machine.steps() == [UP.format("gpu-mps"), verify, DOWN.format("gpu-mps")]
    found = written(machine)
    assert found.merged().complete and [check.module for check in found.merged().checks] == ["03", "04", "05"]
    assert "missing:" not in capsys.readouterr().out
    assert main([], machine.checkout) == 0  # nothing is left to measure
    assert len(machine.steps()) == 3


def test_run_that_is_killed_twice_goes_on_each_time(machine: Machine):
    for module in ("04", "05"):
        machine.killed_in = module
        with pytest.raises(Killed):
            main(["--stacks", "gpu-mps"], machine.checkout)
    machine.killed_in = None
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    assert [check.module for check in written(machine).merged().checks] == ["04", "05"]
    folder = Folder(machine.checkout / measure.MEASURED / "gpu-mps")
    assert [file.name for file in folder.results()] == ["verify-all.json", "verify-all~1.json", "verify-all~2.json"]


def test_check_with_parameters_is_made_again_with_all_of_them(machine: Machine):
    """pytest's -k takes no brackets with spaces or commas in them."""
    folder = Folder(machine.checkout / measure.MEASURED / "gpu-mps")
    left = tuple(CheckName(module="05", name=f"test_of_module_05[{number}, %]") for number in (1, 2))
    begun = measured_sample.results("gpu-mps", ["04"]).model_copy(update={"complete": False, "not_run": left})
    titles = measured_sample.results("gpu-mps", ["04", "05"]).modules
    begun.model_copy(update={"modules": titles}).write(folder.unended("all"))
    main(["--stacks", "gpu-mps"], machine.checkout)
    assert f"{VERIFY.format('gpu-mps')} --module 05 --check test_of_module_05" in machine.steps()


def test_run_that_ended_before_its_first_check_leaves_nothing(machine: Machine):
    folder = Folder(machine.checkout / measure.MEASURED / "gpu-mps")
    kept = folder.unended("05")
    empty = {"complete": False, "checks": (), "tables": (), "plots": (), "faults": ()}
    measured_sample.results("gpu-mps", ["05"]).model_copy(update=empty).write(kept)
    folder.settle(kept, "05")
    assert folder.results() == []


def test_part_of_a_stack_that_is_missing_is_named(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert main(["--stacks", "gpu-mps", "--modules", "04"], machine.checkout) == 0
    assert "missing: gpu-mps: modules 05 were not checked" in capsys.readouterr().out


def test_stack_that_was_there_has_no_time_from_nothing(machine: Machine):
    folder = machine.checkout / ".state" / "gpu-mps"
    folder.mkdir(parents=True)
    (folder / "kubeconfig").touch()
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    (run,) = written(machine).runs
    assert (run.timeline.up, run.timeline.first_gpu_pod) == (None, None)
    assert run.timeline.down is not None


def test_slices_make_the_same_measurement(machine: Machine):
    steps = (["up"], ["verify", "--modules", "04"], ["verify", "--modules", "05"], ["down"])
    for step in steps:
        assert not list((machine.checkout / "results").glob("*.json"))
        assert main(["--stacks", "gpu-mps", "--steps", *step], machine.checkout) == 0
    (run,) = written(machine).runs
    assert [[module.number for module in results.modules] for results in run.results] == [["04"], ["05"]]
    assert [check.module for check in written(machine).merged().checks] == ["04", "05"]


def test_module_can_be_checked_in_parts(machine: Machine):
    assert main(["--stacks", "gpu-mps", "--steps", "up"], machine.checkout) == 0
    for words in (["plugin", "kubelet"], ["node"]):
        step = ["--stacks", "gpu-mps", "--steps", "verify", "--modules", "05", "--checks", *words]
        assert main(step, machine.checkout) == 0
    assert machine.steps()[-2:] == [
        "-m checks.verify --stack gpu-mps --module 05 --check plugin --check kubelet",
        "-m checks.verify --stack gpu-mps --module 05 --check node",
    ]
    folder = Folder(machine.checkout / measure.MEASURED / "gpu-mps")
    assert [file.name for file in folder.results()] == ["verify-05+node.json", "verify-05+plugin+kubelet.json"]


def test_what_was_measured_is_measured_again_on_request_only(machine: Machine, capsys: pytest.CaptureFixture[str]):
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    assert len(machine.steps()) == 3
    assert "was measured before; MEASURE=--again" in capsys.readouterr().out
    assert main(["--stacks", "gpu-mps", "--again"], machine.checkout) == 0
    assert len(machine.steps()) == 6


def test_checks_that_were_left_out_are_made_later_and_join_the_others(machine: Machine):
    assert main(["--stacks", "gpu-mps", "--modules", "04"], machine.checkout) == 0
    assert main(["--stacks", "gpu-mps", "--modules", "05"], machine.checkout) == 0
    assert len(machine.steps()) == 6
    assert [check.module for check in written(machine).merged().checks] == ["04", "05"]
    # All that is measured is measured; the stack need not come up again for a part of it.
    assert main(["--stacks", "gpu-mps", "--modules", "05"], machine.checkout) == 0
    assert len(machine.steps()) == 6


def test_stack_whose_modules_were_each_checked_is_measured(machine: Machine):
    for words in (["up"], ["verify", "--modules", "04"], ["verify", "--modules", "05"], ["down"]):
        assert main(["--stacks", "gpu-mps", "--steps", *words], machine.checkout) == 0
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    assert len(machine.steps()) == 4
    # It can be brought up for further checks all the same.
    assert main(["--stacks", "gpu-mps", "--steps", "up"], machine.checkout) == 0
    assert machine.steps()[4:] == [UP.format("gpu-mps")]


def test_stack_of_which_one_module_was_checked_is_not_measured(machine: Machine):
    assert main(["--stacks", "gpu-mps", "--modules", "04"], machine.checkout) == 0
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    assert machine.steps()[3:] == [step.format("gpu-mps") for step in (UP, VERIFY, DOWN)]


def test_machine_is_the_one_that_was_measured_wherever_it_is_merged(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    there = written(machine).runs[0].machine
    elsewhere = there.model_copy(update={"cores": there.cores + 1})
    monkeypatch.setattr(measure, "machine", lambda: elsewhere)
    assert main(["--merge"], machine.checkout) == 0
    assert written(machine).runs[0].machine == there


def test_stacks_of_several_machines_are_one_measurement_that_says_so(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    there = written(machine).runs[0].machine
    elsewhere = there.model_copy(update={"cores": 1000})
    monkeypatch.setattr(measure, "machine", lambda: elsewhere)
    assert main(["--stacks", "gpu-exclusive"], machine.checkout) == 0
    assert written(machine).machines == {elsewhere: ["gpu-exclusive"], there: ["gpu-mps"]}


def test_checks_of_one_stack_are_of_one_machine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["--stacks", "gpu-mps", "--modules", "04"], machine.checkout) == 0
    there = written(machine).runs[0].machine
    monkeypatch.setattr(measure, "machine", lambda: there.model_copy(update={"memory_mib": 1}))
    assert main(["--stacks", "gpu-mps", "--modules", "05"], machine.checkout) == 0
    monkeypatch.setattr(measure, "machine", lambda: there.model_copy(update={"cores": 1000}))
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0  # nothing is left to measure
    words = ["--stacks", "gpu-mps", "--steps", "verify", "--modules", "05", "--checks", "limit"]
    assert main(["--stacks", "gpu-mps", "--steps", "up"], machine.checkout) == 0
    assert main(words, machine.checkout) == 2
    assert "has checks of another machine" in capsys.readouterr().err
    assert main(["--stacks", "gpu-mps", "--again"], machine.checkout) == 0


def test_gpus_of_two_products_are_no_measurement(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert main(["--stacks", "gpu-mps"], machine.checkout) == 0
    (gpu,) = measured_sample.run("gpu-exclusive", "03").gpus
    other = gpu.model_copy(update={"product_name": "NVIDIA H200"})
    monkeypatch.setattr(measure, "gpus", lambda live: [other])
    assert main(["--stacks", "gpu-exclusive"], machine.checkout) == 2
    said = capsys.readouterr().err
    assert "has checks of NVIDIA H100 80GB HBM3, NVIDIA H200, and a measurement is of one" in said


def test_stacks_of_several_runs_are_merged(machine: Machine):
    for stack in STACKS:
        assert main(["--stacks", stack], machine.checkout) == 0
    assert [run.stack for run in written(machine).runs] == list(STACKS)
    assert main(["--merge"], machine.checkout) == 0
    assert main(["--merge", "--stacks", "gpu-mps"], machine.checkout) == 0
    assert [run.stack for run in written(machine).runs] == ["gpu-mps"]


def test_every_point_of_vllms_experiment_stands_beside_the_measurement(machine: Machine):
    points = machine.checkout / "results" / "gpu-mps-vllm"
    points.mkdir(parents=True)
    for kind in ("csv", "json"):
        (points / f"points.{kind}").write_text(f"its {kind}")
    assert main([], machine.checkout) == 0
    name = written(machine).name
    for kind in ("csv", "json"):
        assert (machine.checkout / "results" / f"{name}-vllm.{kind}").read_text() == f"its {kind}"
    (points / "points.csv").unlink()
    (points / "points.json").unlink()
    assert main(["--stacks", "gpu-mps", "--again"], machine.checkout) == 0
    assert not list((machine.checkout / measure.MEASURED).glob("*/vllm.*"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stacks", "gpu-none"], "stack gpu-none: there is no stacks/Pulumi.gpu-none.yaml; correct it"),
        (["--merge"], "results/measure has no checks of these stacks; run `make measure` first"),
    ],
)
def test_nothing_to_measure_is_said_with_its_remedy(
    machine: Machine, capsys: pytest.CaptureFixture[str], words: list[str], said: str
):
    assert main(words, machine.checkout) == 2
    assert f"error: {said}" in capsys.readouterr().err
    assert not machine.commands


def test_checkout_without_stacks_of_a_gpu_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "stacks").mkdir()
    assert main([], tmp_path) == 2
    assert "there is no stacks/Pulumi.gpu*.yaml" in capsys.readouterr().err


def test_results_of_an_earlier_run_are_not_taken_for_those_of_this_one(machine: Machine, tmp_path: Path):
    folder = machine.checkout / "results" / "gpu-mps"
    folder.mkdir(parents=True)
    measured_sample.results("gpu-mps", ["04"]).write(folder / "verify.json")
    # The checks that do not begin write nothing.
    machine.fails["gpu-mps", "checks.verify"] = SystemExit(3)
    with pytest.raises(SystemExit):
        main(["--stacks", "gpu-mps"], machine.checkout)
    assert Folder(machine.checkout / measure.MEASURED / "gpu-mps").results() == []


class Live:
    """A stack with a holder, one that looks on and one that waits."""

    def get(self, kind: str, **options: Any) -> list[dict[str, Any]]:
        if kind == "pods":
            return [pod("holder", "2026-11-20T10:00:40Z"), pod("exporter", "2026-11-20T10:00:30Z"), pod("waiter", None)]
        return [claim("holder"), claim("exporter", adminAccess=True), {"status": {}}, claim("waiter")]

    def devices(self) -> dict[tuple[str, str], dict[str, Any]]:
        gpu = {
            "type": "gpu",
            "productName": "NVIDIA H100 80GB HBM3",
            "cudaComputeCapability": "9.0.0",
            "memory": "81559Mi",
            "driverVersion": "580.159.4",
            "cudaDriverVersion": "13.0.0",
        }
        return {("n", "gpu-0"): gpu, ("n", "gpu-0-mig-1"): {**gpu, "type": "mig"}}


def pod(uid: str, started: str | None) -> dict[str, Any]:
    state = {"running": {"startedAt": started}} if started else {"waiting": {}}
    return {"metadata": {"uid": uid}, "status": {"containerStatuses": [{"state": state}]}}


def claim(uid: str, **more: Any) -> dict[str, Any]:
    results = [{"driver": "gpu.nvidia.com", **more}]
    return {"status": {"allocation": {"devices": {"results": results}}, "reservedFor": [{"uid": uid}]}}


def test_first_pod_is_the_first_that_has_a_gpu():
    began = datetime(2026, 11, 20, 10, 0, 0, tzinfo=UTC)
    live: Any = Live()
    assert measure.first_gpu_pod(live, began) == 40


def test_gpus_are_those_that_the_driver_publishes():
    live: Any = Live()
    (gpu,) = measure.gpus(live)
    assert (gpu.compute_capability, gpu.memory_mib, gpu.cuda_driver_version) == ("9.0", 81559, "13.0")


def test_machine_is_described_without_its_name():
    found = measure.machine()
    assert found.cores > 0 and found.memory_mib > 0 and found.processor
    assert json.loads(found.model_dump_json(by_alias=True)).keys() == {"cores", "memoryMib", "kernel", "processor"}


def test_interrupted_program_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    waits: list[int] = []

    class Process:
        def __init__(self, command: list[str], cwd: Path) -> None:
            pass

        def wait(self) -> int:
            waits.append(1)
            if len(waits) == 1:
                raise KeyboardInterrupt
            return 0

    monkeypatch.setattr(measure.subprocess, "Popen", Process)
    with pytest.raises(KeyboardInterrupt):
        measure.run(["pulumi"], tmp_path)
    assert len(waits) == 2
