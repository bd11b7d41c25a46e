"""The image of vLLM from wheels: its recipe, and that lock, image and toolchain name one version."""

import re

from toolchain import debian, images, versions
from toolchain.versions import VLLM_IMAGE

FOLDER = images.IMAGES / "vllm"


def test_one_version_of_vllm_is_named_everywhere():
    number = versions.VLLM.removeprefix("v")
    lock = (FOLDER / "requirements.lock").read_text()
    assert f"vllm=={number}\n" in (FOLDER / "requirements.in").read_text()
    assert re.search(rf"^vllm=={re.escape(number)} ", lock, re.M)
    assert VLLM_IMAGE.endswith(f":{versions.VLLM}")


def test_every_wheel_of_the_lock_is_pinned_with_hashes():
    lines = (FOLDER / "requirements.lock").read_text().splitlines()
    packages = [line for line in lines if line and not line.startswith((" ", "#"))]
    assert packages and all(re.match(r"[a-z0-9._-]+(\[[a-z0-9,-]+\])?==\S+ (; .+ )?\\$", line) for line in packages)
    assert all(line.strip().startswith("--hash=sha256:") for line in lines if line.startswith(" "))


def test_step_needs_a_compiler_beside_python_and_nothing_of_setup():
    step = images.vllm()
    (base,) = step.needs
    assert base.name == "rootfs-vllm" and {"gcc", "libpython3-dev"} <= set(debian.VLLM_PACKAGES)
    assert step.name == "vllm"


def test_image_runs_as_nobody():
    assert "USER 65534:65534" in (FOLDER / "Dockerfile").read_text()
