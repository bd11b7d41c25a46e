"""The bundle's archive, its pieces and what says that one of them is wrong; makes no image and asks no network."""

import ast
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.utils import canonicalize_name
from rich.console import Console

from toolchain import engine, plan, programs, versions
from toolchain.bundle import archive, check, sbom, unpacked, wheels
from toolchain.bundle import engine as bundle_engine
from toolchain.golang import Go
from toolchain.paths import CHECKOUT
from toolchain.progress import Progress
from toolchain.steps import Runner, Step, StepError, Store, Work

NAME = f"dra-workshop-1-{platform.machine()}.tar.zst"
needs_zstd = pytest.mark.skipif(not shutil.which("zstd"), reason="compressing a bundle needs the program zstd")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    (tmp_path / "store").mkdir()
    return Runner(Store(tmp_path / "store"), Progress(Console(file=io.StringIO())))


@pytest.fixture
def silent() -> Console:
    return Console(file=io.StringIO())


@pytest.mark.parametrize(("text", "size"), [("60M", 60_000_000), ("2g", 2_000_000_000), ("512", 512), ("1K", 1000)])
def test_piece_size_is_a_number_with_a_unit(text: str, size: int):
    assert archive.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "0", "0M", "60X", "-1M", "1.5M", "60MB"])
def test_other_piece_sizes_are_refused(text: str):
    with pytest.raises(StepError, match=f'piece size: "{text}" is not a number of bytes .* such as 60M'):
        archive.parse_size(text)


def frame(runner: Runner, tmp_path: Path, files: dict[str, bytes], name: str) -> tuple[Path, dict[str, Any]]:
    """A frame of the archive as a part's step makes it."""
    found = {}

    def build(work: Work) -> None:
        members = []
        for file, content in files.items():
            source = work.scratch / file.replace("/", "-")
            source.write_bytes(content)
            source.chmod(0o755 if file.endswith("program") else 0o644)
            members.append(archive.Member(file, source))
        found.update(archive.write_frame(work, members, work.out / "part.tar.zst", 1))

    step = Step(name, build)
    runner.run([step])
    return runner.store.path(step) / "part.tar.zst", found


@pytest.fixture
def bundle_files(runner: Runner, tmp_path: Path, silent: Console) -> Path:
    """A small bundle in pieces, with a stand-in for unzstd that calls zstd."""
    out = tmp_path / "dist"
    first, _ = frame(runner, tmp_path, {"Makefile": b"up:\n", "bundle/program": b"#!/bin/sh\n"}, "first")
    second, _ = frame(runner, tmp_path, {"bundle/wheels/a.whl": os.urandom(3000), "x" * 120: b"long"}, "second")
    end = archive._compressed(bytes(1024))
    archive._write(silent, out / NAME, iter([first, second, end]), 1000)
    (out / "unzstd").write_text("#!/bin/sh\nexec zstd -dcq --long=30\n")
    shutil.copy(archive.UNPACK, out)
    archive._sums(out, NAME)
    return out


def unpack(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", folder / "unpack", target], capture_output=True, text=True, check=False)


@needs_zstd
def test_pieces_unpack_to_what_went_in(bundle_files: Path, tmp_path: Path):
    assert len(list(bundle_files.glob(f"{NAME}.*"))) > 2
    done = unpack(bundle_files, tmp_path / "target")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"unpacked; next: cd {tmp_path}/target && ")
    files = {str(p.relative_to(tmp_path / "target")) for p in (tmp_path / "target").rglob("*") if p.is_file()}
    assert files == {"Makefile", "bundle/program", "bundle/wheels/a.whl", "x" * 120}
    assert os.access(tmp_path / "target/bundle/program", os.X_OK)
    assert not os.access(tmp_path / "target/Makefile", os.X_OK)


@needs_zstd
def test_every_missing_and_corrupt_piece_is_named_and_nothing_unpacked(bundle_files: Path, tmp_path: Path):
    missing, corrupt, *_, good = sorted(bundle_files.glob(f"{NAME}.*"))
    missing.unlink()
    corrupt.write_bytes(corrupt.read_bytes()[:-1] + b"?")
    done = unpack(bundle_files, tmp_path / "target")
    assert done.returncode == 1
    assert f"unpack: {missing.name}: missing; copy it from where the bundle was made" in done.stderr
    assert f"unpack: {corrupt.name}: corrupt, its SHA-256 is " in done.stderr
    assert good.name not in done.stderr
    assert not list(tmp_path.glob("target*"))


@needs_zstd
def test_archive_that_does_not_decompress_leaves_nothing_that_looks_finished(bundle_files: Path, tmp_path: Path):
    (bundle_files / "unzstd").write_text("#!/bin/sh\nzstd -dcq --long=30\nexit 1\n")
    archive._sums(bundle_files, NAME)
    done = unpack(bundle_files, tmp_path / "target")
    assert done.returncode == 1
    assert "unpack: the archive was not unpacked to its end" in done.stderr
    assert not (tmp_path / "target").exists()


@needs_zstd
def test_bundle_is_not_unpacked_over_something_else(bundle_files: Path, tmp_path: Path):
    (tmp_path / "target").mkdir()
    done = unpack(bundle_files, tmp_path / "target")
    assert done.returncode == 1
    assert done.stderr == f"unpack: {tmp_path}/target exists; name another folder, or remove it\n"


@needs_zstd
def test_bundle_for_another_machine_is_not_unpacked(bundle_files: Path, tmp_path: Path):
    for piece in bundle_files.glob(f"{NAME}.*"):
        piece.rename(piece.with_name(piece.name.replace(platform.machine(), "riscv64")))
    archive._sums(bundle_files, NAME.replace(platform.machine(), "riscv64"))
    done = unpack(bundle_files, tmp_path / "target")
    assert done.returncode == 1
    assert f"not for this machine, which is {platform.machine()}; make a bundle on a machine that is" in done.stderr


def test_repository_with_a_conflict_is_not_bundled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "_git", lambda *words: "a.py\0" if "--diff-filter=U" in words else "a.py\0b.py\0")
    with pytest.raises(StepError, match=r"repository: a.py has conflicts of a merge; resolve them"):
        archive.repository()


@needs_zstd
def test_new_pieces_replace_all_of_an_older_bundle(bundle_files: Path, silent: Console):
    archive._write(silent, bundle_files / NAME, iter([b"short"]), 1000)
    assert [path.name for path in bundle_files.glob(f"{NAME}*")] == [f"{NAME}.000"]


@pytest.fixture
def bundle_root(tmp_path: Path) -> Path:
    """A folder as `unpack` leaves it, with one file in the bundle."""
    root = tmp_path / "unpacked"
    (root / "bundle").mkdir(parents=True)
    (root / "bundle/kind").write_text("kind")
    wanted = {"size": 4, "sha256": hashlib.sha256(b"kind").hexdigest()}
    manifest = {
        "architecture": platform.machine(),
        "files": {"bundle/kind": wanted},
        "pythons": ["3.11", "3.12", "3.13"],
    }
    (root / "bundle/manifest.json").write_text(json.dumps(manifest, indent=1))
    return root


def test_whole_bundle_has_no_finding_and_is_compared_once(bundle_root: Path, capsys: pytest.CaptureFixture[str]):
    assert check.main(bundle_root, bundle_root / ".tools/done") == 0
    assert "comparing" in capsys.readouterr().out
    assert check.main(bundle_root, bundle_root / ".tools/done") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "finding"),
    [
        (None, "bundle/kind: missing; unpack the bundle again"),
        ("kin", "bundle/kind: corrupt, 3 bytes instead of 4; unpack the bundle again"),
        ("king", f"bundle/kind: corrupt, its SHA-256 is {hashlib.sha256(b'king').hexdigest()} instead of"),
    ],
)
def test_file_that_is_wrong_is_named(
    bundle_root: Path, capsys: pytest.CaptureFixture[str], content: str | None, finding: str
):
    (bundle_root / "bundle/kind").unlink()
    if content is not None:
        (bundle_root / "bundle/kind").write_text(content)
    assert check.main(bundle_root, bundle_root / ".tools/done") == 1
    assert f"bundle: {finding}" in capsys.readouterr().err
    assert not (bundle_root / ".tools/done").exists()


def test_bundle_for_another_architecture_says_so_first(bundle_root: Path, monkeypatch: pytest.MonkeyPatch):
    (bundle_root / "bundle/kind").unlink()
    monkeypatch.setattr(check.platform, "machine", lambda: "riscv64")
    (found,) = check.findings(bundle_root)
    assert found.startswith("architecture: the bundle is for ") and "this machine is riscv64" in found


def test_manifest_that_cannot_be_read_is_named(bundle_root: Path):
    (bundle_root / "bundle/manifest.json").write_text("{")
    (found,) = check.findings(bundle_root)
    assert found.startswith("bundle/manifest.json: cannot be read (")


def bundle_python(root: Path, version: str) -> subprocess.CompletedProcess[str]:
    """Run `bundle-python` where the only Pythons on PATH say that they are of `version` ("" for none)."""
    programs = root / "programs"
    programs.mkdir()
    (root / "toolchain/bundle").mkdir(parents=True)
    for name in ("bundle-python", "bundle/check.py"):
        shutil.copy(CHECKOUT / "toolchain" / name, root / "toolchain" / name)
    # /usr/bin/python3 is a candidate too, and is this machine's.
    script = root / "toolchain/bundle-python"
    script.write_text(script.read_text().replace("/usr/bin/python3 ", ""))
    for name in ("sh", "cat", "sha256sum", "tr", "sed", "dirname", "rm", "mkdir"):
        (programs / name).symlink_to(shutil.which(name) or name)
    if version:
        fake = programs / "python3"
        fake.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {version} || echo "Python {version}.0"\n')
        fake.chmod(0o755)
    return subprocess.run([script], env={"PATH": str(programs)}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("version", "seen"), [("3.9", "Python 3.9.0"), ("3.14", "Python 3.14.0"), ("", "no python3")])
def test_python_that_the_bundle_does_not_serve_is_refused_by_name(bundle_root: Path, version: str, seen: str):
    done = bundle_python(bundle_root, version)
    assert done.returncode == 1
    assert "python: Python 3.11 or newer is needed, with its standard library" in done.stderr
    assert f"packages for 3.11, 3.12, 3.13, and on PATH is: {seen}" in done.stderr.replace("\n", " ")


def test_without_root_and_engine_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unpacked.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(unpacked.shutil, "which", lambda _: None)
    monkeypatch.setattr(unpacked.Path, "exists", lambda _: False)
    with pytest.raises(StepError, match=r"no Docker Engine answers and this user is not root; run `make up` as root"):
        unpacked._start(Console(file=io.StringIO()))


@pytest.mark.parametrize(("on_path", "brings"), [("bundle", True), ("machine", False), (None, True)])
def test_bundles_engine_has_its_libraries_wherever_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: str | None, brings: bool
):
    monkeypatch.setattr(unpacked, "ENGINE", tmp_path)
    monkeypatch.setattr(unpacked.os, "geteuid", lambda: 0)
    found = {"bundle": str(tmp_path / "bin" / "dockerd"), "machine": "/usr/sbin/dockerd", None: None}[on_path]
    monkeypatch.setattr(unpacked.shutil, "which", lambda name: found if name == "dockerd" else "/usr/sbin/iptables")
    monkeypatch.setenv("PATH", "/usr/bin")
    environments: list[dict[str, str] | None] = []

    def started(bounded: Path | None, env: dict[str, str] | None = None) -> engine.Engine:
        environments.append(env)
        return engine.Engine("20.10.24", "2", tmp_path)

    monkeypatch.setattr(unpacked.engine, "start", started)
    unpacked._start(Console(file=io.StringIO()))
    (env,) = environments
    assert (env or {}).get("LD_LIBRARY_PATH") == (str(tmp_path / "lib") if brings else None)


def test_machines_own_iptables_is_preferred(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unpacked.shutil, "which", lambda name: f"/usr/sbin/{name}")
    assert unpacked.choose_iptables() is None


@pytest.mark.parametrize("works", ["nft", "legacy", None])
def test_iptables_is_the_one_that_the_kernel_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: str | None):
    monkeypatch.setattr(unpacked, "ENGINE", tmp_path)
    monkeypatch.setattr(unpacked.shutil, "which", lambda _: None)
    for kind in ("nft", "legacy"):
        program = tmp_path / "iptables" / kind / "iptables"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\n[ {kind} = {works} ] || {{ echo no table >&2; exit 3; }}\n")
        program.chmod(0o755)
    if works:
        assert unpacked.choose_iptables() == tmp_path / "iptables" / works
    else:
        with pytest.raises(StepError, match=r"neither nf_tables nor .*nft: no table; legacy: no table.*modprobe"):
            unpacked.choose_iptables()


def test_engine_finds_its_own_programs_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/usr/bin")
    env = unpacked.engine_env(unpacked.ENGINE / "iptables/nft")
    assert env["PATH"].split(":")[:3] == [
        str(unpacked.ENGINE / "bin"),
        str(unpacked.ENGINE / "iptables/nft"),
        "/usr/bin",
    ]
    assert env["LD_LIBRARY_PATH"] == str(unpacked.ENGINE / "lib")


def test_engine_from_a_folder_is_never_asked_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    started = []
    monkeypatch.setattr(engine.Path, "is_dir", lambda _: True)
    monkeypatch.setattr(engine, "_start_detached", lambda bounded, env: started.append((bounded, env)))
    monkeypatch.setattr(engine, "find", lambda: engine.Engine("20.10.24", "2", Path("/")))
    engine.start(None, {"PATH": "/bundle"})
    assert started == [(None, {"PATH": "/bundle"})]


LOCK = """# a comment
both==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via something
old==2.0 ; python_full_version < '3.12' \\
    --hash=sha256:cc
new==3.0 ; python_full_version >= '3.12' \\
    --hash=sha256:dd
windows==4.0 ; sys_platform == 'win32' \\
    --hash=sha256:ee
Two.Words==5.0 \\
    --hash=sha256:ff
"""


@pytest.mark.parametrize(("python", "third"), [("3.11", "old"), ("3.12", "new"), ("3.13", "new")])
def test_lock_is_read_for_the_python_that_is_asked_for(python: str, third: str):
    found = dict(wheels.locked(LOCK, python))
    assert list(found) == ["both", third, "two-words"]
    assert found["both"] == "both==1.0 --hash=sha256:aa --hash=sha256:bb"


@pytest.mark.parametrize("python", versions.BUNDLE_PYTHONS)
def test_every_package_of_the_lock_is_read(python: str):
    text = wheels.LOCK.read_text()
    named = {canonicalize_name(line.split("==")[0]) for line in text.splitlines() if line[:1].isalnum()}
    other_pythons = {"exceptiongroup"} if python != "3.11" else set()
    assert named - {name for name, _ in wheels.locked(text, python)} == {"colorama", *other_pythons}  # for Windows


# Tools of the group `dev`, and what only they need.
NOT_BUNDLED = {
    "cyclonedx-python-lib": {"license-expression", "packageurl-python", "py-serializable", "sortedcontainers"},
    "license-expression": {"boolean-py"},
    "py-serializable": {"defusedxml"},
    "cyclonedx-python-lib[json-validation]": {"jsonschema"},
    "jsonschema": {"jsonschema-specifications", "referencing", "rpds-py"},
    "jsonschema[format-nongpl]": {
        *("fqdn", "isoduration", "jsonpointer", "rfc3339-validator", "rfc3986-validator"),
        *("rfc3987-syntax", "uri-template", "webcolors"),
    },
    "isoduration": {"arrow"},
    "rfc3339-validator": {"six"},
    "rfc3987-syntax": {"lark"},
    "import-linter": {"click", "grimp"},
    "pyrefly": set(),
    "ruff": set(),
    "types-pyyaml": set(),
}


@pytest.mark.parametrize("python", versions.BUNDLE_PYTHONS)
def test_only_what_developers_alone_need_stays_out_of_the_bundle(python: str):
    expected = {name.partition("[")[0] for name in NOT_BUNDLED}.union(*NOT_BUNDLED.values())
    assert wheels.needed_by_developers(python) == expected


@pytest.mark.parametrize("python", versions.BUNDLE_PYTHONS)
def test_bundled_packages_need_none_that_is_left_out(python: str):
    left_out = wheels.needed_by_developers(python)
    bundled = [name for name, _ in wheels.locked(wheels.LOCK.read_text(), python) if name not in left_out]
    assert wheels.closure(bundled, python) == {*bundled}


def test_package_for_another_python_needs_none(monkeypatch: pytest.MonkeyPatch):
    needs = {"a": ["b", "c; python_version < '3.12'", "d; extra == 'more'"], "b": [], "c": []}

    def requires(name: str) -> list[str]:
        if name not in needs:
            raise importlib.metadata.PackageNotFoundError(name)
        return needs[name]

    monkeypatch.setattr(wheels.importlib.metadata, "requires", requires)
    assert wheels.closure(["a"], "3.11") == {"a", "b", "c"}
    assert wheels.closure(["A[more]"], "3.12") == {"a", "b", "d"}


def test_nothing_that_is_bundled_imports_what_is_left_out():
    distributions = importlib.metadata.packages_distributions()
    left_out = wheels.needed_by_developers("3.11")
    for folder in ("toolchain", "components", "machine", "settings", "modules", "gpus", "checks"):
        for file in (CHECKOUT / folder).rglob("*.py"):
            for name in imported(file.read_text()):
                owners = {canonicalize_name(owner) for owner in distributions.get(name, ())}
                assert not owners & left_out, f"{file} imports {name}, which only the group dev needs"


def imported(source: str) -> set[str]:
    """Top-level names of the packages that a file imports."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    origins = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in plain | origins}


def test_stored_wheel_holds_the_same_files(tmp_path: Path):
    wheel, stored = tmp_path / "a.whl", tmp_path / "b.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("a/__init__.py", "x = 1\n" * 1000)
    wheels.store(wheel, stored)
    with zipfile.ZipFile(stored) as content:
        assert content.read("a/__init__.py") == b"x = 1\n" * 1000
        assert content.infolist()[0].compress_type == zipfile.ZIP_STORED


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("  Apache License\n  Version 2.0, January 2004", "Apache-2.0"),
        ("Permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
        ("Redistributions in binary form must reproduce the above copyright notice\n", "BSD-2-Clause"),
        ("Redistributions in binary form must ...\n * Neither the name of X nor", "BSD-3-Clause"),
        ("All rights reserved.", ""),
    ],
)
def test_licence_is_known_by_its_sentences(text: str, name: str):
    assert sbom.licence(text) == name


def test_debian_licences_are_those_that_the_copyright_file_names():
    assert sbom.debian_licences("Files: *\nLicense: GPL-2+\n text\n\nFiles: x\nLicense: Expat\n") == [
        "Expat",
        "GPL-2+",
    ]
    assert sbom.debian_licences("") == []


def test_module_that_is_replaced_is_listed_as_what_replaced_it(monkeypatch: pytest.MonkeyPatch):
    listing = (
        "a: go1.26\n\tpath\ta\n\tmod\ta\t(devel)\n\tdep\tb\tv1.0.0\n\t=>\tc\tv2.0.0\th1:x=\n\tdep\td\tv3.0.0\th1:y=\n"
    )
    answer = subprocess.CompletedProcess([], 0, listing, "")
    monkeypatch.setattr(sbom.subprocess, "run", lambda *_, **__: answer)
    assert list(sbom.go_modules(Path("a"), Go(Path("go"), "go1.26.6"))) == [("c", "v2.0.0"), ("d", "v3.0.0")]


def test_engine_brings_what_is_in_the_node_image_once():
    assert set(archive.IN_THE_NODE_IMAGE) - {"kubectl"} == {
        name for step, names in bundle_engine.OUR_PROGRAMS.items() for name in names if step != "runc-bounded"
    }
    assert set(bundle_engine.OUR_PROGRAMS) <= {program.name for program in (*programs.NODE, programs.RUNC_BOUNDED)}


def test_check_needs_no_package():
    done = subprocess.run(
        [sys.executable, "-I", "-S", CHECKOUT / "toolchain/bundle/check.py", "/nowhere/done"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ModuleNotFoundError" not in done.stderr
    assert "bundle/manifest.json: cannot be read" in done.stderr


@pytest.fixture
def bill(runner: Runner, tmp_path: Path) -> dict[str, Any]:
    """The bill of a bundle with one image, one wheel, one Debian package and one file."""
    wheels, engine_folder = tmp_path / "wheels", tmp_path / "engine"
    wheels.mkdir()
    (engine_folder / "bin").mkdir(parents=True)
    with zipfile.ZipFile(wheels / "a-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a-1.0.dist-info/METADATA", "Name: A_b\nVersion: 1.0\nLicense-Expression: MIT OR Apache-2.0\n")
    (tmp_path / "packages.json").write_text('{"libc6": {"version": "1:2.36+b1", "licences": ["LGPL-2.1+"]}}')
    manifest = {
        "name": "dra-workshop",
        "version": "1",
        "images": {"node": "localhost/dra-workshop/node:v1-abc"},
        "files": {"bundle/kind": {"size": 4, "sha256": hashlib.sha256(b"kind").hexdigest()}},
    }
    empty = plan.Plan(tools={}, plugins={}, images=(), charts={})
    go = Go(Path("go"), "go1.26.6")
    return sbom.bill(manifest, empty, runner.store, go, wheels, engine_folder, tmp_path)


def test_bill_names_image_wheel_package_and_file(bill: dict[str, Any]):
    assert {component["bom-ref"]: component.get("licenses") for component in bill["components"]} == {
        "pkg:oci/node@v1-abc?repository_url=localhost/dra-workshop/node": None,
        "pkg:pypi/a-b@1.0": [{"expression": "MIT OR Apache-2.0"}],
        "pkg:deb/debian/libc6@1%3A2.36%2Bb1": [{"license": {"name": "LGPL-2.1+"}}],
        "file:bundle/kind": None,
    }


def test_bill_follows_the_schema(bill: dict[str, Any]):
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
