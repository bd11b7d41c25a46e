"""What checks rest on: the stack's own cluster and no other, bounded waits, quantities."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kr8s
import pytest

from checks import live
from checks.live import CommandFailed, LiveStack, NotThisStack, wait_for
from settings import Settings


class Api:
    def __init__(self, uid: str) -> None:
        self.uid = uid

    def get(self, kind: str, name: str) -> list[Any]:
        assert (kind, name) == ("namespaces", "kube-system")
        return [SimpleNamespace(raw={"metadata": {"uid": self.uid}})]


def stack(uid: str, monkeypatch: pytest.MonkeyPatch, answering: str) -> LiveStack:
    monkeypatch.setattr(live, "connect", lambda kubeconfig, context, answer_seconds: Api(answering))
    outputs = {"kubeconfig": "/its/kubeconfig", "clusterUid": uid}
    return LiveStack(Path("/checkout"), "test", outputs, Settings.parse({}, "test"))


def test_stacks_own_cluster_is_used(monkeypatch: pytest.MonkeyPatch):
    assert stack("one", monkeypatch, answering="one").api.uid == "one"


def test_another_cluster_at_the_same_kubeconfig_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(NotThisStack, match=r"not the one that stack test made .* run `make up STACK=test`"):
        _ = stack("one", monkeypatch, answering="other").api


def test_stack_that_is_not_up_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pulumi = tmp_path / "pulumi"
    pulumi.write_text("#!/bin/sh\necho 'no stack named test' >&2\nexit 255\n")
    pulumi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NotThisStack, match=r"no stack named test.*run `make up STACK=test`"):
        LiveStack.find(tmp_path, "test")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was asked of the API: method, version, path, namespace and options."""
    asked: list[tuple[Any, ...]] = []

    def ask(api: Any, *words: Any, **options: Any) -> SimpleNamespace:
        asked.append((*words, options))
        return SimpleNamespace(text="one line\n")

    monkeypatch.setattr(live, "ask", ask)
    return asked


def test_objects_are_created_in_their_namespaces_and_with_the_fields_alone_that_the_api_knows(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    of = stack("one", monkeypatch, answering="one")
    kinds = {"ResourceClaim.resource.k8s.io/v1": ("resourceclaims", True), "Pod.v1": ("pods", True)}
    kinds["Namespace.v1"] = ("namespaces", False)
    monkeypatch.setattr(Api, "lookup_kind", lambda self, kind: ("", *kinds[kind]), raising=False)
    claim = {"apiVersion": "resource.k8s.io/v1", "kind": "ResourceClaim", "metadata": {"name": "c"}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "other"}}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}
    of.create(space, claim, pod, namespace="given")
    strict = {"fieldValidation": "Strict"}
    assert asked == [
        ("POST", "v1", "namespaces", None, {"json": space, "params": strict}),
        ("POST", "resource.k8s.io/v1", "resourceclaims", "given", {"json": claim, "params": strict}),
        ("POST", "v1", "pods", "other", {"json": pod, "params": strict}),
    ]


def test_what_is_deleted_is_not_waited_for(asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch):
    of = stack("one", monkeypatch, answering="one")
    of.delete("v1", "pods", "n")
    of.delete("v1", "pods/p", "n", grace_seconds=0)
    background = {"propagationPolicy": "Background"}
    assert asked == [
        ("DELETE", "v1", "pods", "n", {"json": background}),
        ("DELETE", "v1", "pods/p", "n", {"json": {**background, "gracePeriodSeconds": 0}}),
    ]


def test_log_is_that_of_the_first_container_and_none_is_an_error_unless_it_may_be_missing(
    asked: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
):
    of = stack("one", monkeypatch, answering="one")
    pod = {"spec": {"containers": [{"name": "first"}, {"name": "second"}]}}
    monkeypatch.setattr(LiveStack, "one", lambda self, kind, name, namespace: pod)
    assert of.log("n", "p") == "one line\n"
    of.log("n", "p", "second", previous="true")
    assert [(path, options["params"]) for _, _, path, _, options in asked] == [
        ("pods/p/log", {"container": "first"}),
        ("pods/p/log", {"container": "second", "previous": "true"}),
    ]

    def refuse(*words: Any, **options: Any) -> None:
        raise kr8s.ServerError("container first is waiting to start")

    monkeypatch.setattr(live, "ask", refuse)
    assert of.log("n", "p", check=False) == ""
    with pytest.raises(kr8s.ServerError, match="waiting to start"):
        of.log("n", "p")


def test_version_of_the_api_server_can_be_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Api, "version", lambda self: {"major": "1", "minor": "36+"}, raising=False)
    assert (1, 35) < stack("one", monkeypatch, answering="one").kubernetes < (1, 37)


def test_wait_returns_what_it_waited_for():
    answers = iter([None, 0, "there"])
    assert wait_for("it", lambda: next(answers)) == "there"


def test_wait_that_ends_says_what_was_awaited():
    with pytest.raises(AssertionError, match=r"after 0 s still not so: it rains"):
        wait_for("it rains", lambda: False, 0)


def test_program_that_fails_on_a_node_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "unable to freeze" >&2\nexit 3\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CommandFailed, match=r"'crictl', 'stopp'.* exit status 3\. unable to freeze$"):
        stack("one", monkeypatch, answering="one").in_node("a-node", "crictl", "stopp")
