"""`make measure`: brings up each stack of a real GPU in turn, checks it, takes it down, and merges what was found.

    make measure                          every stack of stacks/Pulumi.gpu*.yaml
    make measure STACKS="gpu-mps"         some of them
    make measure MEASURE="--modules 05"   options of this program

What is done is kept in results/measure/<stack>, each check as it ends, so that a run that was interrupted or killed
goes on where it was: with the checks that are missing. The end is results/<gpu>-<date>.json and .html. Ends with 0 if
every stack came up, passed its checks and went, 1 if not, 2 if there is nothing to measure, 130 after Ctrl-C.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kr8s
import yaml

from checks.live import DRIVER, LiveStack
from checks.measured import Gpu, Machine, Measurement, Run, StackTimes, missing
from checks.results import CheckName, ReportError, Results, title_of
from gpus.quantity import quantity_mib
from settings import PROJECT
from toolchain.paths import CHECKOUT
from toolchain.progress import duration

STEPS = ("up", "verify", "down")
ALL = "all"  # the name of the part that is every check
MEASURED = Path("results", "measure")
INTERRUPTED = 130
NAMED = 5  # of the checks that are missing
POINTS = ("csv", "json")  # how module 06.5 writes its points


class NothingToMeasure(Exception):
    """Error: the measurement that was asked for cannot be done. The message has the remedy."""


@dataclass(frozen=True)
class Selection:
    """Stacks, steps, modules and checks that were asked for."""

    stacks: tuple[str, ...]
    steps: tuple[str, ...]
    modules: tuple[str, ...]
    checks: tuple[str, ...]
    again: bool

    @property
    def part(self) -> str:
        """Name under which the results of these checks are kept."""
        return "+".join([*self.modules, *self.checks]) or ALL


@dataclass(frozen=True)
class Folder:
    """Folder results/measure/<stack>: what is known of one stack so far."""

    path: Path

    @property
    def stack(self) -> str:
        return self.path.name

    @property
    def timeline(self) -> dict[str, float]:
        """Seconds by the names of `Timeline`."""
        return self._read("timeline.json", {})

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(Gpu(**gpu) for gpu in self._read("gpus.json", []))

    @property
    def steps(self) -> list[str]:
        """The steps that ended well."""
        return self._read("steps.json", [])

    def done(self, part: str) -> bool:
        """True if the stack was brought up, had these checks and was taken down. All are those of each module."""
        if not {"up", "down"} <= set(self.steps):
            return False
        if {part, ALL} & {file.stem.removeprefix("verify-") for file in self.results()}:
            return True
        runs = list(_read(self))
        checked = {module.number for results in runs for module in results.modules}
        return part == ALL and bool(runs) and checked >= set(runs[0].not_checked) and not missing(runs)

    def missing(self, part: str) -> tuple[CheckName, ...]:
        """Checks that runs of this part which did not end have left to do."""
        left = {(name.module, name.name) for results in _read(self, f"{part}~*") for name in results.not_run or ()}
        return tuple(name for name in missing(_read(self)) if (name.module, name.name) in left)

    @property
    def machine(self) -> Machine | None:
        """The machine on which it was measured."""
        fields = self._read("machine.json", None)
        return Machine(**fields) if fields else None

    def keep_machine(self, machine: Machine) -> None:
        """Raises `NothingToMeasure` if there are checks of another machine: what a stack compares is of one."""
        kept = self.machine
        # Memory may be added to a machine while it runs.
        if kept and self.results() and kept.model_copy(update={"memory_mib": machine.memory_mib}) != machine:
            raise NothingToMeasure(
                f"stack {self.stack}: {self.path} has checks of another machine ({kept.cores} cores, {kept.processor}, "
                f"Linux {kept.kernel}); MEASURE=--again measures all of the stack here"
            )
        self._write("machine.json", machine.model_dump())

    def keep(self, step: str, seconds: dict[str, float]) -> None:
        """Keep that a step ended well, and its times."""
        self._write("steps.json", [*self.steps, step])
        self._write("timeline.json", {**self.timeline, **seconds})

    def keep_gpus(self, gpus: Sequence[Gpu]) -> None:
        self._write("gpus.json", [gpu.model_dump() for gpu in gpus])

    def unended(self, part: str) -> Path:
        """New file for a run of checks that has not ended: what is in it stays, whatever becomes of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        numbers = [int(file.stem.rpartition("~")[2]) for file in self.results(f"{part}~*")]
        return self.path / f"verify-{part}~{max(numbers, default=0) + 1}.json"

    def settle(self, kept: Path, part: str) -> None:
        """The run of that file is over: where every check has ended, it is the result of its part."""
        if not kept.exists():
            return
        results = Results.read(kept, self.stack)
        if not results.checks:
            kept.unlink()  # it ended before its first check did, and nothing is known by it
        elif results.whole:
            kept.replace(self.path / f"verify-{part}.json")

    def keep_points(self, points: Path) -> None:
        """Keep every point of vLLM's experiment as it wrote them, where there was one."""
        for kind in POINTS:
            if (points / f"points.{kind}").exists():
                shutil.copy(points / f"points.{kind}", self.path / f"vllm.{kind}")

    def results(self, part: str = "*") -> list[Path]:
        """Files of checks: of all parts, or of those whose names match the pattern."""
        return sorted(self.path.glob(f"verify-{part}.json"))

    def begin(self) -> None:
        """No step is done; what was measured is kept."""
        self._write("steps.json", [])

    def forget(self) -> None:
        for kind in ("json", *POINTS):
            for file in self.path.glob(f"*.{kind}"):
                file.unlink()

    def _read(self, name: str, otherwise: Any) -> Any:
        file = self.path / name
        return json.loads(file.read_text()) if file.exists() else otherwise

    def _write(self, name: str, value: Any) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(json.dumps(value, indent=2) + "\n")


def main(words: Sequence[str] | None = None, checkout: Path = CHECKOUT) -> int:
    parser = argparse.ArgumentParser(
        prog="make measure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stacks", nargs="*", default=[], help="the stacks, in order (default: those of a GPU)")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="do these only, e.g. in short slices")
    parser.add_argument("--modules", nargs="+", default=[], help="check these modules only")
    parser.add_argument("--checks", nargs="+", default=[], metavar="WORD", help="only checks with one of these words")
    parser.add_argument("--again", action="store_true", help="measure what was measured before once more")
    parser.add_argument("--merge", action="store_true", help="merge what is there, and bring nothing up")
    given = parser.parse_args(words)
    root = checkout / MEASURED
    try:
        if given.merge:
            return merge([Folder(root / name) for name in given.stacks] or measured_folders(checkout), checkout)
        stacks = stacks_of_a_gpu(checkout) if not given.stacks else given.stacks
        parts = (tuple(given.modules), tuple(given.checks))
        chosen = Selection(tuple(stacks), tuple(given.steps), *parts, given.again)
        return measure(chosen, checkout)
    except (NothingToMeasure, ReportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def stacks_of_a_gpu(checkout: Path) -> list[str]:
    """The stacks of a host's GPU that leave its compute mode as it is. Raises `NothingToMeasure` for none."""
    stacks = []
    for file in sorted((checkout / "stacks").glob("Pulumi.gpu*.yaml")):
        name = file.name.removeprefix("Pulumi.").removesuffix(".yaml")
        config: dict[str, Any] = yaml.safe_load(file.read_text()).get("config") or {}
        if (config.get(f"{PROJECT}:mps") or {}).get("mode") == "claim":
            print(f"{name} is left out: it changes the GPU's compute mode; name it in STACKS to measure it")
            continue
        stacks.append(name)
    if not stacks:
        raise NothingToMeasure("stacks: there is no stacks/Pulumi.gpu*.yaml; name the stacks in STACKS")
    return stacks


def measured_folders(checkout: Path) -> list[Folder]:
    """Folders of all stacks of which something was measured."""
    return [Folder(path) for path in sorted((checkout / MEASURED).glob("*")) if path.is_dir()]


def measure(chosen: Selection, checkout: Path) -> int:
    """Measure each stack, whatever became of the one before; then merge them with those of other runs."""
    folders = [Folder(checkout / MEASURED / name) for name in chosen.stacks]
    for folder in folders:
        if not (checkout / "stacks" / f"Pulumi.{folder.stack}.yaml").exists():
            raise NothingToMeasure(f"stack {folder.stack}: there is no stacks/Pulumi.{folder.stack}.yaml; correct it")
    failed: list[str] = []
    for number, folder in enumerate(folders, 1):
        say(f"[{number}/{len(folders)}] stack {folder.stack}")
        # One that is only brought up is so for checks that are named later.
        if chosen.steps != ("up",) and folder.done(chosen.part) and not chosen.again:
            say("  was measured before; MEASURE=--again measures it once more")
            continue
        if "up" in chosen.steps and chosen.again:
            folder.forget()
        elif "up" in chosen.steps and "down" in folder.steps:
            folder.begin()  # other checks of it are kept
        try:
            failed += [f"{folder.stack}: {step}" for step in measure_stack(folder, chosen, checkout)]
        except KeyboardInterrupt:
            say(
                f"interrupted; stack {folder.stack} is left as it is. `make measure` goes on with it, "
                f"`make down STACK={folder.stack}` takes it down"
            )
            return INTERRUPTED
    measured = measured_folders(checkout)
    code = merge(measured, checkout) if "down" in chosen.steps and any(f.results() for f in measured) else 0
    for words in failed:
        say(f"failed: {words}")
    return 1 if failed else code


def measure_stack(folder: Folder, chosen: Selection, checkout: Path) -> list[str]:
    """Bring a stack up, check it and take it down; returns the steps that failed."""
    failed: list[str] = []
    stack = folder.stack
    for step in chosen.steps:
        if step == "verify" and "up" in failed:
            say("  verify: left out, since the stack did not come up")
            continue
        began, at = time.monotonic(), datetime.now(UTC)
        new = not (checkout / ".state" / stack / "kubeconfig").exists()
        say(f"  {step}: begins at {at:%H:%M:%S} UTC")
        if step == "verify":
            folder.keep_machine(machine())
            code = verify(folder, chosen, checkout)
        else:
            code = {"up": up, "down": down}[step](stack, checkout)
        seconds = time.monotonic() - began
        say(f"  {step}: {'done' if code == 0 else f'ended with {code}'} after {duration(seconds)}")
        if code:
            failed.append(step)
        if step == "up" and code == 0:
            live = LiveStack.find(checkout, stack)
            folder.keep_gpus(gpus(live))
            first = first_gpu_pod(live, at)
            # Where an earlier, interrupted run had left something, it is not the time from nothing.
            times = {"up": seconds} | ({} if first is None else {"first_gpu_pod": first})
            folder.keep(step, times if new else {})
        elif step == "verify":
            folder.keep_points(checkout / "results" / f"{stack}-vllm")
        elif step == "down" and code == 0:
            folder.keep(step, {"down": seconds})
    return failed


def up(stack: str, checkout: Path) -> int:
    select = run(["pulumi", "stack", "select", "--create", stack], checkout)
    return select or run(["pulumi", "up", "--yes", "--skip-preview", "--stack", stack], checkout)


def verify(folder: Folder, chosen: Selection, checkout: Path) -> int:
    """Run the checks that were asked for; of those that an interrupted run began with, only what it left to do."""
    modules, checks = chosen.modules, chosen.checks
    if left := folder.missing(chosen.part):
        modules = tuple(sorted({name.module for name in left}))
        # Without the parameters of a check, which pytest's -k does not take in every case.
        checks = tuple(dict.fromkeys(name.name.partition("[")[0] for name in left))
        say(f"  verify: {len(left)} checks are missing, the others were kept")
    only = [word for module in modules for word in ("--module", module)]
    only += [word for check in checks for word in ("--check", check)]
    kept = folder.unended(chosen.part)
    words = [sys.executable, "-m", "checks.verify", "--stack", folder.stack, "--keep", str(kept), *only]
    code = run(words, checkout)
    folder.settle(kept, chosen.part)
    return code


def down(stack: str, checkout: Path) -> int:
    return run(["pulumi", "destroy", "--yes", "--skip-preview", "--stack", stack], checkout)


def run(command: Sequence[str], checkout: Path) -> int:
    """Run a program to its end, with its output where ours is; Ctrl-C reaches it too, and is waited for."""
    process = subprocess.Popen(command, cwd=checkout)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def say(words: str) -> None:
    print(words, flush=True)


def gpus(live: LiveStack) -> list[Gpu]:
    """The GPUs that NVIDIA's driver publishes in the stack."""
    return [
        Gpu(
            node=node,
            device=device,
            product_name=values["productName"],
            compute_capability=".".join(values["cudaComputeCapability"].split(".")[:2]),
            memory_mib=quantity_mib(values["memory"]),
            driver_version=values["driverVersion"],
            cuda_driver_version=".".join(values["cudaDriverVersion"].split(".")[:2]),
        )
        for (node, device), values in sorted(live.devices().items())
        if values["type"] == "gpu"
    ]


def first_gpu_pod(live: LiveStack, began: datetime) -> float | None:
    """Seconds until the first container ran that has a GPU by a claim; the API's times are whole seconds.

    A pod that only looks on has no GPU. None where no module starts one.
    """
    holders = {
        reserved["uid"]
        for claim in live.get("resourceclaims.v1.resource.k8s.io", namespace=kr8s.ALL)
        for result in claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
        if result["driver"] == DRIVER and not result.get("adminAccess")
        for reserved in claim["status"].get("reservedFor", [])
    }
    pods = [pod for pod in live.get("pods", namespace=kr8s.ALL) if pod["metadata"]["uid"] in holders]
    started = [at for pod in pods for at in _started(pod)]
    return max(0.0, (min(started) - began).total_seconds()) if started else None


def _started(pod: dict[str, Any]) -> Iterable[datetime]:
    states = [status["state"] for status in pod["status"].get("containerStatuses", [])]
    return [datetime.fromisoformat(state["running"]["startedAt"]) for state in states if "running" in state]


def machine() -> Machine:
    """This machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), "")
    mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    return Machine(cores=os.cpu_count() or 1, memory_mib=mib, kernel=platform.release(), processor=name or "unknown")


def merge(folders: Sequence[Folder], checkout: Path) -> int:
    """Write results/<gpu>-<date>.json and .html of what is known of the stacks. 1 if a check failed.

    The stacks' folders may have come from the machine that has the GPU, which is the one that is told.
    """
    runs = [
        Run(
            stack=folder.stack,
            machine=folder.machine or machine(),
            timeline=StackTimes(**folder.timeline),
            gpus=folder.gpus,
            results=tuple(sorted(_read(folder), key=lambda results: results.finished)),
        )
        for folder in folders
        if folder.results()
    ]
    if not runs:
        raise NothingToMeasure("results/measure has no checks of these stacks; run `make measure` first")
    products = {gpu.product_name for run in runs for gpu in run.gpus}
    if len(products) > 1:
        raise NothingToMeasure(
            f"{MEASURED} has checks of {', '.join(sorted(products))}, and a measurement is of one; "
            "name the stacks of one of them in STACKS"
        )
    measurement = Measurement(runs=tuple(runs))
    # Imported here: it brings a template engine, which the stacks need none of.
    from checks.report.document import document
    from checks.report.page import render

    merged = measurement.merged()
    page = checkout / "results" / f"{measurement.name}.html"
    page.write_text(render(document(merged, checkout / MEASURED)), encoding="utf-8")
    points = [file for folder in folders for kind in POINTS for file in folder.path.glob(f"vllm.{kind}")]
    copies = [page.with_name(f"{measurement.name}-{file.name}") for file in points]
    for file, copy in zip(points, copies, strict=True):
        shutil.copy(file, copy)
    for file in (measurement.write(checkout / "results"), page, *copies):
        say(str(file.relative_to(checkout)))
    for folder, run in ((folder, run) for folder in folders for run in runs if run.stack == folder.stack):
        for words in left_to_do(folder, run):
            say(f"missing: {folder.stack}: {words}")
    failed = [check for check in merged.checks if check.result == "failed"]
    stacks = ", ".join(run.stack for run in runs)
    say(f"{len(merged.checks)} checks of {stacks}, {len(failed)} failed; `rm -r {MEASURED}` starts afresh")
    return 1 if failed or not merged.complete else 0


def left_to_do(folder: Folder, run: Run) -> Iterator[str]:
    """What a stack's measurement lacks, for whoever runs it again."""
    checked = {module.number for results in run.results for module in results.modules}
    if never := sorted({number for results in run.results for number in results.not_checked} - checked):
        yield f"modules {', '.join(never)} were not checked"
    if left := run.missing:
        names = ", ".join(f"{name.module} {title_of(name.name)}" for name in left[:NAMED])
        more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
        yield f"{len(left)} checks did not run, since their run did not end: {names}{more}; the same command makes them"
    if yet := [step for step in ("up", "down") if step not in folder.steps]:
        yield f"pulumi {' and '.join(yet)} did not end well, so their times are not known"


def _read(folder: Folder, part: str = "*") -> Iterator[Results]:
    return (Results.read(file, folder.stack) for file in folder.results(part))


if __name__ == "__main__":
    sys.exit(main())
