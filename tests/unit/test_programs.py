"""Modules that a program is built with changed: what is taken of them, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from toolchain import programs
from toolchain.golang import Go
from toolchain.programs import Edit
from toolchain.steps import StepError

KINDS = """package v2

import (
\t"fmt"

\t"github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/apiextensions"
\tcorev1 "github.com/pulumi/pulumi-kubernetes/sdk/v4/go/kubernetes/core/v1"
\t"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

\tcase "v1/Pod":
\t\tvar res corev1.Pod
\t\terr := ctx.RegisterResource("kubernetes:core/v1:Pod", name, props, &res, opts...)
\tdefault:
\t\tvar res apiextensions.CustomResource
"""


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """Module as Go's cache has it: read-only."""
    folder = tmp_path / "module"
    for name, text in {
        "go.mod": "module github.com/pulumi/pulumi-kubernetes/sdk/v4\n",
        "go.sum": "",
        "go/kubernetes/doc.go": "package kubernetes\n",
        "go/kubernetes/utilities/a.go": "package utilities\n",
        "go/kubernetes/core/v1/pod.go": "package v1\n",
        "go/kubernetes/yaml/v2/kinds.go": KINDS,
        "go/kubernetes/helm/v4/chart.go": "package v4\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o444)
    return folder


@pytest.fixture
def edit() -> Edit:
    (provider,) = (program for program in programs.PULUMI if program.name == "pulumi-resource-kubernetes")
    assert provider.edit
    return provider.edit


def test_provider_registers_every_kind_by_its_name_without_the_types_of_the_sdk(
    edit: Edit, module: Path, tmp_path: Path
):
    edit.lay(module, tmp_path / "changed")
    text = (tmp_path / "changed" / edit.file).read_text()
    assert "pulumi-kubernetes" not in text and '"github.com/pulumi/pulumi/sdk/v3/go/pulumi"' in text
    assert text.count("var res pulumi.CustomResourceState\n") == 2
    assert 'ctx.RegisterResource("kubernetes:core/v1:Pod", name, props, &res, opts...)' in text


def test_of_a_changed_module_only_what_is_used_is_taken(edit: Edit, module: Path, tmp_path: Path):
    edit.lay(module, tmp_path / "changed")
    taken = {str(file.relative_to(tmp_path / "changed")) for file in (tmp_path / "changed").rglob("*.*")}
    assert "go/kubernetes/core/v1/pod.go" not in taken
    assert {"go.mod", "go.sum", "go/kubernetes/doc.go", "go/kubernetes/utilities/a.go"} <= taken


def test_pattern_that_is_not_there_is_refused(edit: Edit, module: Path, tmp_path: Path):
    lacking = dataclasses.replace(edit, changes=((r"var res \w+\.Gone$", ""),))
    with pytest.raises(StepError, match=r"sdk/v4: go/kubernetes/yaml/v2/kinds\.go has nothing like .*Gone"):
        lacking.lay(module, tmp_path / "changed")


def test_change_of_an_edit_is_another_step(edit: Edit):
    (provider,) = (program for program in programs.PULUMI if program.edit)
    other = dataclasses.replace(provider, edit=dataclasses.replace(edit, changes=edit.changes[:1]))
    go = Go(Path("go"), "go1.26.6")
    assert len({provider.step(go).key, other.step(go).key, dataclasses.replace(provider, edit=None).step(go).key}) == 3
