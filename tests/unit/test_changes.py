"""What a changed limit means, in words."""

import pulumi
import pytest

import changes
from changes import mps_changes

DAEMON = {
    "mode": "daemon",
    "activeThreadPercentage": 50,
    "pinnedDeviceMemoryLimit": "8Gi",
    "grantedMultiprocessors": "66 of 132 (h100-80gb)",
    "memoryLeftForAClient": "7921 MiB, after the 271 MiB of its context",
}


def test_nothing_is_said_without_a_change_and_where_there_was_or_will_be_no_mps():
    assert not list(mps_changes(DAEMON, DAEMON))
    assert not list(mps_changes(None, DAEMON))
    assert not list(mps_changes(DAEMON, None))


def test_numbers_of_the_backend_are_no_change():
    assert not list(mps_changes({**DAEMON, "activeThreadPercentage": 50.0}, DAEMON))


def test_a_changed_limit_is_told_with_what_running_clients_feel():
    after = {**DAEMON, "activeThreadPercentage": 30, "grantedMultiprocessors": "38 of 132 (h100-80gb)"}
    lines = list(mps_changes({**DAEMON, "activeThreadPercentage": 50.0}, after))
    assert lines[:2] == [
        "thread percentage: 50 -> 30",
        "SMs granted: 66 of 132 (h100-80gb) -> 38 of 132 (h100-80gb)",
    ]
    assert "without a restart" in lines[2]
    assert "keeps the old limits" in lines[-1]


def test_by_claim_the_clients_lose_their_context():
    before = {**DAEMON, "mode": "claim"}
    text = "\n".join(mps_changes(before, {**before, "pinnedDeviceMemoryLimit": "4Gi"}))
    assert "memory limit: 8Gi -> 4Gi" in text
    assert "lose\ntheir context" in text


def test_a_changed_class_is_told_and_nothing_of_the_others():
    before = {**DAEMON, "classes": {"small": "20 % of the SMs, 1Gi"}}
    (line,) = mps_changes(before, {**before, "classes": {"small": "10 % of the SMs, 1Gi"}})
    assert line.startswith("class small: 20 % of the SMs, 1Gi -> 10 % of the SMs, 1Gi; ")


def test_another_gpu_changes_what_is_granted_but_no_limit():
    (line,) = mps_changes(DAEMON, {**DAEMON, "grantedMultiprocessors": "64 of 128 (rtx-4090)"})
    assert line == "SMs granted: 66 of 132 (h100-80gb) -> 64 of 128 (rtx-4090)"


def test_another_mode_is_told_first():
    lines = list(mps_changes(DAEMON, {**DAEMON, "mode": "claim"}))
    assert lines == ["mode: daemon -> claim; every client is deleted and made anew"]


def test_outputs_that_cannot_be_read_fail_nothing(monkeypatch: pytest.MonkeyPatch):
    def unreadable(*_: object) -> None:
        raise RuntimeError("the state is being written")

    monkeypatch.setattr(pulumi.runtime, "invoke", unreadable)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "test")
    monkeypatch.setattr(pulumi.log, "debug", lambda text: None)
    assert changes.outputs_before() == {}
