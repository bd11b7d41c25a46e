"""`make measure`: brings up each stack of a real GPU in turn, checks it, takes it down, and merges what was found.

    make measure                          every stack of stacks/Pulumi.gpu*.yaml
    make measure STACKS="gpu-mps"         some of them
    make measure MEASURE="--modules 05"   options of this program

What is done is kept in results/measure/<stack>, so that a run that was interrupted goes on where it was. The end is
results/<gpu>-<date>.json and .html. Ends with 0 if every stack came up, passed its checks and went, 1 if not, 2 if
there is nothing to measure, 130 after Ctrl-C.
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
from checks.measured import Gpu, Machine, Measurement, Run, StackTimes
from checks.results import ReportError, Results
from gpus.quantity import quantity_mib
from settings import PROJECT
from toolchain.paths import CHECKOUT
from toolchain.progress import duration

STEPS = ("up", "verify", "down")
ALL = "all"  # the name of the part that is every check
MEASURED = Path("results", "measure")
INTERRUPTED = 130
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
        return part == ALL and bool(runs) and checked >= set(runs[0].not_checked)

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

    def keep_results(self, results: Path, part: str) -> None:
        """Keep what `make verify` wrote of all checks, or of some."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / f"verify-{part}.json").write_text(results.read_text())

    def keep_points(self, points: Path) -> None:
        """Keep every point of vLLM's experiment as it wrote them, where there was one."""
        for kind in POINTS:
            if (points / f"points.{kind}").exists():
                shutil.copy(points / f"points.{kind}", self.path / f"vllm.{kind}")

    def results(self) -> list[Path]:
        return sorted(self.path.glob("verify-*.json"))

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
        code = {"up": up, "verify": verify, "down": down}[step](stack, chosen, checkout)
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
            written = checkout / "results" / stack / "verify.json"
            if written.exists() and written.stat().st_mtime >= at.timestamp():
                folder.keep_results(written, chosen.part)
                folder.keep_points(checkout / "results" / f"{stack}-vllm")
        elif step == "down" and code == 0:
            folder.keep(step, {"down": seconds})
    return failed


def up(stack: str, chosen: Selection, checkout: Path) -> int:
    select = run(["pulumi", "stack", "select", "--create", stack], checkout)
    return select or run(["pulumi", "up", "--yes", "--skip-preview", "--stack", stack], checkout)


def verify(stack: str, chosen: Selection, checkout: Path) -> int:
    only = [word for module in chosen.modules for word in ("--module", module)]
    only += [word for check in chosen.checks for word in ("--check", check)]
    return run([sys.executable, "-m", "checks.verify", "--stack", stack, *only], checkout)


def down(stack: str, chosen: Selection, checkout: Path) -> int:
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
    failed = [check for check in merged.checks if check.result == "failed"]
    stacks = ", ".join(run.stack for run in runs)
    say(f"{len(merged.checks)} checks of {stacks}, {len(failed)} failed; `rm -r {MEASURED}` starts afresh")
    return 1 if failed or not merged.complete else 0


def _read(folder: Folder) -> Iterator[Results]:
    return (Results.read(file, folder.stack) for file in folder.results())


if __name__ == "__main__":
    sys.exit(main())
