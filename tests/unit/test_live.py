"""What checks rest on: the stack's own cluster and no other, bounded waits, quantities."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

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
