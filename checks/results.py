"""Results of one run of `make verify`: the shape of results/<stack>/verify.json.

checks/verify.py writes it, the checks' fixtures make its tables, plots and faults, and the report reads it.
Every text is free of control characters and every number is finite, whoever wrote them.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

SCHEMA = 2  # of verify.json; 1 had no tables, plots, faults and times

# Colours of a terminal, and what no page and no XML may hold.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]")


class ReportError(Exception):
    """Error: there is no report to make. The message has the remedy."""


def printable(text: str) -> str:
    """`text` without a terminal's colours; other control characters become U+FFFD, lines end with a newline."""
    return CONTROLS.sub("\ufffd", ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


# How a reader writes words of checks' names.
SPELLINGS = ("API", "CDI", "CEL", "CUDA", "DRA", "GPU", "GPUs", "MIG", "MPS", "NVIDIA", "SMs", "UUID", "UUIDs", "XID")
SPELT = {word.lower(): word for word in SPELLINGS}

Text = Annotated[str, AfterValidator(printable)]
Words = Annotated[str, Field(min_length=1), AfterValidator(printable)]
Seconds = Annotated[float, Field(ge=0)]
Point = tuple[float, float]


def title_of(check: str) -> str:
    """A check's name as words."""
    words = check.removeprefix("test_").replace("nvidia_smi", "nvidia-smi").split("_")
    return " ".join(SPELT.get(word, word) for word in words)


class Record(BaseModel):
    """Record in a file: field names of JSON, nothing unknown, nothing that is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, alias_generator=to_camel)


class Check(Record):
    """One check's outcome. `seen` is what it saw, why it was skipped or how it failed."""

    module: str
    name: str
    result: Literal["passed", "failed", "skipped"]
    seen: Text
    seconds: Seconds

    @property
    def title(self) -> str:
        return title_of(self.name)


class _OfCheck(Record):
    module: str
    check: str


class Table(_OfCheck):
    """Table of values that a check measured."""

    title: Words
    columns: Annotated[tuple[Words, ...], Field(min_length=1)]
    rows: Annotated[tuple[tuple[Text | int | float, ...], ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _every_row_fits(self) -> "Table":
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f'table "{self.title}": {row} has {len(row)} values for {len(self.columns)} columns; give one each'
                )
        return self


class Plot(_OfCheck):
    """Plot of values that a check measured, as lines of points; `x` and `y` are the axes' titles with units."""

    title: Words
    x: Words
    y: Words
    series: Annotated[dict[Words, Annotated[tuple[Point, ...], Field(min_length=1)]], Field(min_length=1)]


class Fault(_OfCheck):
    """Fault that a check made: who noticed, what it broke, seconds until all was well again, what was lost."""

    fault: Words
    noticed: Words
    broke: Words
    seconds: Seconds
    lost: Words


class ModuleTitle(Record):
    """A module that was checked."""

    number: str
    title: str


class CheckName(Record):
    """A check that was asked for."""

    module: str
    name: str


class Results(Record):
    """One run of `make verify`: `seconds` it took, and `complete` unless pytest could not run it to its end.

    `not_run` are the checks that had not ended when this was written; None where nobody knows which were asked for.
    """

    schema_: Annotated[Literal[2], Field(alias="schema")] = SCHEMA
    stack: str
    cluster: str
    simulated: bool
    finished: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    seconds: Seconds
    complete: bool
    kubernetes: str
    container_runtimes: tuple[str, ...]
    driver_version: str
    substitutions: tuple[str, ...]
    gpus: tuple[Text, ...]
    modules: tuple[ModuleTitle, ...]
    not_checked: tuple[str, ...]
    checks: tuple[Check, ...]
    tables: tuple[Table, ...]
    plots: tuple[Plot, ...]
    faults: tuple[Fault, ...]
    not_run: tuple[CheckName, ...] | None = None

    @property
    def whole(self) -> bool:
        """True if every check that was asked for has ended; also of a run that was killed after the last one."""
        return self.complete or self.not_run == ()

    @model_validator(mode="after")
    def _everything_is_of_a_check(self) -> "Results":
        checks = {(check.module, check.name) for check in self.checks}
        for record in (*self.tables, *self.plots, *self.faults):
            if (record.module, record.check) not in checks:
                raise ValueError(f"{record.module} {record.check} measured something, but is none of the checks")
        if unknown := {module for module, _ in checks} - {module.number for module in self.modules}:
            raise ValueError(f"there are checks of {', '.join(sorted(unknown))}, which are none of the modules")
        return self

    def write(self, file: Path) -> None:
        """The file is never there in part: who writes it after each check may be killed meanwhile."""
        part = file.with_name(f"{file.name}.part")
        part.write_text(self.model_dump_json(by_alias=True, indent=2) + "\n", encoding="utf-8")
        part.replace(file)

    @classmethod
    def read(cls, file: Path, stack: str) -> "Results":
        """The last run's. Raises `ReportError` if there is none, or it is of another version."""
        remedy = f"run `make verify STACK={stack}` first"
        return read(
            cls,
            file,
            SCHEMA,
            writer="make verify",
            missing=f", so stack {stack} was not checked",
            needed=f"this report needs schema {SCHEMA}",
            remedy=remedy,
        )


R = TypeVar("R", bound=BaseModel)


def read(model: type[R], file: Path, schema: int, *, writer: str, missing: str, needed: str, remedy: str) -> R:
    """A file that `writer` wrote. Raises `ReportError` if there is none, or it is of another version or thing."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(f"{file}: there is no such file{missing}; {remedy}") from None
    try:
        version = json.loads(text).get("schema", 1)
    except (json.JSONDecodeError, AttributeError) as error:
        raise ReportError(f"{file}: is not what `{writer}` writes ({error}); {remedy}") from None
    if version != schema:
        raise ReportError(f"{file}: has schema {version}, and {needed}; {remedy}")
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ReportError(f"{file}: is not what `{writer}` writes ({problems}); {remedy}") from None


def check_of(nodeid: str) -> tuple[str, str]:
    """(module's number, check's name) of a test of checks/test_<number>_<slug>.py; 06_5 is module 06.5."""
    number = re.match(r"test_([^_]*)(?:_(\d)(?=_))?", Path(nodeid.partition("::")[0]).stem)
    assert number, f"{nodeid} is no check of a module"
    return ".".join(filter(None, number.groups())), nodeid.rpartition("::")[2]
