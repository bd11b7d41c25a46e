"""The live change of the MPS daemons' limits: when a daemon is ready, what kubectl is asked, what is said of errors."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from components.commands import mps_limits, pods, waiting
from components.commands.mps_limits import ready_pods
from components.commands.waiting import explain_pods
from toolchain.paths import CHECKOUT

NAMESPACE = "mps-system"
# Says what it was asked, one line a call, and answers as `mps-daemon apply` does in the pod that it is asked for. Asked
# for pods it has those of the first look.
KUBECTL = """#!/bin/sh
echo "$@" >> "$ASKED"
case " $* " in *" get pods "*) exec cat "$ANSWERS/first" ;; esac
for word; do case $word in pod-*) answer="$ANSWERS/$word" ;; esac; done
[ -e "$answer" ] && exec cat "$answer"
echo "the daemon says no" >&2
exit 1
"""
DEFAULTS = {"activeThreadPercentage": 30, "pinnedDeviceMemoryLimit": "4096M"}
STATUS = {"defaults": DEFAULTS, "devices": [{"uuid": "GPU-0", "index": 0}, {"uuid": "GPU-1", "index": 1}]}


@dataclass
class Pod:
    """A daemon's pod as kr8s gives it."""

    raw: dict[str, Any]
    name: str = "pod-a"
    log: list[str] = field(default_factory=list)

    def logs(self, container: str, tail_lines: int) -> list[str]:
        return [f"{container}: {line}" for line in self.log[-tail_lines:]]


@dataclass
class Api:
    """The daemons' pods, as they are at each look: the first is kubectl's."""

    looks: list[list[Pod]]
    looked: int = 0

    @property
    def first(self) -> str:
        return json.dumps({"items": [pod.raw for pod in self.looks[0]]})

    def get(self, kind: str, **selection: Any) -> list[Pod]:
        assert (kind, selection) == ("pods", {"namespace": NAMESPACE, "label_selector": {"app": "mps-daemon"}})
        self.looked += 1
        return self.looks[min(self.looked, len(self.looks)) - 1]


def pod(node: str, *ready: bool, metadata: dict[str, str] | None = None) -> Pod:
    states = [{"name": "mps-daemon", "ready": each, "state": {"running": {}}} for each in ready]
    status = {"phase": "Running", "containerStatuses": states} if states else {"phase": "Pending"}
    name = f"pod-{node}"
    return Pod({"metadata": {"name": name, **(metadata or {})}, "spec": {"nodeName": node}, "status": status}, name)


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the daemon in each pod answers; there is none in pods without a file."""
    (tmp_path / "kubectl").write_text(KUBECTL)
    (tmp_path / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.setenv("ANSWERS", str(tmp_path))
    return tmp_path


def execs(folder: Path) -> list[str]:
    """What was asked of daemons, by their pods."""
    file = folder / "asked"
    return sorted(line for line in (file.read_text().splitlines() if file.exists() else ()) if " exec " in line)


def answer(folder: Path, node: str, *clients: int) -> None:
    servers = [{"pid": number, "clients": [{"pid": 1}] * count} for number, count in enumerate(clients)]
    (folder / f"pod-{node}").write_text(json.dumps({**STATUS, "servers": servers}))


@pytest.fixture
def change(answers: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(api: Api, nodes: list[str], seconds: int = 0) -> tuple[int, str, str]:
        asked: list[str] = []
        (answers / "first").write_text(api.first)
        monkeypatch.setattr(pods, "connect", lambda *words: asked.extend(words) or api)
        monkeypatch.setattr(waiting, "LOOK_SECONDS", 0)
        monkeypatch.setenv("KUBECONFIG", "/its/kubeconfig")
        monkeypatch.setenv("KUBE_CONTEXT", "its-context")
        monkeypatch.setenv("MPS_NAMESPACE", NAMESPACE)
        monkeypatch.setenv("NODES", json.dumps(nodes))
        monkeypatch.setenv("ACTIVE_THREAD_PERCENTAGE", "30")
        monkeypatch.setenv("PINNED_DEVICE_MEMORY_LIMIT", "4096M")
        monkeypatch.setenv("WAIT_SECONDS", str(seconds))
        rc = mps_limits.main()
        # The slow client is asked where not everything is ready, and no other cluster.
        assert asked[:2] in ([], ["/its/kubeconfig", "its-context"])
        assert bool(asked) == (api.looked > 0)
        printed = capsys.readouterr()
        return rc, printed.out, printed.err

    return run


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([pod("a", True), pod("b", True)], {"a": "pod-a", "b": "pod-b"}),
        ([pod("a", False)], {}),
        ([pod("a", True, False)], {}),
        ([pod("a")], {}),
        ([pod("a", True, metadata={"deletionTimestamp": "now"})], {}),
        ([], {}),
    ],
)
def test_a_daemon_counts_where_all_of_its_pod_is_ready_and_stays(found: list[Pod], expected: dict[str, str]):
    assert ready_pods([pod.raw for pod in found]) == expected


def test_limits_are_set_in_the_daemon_of_every_node_by_the_stacks_own_kubeconfig(change: Run, answers: Path):
    answer(answers, "a", 2, 1)
    answer(answers, "b")
    rc, out, err = change(Api([[pod("b", True), pod("a", True)]]), ["a", "b"])
    assert rc == 0
    words = "--kubeconfig /its/kubeconfig --context its-context exec -n mps-system pod-{} -- mps-daemon apply "
    words += "--active-thread-percentage=30 --pinned-device-memory-limit=4096M --announce"
    assert execs(answers) == [words.format("a"), words.format("b")]
    first, *_ = (answers / "asked").read_text().splitlines()
    assert (
        first == "--kubeconfig /its/kubeconfig --context its-context get pods -n mps-system -l app=mps-daemon -o json"
    )
    assert json.loads(out) == {node: {"defaults": DEFAULTS, "devices": ["GPU-0", "GPU-1"]} for node in "ab"}
    assert err.splitlines() == [
        "a: limits set; clients that run (3) keep those that they started with",
        "b: limits set",
    ]


def test_what_is_printed_does_not_change_with_the_clients(change: Run, answers: Path):
    api = Api([[pod("a", True)]])
    answer(answers, "a", 1)
    first = change(api, ["a"])
    answer(answers, "a", 2, 3)
    assert change(api, ["a"])[1] == first[1]


def test_the_wait_ends_with_the_last_nodes_daemon(change: Run, answers: Path):
    answer(answers, "a")
    answer(answers, "b")
    api = Api([[], [pod("a", True)], [pod("a", True), pod("b", False)], [pod("a", True), pod("b", True)]])
    rc, _, _ = change(api, ["a", "b"], 60)
    assert (rc, api.looked) == (0, 4)


def test_where_every_daemon_is_ready_nothing_slow_is_imported(change: Run, answers: Path):
    answer(answers, "a")
    api = Api([[pod("a", True)]])
    assert (change(api, ["a"])[0], api.looked) == (0, 0)
    program = "import sys, components.commands.mps_limits as _; print('kr8s' in sys.modules, 'yaml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_daemons_are_set_at_the_same_time(change: Run, answers: Path):
    """Each answers when the other was asked too."""
    for node in ("a", "b"):
        answer(answers, node)
        (answers / f"pod-{node}").rename(answers / f"content-{node}")
    # Each waits for the other, ten seconds at most: one after the other, the first would fail.
    text = KUBECTL.replace(
        """[ -e "$answer" ]""",
        """node="${answer##*-}"; touch "$ANSWERS/seen-$node"; answer="$ANSWERS/content-$node"
for _ in $(seq 100); do [ -e "$ANSWERS/seen-a" ] && [ -e "$ANSWERS/seen-b" ] && break; sleep 0.1; done
[ -e "$ANSWERS/seen-a" ] && [ -e "$ANSWERS/seen-b" ] && [ -e "$answer" ]""",
    )
    (answers / "kubectl").write_text(text)
    assert change(Api([[pod("a", True), pod("b", True)]]), ["a", "b"])[0] == 0


def test_a_daemon_of_a_node_that_the_stack_does_not_name_is_left_alone(change: Run, answers: Path):
    answer(answers, "a")
    assert change(Api([[pod("a", True), pod("other", True)]]), ["a"])[0] == 0
    assert "pod-other" not in (answers / "asked").read_text()


def test_a_time_out_names_the_nodes_and_shows_the_end_of_the_log(change: Run, answers: Path):
    stuck = pod("b", False)
    stuck.log = [f"line {number}" for number in range(50)]
    rc, out, err = change(Api([[pod("a", True), stuck]]), ["a", "b", "c"])
    assert (rc, out) == (1, "") and not execs(answers)
    first, *rest = err.splitlines()
    assert first == "after 0 s no MPS daemon is ready on b, c"
    assert rest[-1] == "    mps-daemon: line 49" and rest[-waiting.LOG_LINES] == "    mps-daemon: line 30"


def test_a_daemon_that_does_not_take_the_limits_is_quoted(change: Run, answers: Path):
    answer(answers, "a")
    rc, out, err = change(Api([[pod("a", True), pod("b", True)]]), ["a", "b"])
    assert (rc, out) == (1, "")
    assert err.splitlines()[-1] == "b: the MPS daemon did not take the limits: the daemon says no"


def test_without_a_pod_the_nodes_label_is_asked_for():
    assert (
        explain_pods(Api([[]]), NAMESPACE, mps_limits.LABELS, "the MPS daemon")
        == "no pod of the MPS daemon in mps-system; does a node have the label dra-workshop/gpus=true?"
    )


def test_a_pod_that_waits_says_why_and_shows_no_log():
    waiting = Pod({"metadata": {}, "spec": {}, "status": {"phase": "Pending"}}, log=["not mine"])
    waiting.raw["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "message": "cannot allocate all claims", "reason": "Unschedulable"},
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        {"type": "Initialized", "status": "True"},
    ]
    waiting.raw["status"]["containerStatuses"] = [{"name": "mps-daemon", "ready": False, "state": {"waiting": {}}}]
    assert explain_pods(Api([[waiting]]), NAMESPACE, mps_limits.LABELS, "the MPS daemon").splitlines() == [
        "pod pod-a on no node: Pending",
        "  PodScheduled: cannot allocate all claims",
        "  Ready: ContainersNotReady",
        '  container mps-daemon: {"waiting": {}}',
    ]


def test_a_pod_that_waits_for_its_next_start_says_how_it_ended_and_shows_its_log():
    failing = Pod({"metadata": {}, "spec": {}, "status": {"phase": "Running"}}, log=["no daemon"])
    ended = {"terminated": {"exitCode": 1, "reason": "Error"}}
    state = {"waiting": {"reason": "CrashLoopBackOff"}}
    failing.raw["status"]["containerStatuses"] = [
        {"name": "probe", "ready": False, "restartCount": 5, "state": state, "lastState": ended}
    ]
    assert explain_pods(Api([[failing]]), NAMESPACE, mps_limits.LABELS, "the MPS daemon").splitlines()[1:] == [
        '  container probe: {"waiting": {"reason": "CrashLoopBackOff"}}',
        '    before, 5 times started again: {"terminated": {"exitCode": 1, "reason": "Error"}}',
        "    probe: no daemon",
    ]


def test_a_daemon_that_hangs_is_named_and_shown(change: Run, answers: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mps_limits, "EXEC_SECONDS", 0.2)
    # A pipe that nobody writes to: kubectl waits for the answer and never has one.
    os.mkfifo(answers / "pod-a")
    rc, out, err = change(Api([[pod("a", True)]]), ["a"])
    assert (rc, out) == (1, "")
    first, *rest = err.splitlines()
    assert first == "a: the MPS daemon did not take the limits in 0.2 s"
    assert rest[0] == "pod pod-a on a: Running"
