"""The C library that compiled programs ask for: read from the file, refused in an image without it, known to keys."""

import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from toolchain import elf, images, programs, versions
from toolchain.golang import Go
from toolchain.paths import IMAGES
from toolchain.steps import Step, StepError

GO = Go(Path("go"), f"go{versions.GO}")


def gcc(folder: Path, *words: str) -> None:
    subprocess.run(["gcc", *words], cwd=folder, check=True)


@pytest.fixture
def needing(tmp_path: Path) -> Path:
    """Folder with a library that asks for a symbol of GLIBC_2.38 and one of GLIBC_2.4, whatever this machine has."""
    (tmp_path / "stub.c").write_text("int newer(void) { return 0; }\nint older(void) { return 0; }\n")
    (tmp_path / "map").write_text("GLIBC_2.4 { older; };\nGLIBC_2.38 { newer; } GLIBC_2.4;\nGLIBC_PRIVATE { };\n")
    (tmp_path / "user.c").write_text("int newer(void), older(void);\nint user(void) { return newer() + older(); }\n")
    shared = ("-shared", "-nostdlib", "-fPIC")
    gcc(tmp_path, *shared, "-Wl,--version-script=map,-soname,libc.so.6", "-o", "stub.so", "stub.c")
    (tmp_path / "made").mkdir()
    gcc(tmp_path, *shared, "-o", "made/libuser.so", "user.c", "stub.so")
    return tmp_path / "made"


def test_newest_version_is_read_by_number_and_not_by_text(needing: Path):
    assert elf.glibc_needed(needing / "libuser.so") == Version("2.38")


def test_program_of_this_machine_needs_no_more_than_it_has(tmp_path: Path):
    (tmp_path / "main.c").write_text('#include <stdio.h>\nint main(void) { return puts("x"); }\n')
    gcc(tmp_path, "-o", "dynamic", "main.c")
    gcc(tmp_path, "-static", "-o", "static", "main.c")
    needed = elf.glibc_needed(tmp_path / "dynamic")
    assert needed and needed <= Version(elf.own_glibc())
    assert elf.glibc_needed(tmp_path / "static") is None


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + b"\0" * 60])
def test_other_files_need_nothing(tmp_path: Path, content: bytes):
    (tmp_path / "file").write_bytes(content)
    assert elf.glibc_needed(tmp_path / "file") is None


def test_file_that_is_too_new_for_its_image_is_refused_with_symbol_cause_and_remedy(needing: Path):
    elf.require_glibc(needing, "2.38", "an image")
    with pytest.raises(StepError) as caught:
        elf.require_glibc(needing, versions.DEBIAN_GLIBC, "the images that they run in (bookworm)")
    assert str(caught.value) == (
        "libuser.so needs GLIBC_2.38, but the images that they run in (bookworm) has glibc 2.36: it was compiled by "
        f"{elf.compiler_version()}; run `make setup` on Debian 12 or on another distribution with that glibc or an "
        "older one"
    )


def keys() -> dict[str, str]:
    steps: list[Step] = [images.gpu_sim(GO), images.gpu_probe(), images.mps_daemon(GO)]
    steps += [program.step(GO) for program in (*programs.NODE, *programs.DRA_DRIVERS.values(), programs.KIND)]
    return {step.name: step.key for step in steps}


def test_keys_of_what_is_compiled_in_c_know_compiler_and_libc(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elf, "compiler_version", lambda: "gcc 12 with glibc 2.36")
    before = keys()
    monkeypatch.setattr(elf, "compiler_version", lambda: "gcc 14 with glibc 2.41")
    after = keys()
    cgo = {program.name for program in (*programs.NODE, *programs.DRA_DRIVERS.values()) if program.cgo}
    assert {name for name in before if before[name] != after[name]} == {"gpu-sim", "gpu-probe", "mps-daemon", *cgo}
    assert "runc" in cgo and "dra-driver-nvidia-gpu" in cgo


def test_compiler_is_told_with_its_libc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "gcc").write_text("#!/bin/sh\necho 'gcc (X) 14.2.0'; echo more\n")
    (tmp_path / "clang").write_text("#!/bin/sh\necho 'clang 19'\n")
    for name in ("gcc", "clang"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.delenv("CC", raising=False)
    elf.compiler_version.cache_clear()
    assert elf.compiler_version() == f"gcc (X) 14.2.0 with glibc {elf.own_glibc()}"
    elf.compiler_version.cache_clear()
    monkeypatch.setenv("CC", "clang")
    assert elf.compiler_version() == f"gcc (X) 14.2.0 and clang 19 with glibc {elf.own_glibc()}"
    elf.compiler_version.cache_clear()


def test_simulated_driver_asks_newer_headers_for_no_newer_symbols(tmp_path: Path):
    """A stand-in for the features.h of glibc 2.38 and newer, which C23's strtol comes with."""
    (tmp_path / "features.h").write_text(
        "#ifndef F\n#define F\n#define __GLIBC_USE_C2X_STRTOL 1\n#define __GLIBC_USE_C23_STRTOL 1\n#endif\n"
    )
    (tmp_path / "look.c").write_text(
        "#include <features.h>\n#if __GLIBC_USE_C2X_STRTOL || __GLIBC_USE_C23_STRTOL\n#error newer\n#endif\n"
    )
    header = IMAGES / "gpu-sim/src/older_glibc.h"
    command = ["gcc", "-E", "-D_GNU_SOURCE", "-isystem", str(tmp_path), "look.c"]
    without = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert without.returncode != 0, "the stand-in asks for newer symbols"
    subprocess.run([*command, "-include", str(header)], cwd=tmp_path, capture_output=True, check=True)
    assert "-include $(SOURCE)src/older_glibc.h" in (IMAGES / "gpu-sim/Makefile").read_text()
