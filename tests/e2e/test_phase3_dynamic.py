"""Stack phase3-dynamic under another name: MIG devices that NVIDIA's driver makes on demand, on two nodes."""

import json
from collections.abc import Iterator

import pytest
import yaml

from checks.live import LiveStack
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "dynamic-mig"
CONFIG = yaml.safe_load((CHECKOUT / "stacks" / "Pulumi.phase3-dynamic.yaml").read_text())["config"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("dynamic-mig"))
    copy.write_stack(STACK, json.dumps({"config": CONFIG}, indent=2))
    return copy


@pytest.fixture(scope="module")
def stack(workspace: Workspace) -> Iterator[LiveStack]:
    with workspace.up(STACK) as live:
        yield live


def test_every_check_passes(workspace: Workspace, stack: LiveStack) -> None:
    status, printed = workspace.verify(STACK)
    print(printed)
    assert status == 0, printed
    results = json.loads((workspace.root / "results" / STACK / "verify.json").read_text())
    assert {check["module"] for check in results["checks"]} == set(stack.settings.modules)
