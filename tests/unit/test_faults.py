"""The faults of module 09: each has a check, a bound, and a row of a real run in its page, within that bound."""

import re
from collections.abc import Callable
from typing import Any, cast

import pytest

from checks import faults
from checks.faults import FAULTS, WORDS, Fault, Kill, cdi_claims, differences, request_is_waiting, shorten
from checks.live import LiveStack
from checks.report.markdown import BEGIN, COLUMNS, END
from toolchain.paths import CHECKOUT

PAGE = CHECKOUT / "docs" / "reference" / "modules" / "09-resilience.md"
CHECKS = CHECKOUT / "checks" / "test_09_resilience.py"
LONGEST_BOUND = 300
# The page is of one run, on stack phase2: its MPS daemon is the node's.
DOCUMENTED = [fault for fault in FAULTS if not fault.by_claim]


def lines() -> list[str]:
    """What a run has written between the markers of the page, without empty lines."""
    text = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    found = [line for line in text.splitlines() if line]
    assert found, (
        f"{PAGE.name} has no figures between its markers; run `make verify STACK=phase2`, then "
        f"`python -m checks.report --stack phase2 --faults-to docs/reference/modules/{PAGE.name} --machine WORDS`"
    )
    return found


def rows() -> dict[str, list[str]]:
    """The fault's name -> the other cells of its row in the page."""
    table = [line for line in lines() if line.startswith("|")]
    head, _, *found = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]
    assert tuple(head) == COLUMNS
    return {row[0]: row[1:] for row in found}


def test_page_has_a_row_for_each_fault_and_no_other():
    assert sorted(rows()) == sorted(fault.name for fault in DOCUMENTED)


@pytest.mark.parametrize("fault", DOCUMENTED, ids=lambda fault: fault.name)
def test_page_has_a_recovery_within_the_bound(fault: Fault):
    noticed, broke, seconds, lost = rows()[fault.name]
    assert 0 < float(seconds) <= fault.bound
    assert noticed and broke and lost


def test_figures_of_the_page_say_where_they_are_from():
    words = " ".join(line for line in lines() if not line.startswith("|"))
    assert re.match(r"Measured on .*, on (simulated|real) GPUs: Kubernetes v.*, NVIDIA DRA driver v.*; .+\.$", words)


def test_every_fault_has_a_check():
    text = CHECKS.read_text(encoding="utf-8")
    names = [name for name, value in vars(faults).items() if isinstance(value, Fault)]
    assert len(names) == len(FAULTS)
    assert [name for name in names if f"faults.{name}" not in text] == []


def test_faults_are_told_apart_and_bounded():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(0 < fault.bound <= LONGEST_BOUND for fault in FAULTS)
    # A cell of a table in Markdown.
    assert not any(set("|<>&`") & set(fault.name) for fault in FAULTS)


def test_message_is_shortened_to_what_every_run_says():
    uid = "3f0c1d1e-0000-4000-8000-0123456789ab"
    said = f"NodePrepareResources failed\n for check-0a1b2c3d/waits:{uid}: checkpoint is corrupted"
    assert shorten(said) == "NodePrepareResources failed for NAMESPACE/waits:UID: checkpoint is corrupted"


def test_long_message_ends_with_a_whole_word():
    cut = shorten("word " * 100)
    assert len(cut) <= WORDS + len(" ...")
    assert cut.endswith("word ...")


class Node:
    """A stack whose node answers what it was given, by the program that is run there."""

    def __init__(self, **answers: str) -> None:
        self.answers = answers

    def in_node(self, node: str, *words: str) -> str:
        (answer,) = [text for program, text in self.answers.items() if program in " ".join(words).split(" ")]
        return answer


SOCKET = "/var/lib/kubelet/plugins/gpu.nvidia.com/dra.sock 4711 * 4712"


@pytest.mark.parametrize(
    ("sockets", "expected"),
    [
        (f"u_str LISTEN 3 4096 {SOCKET}\nu_str ESTAB 0 0 {SOCKET}\n", False),
        (f"u_str ESTAB 0 0 {SOCKET}\nu_str ESTAB 187 0 {SOCKET}\n", True),
        (f"u_str UNCONN 187 0 {SOCKET}\n", False),
        ("u_str ESTAB 187 0 /run/other.sock 4711 * 4712\n", False),
        ("", False),
    ],
)
def test_request_that_waits_is_one_that_the_plugin_has_not_taken(sockets: str, expected: bool):
    stack: Any = Node(pgrep="42\n", ss=sockets)
    assert request_is_waiting(stack, "node") is expected


@pytest.mark.parametrize("where", ["the plugin's pod", "the node"])
def test_request_that_waits_is_seen_whoever_has_the_connection(where: str):
    # The plugin's pod once it has accepted it; until then the kubelet, which is in the node's own namespace.
    waits = {where: f"u_str ESTAB 187 0 {SOCKET}\n"}

    class Namespaces(Node):
        def in_node(self, node: str, *words: str) -> str:
            if "ss" not in words:
                return super().in_node(node, *words)
            return waits.get("the plugin's pod" if "nsenter" in words else "the node", "")

    stack: Any = Namespaces(pgrep="42\n")
    assert request_is_waiting(stack, "node") is True


def test_cdi_files_of_claims_are_told_by_their_uids():
    name = "/var/run/cdi/k8s.gpu.nvidia.com-claim_3f0c1d1e-0000-4000-8000-0123456789ab.yaml"
    stack: Any = Node(echo=f"{name}\n")
    assert cdi_claims(stack, "node") == {"3f0c1d1e-0000-4000-8000-0123456789ab"}
    # What a shell makes of a pattern that nothing matches.
    empty: Any = Node(echo="/var/run/cdi/k8s.gpu.nvidia.com-claim_*.yaml\n")
    assert cdi_claims(empty, "node") == set()


def test_difference_names_what_is_other_than_it_was():
    before = {"devices": ["gpu-0"], "rules": []}
    assert differences(before, before) == ""
    assert differences(before, {"devices": ["gpu-0"], "rules": ["xid-a"]}) == "rules: [] before, ['xid-a'] now"


class Away:
    """A process that is away, until a look finds it back or it was killed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *back_after: int) -> None:
        self.looks, self.kills, self.back_after = 0, 0, list(back_after)
        monkeypatch.setattr(faults, "pids", lambda *_: {"1"} if self.back else set())
        monkeypatch.setattr(faults, "send", self.killed)

    @property
    def back(self) -> bool:
        return bool(self.back_after) and self.looks >= self.back_after[0]

    def killed(self, *_: object) -> None:
        self.kills, self.looks = self.kills + 1, 0
        self.back_after.pop(0)

    def seen(self, after: int) -> Callable[[], bool]:
        def look() -> bool:
            self.looks += 1
            return self.looks >= after

        return look


SECOND = Kill(-1.0, 2)


def looked(between: Callable[[], None] = lambda: None, **signs: Callable[[], bool]) -> Kill:
    return faults.watch_while_down(cast(LiveStack, None), "node", "daemon", SECOND, signs, between)


def test_what_is_seen_before_the_process_is_back_takes_no_further_kill(monkeypatch: pytest.MonkeyPatch):
    away = Away(monkeypatch)
    assert looked(quiet=away.seen(2)) == SECOND
    assert away.kills == 0


def test_process_that_is_back_too_soon_is_killed_again_and_the_time_is_that_of_the_last_kill(
    monkeypatch: pytest.MonkeyPatch,
):
    away = Away(monkeypatch, 1)
    last = looked(quiet=away.seen(2))
    assert last.at > 0 and last.number == 3
    assert away.kills == 1


@pytest.mark.parametrize(("number", "bound"), [(2, 60), (3, 70), (4, 90), (5, 130)])
def test_bound_grows_by_what_the_kubelet_waits_longer_after_further_kills(number: int, bound: float):
    # It waits 10 s after the second kill, for which the bound is, then 20, 40 and 80.
    what = faults.PLUGIN_KILLED.after(Kill(0, number))
    assert (what.name, what.bound) == (faults.PLUGIN_KILLED.name, bound)


def test_what_a_further_kill_needs_is_made_before_it(monkeypatch: pytest.MonkeyPatch):
    away = Away(monkeypatch, 1, 1)
    kills: list[int] = []
    looked(lambda: kills.append(away.kills), quiet=away.seen(2))
    assert kills == [0, 1]


def test_what_is_never_seen_ends_the_kills_and_is_named(monkeypatch: pytest.MonkeyPatch):
    away = Away(monkeypatch, 1, 1, 1)
    with pytest.raises(AssertionError, match=r"daemon was back 3 times before this was seen: quiet"):
        looked(quiet=away.seen(9))


def test_process_that_stays_away_ends_the_look(monkeypatch: pytest.MonkeyPatch):
    Away(monkeypatch)
    monkeypatch.setattr(faults, "START_SECONDS", 0)
    with pytest.raises(AssertionError, match=r"still not so: quiet, while daemon is away"):
        looked(quiet=lambda: False)


class Waiting:
    """A playground of one pod, of which the kubelet has said this."""

    def __init__(self, phase: str, *said: str) -> None:
        self.phase, self.said = phase, said

    def messages(self, name: str, reason: str) -> list[str]:
        assert (name, reason) == ("waits", "FailedPrepareDynamicResources")
        return list(self.said)

    def pod(self, name: str) -> dict[str, Any]:
        return {"status": {"phase": self.phase}}


FORBIDDEN = "prepare dynamic resources: resourceclaims is forbidden: no relationship found between node and this object"
NOT_THERE = "prepare dynamic resources: DRA driver gpu.nvidia.com is not registered"


@pytest.mark.parametrize(
    ("waiting", "found"),
    [
        (Waiting("Pending"), None),
        (Waiting("Pending", FORBIDDEN), None),
        (Waiting("Pending", NOT_THERE, FORBIDDEN), NOT_THERE),
        (Waiting("Running", NOT_THERE), None),
    ],
    ids=["nothing said", "claim may not be read yet", "told after that", "runs by now"],
)
def test_kubelet_refuses_a_pod_for_the_reason_that_is_asked_for(waiting: Any, found: str | None):
    site = faults.FaultSite(cast(LiveStack, None), "node", waiting)
    assert site.kubelet_refusal("waits", "not registered|NodePrepareResources") == found


def test_taint_that_only_tells_is_no_difference():
    xid = {"key": "gpu.nvidia.com/xid", "value": "45", "effect": "None"}
    assert faults.blocking_taints([xid, {**xid, "value": "79", "effect": "NoSchedule"}]) == [(xid["key"], "NoSchedule")]
