"""The wait for a Deployment's new pods: what kubectl is asked, and what is said where they do not get there."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from components.commands import pods, rollout

# Says what it was asked, and ends as the test wants it to.
KUBECTL = """#!/bin/sh
echo "$@" >> "$ANSWERS/asked"
case " $* " in
*" rollout "*) [ -e "$ANSWERS/rolled-out" ] || { echo "error: timed out waiting for the condition" >&2; exit 1; } ;;
*" get "*) cat "$ANSWERS/labels" ;;
esac
"""


class Api:
    """A cluster with no pod of those labels."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def get(self, kind: str, **selection: Any) -> list[Any]:
        self.asked.append((kind, selection))
        return []


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    (tmp_path / "labels").write_text(json.dumps({"app": "clients"}))
    values = {"KUBECONFIG": "/its/kubeconfig", "KUBE_CONTEXT": "its-context", "NAMESPACE": "mps"}
    values |= {"DEPLOYMENT": "clients", "WAIT_SECONDS": "7", "ANSWERS": str(tmp_path)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def test_the_wait_is_kubectls_own_in_the_stacks_own_cluster(answers: Path, capsys: pytest.CaptureFixture[str]):
    (answers / "rolled-out").touch()
    assert rollout.main() == 0
    words = "--kubeconfig /its/kubeconfig --context its-context rollout status -n mps deployment/clients --timeout=7s"
    assert (answers / "asked").read_text().splitlines() == [words]
    assert capsys.readouterr() == ("mps/clients: rolled out\n", "")  # the same each time, or a stack's state changes


def test_pods_that_do_not_get_there_are_named_with_what_they_wait_for(
    answers: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    api = Api()
    monkeypatch.setattr(pods, "connect", lambda *words: api)
    assert rollout.main() == 1
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == ""
    assert first == (
        "mps/clients: not every pod is a new one that is ready (error: timed out waiting for the condition)"
    )
    assert second.startswith("no pod of clients in mps")
    assert api.asked == [("pods", {"namespace": "mps", "label_selector": {"app": "clients"}})]


def test_kubectl_that_is_not_on_path_is_told(
    answers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(answers / "nothing"))
    assert rollout.main() == 1
    assert capsys.readouterr().err == "kubectl: is not on PATH; `source ./activate` puts it there\n"
