"""The simulated driver, compiled once per session, plain and under ASan and UBSan, and driver roots made of it."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gpu_models import render_node_config
from tests.unit.gpu_sim.driver_root import MODELS, SOURCE, Build, Root


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
        for folder in ("etc", "dev", "run"):
            (path / folder).mkdir(parents=True)
        subprocess.run(["cp", "-a", f"{build.out}/root/usr", path], check=True)
        (path / "etc/gpu-sim.ini").write_text(text or render_node_config("node", MODELS[model], count, **kwargs))
        for minor in range(count if visible is None else visible):
            (path / f"dev/nvidia{minor}").touch()
        return Root(build, path)

    return make
