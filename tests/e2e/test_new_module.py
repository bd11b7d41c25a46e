"""A module is a row of data: number 99 is added by a row, a builder, manifests, a check and a page, and nothing else.

No cluster is made: a preview shows what the stack would be.
"""

import textwrap
from pathlib import Path

import pytest

from gpus.models import GPU_MODELS, simulated_gpus
from tests.e2e.workspace import Workspace
from toolchain.paths import CHECKOUT

STACK = "spare"
ROW = '''
class SpareBlock(Block):
    """Part of a GPU that the spare client may use, in percent."""

    percentage: int = 11


SPARE = Module(
    number="99",
    slug="spare",
    title="A spare module",
    sets_up="a pod with a GPU of its own, a server, and a client with less",
    proves="a module is a row of data",
    minutes=5,
    requires=("01", "02", "04"),
    excludes=("08",),
    gpu=GpuUse.OWN,
    needs_whole_gpu=True,
    gates=(Gate("DRAListTypeAttributes", what="lists of attributes", without="the spare pod finds no GPU"),),
    images=(Image("spare-server", "registry.example.com/spare-server:v1"),),
    blocks={"spare": SpareBlock},
    mps_classes=(
        MpsClass(
            "spare",
            "client",
            lambda blocks: Limits(
                active_thread_percentage=blocks.block(SpareBlock).percentage, pinned_device_memory_limit="512Mi"
            ),
        ),
    ),
)

'''
BUILDER = '''
"""Module 99: a spare one."""

from components.manifests import load
from components.objects import register
from components.pods import set_image
from components.site import Site
from components.workload import Dependencies, Workload
from modules.context import Context, SharedGpu
from modules.gpus import uuid_for
from settings import Settings
from settings.catalog import Module, SpareBlock


def build(module: Module, settings: Settings, context: Context) -> None:
    site, shared_gpu = context.get(Site), context.get(SharedGpu)
    gpu = uuid_for(module, settings, context)
    owner = Workload("spare-owner", site=site, documents=load(module.name, "owner.yaml"), gpu=gpu)
    (server,) = load(module.name, "server.yaml")
    set_image(server, context.images["spare-server"])
    register(server, "spare-server", site.inside(owner, owner.objects))
    Workload(
        "spare-client",
        site=site,
        documents=load(module.name, "client.yaml"),
        sharing=shared_gpu.mps,
        depends_on=Dependencies([shared_gpu.workload]),
    )
    context.outputs["spare"] = {"percentage": settings.block(SpareBlock).percentage, "gpu": gpu}
'''
CHECK = '''
"""Module 99: the checks of a spare module."""

from checks.live import LiveStack


def test_client_has_its_class(stack: LiveStack) -> None:
    assert stack.one("deployments.apps", "spare-client", "mps")
'''
PAGE = """
# 99 A spare module

It shows that a module is a row of data.
"""
CONFIG = """
config:
  dra-workshop:modules: ["01", "02", "03", "04", "05", "99"]
  dra-workshop:gpu: {count: 3}
  dra-workshop:images: {spareServer: registry.example.com/mine:v2}
  dra-workshop:spare: {percentage: 13}
"""


def deployment(example: str, folder: Path, **replaced: str) -> str:
    """A manifest of another module with other words: every folder's file says what it is for."""
    text = (folder / example).read_text()
    for old, new in replaced.items():
        text = text.replace(old.replace("_", "-"), new)
    return f"# A manifest of the spare module.\n{text}"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    copy = Workspace.copy(CHECKOUT, tmp_path_factory.mktemp("spare"))
    root, manifests = copy.root, copy.root / "manifests"
    catalog = root / "settings" / "catalog.py"
    text = catalog.read_text()
    row = ROW.strip() + "\n\n\nMODULES = {"
    text = text.replace("from settings.blocks import Blocks", "from settings.blocks import Block, Blocks")
    end = "    )\n}\nDEFAULT"
    assert text.count(end) == 1
    catalog.write_text(text.replace("MODULES = {", row, 1).replace(end, f"        SPARE,\n{end}"))
    (root / "modules" / "spare.py").write_text(BUILDER.lstrip())
    folder = manifests / "99-spare"
    folder.mkdir()
    owner = deployment("holder.yaml", manifests / "03-workloads", holder="spare-owner", one_gpu="spare-gpu")
    (folder / "owner.yaml").write_text(owner)
    client = deployment("limited.yaml", manifests / "05-mps-limits", limited="spare-client", small="spare")
    (folder / "client.yaml").write_text(client)
    server = owner.split("---\n")[1].replace("spare-owner", "spare-server").partition("          claims:")[0]
    (folder / "server.yaml").write_text(f"# A server without a GPU.\n{server}")
    (root / "checks" / "test_99_spare.py").write_text(CHECK.lstrip())
    (root / "docs" / "learn" / "99-spare.md").write_text(PAGE.lstrip())
    copy.write_stack(STACK, textwrap.dedent(CONFIG))
    copy.pulumi("stack", "init", STACK)
    return copy


def test_preview_shows_all_of_the_new_module(workspace: Workspace) -> None:
    output = workspace.pulumi("preview", "--diff", "--stack", STACK)
    for name in ("spare-owner-spare-owner", "spare-owner-spare-gpu-claim", "spare-server", "spare-client-spare-client"):
        assert f"::{name}]" in output, name
    # The third GPU, after those of modules 03 and 04: one of its own.
    gpus = simulated_gpus(f"dra-workshop-{STACK}-worker", GPU_MODELS["h100-80gb"], 3)
    assert gpus[2].uuid in output
    assert "DRAListTypeAttributes" in output
    assert "registry.example.com/mine:v2" in output
    assert "13 % of the SMs, 512Mi (class spare" in output
    assert "mps-policy-class-spare" in output
    assert "percentage: 13" in output


WRONG = {
    "block of a module that is off": (
        {'"05", "99"': '"05"'},
        'spare: {"percentage": 13} is set, but the module that uses it is off; add "99" to modules or drop spare',
    ),
    "key that the block lacks": ({"percentage": "percent"}, "is not a key of spare; did you mean"),
    "image that is not pinned": ({"mine:v2": "mine"}, 'images.spareServer: "registry.example.com/mine" is not pinned'),
    "too few GPUs": (
        {"count: 3": "count: 2"},
        "use 3 GPUs of the first node, one of which each of modules 03, 99 holds for itself",
    ),
    "requirement that is off": ({'"04", "05", ': ""}, '"99" needs "04" (Two pods on one GPU by MPS)'),
    "module that it excludes": ({'"05", "99"': '"05", "08", "99"'}, '"99" and "08" (Admin access and metrics) exclude'),
    "gate that is off": (
        {"spare: {": "driver: {featureGates: {DRAListTypeAttributes: false}}\n  dra-workshop:spare: {"},
        'is off, and module "99" needs it: without it the spare pod finds no GPU',
    ),
    "class of its name": (
        {"spare: {": "mps: {classes: {small: {}, spare: {}}}\n  dra-workshop:spare: {"},
        "is the class of module 99's client; rename it",
    ),
}


def test_rules_know_the_new_module(workspace: Workspace) -> None:
    for name, (replaced, told) in WRONG.items():
        config = CONFIG
        for old, new in replaced.items():
            assert old in config, name
            config = config.replace(old, new)
        workspace.write_stack(STACK, config)
        output = workspace.pulumi("preview", "--stack", STACK, fails=True)
        assert told in output and "Traceback" not in output, f"{name}:\n{output}"
    workspace.write_stack(STACK, CONFIG)


def test_tests_of_every_module_take_the_new_one(workspace: Workspace) -> None:
    workspace.run("python", "-m", "checks.report.modules")  # make tables
    files = [f"tests/unit/test_{name}.py" for name in ("layout", "docs", "manifests", "catalog")]
    output = workspace.run("pytest", *files, "-q", "-p", "no:cacheprovider")
    assert "passed" in output and "failed" not in output, output
    checks = workspace.run("pytest", "checks/test_99_spare.py", "--collect-only", "-q", "--stack", STACK)
    assert "test_client_has_its_class" in checks
