"""Python packages of the bundle: wheels for every Python that it serves, and a lock file for each.

It carries what pyproject.toml's dependencies and its group `test` need, in the versions of requirements.lock. What only
the group `dev` needs stays out: nothing that brings up, checks or reports on a stack calls it.

Wheels are stored without compression, since the archive compresses better and sees what those of several Pythons have
in common. That changes their SHA-256: what was downloaded is compared with requirements.lock, and the bundle's own lock
files have the hashes of what is in it.
"""

import hashlib
import importlib.metadata
import json
import platform
import re
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from packaging.dependency_groups import resolve_dependency_groups
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from toolchain import versions
from toolchain.paths import CHECKOUT
from toolchain.steps import Step, StepError, Work

LOCK = CHECKOUT / "requirements.lock"
PROJECT = CHECKOUT / "pyproject.toml"
# Their compiled modules only make them faster, and are large: 26 MB for each Python with one's debug information.
PURE = ("charset-normalizer", "coverage", "debugpy", "fonttools", "python-box", "wrapt")
# The C libraries that a wheel may ask for.
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28")


def step() -> Step:
    """Step of a folder of wheels with `requirements-<python>.lock` for each Python."""

    def build(work: Work) -> None:
        downloaded = work.scratch / "downloaded"
        hashes = dict[str, str]()
        for python in versions.BUNDLE_PYTHONS:
            unneeded = needed_by_developers(python)
            wanted = [(name, text) for name, text in locked(LOCK.read_text(), python) if name not in unneeded]
            listed, folder = work.scratch / f"{python}.lock", downloaded / python
            for pure in (False, True):
                listed.write_text("".join(f"{text}\n" for name, text in wanted if (name in PURE) == pure))
                _download(work, folder, "--require-hashes", *_tags(python, pure), "--requirement", listed)
            lines = []
            for wheel in sorted(folder.glob("*.whl")):
                stored = work.out / wheel.name
                if not stored.exists():
                    store(wheel, stored)
                    hashes[wheel.name] = hashlib.sha256(stored.read_bytes()).hexdigest()
                name, version = wheel.name.split("-")[:2]
                lines.append(f"{name.replace('_', '-')}=={version} --hash=sha256:{hashes[wheel.name]}\n")
            if len(lines) != len(wanted):
                raise StepError(f"bundle-wheels: {len(lines)} wheels for {len(wanted)} packages of Python {python}")
            (work.out / f"requirements-{python}.lock").write_text("".join(lines))
        listed = work.scratch / "pip.lock"
        listed.write_text(f"pip=={versions.PIP} --hash=sha256:{versions.PIP_SHA256}\n")
        _download(work, work.out, "--require-hashes", "--requirement", listed)

    unneeded_by_python = {python: sorted(needed_by_developers(python)) for python in versions.BUNDLE_PYTHONS}
    recipe = json.dumps([unneeded_by_python, PURE, versions.PIP, GLIBC, platform.machine()])
    return Step("bundle-wheels-of-pythons", build, recipe, (LOCK,), expected_seconds=60)


def needed_by_developers(python: str) -> set[str]:
    """Names of the packages that the group `dev` needs for that Python, and neither the stack nor its checks do.

    Read from the packages that are installed here. One that is not, since it is for another Python, counts as needing
    none: what is missing from both sides is bundled.
    """
    project = tomllib.loads(PROJECT.read_text())
    groups = project["dependency-groups"]
    bundled = [*project["project"]["dependencies"], *resolve_dependency_groups(groups, "test")]
    return closure(resolve_dependency_groups(groups, "dev"), python) - closure(bundled, python)


def closure(requirements: Iterable[str], python: str) -> set[str]:
    """Names of everything that is installed because of `requirements`, themselves among them."""
    environment = _environment(python)
    closed = set[tuple[str, frozenset[str]]]()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in closed:
            continue
        closed.add((name, extras))
        try:
            texts = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        for inner in map(Requirement, texts):
            marker = inner.marker
            if not marker or any(marker.evaluate(environment | {"extra": extra}) for extra in extras or {""}):
                todo.append(inner)
    return {name for name, _ in closed}


def _environment(python: str) -> dict[str, str]:
    """Values for markers on Linux with that Python; the rest is this machine's."""
    return {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}


def locked(text: str, python: str) -> list[tuple[str, str]]:
    """Names, each with its requirement and hashes, of everything that a lock file has for that Python on Linux."""
    entries = list[tuple[str, str]]()
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        line = re.sub(r"\s+#.*", "", entry).strip()
        if not line or line.startswith("#"):
            continue
        head, *options = re.split(r"\s+(?=--hash)", line)
        requirement = Requirement(head)
        if not requirement.marker or requirement.marker.evaluate(_environment(python)):
            pinned = f"{requirement.name}{requirement.specifier} {' '.join(options)}"
            entries.append((canonicalize_name(requirement.name), pinned))
    return entries


def _tags(python: str, pure: bool) -> list[str]:
    if pure:
        return ["--platform", "any", "--abi", "none", "--python-version", python]
    abis = (f"cp{python.replace('.', '')}", "abi3", "none")
    platforms = [f"manylinux_{glibc}_{platform.machine()}" for glibc in GLIBC]
    platforms += [f"manylinux{year}_{platform.machine()}" for year in ("1", "2010", "2014")]
    options = [("--abi", abi) for abi in abis] + [("--platform", name) for name in platforms]
    return [word for option in options for word in option] + ["--implementation", "cp", "--python-version", python]


def _download(work: Work, folder: Path, *words: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check")
    work.run(*pip, "--no-deps", "--only-binary", ":all:", "--dest", folder, *words)


def store(wheel: Path, stored: Path) -> None:
    """Copy a wheel without compression."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            plain = zipfile.ZipInfo(info.filename, info.date_time)
            plain.external_attr = info.external_attr
            target.writestr(plain, source.read(info))
