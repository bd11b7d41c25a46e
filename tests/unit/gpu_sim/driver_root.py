"""The simulated driver as it was compiled, driver roots made of it, and programs that use them."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from gpus.models import load_models
from toolchain.paths import CHECKOUT

SOURCE = CHECKOUT / "images" / "gpu-sim"
DRIVER = "580.159.04"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
MODELS = load_models()


@dataclass(frozen=True)
class Build:
    """One way the code was compiled, and how a program must start to use it."""

    out: Path
    preload: str

    def environment(self) -> dict[str, str]:
        # Python itself leaks by design; everything else that a sanitizer finds ends the process.
        env = {"PATH": os.environ["PATH"], "ASAN_OPTIONS": "detect_leaks=0", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**env, "LD_PRELOAD": self.preload} if self.preload else env


@dataclass(frozen=True)
class Root:
    """A driver root made by hand, with plain files for device nodes, so that these tests need no privilege."""

    build: Build
    path: Path

    def nvml(self, code: str, **environment: str) -> object:
        """Runs code with pynvml as n after nvmlInit; returns what it puts into result."""
        start = "import json\nimport pynvml as n\nn.nvmlInit()\nresult = None\n"
        script = start + textwrap.dedent(code) + "\nprint(json.dumps(result))"
        return json.loads(self.python(script, **environment).stdout)

    def python(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**self.build.environment(), "LD_LIBRARY_PATH": str(self.path / LIBRARIES), **environment}
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, env=env, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done

    def smi(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**self.build.environment(), **environment}
        return subprocess.run(
            [self.path / "usr/bin/nvidia-smi", *arguments], capture_output=True, text=True, env=env, timeout=20
        )


def write_root(build: Build, path: Path, config: str, visible: int) -> Root:
    """A driver root with that configuration, of whose GPUs the first few have device nodes."""
    for folder in ("etc", "dev", "run"):
        (path / folder).mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{build.out}/root/usr", path], check=True)
    (path / "etc/gpu-sim.ini").write_text(config)
    for minor in range(visible):
        (path / f"dev/nvidia{minor}").touch()
    return Root(build, path)


def container_of(root: Root, tmp_path: Path, *nodes: str) -> Root:
    """What a container gets of the root: libraries by version, nvidia-smi, and the granted device nodes."""
    path = tmp_path / "container"
    subprocess.run(["cp", "-a", root.path, path], check=True)
    (path / "etc/gpu-sim.ini").rename(path / LIBRARIES / f"libnvidia-simcfg.so.{DRIVER}")
    subprocess.run(["rm", "-r", path / "dev", path / "run"], check=True)
    (path / "dev/nvidia-caps").mkdir(parents=True)
    for node in nodes:
        (path / "dev" / node).touch()
    return Root(root.build, path)
