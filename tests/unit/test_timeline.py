"""Timeline of pods that start, by the events of a watch."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from checks.timeline import Moments, Timeline, follow, pod_manifest

CLAIMS = [{"name": "gpu", "resourceClaimName": "claim-0-gpu-abcde"}]


def event(kind: str = "MODIFIED", name: str = "claim-0", **parts: Any) -> dict[str, Any]:
    """An event of a watch on pods: `node`, `claims` and `state` are what its pod has."""
    status: dict[str, Any] = {}
    if "claims" in parts:
        status["resourceClaimStatuses"] = parts["claims"]
    if "state" in parts:
        status["containerStatuses"] = [{"state": parts["state"]}]
    spec = {"nodeName": parts["node"]} if "node" in parts else {}
    return {"type": kind, "object": {"metadata": {"name": name}, "spec": spec, "status": status}}


def test_each_stage_is_the_first_event_that_shows_it():
    timeline = Timeline(["claim-0"])
    timeline.created("claim-0", 10.0)
    timeline.note(10.1, event("ADDED"))
    timeline.note(10.5, event(claims=CLAIMS))
    timeline.note(11.5, event(claims=CLAIMS, node="worker"))
    timeline.note(11.6, event(claims=CLAIMS, node="worker", state={"waiting": {"reason": "ContainerCreating"}}))
    assert timeline.awaited == ["claim-0"]
    timeline.note(13.5, event(claims=CLAIMS, node="worker", state={"running": {}}))
    timeline.note(14.0, event(claims=CLAIMS, node="worker", state={"running": {}}))
    assert timeline.awaited == []
    assert timeline.moments["claim-0"] == Moments(10.0, 10.5, 11.5, 13.5)


def test_pod_whose_create_call_has_not_returned_is_awaited():
    timeline = Timeline(["claim-0"])
    timeline.note(1.0, event(node="worker", state={"running": {}}))
    assert timeline.awaited == ["claim-0"]
    timeline.created("claim-0", 1.1)
    assert timeline.awaited == []


def test_pods_of_others_and_bookmarks_are_passed_over():
    timeline = Timeline(["claim-0"])
    timeline.note(1.0, event(name="another", node="worker", state={"running": {}}))
    timeline.note(2.0, event("BOOKMARK", node="worker", state={"running": {}}))
    assert timeline.moments["claim-0"] == Moments()


def test_broken_watch_is_an_error():
    with pytest.raises(AssertionError, match=r"the watch on pods broke: .*too old resource version"):
        Timeline([]).note(1.0, {"type": "ERROR", "object": {"message": "too old resource version"}})


@pytest.mark.parametrize("state", [{"terminated": {"exitCode": 3}}, {"waiting": {"reason": "ErrImageNeverPull"}}])
def test_pod_that_will_not_run_is_an_error(state: dict[str, Any]):
    with pytest.raises(AssertionError, match=r"pod claim-0 does not run"):
        Timeline(["claim-0"]).note(1.0, event(node="worker", state=state))


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        (Moments(10.0, 10.5, 11.5, 13.5), (0.5, 1.0, 2.0)),
        (Moments(10.0, None, 10.25, 11.25), (0.0, 0.25, 1.0)),
        # The claim was there before the answer to the create call.
        (Moments(10.0, 9.75, 10.25, 11.25), (-0.25, 0.5, 1.0)),
    ],
    ids=["claim", "plain", "claim before the answer"],
)
def test_stages_add_up_to_the_total(moments: Moments, expected: tuple[float, float, float]):
    assert moments.stages == expected
    assert sum(moments.stages) == moments.total


@pytest.mark.parametrize("moments", [Moments(), Moments(1.0), Moments(1.0, 2.0, 3.0)])
def test_pod_that_did_not_run_has_no_total(moments: Moments):
    with pytest.raises(AssertionError, match="not seen to run"):
        _ = moments.total


def done(error: Exception | None = None) -> Future[None]:
    """A thread that has created its pods, or failed to."""
    future: Future[None] = Future()
    future.set_exception(error) if error else future.set_result(None)
    return future


def silence() -> Iterator[tuple[float, dict[str, Any]]]:
    yield 1.0, event("ADDED")
    raise TimeoutError("The read operation timed out")


def test_watch_is_followed_until_every_pod_runs():
    timeline = Timeline(["claim-0"])
    timeline.created("claim-0", 0.5)
    running = (2.0, event(node="worker", state={"running": {}}))
    events = iter([(1.0, event("ADDED")), running, (3.0, event("DELETED"))])
    follow(timeline, events, [done()])
    assert timeline.moments["claim-0"] == Moments(0.5, None, 2.0, 2.0)
    assert next(events)[0] == 3.0


def test_silent_watch_names_the_pods_that_are_awaited():
    with pytest.raises(AssertionError, match="timed out; still awaited: claim-0, claim-1"):
        follow(Timeline(["claim-0", "claim-1"]), silence(), [done()])


def test_pod_that_cannot_be_created_is_the_reason():
    with pytest.raises(AssertionError, match="POST /pods: 403"):
        follow(Timeline(["claim-0"]), silence(), [done(), done(AssertionError("POST /pods: 403"))])


def test_both_kinds_of_pods_differ_in_the_claim_only():
    claim, plain = (pod_manifest("a", "b", "c", claim=claim) for claim in (True, False))
    assert claim["spec"].pop("resourceClaims") == [{"name": "gpu", "resourceClaimTemplateName": "part"}]
    assert claim["spec"]["containers"][0]["resources"].pop("claims") == [{"name": "gpu"}]
    assert claim == plain
