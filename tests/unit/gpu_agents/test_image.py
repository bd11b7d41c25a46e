"""What goes into the image, and where from."""

import re
from pathlib import Path

from toolchain import debian, images, plan
from toolchain.golang import Go
from toolchain.paths import CHECKOUT

LOCK = CHECKOUT / "images/gpu-agents/requirements.lock"
PINNED = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


def test_every_wheel_is_pinned_by_hash_and_no_index_is_named():
    blocks = re.split(r"\n(?=\S)", LOCK.read_text().strip())
    for block in blocks:
        assert PINNED.match(block) and "--hash=sha256:" in block, block
    assert "://" not in LOCK.read_text()


def test_wheels_have_the_versions_that_the_checkout_itself_uses():
    own, checkout = (dict(PINNED.findall(file.read_text())) for file in (LOCK, CHECKOUT / "requirements.lock"))
    assert {name: own[name] for name in own if name in checkout} == {
        name: checkout[name] for name in own if name in checkout
    }
    assert {"kr8s", "grpcio", "protobuf", "nvidia-ml-py"} <= own.keys() & checkout.keys()


def test_only_the_built_way_needs_debian_packages():
    assert [step.name for step in images.gpu_agents(images.stock("python")).needs] == ["python"]
    assert [step.name for step in images.gpu_agents(images.python()).needs] == ["rootfs-python"]


def test_both_ways_make_the_image():
    for way in (plan.built, plan.stock):
        assert "gpu-agents" in [step.name for step in way(Go(Path("go"), "1.26.6")).images]


def test_a_filesystem_that_is_only_extracted_is_another():
    packages = debian.PYTHON_PACKAGES
    whole = debian.root_filesystem("x", packages, 1)
    assert debian.root_filesystem("x", packages, 1, only_extract=True).key != whole.key
    assert debian.root_filesystem("x", packages, 1, more_hooks=("true",)).key != whole.key
