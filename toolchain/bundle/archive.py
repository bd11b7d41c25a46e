"""Archive of the air-gap bundle: all that a stack needs, in one file that unpacks on a machine without a network.

It is a tar in several Zstandard frames, one a part, so a part that did not change is not compressed again: frames that
follow each other are one valid stream, and a tar may be cut between its members. Parts are steps as all others are.
What the machine does with it is in `unpacked.py`.
"""

import hashlib
import io
import json
import platform
import shutil
import subprocess
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from toolchain import programs, versions
from toolchain.bundle import engine, sbom, wheels
from toolchain.bundle.check import BUNDLE, MANIFEST
from toolchain.golang import Go
from toolchain.paths import CHECKOUT, TOOLS
from toolchain.plan import Plan
from toolchain.source import Source
from toolchain.steps import Runner, Step, StepError, Store, Work

LEVEL = 19
# Matches reach back 1 GiB: the node image, the tools and the engine share whole programs. Unpacking takes twice as much
# memory.
WINDOW_LOG = 30
ROOT = "dra-workshop"  # the folder in the archive; without a version, so that a new one compresses nothing again
PARTS = ("wheels", "agents", "programs")  # in the archive's order, after the repository
# They share programs and libraries with each other and the tools; the others are small and change often.
LARGE_IMAGES = ("node", *(versions.of_driver("dra-driver", version) for version in versions.DRA_DRIVERS))
# They follow the node image, which holds them too, so that the window reaches it.
IN_THE_NODE_IMAGE = ("containerd", "containerd-shim-runc-v2", "kubectl", "runc")
UNPACK = Path(__file__).with_name("unpack")
# Of the repository, what only its authors use.
NOT_IN_THE_BUNDLE = (".ci",)
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


@dataclass(frozen=True)
class Member:
    """File of the archive: its place below the unpacked folder, and where it is now."""

    name: str
    source: Path


def parse_size(text: str) -> int:
    """Bytes of `60M`, `2G` or a plain number; K, M and G are powers of 1000."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    if not number.isdecimal() or unit not in UNITS or not int(number):
        raise StepError(f'piece size: "{text}" is not a number of bytes with K, M, G or nothing behind it, such as 60M')
    return int(number) * UNITS[unit]


@dataclass(frozen=True)
class Shape:
    """Shape of a bundle: its folder, the bytes of a piece (None: one file), and zstd's level of compression."""

    out: Path
    piece_size: int | None
    level: int


def carried(plan: Plan, go: Go) -> Plan:
    """Plan of what the other machine gets."""
    # The checkout's own Go is for building, and nothing is built there.
    tools = {step: names for step, names in plan.tools.items() if step not in go.needs}
    # The filled node image has the content of the others once more, and a cluster is made without it as well.
    return replace(plan, tools=tools, images=tuple(s for s in plan.images if s.name != versions.FILLED_NODE))


def make(
    console: Console,
    runner: Runner,
    go: Go,
    plan: Plan,
    source: Source,
    shape: Shape,
) -> None:
    """Write the bundle of `plan`, whose steps are made, into the folder that `shape` names."""
    out, piece_size, level = shape.out, shape.piece_size, shape.level
    store, files = runner.store, repository()
    plan = carried(plan, go)
    engine_step, wheels_step = engine.step(go), wheels.step()
    packages_step, unzstd_step = sbom.packages_step(plan, engine.PACKAGES), programs.UNZSTD.step(go)
    runner.run([engine_step, wheels_step, packages_step, unzstd_step])
    steps = {
        "wheels": _part(
            "wheels", level, (wheels_step,), lambda work: _below(f"{BUNDLE}/wheels", work.need(wheels_step.name))
        ),
        "agents": _images_part("agents", level, [step for step in plan.images if step.name not in LARGE_IMAGES]),
        "programs": _images_part(
            "programs",
            level,
            [step for step in plan.images if step.name in LARGE_IMAGES],
            (engine_step, *dict.fromkeys([*plan.tools, *plan.plugins.values(), *plan.charts.values()])),
            lambda work: [*_tools(plan, store), *_below(f"{BUNDLE}/engine", work.need(engine_step.name))],
        ),
    }
    runner.run(list(steps.values()))
    parts = {name: json.loads((store.path(steps[name]) / "part.json").read_text()) for name in PARTS}
    manifest = _manifest(plan, store, source, parts)
    folders = (store.path(step) for step in (wheels_step, engine_step, packages_step))
    bill = sbom.bill(manifest, plan, store, go, *folders)
    name = f"dra-workshop-{manifest['version']}-{manifest['architecture']}.tar.zst"
    _write(console, out / name, _frames(files, manifest, bill, [store.path(steps[part]) for part in PARTS]), piece_size)
    for file in (store.path(unzstd_step) / "unzstd", UNPACK):
        shutil.copy(file, out / file.name)
    _sums(out, name)
    console.print(f"bundle: unpack it with `sh unpack FOLDER`, beside {name}{'.*' if piece_size else ''} and unzstd")


def _below(prefix: str, folder: Path) -> list[Member]:
    """Files of a folder, sorted; links are followed, since what they point to may not be in the bundle."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [Member(f"{prefix}/{path.relative_to(folder)}", path) for path in files]


def _tools(plan: Plan, store: Store) -> list[Member]:
    """Targets of the links in `.tools`, at the same places below the bundle's folder."""
    members = []
    for link, target in sorted(plan.links(store).items()):
        prefix = f"{BUNDLE}/tools/{link.relative_to(TOOLS)}"
        members += _below(prefix, target) if target.is_dir() else [Member(prefix, target)]
    return members


def _part(name: str, level: int, needs: tuple[Step, ...], members: Any, expected_seconds: int = 60) -> Step:
    """Step of a part as a frame of the archive; `members` lists its files, given the step's `Work`."""

    def build(work: Work) -> None:
        files = write_frame(work, members(work), work.out / "part.tar.zst", level)
        content = {
            "size": (work.out / "part.tar.zst").stat().st_size,
            "sha256": _sha256(work.out / "part.tar.zst"),
            "files": files,
        }
        (work.out / "part.json").write_text(json.dumps(content))

    recipe = f"{level} {WINDOW_LOG} {ROOT} {IN_THE_NODE_IMAGE}"
    return Step(f"bundle-{name}", build, recipe, needs=needs, expected_seconds=expected_seconds)


def _images_part(
    name: str, level: int, images: list[Step], needs: tuple[Step, ...] = (), more: Any = lambda work: []
) -> Step:
    def members(work: Work) -> list[Member]:
        saved = []
        for step in images:
            archive = work.scratch / f"{step.name}.tar"
            # One archive an image: the machine loads only those that its engine lacks. They share no layer.
            work.run("docker", "save", "-o", archive, (work.store.path(step) / "ref").read_text())
            saved.append(Member(f"{BUNDLE}/images/{step.name}.tar", archive))
        return sorted([*saved, *more(work)], key=_place)

    return _part(name, level, (*images, *needs), members, expected_seconds=900 if needs else 40)


def _place(member: Member) -> int:
    """Rank of a member in its part: what has content in common lies close together."""
    name = Path(member.name).name
    return 0 if name == "node.tar" else 1 if name in IN_THE_NODE_IMAGE else 2 if name.endswith(".tar") else 3


def write_frame(work: Work, members: list[Member], file: Path, level: int) -> dict[str, dict[str, Any]]:
    """Compress the members to one frame; returns size and SHA-256 of each."""
    files = {}
    # Without overlap of what threads work on: it would be half the window, and each would index it anew. Matches that
    # far back are --long's to find, which sees the whole window.
    options = [f"-{level}", f"--long={WINDOW_LOG}", "--zstd=ovlog=1", "-T0"]
    command = ["zstd", *options, "-q", "-o", str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=work.log, start_new_session=True)
    with work.runner.watching(process):
        assert process.stdin
        with process.stdin as stream:
            for member in members:
                with open(member.source, "rb") as content:
                    size, executable = member.source.stat().st_size, bool(member.source.stat().st_mode & 0o100)
                    files[member.name] = _add(stream, member.name, content, size, executable)
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return files


def _add(stream: IO[bytes], name: str, content: IO[bytes], size: int, executable: bool) -> dict[str, Any]:
    """Write one member as tar stores it: a header, the content, and zeros up to a whole block."""
    info = tarfile.TarInfo(f"{ROOT}/{name}")
    info.size, info.mode = size, 0o755 if executable else 0o644
    stream.write(info.tobuf(tarfile.GNU_FORMAT))
    digest = hashlib.sha256()
    while block := content.read(1 << 20):
        digest.update(block)
        stream.write(block)
    stream.write(b"\0" * (-size % tarfile.BLOCKSIZE))
    return {"size": size, "sha256": digest.hexdigest()}


def _manifest(plan: Plan, store: Store, source: Source, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Manifest: what the bundle is and holds; `check.py` compares the unpacked files with it."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    commit = _git("rev-parse", "HEAD").strip()
    changed = bool(_git("status", "--porcelain").strip())
    return {
        "name": project["name"],
        "version": project["version"],
        "architecture": platform.machine(),
        "commit": f"{commit} and changes that are not committed" if changed else commit,
        "source": source.way,
        "pythons": list(versions.BUNDLE_PYTHONS),
        "versions": _versions(source),
        "substitutions": list(versions.SUBSTITUTIONS[source.way]),
        "links": sorted(str(link.relative_to(TOOLS)) for link in plan.links(store)),
        "images": plan.refs(store),
        "parts": {name: {"size": part["size"], "sha256": part["sha256"]} for name, part in parts.items()},
        "files": {name: digest for part in parts.values() for name, digest in part["files"].items()},
    }


def _versions(source: Source) -> dict[str, str]:
    return {
        "pulumi": versions.PULUMI,
        "pulumi-language-python": versions.PULUMI_LANGUAGE_PYTHON if source.way == "built" else versions.PULUMI,
        "pulumi-resource-kubernetes": versions.PULUMI_KUBERNETES_PROVIDER,
        "pulumi-resource-command": versions.PULUMI_COMMAND_PROVIDER,
        "kind": versions.KIND,
        "kubectl": versions.KUBERNETES,
        "kubernetes": versions.NODE_KUBERNETES[source.way],
        "dra-driver-nvidia-gpu": versions.DRA_DRIVER,
        "simulated-nvidia-driver": versions.SIMULATED_DRIVER,
        "containerd": versions.CONTAINERD,
        "runc": versions.RUNC,
        "pip": versions.PIP,
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout


def repository() -> list[Member]:
    """Files that git would take: tracked and new files, without what it ignores."""
    if conflicts := sorted(set(filter(None, _git("diff", "--name-only", "--diff-filter=U", "-z").split("\0")))):
        raise StepError(f"repository: {', '.join(conflicts)} has conflicts of a merge; resolve them, then bundle again")
    names = _git("ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    kept = (
        name for name in sorted(filter(None, names)) if not name.startswith(tuple(f"{n}/" for n in NOT_IN_THE_BUNDLE))
    )
    return [Member(name, CHECKOUT / name) for name in kept if (CHECKOUT / name).is_file()]


def _frames(
    repository: list[Member], manifest: dict[str, Any], bill: dict[str, Any], parts: list[Path]
) -> Iterator[Path | bytes]:
    """Frames of the archive in order: the repository with manifest and SBOM, the parts, the end of a tar."""
    own = io.BytesIO()
    listed = {}
    for member in repository:
        with open(member.source, "rb") as content:
            executable = bool(member.source.stat().st_mode & 0o100)
            listed[member.name] = _add(own, member.name, content, member.source.stat().st_size, executable)
    for name, content in ((MANIFEST, {**manifest, "repository": listed}), (f"{BUNDLE}/sbom.cdx.json", bill)):
        text = (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
        _add(own, name, io.BytesIO(text), len(text), executable=False)
    yield _compressed(own.getvalue())
    for part in parts:
        yield part / "part.tar.zst"
    yield _compressed(b"\0" * 2 * tarfile.BLOCKSIZE)


def _compressed(content: bytes) -> bytes:
    return subprocess.run(["zstd", f"-{LEVEL}", "-q", "-c"], input=content, capture_output=True, check=True).stdout


def _write(console: Console, file: Path, frames: Iterator[Path | bytes], piece_size: int | None) -> None:
    """Write the frames one after the other, in one file or in pieces `<file>.000`, `.001`, ..."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for old in (file, *file.parent.glob(f"{file.name}.[0-9]*")):
        old.unlink(missing_ok=True)
    whole = file.with_name(f"{file.name}.making")
    with open(whole, "wb") as out:
        for frame in frames:
            if isinstance(frame, bytes):
                out.write(frame)
            else:
                with open(frame, "rb") as content:
                    shutil.copyfileobj(content, out, 1 << 20)
    size, number = whole.stat().st_size, 0
    if piece_size is None:
        whole.rename(file)
    else:
        with open(whole, "rb") as content:
            while block := content.read(piece_size):
                file.with_name(f"{file.name}.{number:03d}").write_bytes(block)
                number += 1
        whole.unlink()
    pieces = f" in {number} pieces" if piece_size else ""
    console.print(f"bundle: {file}{pieces}, {size / 10**6:.1f} MB")


def _sums(out: Path, name: str) -> None:
    """Write `SHA256SUMS` of the archive or its pieces and of unzstd, as `sha256sum --check` reads it."""
    files = sorted([*out.glob(f"{name}*"), out / "unzstd"])
    (out / "SHA256SUMS").write_text("".join(f"{_sha256(file)}  {file.name}\n" for file in files))


def _sha256(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
