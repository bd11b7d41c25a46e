"""The simulated driver, compiled once per session, plain and under ASan and UBSan, and driver roots made of it."""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from gpus.models import render_node_config
from tests.unit.gpu_sim.driver_root import MODELS, SOURCE, Build, Root, write_root
from tests.unit.gpu_sim.mps import Mps


@pytest.fixture(scope="session")
def nvml_include(tmp_path_factory) -> Path:
    if folder := os.environ.get("NVML_INCLUDE"):
        return Path(folder)
    module = tmp_path_factory.mktemp("module")
    command = ["go", "mod", "download", "-json", "github.com/NVIDIA/go-nvml@v0.13.3-1"]
    (module / "go.mod").write_text("module nvml\n")
    found = subprocess.run(command, cwd=module, check=True, capture_output=True, text=True).stdout
    return Path(json.loads(found)["Dir"]) / "pkg" / "nvml"


@pytest.fixture(scope="session")
def built(tmp_path_factory, nvml_include) -> Path:
    out = tmp_path_factory.mktemp("gpu-sim")
    before = sorted(SOURCE.rglob("*"))
    command = ["make", "-s", "-j2", "-f", SOURCE / "Makefile", f"OUT={out}", f"NVML_INCLUDE={nvml_include}"]
    subprocess.run([*command, "all"], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    subprocess.run([*command, "sanitize"], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert sorted(SOURCE.rglob("*")) == before
    return out


@pytest.fixture(scope="session", params=["plain", "sanitized"])
def build(built, request) -> Build:
    if request.param == "plain":
        return Build(built, "")
    names = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return Build(built / "sanitize", ":".join(names))


@pytest.fixture
def make_root(build: Build, tmp_path: Path) -> Callable[..., Root]:
    def make(
        model: str = "h100-80gb", count: int = 2, *, text: str | None = None, visible: int | None = None, **kwargs
    ) -> Root:
        path = tmp_path / f"root{len(list(tmp_path.iterdir()))}"
        config = text or render_node_config("node", MODELS[model], count, **kwargs)
        return write_root(build, path, config, count if visible is None else visible)

    return make


@pytest.fixture
def make_mps(build: Build) -> Iterator[Callable[..., Mps]]:
    """Roots with an MPS pipe directory each, in folders that every user may enter and whose names are short."""
    with tempfile.TemporaryDirectory(prefix="mps", dir="/tmp") as name, ExitStack() as started:
        Path(name).chmod(0o755)

        def make(model: str = "h100-80gb", count: int = 1, **kwargs) -> Mps:
            folder = Path(name) / str(len(list(Path(name).iterdir())))
            folder.mkdir()
            for shared in ("p", "l", "sanitizer"):
                (folder / shared).mkdir()
                (folder / shared).chmod(0o777)
            config = render_node_config("node", MODELS[model], count, **kwargs)
            mps = Mps(write_root(build, folder / "root", config, count), folder)
            started.callback(mps.stop)
            return mps

        yield make
