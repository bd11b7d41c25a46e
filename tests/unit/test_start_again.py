"""Ways in which a client starts again: what counts as one, and what the check of them cannot miss."""

import json
import re
from typing import Any

import pytest

from checks import start_again
from checks.mps import CLIENTS, WAITS
from checks.start_again import BACK_OFF, OOM_KILLED, WAYS, Most, Site, Way, end_while_stopped, together
from toolchain.paths import CHECKOUT

CLASS = Most(sms=66, memory_mib=8192)
WAITING = f"{WAITS}no daemon answers"
ANY = Way("any", lambda site: {})
OOM = Way("OOM", lambda site: {}, end=OOM_KILLED)


class Stack:
    """A stack with one pod of one container, whose log is `printed`; what its nodes are told is in `told`."""

    def __init__(self, log: list[str], status: dict[str, Any] | None = None) -> None:
        self.printed, self.told, self.refuses = log, [], ""
        self.phase, self.deleted = "Running", []
        self.status = {"name": "probe", "containerID": "containerd://new", "restartCount": 1, **(status or {})}

    def get(self, kind: str, **options: Any) -> list[dict[str, Any]]:
        status = {"phase": self.phase, "containerStatuses": [self.status]}
        return [{"metadata": {"name": "again"}, "spec": {"nodeName": "worker"}, "status": status}]

    def log(self, namespace: str, pod: str, container: str, *, check: bool) -> str:
        return "\n".join(self.printed)

    def kubectl(self, *words: str, **options: Any) -> str:
        return ""

    def delete(self, version: str, path: str, namespace: str, *, missing_ok: bool) -> None:
        assert missing_ok, "its Job may remove it between the look and this"
        self.deleted.append((version, path, namespace))

    def in_node(self, node: str, *words: str) -> str:
        self.told.append(words)
        if words[0] == self.refuses:
            raise RuntimeError(words[0])
        return "4711\n" if words[:2] == ("crictl", "inspect") else ""


def site(log: list[str], status: dict[str, Any] | None = None, way: Way = ANY, known: tuple[str, ...] = ()) -> Site:
    stack: Any = Stack(log, status)
    return Site(stack, way, CLASS, known=set(known))


def context(sms: int = 66, free_mib: int = 7800) -> str:
    return json.dumps({"holding": True, "sms": sms, "free_mib": free_mib})


def ended(reason: str) -> dict[str, Any]:
    return {"lastState": {"terminated": {"reason": reason}}}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checks.live.LOOK_SECONDS", 0)
    monkeypatch.setattr(start_again, "START_SECONDS", 0)


@pytest.mark.parametrize(("phase", "deleted"), [("Running", 0), ("Failed", 1), ("Succeeded", 1)])
def test_pod_that_a_job_has_done_with_goes_and_counts_no_more(phase: str, deleted: int):
    one = site([WAITING])
    one.stack.phase = phase  # pyrefly: ignore[missing-attribute]
    one.remove_finished()
    assert one.stack.deleted == [("v1", "pods/again", CLIENTS)] * deleted  # pyrefly: ignore[missing-attribute]
    assert one.waits() == (not deleted)


def test_new_container_that_only_waits_is_what_the_check_looks_for():
    assert site([WAITING]).waits()


@pytest.mark.parametrize(
    "other",
    [
        site([WAITING], known=("containerd://new",)),
        site([WAITING], {"containerID": ""}),
        site([WAITING], way=Way("later", lambda site: {}, restarts=2)),
        site([]),
        site(["{}"]),
        site([WAITING, context()]),
    ],
    ids=["the one of before", "not made yet", "restarts too few", "says nothing", "does not wait", "has its context"],
)
def test_other_containers_do_not_count(other: Site):
    assert not other.waits()


@pytest.mark.parametrize("more", [context(sms=132), context(free_mib=80_000), context(sms=67), context(free_mib=8193)])
@pytest.mark.parametrize("known", [(), ("containerd://new",)], ids=["new", "of before"])
def test_client_with_more_than_its_class_fails_the_check_whichever_container_it_is(more: str, known: tuple[str, ...]):
    with pytest.raises(AssertionError, match="any: a client runs without the limits of its class"):
        site([more, WAITING], known=known).waits()
    with pytest.raises(AssertionError, match="any: a client runs without the limits of its class"):
        site([more], known=known).come_to_wait()


def test_end_by_the_kernel_is_told_from_another_failure():
    assert site([WAITING], ended(OOM_KILLED), OOM).waits()
    assert not site([WAITING], ended("Error"), OOM).waits()
    assert not site([WAITING], way=OOM).waits()


@pytest.mark.parametrize(
    ("state", "last", "between"),
    [
        ({"waiting": {"reason": BACK_OFF}}, OOM_KILLED, True),
        ({"waiting": {"reason": BACK_OFF}}, "Error", False),
        ({"running": {}}, OOM_KILLED, False),
        ({"terminated": {"reason": OOM_KILLED}}, "", False),
    ],
)
def test_daemon_goes_between_two_starts_of_a_client_that_ends_by_itself(state: Any, last: str, between: bool):
    assert site([context()], {"state": state, **ended(last)}, OOM).backs_off() is between


def test_container_that_waits_already_is_not_one_of_the_way():
    waiting = site([WAITING])
    waiting.come_to_wait()
    assert not waiting.waits()


def test_service_of_a_node_stops_only_once_every_other_client_waits():
    sites = [site([], way=way) for way in WAYS]
    first, *later = together(sites)
    assert [[one.way.name for one in group] for group in later] == [
        ["kubelet that starts again"],
        ["containerd that starts again"],
    ]
    assert [one.way for one in first] == [way for way in WAYS if not way.alone]


@pytest.mark.parametrize("refuses", ["", "kill"])
def test_service_of_a_node_that_was_stopped_is_started_whatever_happens(refuses: str):
    waiting = site([WAITING])
    stack: Any = waiting.stack
    stack.refuses = refuses
    try:
        end_while_stopped("kubelet")(waiting)
    except RuntimeError:
        assert refuses
    services = [words for words in stack.told if words[0] in ("systemctl", "kill")]
    assert services == [("systemctl", "stop", "kubelet"), ("kill", "-KILL", "4711"), ("systemctl", "start", "kubelet")]


def test_images_name_on_the_node_goes_with_the_client():
    waiting = site([WAITING])
    waiting.afterwards.callback(waiting.stack.in_node, "worker", "rm")
    waiting.remove()
    stack: Any = waiting.stack
    assert stack.told == [("rm",)]


def test_ways_are_told_apart_and_the_page_counts_them():
    assert len({way.name for way in WAYS}) == len(WAYS)
    page = (CHECKOUT / "docs" / "reference" / "modules" / "05-mps-limits.md").read_text(encoding="utf-8")
    assert re.findall(r"one of (\d+) ways to start a client", page) == [str(len(WAYS))]
