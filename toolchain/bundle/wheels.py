"""The Python packages of the bundle: wheels for every Python that it serves, and a lock file for each.

Wheels are stored without compression, since the archive compresses better and sees what those of several Pythons have
in common. That changes their SHA-256: what was downloaded is compared with requirements.lock, and the bundle's own lock
files have the hashes of what is in it.
"""

import hashlib
import json
import platform
import re
import sys
import zipfile
from pathlib import Path

from packaging.requirements import Requirement

from toolchain import versions
from toolchain.paths import CHECKOUT
from toolchain.steps import Step, StepError, Work

LOCK = CHECKOUT / "requirements.lock"
# For developers: nothing that brings up, checks or reports on a stack needs them, and they are a tenth of all.
TOOLS = ("cyclonedx-python-lib", "pyrefly", "ruff", "types-pyyaml")
# And what only the tools need.
LEFT_OUT = (
    *TOOLS,
    "arrow",
    "boolean-py",
    "defusedxml",
    "fqdn",
    "isoduration",
    "jsonpointer",
    "jsonschema",
    "jsonschema-specifications",
    "lark",
    "license-expression",
    "packageurl-python",
    "py-serializable",
    "referencing",
    "rfc3339-validator",
    "rfc3986-validator",
    "rfc3987-syntax",
    "rpds-py",
    "six",
    "sortedcontainers",
    "uri-template",
    "webcolors",
)
# Their compiled modules only make them faster, and are large: 26 MB for each Python with one's debug information.
PURE = ("charset-normalizer", "coverage", "debugpy", "fonttools", "python-box", "wrapt")
# The C libraries that a wheel may ask for.
GLIBC = ("2_5", "2_12", "2_17", "2_24", "2_26", "2_27", "2_28")


def step() -> Step:
    """A folder of wheels with `requirements-<python>.lock` for each Python."""

    def build(work: Work) -> None:
        downloaded = work.scratch / "downloaded"
        hashes = dict[str, str]()
        for python in versions.BUNDLE_PYTHONS:
            wanted = locked(LOCK.read_text(), python)
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

    recipe = json.dumps([versions.BUNDLE_PYTHONS, LEFT_OUT, PURE, versions.PIP, GLIBC, platform.machine()])
    return Step("bundle-wheels-of-pythons", build, recipe, (LOCK,), expected_seconds=60)


def locked(text: str, python: str) -> list[tuple[str, str]]:
    """(name, requirement with its hashes) of everything that a lock file has for that Python on Linux."""
    found = []
    for entry in re.split(r"\n(?=\S)", text.replace("\\\n", " ")):
        line = re.sub(r"\s+#.*", "", entry).strip()
        if not line or line.startswith("#"):
            continue
        head, *options = re.split(r"\s+(?=--hash)", line)
        requirement = Requirement(head)
        environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        if requirement.name.lower() not in LEFT_OUT:
            found.append((requirement.name.lower(), f"{requirement.name}{requirement.specifier} {' '.join(options)}"))
    return found


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
    """The same wheel without compression."""
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for info in source.infolist():
            plain = zipfile.ZipInfo(info.filename, info.date_time)
            plain.external_attr = info.external_attr
            target.writestr(plain, source.read(info))
