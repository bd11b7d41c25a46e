"""Lessons of docs/learn: their parts and steps, read from the pages, and a shell that runs the steps.

A step is a command after `$ ` in a block of `console`, with the output that the page shows below it. In that output

- `<age>`, `<id>`, `<uuid>`, `<n>`, `<number>`, `<ip>` and `<rest>` stand for what is another at each run; with a
  letter behind it, `<uuid A>`, it is the same wherever the page has it again;
- a line `...` stands for any lines;
- runs of blanks are one blank, since the width of kubectl's columns depends on the names in them.

A command with `refused` in its comment has to fail, any other to succeed. A command that only looks, such as
`kubectl get`, is repeated until it shows what the page shows, as a reader does; all others run once. A block of
`console gpu` needs a real GPU: it is read, and not run.
"""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from settings import catalog
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

LEARN = CHECKOUT / "docs" / "learn"
PARTS = (
    *("You will learn", "Time", "Before you start", "The idea", "Steps"),
    *("Exercises", "Check yourself", "Next"),
)
CONSOLE = re.compile(r"(?ms)^```console(?: (gpu))?\n(.*?)^```")
PLACEHOLDERS = {
    "age": r"(?:\d+[smhdy])+",
    "id": r"[a-z0-9]+(?:-[a-z0-9]+)*",
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "n": r"\d+",
    "number": r"\d+(?:\.\d+)?",
    "ip": r"[0-9a-f.:]+",
    "rest": r".*",
}
PLACEHOLDER = re.compile(rf"<({'|'.join(PLACEHOLDERS)})(?: ([A-Z]))?>")
# What brings a stack up, checks it and takes it down has tests of its own; a lesson's steps are what lies between.
FRAME = re.compile(r"make (up|verify|down)\b|export STACK=|source \./activate")
# Programs behind targets of make; the targets do set-up first, which a copy of a checkout has links to.
MODULES = {"doctor": "machine", "trace": "checks.trace"}
PROGRAMS = re.compile(rf"^make ({'|'.join(MODULES)})\b")
LOOKS = re.compile(
    r"kubectl (get|describe|logs|events|\$tenant get)\b|docker exec \S+ (cat|ls|\S+/nvidia-smi)\b"
    r"|python -m checks\.trace\b"
)
LOOK_SECONDS = 60
COMMAND_SECONDS = 300


@dataclass(frozen=True)
class Step:
    """Command of a page with the output that the page shows; `line` is where it stands."""

    line: int
    command: str
    output: str
    gpu: bool = False

    @property
    def refused(self) -> bool:
        return "refused" in self.command.rpartition("  # ")[2] and "  # " in self.command


@dataclass(frozen=True)
class Lesson:
    """Page of docs/learn that teaches a module."""

    page: Path

    @property
    def text(self) -> str:
        return self.page.read_text(encoding="utf-8")

    @property
    def parts(self) -> dict[str, str]:
        """Text below each heading of the second level, in the order of the page."""
        without_code = re.sub(r"(?ms)^```.*?^```", lambda block: re.sub(r"(?m)^#", " ", block[0]), self.text)
        pieces = re.split(r"(?m)^## (.+)\n", without_code)
        return dict(zip(pieces[1::2], pieces[2::2], strict=True))

    @property
    def stack(self) -> str:
        """Stack that the page is for: what its part `Before you start` brings up."""
        found = re.search(r"STACK=([\w-]+)", self.parts["Before you start"])
        return found[1] if found else "phase1"

    def steps(self) -> Iterator[Step]:
        """Every command of the page with its output, in the order of the page."""
        for block in CONSOLE.finditer(self.text):
            first = self.text[: block.start(2)].count("\n") + 1
            yield from (replace(step, gpu=block[1] == "gpu") for step in steps_of(block[2], first))


def of_stack(name: str) -> list[Lesson]:
    """Lessons that are for a stack, in the order of their modules."""
    pages = [Lesson(LEARN / f"{row.name}.md") for row in catalog.MODULES.values()]
    return [lesson for lesson in pages if lesson.stack == name]


def blocks(text: str) -> list[str]:
    """Blocks of commands in a part of a page."""
    return [block[2] for block in CONSOLE.finditer(text)]


def steps_of(block: str, first: int = 1) -> Iterator[Step]:
    """Steps of one block; `first` is the number of its first line in the page."""
    lines = block.splitlines()
    at = 0
    while at < len(lines):
        assert lines[at].startswith("$ "), (
            f"line {first + at}: a block of `console` begins with `$ `, not {lines[at]!r}"
        )
        begin, command = at, lines[at][2:]
        at += 1
        while at < len(lines) and not complete(command):
            command += f"\n{lines[at]}"
            at += 1
        output = []
        while at < len(lines) and not lines[at].startswith("$ "):
            output.append(lines[at])
            at += 1
        yield Step(first + begin, command, "\n".join(output))


def complete(command: str) -> bool:
    """True if a shell asks for no more lines of the command."""
    if re.search(r"\\$", command):
        return False
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    return not done.stderr  # an open quote is an error, an open here-document a warning


@dataclass
class Expectation:
    """Comparison of what a page shows with what was printed; keeps what named placeholders stood for."""

    known: dict[str, str] = field(default_factory=dict)

    def met(self, expected: str, printed: str) -> bool:
        """True if the whole of `printed` is what the page shows."""
        named: dict[str, str] = {}
        found = re.fullmatch(self._pattern(expected, named), squeezed(printed))
        if not found:
            return False
        self.known |= {name: found[group] for group, name in named.items()}
        return True

    def _pattern(self, expected: str, named: dict[str, str]) -> str:
        lines = []
        for line in squeezed(expected).splitlines():
            if line.strip() == "...":
                lines.append(r"(?:.*\n)*?")
                continue
            pattern, at = "", 0
            for place in PLACEHOLDER.finditer(line):
                pattern += re.escape(line[at : place.start()]) + self._value(place, named)
                at = place.end()
            lines.append(pattern + re.escape(line[at:]) + r"\n")
        return "".join(lines)

    def _value(self, place: re.Match[str], named: dict[str, str]) -> str:
        kind, letter = place.groups()
        if not letter:
            return PLACEHOLDERS[kind]
        name, group = f"{kind} {letter}", f"{kind}_{letter}"
        if name in self.known:
            return re.escape(self.known[name])
        if group in named:
            return f"(?P={group})"
        named[group] = name
        return f"(?P<{group}>{PLACEHOLDERS[kind]})"


def squeezed(text: str) -> str:
    """Lines with single blanks, none at their ends and no empty line, each ended."""
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line)


@dataclass
class Shell:
    """Shell of a reader in a workspace with a stack that is up; `cluster` has the place of the page's cluster."""

    workspace: Workspace
    stack: str
    page_cluster: str
    cluster: str
    expectation: Expectation = field(default_factory=Expectation)
    assignments: list[str] = field(default_factory=list)

    def run(self, step: Step) -> str:
        """Run a step; returns what it printed. AssertionError if that, or the exit, is not what the page says."""
        command, expected = (text.replace(self.page_cluster, self.cluster) for text in (step.command, step.output))
        command = PROGRAMS.sub(lambda target: f"python -m {MODULES[target[1]]} --stack {self.stack}", command)
        if assigned := re.match(r"(\w+)=(\S*|\$\(.*\))$", command, re.DOTALL):
            # Its value of now, as in a reader's shell: what it was asked of may be gone at the next step.
            status, value = self._execute(f'{command} && echo "${assigned[1]}"')
            assert not status, f"line {step.line}: $ {command}\nit ended with {status}:\n{value}"
            self.assignments.append(f"{assigned[1]}={shlex.quote(value.rstrip())}")
            return ""
        deadline = time.monotonic() + LOOK_SECONDS
        while True:
            status, printed = self._execute(command)
            wrong = self._wrong(step, expected, status, printed)
            if not wrong or not LOOKS.match(command) or time.monotonic() > deadline:
                break
            time.sleep(0.5)  # between two looks, as a reader repeats a command
        assert not wrong, f"line {step.line}: $ {command}\n{wrong}\nthe page shows\n{expected}\nprinted was\n{printed}"
        return printed

    def _execute(self, command: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", "-c", "\n".join([*self.assignments, command])],
            cwd=self.workspace.root,
            env={
                **self.workspace.env,
                "STACK": self.stack,
                "KUBECONFIG": str(self.workspace.root / ".state" / self.stack / "kubeconfig"),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
        return done.returncode, done.stdout

    def _wrong(self, step: Step, expected: str, status: int, printed: str) -> str:
        if step.refused != bool(status):
            return f"it ended with {status}, and was to {'fail' if step.refused else 'succeed'}"
        if expected and not self.expectation.met(expected, printed):
            return "it printed something else"
        return ""


def to_run(lesson: Lesson) -> list[Step]:
    """Steps of a lesson that run where there is no real GPU."""
    return [step for step in lesson.steps() if not step.gpu and not FRAME.match(step.command)]


def run(lesson: Lesson, shell: Shell) -> None:
    """Run all steps of a lesson in the order of the page, and print them with the seconds that each took."""
    for step in to_run(lesson):
        begun = time.monotonic()
        shell.run(step)
        print(f"{lesson.page.name}:{step.line}: {time.monotonic() - begun:.1f} s: $ {step.command}")
