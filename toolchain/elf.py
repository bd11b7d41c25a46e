"""Versions of the C library that ELF files ask for, and a refusal of what the image that they go into does not have.

A compiler on glibc 2.38 or newer makes programs that need symbols of that version, for whatever headers of C23 ask;
inside an image of Debian 12 (2.36) the dynamic linker then refuses them, which would be seen as a time-out.
Reads section headers by the generic ABI: https://www.sco.com/developers/gabi/latest/ch4.sheader.html, and version
requirements as https://refspecs.linuxfoundation.org/LSB_5.0.0/LSB-Core-generic/LSB-Core-generic/symversion.html says.
"""

import os
import struct
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from packaging.version import Version

from toolchain.steps import Step, StepError, Work

MAGIC = b"\x7fELF\x02\x01"  # 64 bit, little endian
NEEDED_VERSIONS = 0x6FFFFFFE  # SHT_GNU_verneed
SYMBOLS = "GLIBC_"


def glibc_needed(file: Path) -> Version | None:
    """Newest version of glibc that an ELF file asks for; None for a static one and for what is no ELF file."""
    versions = [
        Version(name.removeprefix(SYMBOLS))
        for name in _needed(file.read_bytes())
        if name.startswith(SYMBOLS) and name[len(SYMBOLS) :][:1].isdigit()
    ]
    return max(versions, default=None)


def _needed(data: bytes) -> Iterator[str]:
    if not data.startswith(MAGIC):
        return
    (offset,) = struct.unpack_from("<Q", data, 0x28)
    size, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQII", data, offset + index * size) for index in range(count)]
    for _, kind, _, _, start, _, link, entries in sections:
        if kind != NEEDED_VERSIONS:
            continue
        strings, at = sections[link][4], start
        for _ in range(entries):
            _, auxiliaries, _, first, following = struct.unpack_from("<HHIII", data, at)
            auxiliary = at + first
            for _ in range(auxiliaries):
                _, _, _, name, next_one = struct.unpack_from("<IHHII", data, auxiliary)
                yield data[strings + name : data.index(b"\0", strings + name)].decode()
                auxiliary += next_one
            at += following


def require_glibc(folder: Path, newest: str, where: str) -> None:
    """Refuse ELF files below `folder` that need a newer glibc than `newest`, which is what `where` has."""
    needed = {path: version for path in _files(folder) if (version := glibc_needed(path))}
    too_new = {path: version for path, version in needed.items() if version > Version(newest)}
    if too_new:
        listed = ", ".join(f"{path.name} needs GLIBC_{version}" for path, version in sorted(too_new.items()))
        raise StepError(
            f"{listed}, but {where} has glibc {newest}: it was compiled by {compiler_version()}; run `make setup` on "
            "Debian 12 or on another distribution with that glibc or an older one"
        )


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())


@cache
def compiler_version() -> str:
    """C compiler that make and Go call, with the C library that it links: both are in what it makes."""
    told = []
    # The Makefiles call gcc, and Go what CC names.
    for program in dict.fromkeys(("gcc", os.environ.get("CC") or "gcc")):
        try:
            answer = subprocess.run([*program.split(), "--version"], capture_output=True, text=True, check=False).stdout
        except OSError as error:
            answer = str(error)
        told += answer.splitlines()[:1]
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else "no glibc"
    return f"{' and '.join(told)} with {libc}"


def own_glibc() -> str:
    """Version of this machine's glibc, which the images that copy it have."""
    return (os.confstr("CS_GNU_LIBC_VERSION") or "").removeprefix("glibc ")


def compiler() -> Step:
    """Step without a product that every compiled C program needs, so that their keys know the compiler and the libc."""

    def build(work: Work) -> None:
        (work.out / "version").write_text(f"{compiler_version()}\n")

    return Step("c-compiler", build, compiler_version())
