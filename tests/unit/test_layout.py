"""The layout of the repository: rooms, the direction of imports, and module numbers in their places only."""

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from settings.catalog import MODULES
from toolchain.paths import CHECKOUT

ROOMS = ("checks", "modules", "components", "machine", "settings", "gpus", "toolchain")
# A number stands in these only: a file of checks, and the rows of the catalog.
NUMBERED = ("checks/", "settings/catalog.py")


def python_files(*folders: str) -> list[Path]:
    return sorted(file for folder in folders for file in (CHECKOUT / folder).rglob("*.py"))


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """`make lint`'s look at imports, in a copy of the packages."""
    program = Path(sys.executable).with_name("lint-imports")
    command = [str(program), "--no-cache", "--no-logo", str(CHECKOUT / "pyproject.toml")]
    return subprocess.run(command, cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False)


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    for room in ROOMS:
        for file in python_files(room):
            copy = tmp_path / file.relative_to(CHECKOUT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    return tmp_path


def test_imports_run_one_way(packages: Path):
    done = lint_imports(packages)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


BROKEN = {
    "gpus knows settings": ("gpus/models.py", "import settings.blocks", "gpus.models -> settings.blocks"),
    "settings knows modules, for types only": (
        "settings/stack.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from modules.changes import ChangeError",
        "settings.stack -> modules.changes",
    ),
    "machine knows components, inside a function": (
        "machine/kind.py",
        "def late():\n    import components.cluster",
        "machine.kind -> components.cluster",
    ),
    "a circle within a room": ("gpus/models.py", "import gpus.mps", ".mps -> .models"),
    "the toolchain knows the stack": ("toolchain/paths.py", "import machine.findings", "toolchain.paths -> machine"),
    "the stack knows a recipe": ("machine/images.py", "import toolchain.steps", "machine.images -> toolchain.steps"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_import_against_the_direction_fails_the_contract(name: str, packages: Path):
    file, line, told = BROKEN[name]
    (packages / file).write_text(f"{(packages / file).read_text()}\n{line}\n")
    done = lint_imports(packages)
    assert done.returncode == 1, done.stdout + done.stderr
    assert told in done.stdout.replace("\n", " ")


def test_programs_of_pods_import_nothing_of_the_stack():
    for file in python_files("images"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            assert not {name.partition(".")[0] for name in names} & {*ROOMS, "tests"}, file


def test_only_one_python_file_lies_at_the_root():
    assert [file.name for file in CHECKOUT.glob("*.py")] == ["__main__.py"]


def strings(file: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each string constant, without docstrings."""
    tree = ast.parse(file.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def numbers_in(text: str) -> set[str]:
    """Module numbers that a text is, has in quotes, or names as such."""
    quoted = re.findall(r"[\"'](\d\d(?:\.\d)?)[\"']", text)
    named = re.findall(r"\bmodules? (\d\d(?:\.\d)?)", text)
    folders = re.findall(r"\b(\d\d(?:\.\d)?)-[a-z]", text)
    return ({text} | {*quoted, *named, *folders}) & {*MODULES}


@pytest.mark.parametrize("text", ["04", 'add "06.5" to modules', "module 07's pods", "manifests/06-vllm/models"])
def test_module_number_in_a_text_is_seen(text: str):
    assert numbers_in(text)


def test_module_numbers_stand_in_the_catalog_only():
    wrong = [
        f"{file.relative_to(CHECKOUT)}:{line}: {text!r}"
        for file in [CHECKOUT / "__main__.py", *python_files(*ROOMS, "images")]
        if not str(file.relative_to(CHECKOUT)).startswith(NUMBERED)
        for line, text in strings(file)
        if numbers_in(text)
    ]
    assert not wrong, "take the number from settings/catalog.py:\n" + "\n".join(wrong)
