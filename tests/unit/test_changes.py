"""What a changed limit means, in words."""

import pulumi
import pytest

from modules import changes
from modules.changes import ChangeError, driver_changes, mig_changes, mps_changes, refuse
from settings import Settings
from toolchain.paths import CHECKOUT

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
    large = {"large": "80 % of the SMs, 4Gi"}
    before = {**DAEMON, "classes": {"small": "20 % of the SMs, 1Gi", **large}}
    (line,) = mps_changes(before, {**before, "classes": {"small": "10 % of the SMs, 1Gi", **large}})
    assert line.startswith("class small: 20 % of the SMs, 1Gi -> 10 % of the SMs, 1Gi; ")


def test_another_gpu_changes_what_is_granted_but_no_limit():
    (line,) = mps_changes(DAEMON, {**DAEMON, "grantedMultiprocessors": "64 of 128 (rtx-4090)"})
    assert line == "SMs granted: 66 of 132 (h100-80gb) -> 64 of 128 (rtx-4090)"


def test_another_mode_is_told_first():
    lines = list(mps_changes(DAEMON, {**DAEMON, "mode": "claim"}))
    assert lines == ["mode: daemon -> claim; every client is deleted and made anew"]


def test_another_mode_says_nothing_of_clients_that_run_on():
    after = {**DAEMON, "mode": "claim", "pinnedDeviceMemoryLimit": "4Gi"}
    lines = list(mps_changes(DAEMON, after))
    assert lines[1:] == ["memory limit: 8Gi -> 4Gi"]


def test_what_changes_is_told_under_its_title(monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(pulumi.log, "info", told.append)
    changes.explain({"mps": DAEMON}, {"mps": {**DAEMON, "mode": "claim"}})
    assert told == ["MPS changes:\n  mode: daemon -> claim; every client is deleted and made anew"]
    changes.explain({"mps": DAEMON}, {"mps": DAEMON})
    assert len(told) == 1


def test_outputs_that_cannot_be_read_fail_nothing(monkeypatch: pytest.MonkeyPatch):
    def unreadable(*_: object) -> None:
        raise RuntimeError("the state is being written")

    monkeypatch.setattr(pulumi.runtime, "invoke", unreadable)
    monkeypatch.setattr(pulumi, "get_stack", lambda: "test")
    monkeypatch.setattr(pulumi.log, "debug", lambda text: None)
    assert changes.outputs_before() == {}


def stack(**raw: object) -> Settings:
    return Settings.parse(raw, "test")


@pytest.mark.parametrize("shares", ["memory", "unlimited", 5, 5.0])
def test_shares_cannot_be_switched_off_under_claims_that_share(shares: object):
    before = {"driver": {"version": "0.5.0", "consumableShares": shares}}
    with pytest.raises(ChangeError, match=r"-> disabled \(its default without module 07\) cannot be done.*make down"):
        refuse(before, stack(modules=["01", "02", "04"]))
    with pytest.raises(ChangeError, match=r"-> disabled cannot be done.*make down STACK=test"):
        refuse(before, stack(modules=["01", "02", "07"], driver={"consumableShares": "disabled"}))


def test_every_other_change_of_shares_is_let_through():
    refuse({}, stack())
    refuse({"driver": {"version": "0.5.0", "consumableShares": "disabled"}}, stack())
    refuse({"driver": {"version": "0.5.0", "consumableShares": "memory"}}, stack(modules=["01", "02", "07"]))


def test_another_version_of_the_driver_is_told_and_a_downgrade_with_its_risk():
    old, new = ({"version": version, "consumableShares": "disabled"} for version in ("0.4.1", "0.5.0"))
    assert not list(driver_changes(old, old))
    assert not list(driver_changes(None, new))
    (line,) = driver_changes(old, new)
    assert line.startswith("version: 0.4.1 -> 0.5.0; ")
    assert "NVIDIA does not test" in list(driver_changes(new, old))[1]


KUBECONFIG = str(CHECKOUT / "tests/golden/kubeconfig.yaml")


def existing(context: str) -> Settings:
    cluster = {"provider": "existing", "kubeconfig": KUBECONFIG, "context": context}
    return stack(cluster=cluster, gpu={"nodes": [{"name": "a"}]})


def test_stack_does_not_move_from_or_to_a_cluster_of_somebody_else():
    lab = {"cluster": "lab", "kubeconfig": KUBECONFIG}
    kind = {"cluster": "dra-workshop-test", "kubeconfig": "/checkout/.state/test/kubeconfig"}
    refuse(lab, existing("lab"))
    refuse({**lab, "kubeconfig": "/another/copy"}, existing("lab"))
    refuse(kind, stack())
    refuse(kind, stack(cluster={"name": "renamed"}))
    for before, after in ((lab, existing("somebody-elses")), (lab, stack()), (kind, existing("lab"))):
        with pytest.raises(ChangeError, match=r"would move to .*; run `make down STACK=test`"):
            refuse(before, after)


def test_changed_layout_is_told_gpu_by_gpu_with_what_pods_feel():
    before = {"a": ["3g.20gb, 4g.20gb", "whole"], "b": ["whole"]}
    lines = list(mig_changes(before, {"a": ["7g.40gb", "whole", "empty"]}))
    assert lines[:3] == [
        "a GPU 0: 3g.20gb, 4g.20gb -> 7g.40gb",
        "a GPU 2: none -> empty",
        "b GPU 0: whole -> none",
    ]
    assert "plugin starts again" in lines[3] and "delete other pods" in lines[4]


def test_nothing_is_said_of_layouts_that_stay_or_that_only_one_of_the_two_has():
    layout = {"a": ["7g.40gb"]}
    assert not list(mig_changes(layout, layout))
    assert not list(mig_changes(None, layout))
    assert not list(mig_changes(layout, None))
