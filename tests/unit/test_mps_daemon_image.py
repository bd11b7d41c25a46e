"""mps-daemon's image: in both plans, made anew when what it shares changes, with what NVIDIA's programs need."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from toolchain import images, plan, programs
from toolchain.golang import Go
from toolchain.steps import Step

GO = Go(Path("/nowhere/go"), "go1.26.6")
SOURCE = images.IMAGES / "mps-daemon"


@pytest.mark.parametrize("make_plan", [plan.built, plan.stock])
def test_both_plans_build_the_image_and_its_steps_have_names_of_their_own(make_plan: Callable[[Go], plan.Plan]):
    (step,) = [step for step in make_plan(GO).images if step.name == "mps-daemon"]
    assert step == images.mps_daemon(GO)
    assert step.recipe == "v1"
    assert [needed.name for needed in step.needs] == ["mps-daemon-program", "c-compiler"]


def test_program_tells_the_version_that_the_image_is_tagged_with():
    assert programs.MPS_DAEMON.variables == {"main.version": images.mps_daemon(GO).recipe}


def test_every_input_is_in_the_images_key():
    step = images.mps_daemon(GO)
    program, _ = step.needs
    assert step.files == (SOURCE, images.IMAGES / "gpu-probe" / "Makefile")
    assert step.without == program.files == (SOURCE / "src",)
    less = Step(step.name, step.build, step.recipe, step.files[:1], step.needs, without=step.without)
    assert less.key != step.key


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mps-daemon")
    subprocess.run(["make", "-s", "-f", SOURCE / "Makefile", f"OUT={out}"], check=True)
    assert [path.name for path in out.iterdir()] == ["root"]
    return out / "root"


def test_root_has_what_nvidias_programs_need(root: Path):
    libraries = root / "usr/lib/x86_64-linux-gnu"
    assert sorted(path.name for path in libraries.iterdir()) == [
        *("ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1")
    ]
    assert (root / "lib64/ld-linux-x86-64.so.2").resolve() == libraries / "ld-linux-x86-64.so.2"
    assert (root / "lib/x86_64-linux-gnu/libc.so.6").is_file()
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777


def test_cdi_hook_finds_the_loaders_configuration(root: Path):
    # update-ldcache reads it and writes ld.so.cache beside it when a container is created.
    assert (root / "etc/ld.so.conf").read_bytes() == b""


def test_image_finds_its_own_and_nvidias_programs_and_runs_by_default():
    lines = (SOURCE / "Dockerfile").read_text().splitlines()
    (path,) = [line.removeprefix("ENV PATH=") for line in lines if line.startswith("ENV PATH=")]
    assert "/usr/bin" in path.split(":")
    assert lines[0] == "FROM scratch"
    assert lines[-2:] == ['ENTRYPOINT ["/usr/bin/mps-daemon"]', 'CMD ["run"]']
