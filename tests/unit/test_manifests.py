"""Manifests: each is plain YAML of Kubernetes, has what the stacks register, and no pod or rule is made in Python."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.manifests import MANIFESTS, by_kind, copied, find, load, manifest
from settings import Settings, catalog
from tests.golden import stacks
from tests.golden.recorder import CHECKOUT, RELEASE, Recording
from tests.golden.stacks import FILES
from toolchain.versions import VLLM_IMAGE

YAML = sorted(MANIFESTS.rglob("*.yaml"))
NODE_PATCH = "kubernetes:core/v1:NodePatch"
# Fields of pods, roles and other objects that belong into a file. A mapping of one of these names is one in disguise.
OF_MANIFESTS = {
    *("containers", "initContainers", "volumes", "volumeMounts", "volumeClaimTemplates", "securityContext"),
    *("livenessProbe", "readinessProbe", "startupProbe", "imagePullPolicy", "tolerations", "serviceAccountName"),
    *("hostPath", "emptyDir", "configMap", "persistentVolumeClaim", "resourceClaims", "resourceClaimTemplateName"),
    *("rules", "roleRef", "subjects", "apiGroups", "ports", "clusterIP", "matchLabels", "matchExpressions"),
    *("policyName", "paramRef", "matchResources", "nodeAffinity", "adminAccess", "allocationMode"),
}
# Kind of an object -> beginning of the names of those that each class of MPS has, of which the file has a model.
MODELS = {
    ("ConfigMap", "mps-classes"): r"()",
    ("ValidatingAdmissionPolicyBinding", None): r"(dra-workshop-mps-(?:clients|claims)-)",
}


def documents(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text()) if document]


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(MANIFESTS)))
def test_every_document_is_an_object_with_a_name(file: Path):
    assert documents(file)
    for document in documents(file):
        assert document["apiVersion"] and document["kind"] and document["metadata"]["name"], document


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(MANIFESTS)))
def test_every_file_says_first_what_it_is_for(file: Path):
    # A namespace's own file says so by its name.
    assert file.name == "0-namespace.yaml" or file.read_text().startswith("# ")


def probes(value: Any, kind: str) -> Iterator[dict[str, Any]]:
    """Probes of a kind, such as readinessProbe, anywhere in an object."""
    if isinstance(value, dict):
        yield from ([value[kind]] if kind in value else [])
        value = list(value.values())
    for inner in value if isinstance(value, list) else []:
        yield from probes(inner, kind)


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(MANIFESTS)))
def test_no_probe_that_a_pod_waits_for_is_put_off_for_long_by_a_young_kubelet(file: Path):
    for kind, most in (("readinessProbe", 2), ("startupProbe", 5)):
        for probe in probes(documents(file), kind):
            assert probe["periodSeconds"] <= most, "a kubelet younger than the period waits up to a period"


def dict_keys(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of each constant key of a dict literal, and of each keyword of a call of `dict`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            for key in node.keys:
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.lineno, key.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
            yield from ((node.lineno, keyword.arg) for keyword in node.keywords if keyword.arg)


def made_in_python(source: str) -> list[str]:
    return [f"line {line}: {key}" for line, key in dict_keys(ast.parse(source)) if key in OF_MANIFESTS]


@pytest.mark.parametrize("folder", ["components", "modules"])
def test_no_pod_and_no_rule_is_made_in_python(folder: str):
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert files
    assert {str(file): made for file in files if (made := made_in_python(file.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    ['pod = {"containers": []}', 'x = {"a": [{"volumeMounts": [], "name": "b"}]}', "f(dict(rules=[], verbs=[]))"],
)
def test_pod_or_rule_in_python_would_be_noticed(source: str):
    assert len(made_in_python(source)) == 1


VARIANTS: dict[str, dict[str, Any]] = {
    "prometheus": {"modules": ["01", "02", "04", "08", "09"], "observability": {"prometheus": True}},
    "dcgm": {"modules": ["01", "02", "08"], "gpu": {"source": "host"}, "observability": {"exporter": "dcgm"}},
    "capacity and policy": {"modules": ["01", "02", "04", "05", "07"]},
}


@cache
def known() -> set[tuple[str, str | None, str]]:
    """Kind, namespace and name of every document, but for those of examples."""
    files = [file for file in YAML if "examples" not in file.parts]
    return {
        (document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"])
        for file in files
        for document in documents(file)
    }


def unknown(recording: Recording) -> list[tuple[str, str | None, str]]:
    """Kind, namespace and name of every object that is registered and is in no file."""
    made = []
    for resource in recording.resources.values():
        if not resource.type.startswith("kubernetes:") or resource.type in (RELEASE, NODE_PATCH):
            continue
        kind, metadata = resource.inputs["kind"], resource.inputs["metadata"]
        namespace, name = metadata.get("namespace"), metadata["name"]
        # Each class of MPS has objects like those of the class `default`.
        if beginning := MODELS.get((kind, namespace)):
            name = re.sub(rf"^{beginning}.+$", r"\1default", name)
        made.append((kind, namespace, name))
    assert made or recording.resources.keys() <= {"cluster", "cluster-kind", "cluster-images", "cluster-kubernetes"}
    return [each for each in made if each not in known()]


@pytest.mark.parametrize("stack", FILES)
def test_every_object_of_a_stack_is_in_a_manifest(stack: str):
    assert unknown(stacks.record(stacks.load(stack))) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_every_object_of_other_settings_is_in_a_manifest(name: str):
    assert unknown(stacks.record(Settings.parse(VARIANTS[name], "test"))) == []


def test_every_volume_of_vllm_is_in_a_manifest(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    vllm = {"model": {"path": str(tmp_path)}, "pythonEnvironment": str(tmp_path), "cacheClaim": "cache"}
    raw = {"modules": ["01", "02", "04", "06"], "gpu": {"source": "host"}, "vllm": vllm}
    assert unknown(stacks.record(Settings.parse(raw, "test"))) == []


def test_folder_is_read_in_the_order_of_files_and_files_in_that_asked_for():
    folder = load("07-consumable-capacity")
    assert [document["metadata"]["name"] for document in folder[1:3]] == ["small", "small"]
    assert folder[0]["kind"] == "Namespace"
    files = load("03-workloads", "waiter.yaml", "0-namespace.yaml")
    assert [document["kind"] for document in files] == ["ResourceClaimTemplate", "Deployment", "Namespace"]
    with pytest.raises(FileNotFoundError, match="manifests/no-such-folder holds no YAML file"):
        load("no-such-folder")


def test_file_is_found_by_a_name_that_only_one_has():
    assert find("mps-daemon.yaml").parent.name == "04-mps"
    with pytest.raises(LookupError, match=r"policy.yaml: 2 files in manifests/ have this name, and one must"):
        manifest("policy.yaml")
    with pytest.raises(LookupError, match=r"none.yaml: 0 files"):
        manifest("none.yaml")


def test_two_documents_of_one_kind_are_no_mapping_by_kind():
    with pytest.raises(ValueError, match="Role: two documents have this kind"):
        by_kind(manifest("prometheus-access.yaml"))


def test_copy_shares_no_mapping_or_list_and_keeps_the_values():
    value = object()
    document = {"a": [{"b": value}]}
    copy = copied(document)
    assert copy == document and copy["a"][0]["b"] is value
    assert copy["a"] is not document["a"] and copy["a"][0] is not document["a"][0]


def test_vllms_image_is_that_of_its_manifest():
    (container,) = by_kind(manifest("2-server.yaml"))["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == VLLM_IMAGE


@pytest.mark.parametrize("file", YAML, ids=lambda file: str(file.relative_to(MANIFESTS)))
def test_images_are_those_of_set_up_or_the_pinned_ones_of_upstream(file: Path):
    upstream = {image.upstream for image in catalog.images().values() if image.upstream}
    for image in re.findall(r"^\s*(?:- )?image: (\S+)$", file.read_text(), re.M):
        assert image in upstream or re.fullmatch(r"localhost/dra-workshop/[a-z-]+:v1", image), image
