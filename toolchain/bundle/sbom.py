"""Bill of materials of the bundle, in CycloneDX 1.6: what is in it, which version, under which licence.

A licence is what the package itself says: its Go module's licence file, its wheel's METADATA, its Debian copyright
file. Where that gives none that is known, none is given.
"""

import email.parser
import json
import os
import re
import subprocess
import tarfile
import uuid
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from toolchain import debian, versions
from toolchain.golang import Go
from toolchain.plan import Plan
from toolchain.steps import Step, Store, Work

# Sentences that only that licence has, in the order in which they are looked for.
SENTENCES = (
    ("Apache-2.0", "apache license version 2.0"),
    ("Apache-2.0", "licensed under the apache license, version 2.0"),
    ("MPL-2.0", "mozilla public license version 2.0"),
    ("MPL-2.0", "mozilla public license, version 2.0"),
    ("LGPL-3.0-only", "gnu lesser general public license version 3"),
    ("GPL-3.0-only", "gnu general public license version 3"),
    ("BSD-3-Clause", "neither the name of"),
    ("BSD-3-Clause", "the names of its contributors may not be used"),
    ("BSD-2-Clause", "redistributions in binary form must reproduce the above copyright notice"),
    ("MIT", "permission is hereby granted, free of charge, to any person obtaining a copy"),
    ("ISC", "permission to use, copy, modify, and/or distribute this software for any purpose"),
    ("ISC", "permission to use, copy, modify, and distribute this software for any purpose"),
    ("CC0-1.0", "cc0 1.0 universal"),
    ("Unlicense", "this is free and unencumbered software released into the public domain"),
)
LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING", "COPYING.txt", "License", "LICENSE-MIT")
# Of a wheel whose METADATA has no licence expression but one of these classifiers.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def extract(work: Work, root: Path, packages: Iterable[str]) -> None:
    """Unpack Debian packages and all that they depend on, without running anything of them; keeps their archives."""
    work.run(
        *("mmdebstrap", "--variant=extract", "--mode=root", "--skip=cleanup/apt/cache"),
        *(f"--include={','.join(packages)}", versions.DEBIAN, root),
    )


def packages_step(plan: Plan, more: Iterable[str]) -> Step:
    """Step of `packages.json`: Debian packages in the root filesystems of the plan's images, `more`, and their needs.

    The root filesystems hold no copyright files, so the packages are unpacked once more. Upstream's images are not
    looked into.
    """
    roots = tuple(step for step in every_step(plan) if step.name.startswith("rootfs-"))

    def build(work: Work) -> None:
        wanted = dict.fromkeys((*more, *debian.PYTHON_PACKAGES))  # Python's root filesystem has no list of packages
        for step in roots:
            wanted |= dict.fromkeys(_names_in(work.need(step.name) / "rootfs.tar"))
        root = work.scratch / "root"
        extract(work, root, wanted)
        packages = {}
        for archive in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            name, version, _ = (
                work.run("dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n", archive).decode().split("\n")
            )
            copyright_file = root / "usr/share/doc" / name / "copyright"
            text = copyright_file.read_text(errors="replace") if copyright_file.is_file() else ""
            packages[name] = {"version": version, "licences": debian_licences(text)}
        (work.out / "packages.json").write_text(json.dumps(packages, indent=1, sort_keys=True))

    recipe = json.dumps([versions.DEBIAN, *more])
    return Step("bundle-packages", build, recipe, needs=roots, expected_seconds=60)


def debian_licences(text: str) -> list[str]:
    """Names of the licences that a package's copyright file names; [] where it names none that is known."""
    # The machine-readable form has a line `License: <short name>` for each group of files.
    names = {line.strip() for line in re.findall(r"^License:[ \t]*(\S[^\n]*)$", text, re.MULTILINE)}
    return sorted(names) or [known for known in (licence(text),) if known]


def every_step(plan: Plan) -> list[Step]:
    """Steps of a plan and all that they need, by name."""
    todo, collected = list(plan.steps), dict[Step, None]()
    while todo:
        step = todo.pop()
        if step not in collected:
            collected[step] = None
            todo += step.needs
    return sorted(collected, key=lambda step: step.name)


def _names_in(rootfs: Path) -> list[str]:
    with tarfile.open(rootfs) as tar:
        status = next((member for member in tar if member.name.removeprefix("./") == "var/lib/dpkg/status"), None)
        content = tar.extractfile(status) if status else None
        return re.findall(r"^Package: (.+)$", content.read().decode(), re.MULTILINE) if content else []


def licence(text: str) -> str:
    """SPDX identifier of a licence's text, or "" if it is none of SENTENCES."""
    words = " ".join(re.sub(r"[^\w.,-]+", " ", text.lower()).split())
    return next((name for name, sentence in SENTENCES if sentence in words), "")


def go_modules(program: Path, go: Go) -> dict[tuple[str, str], str]:
    """Licences by (module, version) of what a Go program was built from; none for other files."""
    done = subprocess.run([go.program, "version", "-m", program], capture_output=True, text=True, check=False)
    modules = list[tuple[str, str]]()
    for line in done.stdout.splitlines():
        kind, *words = line.split("\t")[1:] or [""]
        if kind == "=>":
            modules.pop()  # the line before names what this one replaces
        if kind in ("mod", "dep", "=>"):
            modules.append((words[0], words[1]))
    # A module of this repository has no version of its own.
    return {module: _module_licence(*module) for module in modules if module[1].startswith("v")}


def _module_cache() -> Path:
    return Path(os.environ.get("GOMODCACHE") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "pkg/mod")


def _module_licence(module: str, version: str) -> str:
    # Go's cache escapes a capital letter as an exclamation mark and the small one.
    path = re.sub(r"[A-Z]", lambda match: f"!{match[0].lower()}", f"{module}@{version}")
    folder = _module_cache() / path
    texts = (folder / name for name in LICENCE_FILES)
    return next((licence(text.read_text(errors="replace")) for text in texts if text.is_file()), "")


def wheel_licence(wheel: Path) -> tuple[str, str, str]:
    """Name, version, and SPDX expression or "" of a wheel."""
    with zipfile.ZipFile(wheel) as content:
        name = next(name for name in content.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.parser.Parser().parsestr(content.read(name).decode(), headersonly=True)
        expression = metadata["License-Expression"] or ""
        classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", [])]
        known = [CLASSIFIERS[line] for line in classifiers if line in CLASSIFIERS]
        files = [name for name in content.namelist() if ".dist-info/" in name and "LICEN" in name.upper()]
        texts = (licence(content.read(name).decode(errors="replace")) for name in files)
        return metadata["Name"], metadata["Version"], expression or " OR ".join(known) or next(filter(None, texts), "")


def bill(
    manifest: Mapping[str, Any], plan: Plan, store: Store, go: Go, wheels: Path, engine: Path, packages: Path
) -> dict[str, Any]:
    """Document as data, ready for JSON."""
    components = [
        *_image_components(manifest),
        *_go_components(plan, store, go, engine),
        *_python_components(wheels),
        *_debian_components(packages / "packages.json"),
        *_files(manifest),
    ]
    unique = {component["bom-ref"]: component for component in components}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        # The same content has the same number.
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(manifest, sort_keys=True))}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "dra-workshop",
                "name": manifest["name"],
                "version": manifest["version"],
            }
        },
        "components": [unique[reference] for reference in sorted(unique)],
    }


def _component(kind: str, name: str, version: str, purl: str, licence: str = "", **more: Any) -> dict[str, Any]:
    component: dict[str, Any] = {"type": kind, "bom-ref": purl, "name": name, "version": version, "purl": purl, **more}
    if licence:
        expression = re.search(r" (OR|AND|WITH) ", licence)
        component["licenses"] = [{"expression": licence}] if expression else [{"license": {"id": licence}}]
    return component


def _image_components(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, ref in manifest["images"].items():
        repository, _, tag = ref.rpartition(":")
        purl = f"pkg:oci/{repository.rpartition('/')[2]}@{tag}?repository_url={repository}"
        yield _component("container", name, tag, purl)


def _go_components(plan: Plan, store: Store, go: Go, engine: Path) -> Iterator[dict[str, Any]]:
    files = [path for path in (engine / "bin").iterdir() if path.is_file()]
    for step in every_step(plan):
        if step.compiles and store.path(step).is_dir():
            files += [path for path in store.path(step).iterdir() if path.is_file()]
    for file in files:
        for (module, version), spdx in go_modules(file, go).items():
            yield _component("library", module, version, f"pkg:golang/{module}@{version}", spdx)


def _python_components(wheels: Path) -> Iterator[dict[str, Any]]:
    for wheel in sorted(wheels.glob("*.whl")):
        name, version, spdx = wheel_licence(wheel)
        purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        yield _component("library", name, version, purl, spdx)


def _debian_components(file: Path) -> Iterator[dict[str, Any]]:
    for name, package in json.loads(file.read_text()).items():
        component = _component(
            "library", name, package["version"], f"pkg:deb/debian/{name}@{quote(package['version'])}"
        )
        # Debian's short names are not all SPDX identifiers, so they are given as names.
        if package["licences"]:
            component["licenses"] = [{"license": {"name": licence}} for licence in package["licences"]]
        yield component


def _files(manifest: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, file in manifest["files"].items():
        hashes = [{"alg": "SHA-256", "content": file["sha256"]}]
        yield {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": hashes}
