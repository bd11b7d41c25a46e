"""Clients that the checks start: what is an end of theirs, and what the kubelet starts again."""

from typing import Any

import pytest

from checks.mps import NOT_STARTED, NOT_STARTED_CODE, STARTS_AGAIN, Client, ClientEnd, runs_once

FREEZE = "runc create failed: unable to start container process: unable to freeze"
FAILED = {"terminated": {"reason": NOT_STARTED, "exitCode": NOT_STARTED_CODE, "message": FREEZE}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff"}}
RUNNING: dict[str, Any] = {"running": {}}
DONE = {"terminated": {"reason": "Completed", "exitCode": 0}}


class Stack:
    """A stack whose one pod has these statuses, one look after another."""

    def __init__(self, *looks: dict[str, Any], of: str = "containerStatuses", policy: str = "Never") -> None:
        self.looks, self.of, self.policy = list(looks), of, policy

    def one(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        look = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return {"spec": {"restartPolicy": self.policy}, "status": {self.of: [look]}}


def status(state: dict[str, Any], before: dict[str, Any] | None = None, restarts: int = 0) -> dict[str, Any]:
    return {"state": state, "lastState": before or {}, "restartCount": restarts}


def client(*looks: dict[str, Any], **options: str) -> Client:
    stack: Any = Stack(*looks, **options)
    return Client(stack, "client-1")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checks.live.LOOK_SECONDS", 0)


def test_start_that_the_runtime_failed_is_no_end():
    looks = (status(FAILED), status(BACK_OFF, FAILED), status(RUNNING, FAILED, 1), status(DONE, FAILED, 1))
    assert client(*looks).wait_end() == DONE["terminated"]


def test_last_start_of_all_may_succeed():
    assert client(status(DONE, FAILED, STARTS_AGAIN)).wait_end() == DONE["terminated"]


@pytest.mark.parametrize("of", ["containerStatuses", "initContainerStatuses"])
@pytest.mark.parametrize("state", [FAILED, BACK_OFF], ids=["just now", "between two starts"])
def test_program_that_the_runtime_never_starts_is_said_with_its_words(state: dict[str, Any], of: str):
    with pytest.raises(AssertionError, match=f"client-1: the runtime does not start it: {FREEZE}"):
        client(status(state, FAILED, STARTS_AGAIN), of=of).wait_end()


def test_starts_of_a_deployments_pod_are_not_counted():
    looks = (status(BACK_OFF, FAILED, STARTS_AGAIN + 1), status(RUNNING, FAILED, STARTS_AGAIN + 2))
    pod = client(*looks, policy="Always")
    assert [pod.state(), pod.state()] == [{}, RUNNING]


def test_program_that_failed_itself_has_ended():
    failed = {"terminated": {"reason": "Error", "exitCode": 6}}
    assert client(status(failed)).wait_end() == failed["terminated"]


def test_kubelet_starts_again_what_was_not_started_and_nothing_else():
    spec = runs_once(
        {"containers": [{"name": "probe"}], "initContainers": [{"name": "wait"}], "restartPolicy": "Always"}
    )
    assert spec["restartPolicy"] == "Never"
    for container in [*spec["containers"], *spec["initContainers"]]:
        assert container["restartPolicy"] == "Never"
        (rule,) = container["restartPolicyRules"]
        assert rule["exitCodes"] == {"operator": "In", "values": [NOT_STARTED_CODE]}


def test_client_without_a_context_is_an_error_that_tells_what_it_said():
    ended = ClientEnd(1, [{"gpus": []}, {"error": "CUDA_ERROR_MPS_RPC_FAILURE"}], 0.0, 1.0)
    with pytest.raises(AssertionError, match=r"no context and ended with 1: .*RPC_FAILURE"):
        _ = ended.sms
    assert ClientEnd(0, [{"sms": 66, "free_mib": 1}], 0.0, 1.0).context["free_mib"] == 1
