"""Checks of module 10.2: claims match MIG devices by what they can do."""

from collections.abc import Callable, Iterator

import pytest

from checks import mig
from checks.live import LiveStack, Playground, wait_for

FOLDER = "10.2-mig-matching"


@pytest.fixture
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace of its own, and every MIG device to have in it."""
    mig.of_the_layout(stack)
    with stack.playground() as namespace:
        yield namespace


def start(playground: Playground, example: str, name: str | None = None) -> str:
    """Pod of an example, under another name if one is given."""
    (pod,) = playground.create(f"{FOLDER}/{example}", **{example: name or example})
    return pod


def profile(playground: Playground, pod: str) -> str:
    """Profile and model of the MIG device that a pod has, once it runs."""
    playground.wait_running(pod)
    (device,) = playground.allocated(pod)
    return f"{device['profile']} of {device['productName']}"


def of_a100(name: str) -> str:
    return f"{name} of {mig.PRODUCT}"


@pytest.mark.parametrize(("example", "name"), [("ninety", "7g.40gb"), ("much-memory", "7g.40gb"), ("fifty", "4g.20gb")])
def test_capacity_chooses_the_profile(
    playground: Playground, example: str, name: str, observed: Callable[[str], None]
) -> None:
    """Fails if `ninety`, `much-memory` or `fifty` gets another profile than the table says."""
    found = profile(playground, start(playground, example))
    assert found == of_a100(name)
    observed(f"{example}: {found}")


def test_memory_alone_matches_other_models_too(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if without the product the claims for 30Gi do not get the MIG devices of both models."""
    stack = playground.stack
    others = [
        one
        for one in stack.settings.all_mig_slices
        if one.profile.memory_mib >= 30 * 1024 and mig.product(stack, one) != mig.PRODUCT
    ]
    if not others:
        pytest.skip("no other model of the layouts has a MIG device with 30 GiB")
    product = f'device.attributes["gpu.nvidia.com"].productName == "{mig.PRODUCT}" &&\n'
    pods = []
    for number in range(1 + len(others)):
        words = {"much-memory": f"trap-{number}", product: "\n"}
        pods += playground.create(f"{FOLDER}/much-memory", **words)
    found = sorted(profile(playground, pod) for pod in pods)
    assert found == sorted(
        [of_a100("7g.40gb"), *(f"{one.profile.name} of {mig.product(stack, one)}" for one in others)]
    )
    observed(f"memory of at least 30Gi: {'; '.join(found)}")


def test_more_than_there_is_waits_until_it_asks_for_less(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if `too-many` is not Pending, or with 90 in place of 100 does not run."""
    pod = start(playground, "too-many")
    reason = playground.wait_unschedulable(pod)
    assert "cannot allocate all claims" in reason
    (relaxed,) = playground.create(f"{FOLDER}/too-many", **{"too-many": "relaxed", '"100"': '"90"'})
    found = profile(playground, relaxed)
    assert found == of_a100("7g.40gb")
    observed(f"more than 100 SMs: {reason}; more than 90: {found}")


def test_two_of_a_range_get_both_profiles_and_the_third_waits(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if two `middle` do not get 3g.20gb and 4g.20gb, or a third runs."""
    pods = [start(playground, "middle", f"middle-{number}") for number in range(2)]
    found = sorted(profile(playground, pod) for pod in pods)
    assert found == [of_a100("3g.20gb"), of_a100("4g.20gb")]
    third = start(playground, "middle", "middle-2")
    reason = playground.wait_unschedulable(third)
    assert "cannot allocate all claims" in reason
    observed(f"{' and '.join(found)}; the third: {reason}")


def test_narrow_claims_leave_the_wide_one_its_own(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if `ninety`, `fifty` and then `middle` do not get 7g, 4g and 3g, or `too-many` runs beside them."""
    waiting = start(playground, "too-many")
    found = {}
    for example in ("ninety", "fifty", "middle"):
        found[example] = profile(playground, start(playground, example))
    assert found == {"fifty": of_a100("4g.20gb"), "middle": of_a100("3g.20gb"), "ninety": of_a100("7g.40gb")}
    playground.wait_unschedulable(waiting)
    observed("; ".join(f"{example}: {name}" for example, name in found.items()))


def test_wide_claim_takes_the_first_that_fits_and_gives_none_back(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if `middle` gets another than the first of the slice that matches; or `fifty` after it does not wait where
    that was 4g.20gb, or not get it where it was not.

    The order is that of the ResourceSlice, in which NVIDIA's driver writes its devices anew whenever it starts.
    """
    fitting = [
        values["profile"]
        for values in playground.stack.devices().values()
        if values["productName"] == mig.PRODUCT and values.get("profile") in ("3g.20gb", "4g.20gb")
    ]
    wide = profile(playground, start(playground, "middle"))
    assert wide == of_a100(fitting[0])
    narrow = start(playground, "fifty")
    if fitting[0] == "4g.20gb":
        assert "cannot allocate all claims" in playground.wait_unschedulable(narrow)
        # What it could have is free, and the pod that has the other would do with it: nobody moves it.
        seen = "waits, though 3g.20gb is free"
    else:
        seen = profile(playground, narrow)
        assert seen == of_a100("4g.20gb")
    observed(f"in the slice: {', '.join(fitting)}; middle: {wide}; then fifty: {seen}")


def test_forms_of_a_comparison_agree(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if `forms` does not run."""
    found = profile(playground, start(playground, "forms"))
    assert found == of_a100("7g.40gb")
    observed(f"compareTo, isGreaterThan and isLessThan: {found}")


def test_list_of_profiles_falls_back_to_the_next(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if three pods of `prioritized` do not get 7g, 4g and 3g, by these alternatives."""
    seen = []
    for number, (request, name) in enumerate([("seven", "7g.40gb"), ("four", "4g.20gb"), ("three", "3g.20gb")]):
        pod = start(playground, "prioritized", f"prioritized-{number}")
        playground.wait_running(pod)
        (device,) = playground.allocated(pod)
        assert (device["request"], device["profile"]) == (f"slice/{request}", name)
        seen.append(device["request"])
    observed(", ".join(seen))


def test_capacity_that_a_device_has_not_is_an_error(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the scheduler says nothing of the missing key.

    A whole GPU publishes its memory only, and an expression that names more fails instead of matching nothing.
    """
    stack = playground.stack
    whole = [values for values in stack.devices().values() if values["type"] == "gpu"]
    if not whole:
        pytest.skip("no GPU of the stack is whole, so there is none without multiprocessors")
    assert not any("multiprocessors" in values for values in whole)
    pod = start(playground, "no-capacity")
    playground_pod = wait_for(
        "the scheduler said something of the pod", lambda: playground.pod(pod)["status"].get("conditions")
    )
    said = [condition.get("message", "") for condition in playground_pod]
    assert any("no such key: multiprocessors" in message for message in said), said
    observed("; ".join(said))
