"""Checks of module 11.1: limits of SMs on a MIG device, that a claim and a client set."""

from collections.abc import Callable, Iterator

import pytest

from checks import mig
from checks.live import LiveStack
from gpus.mps import PERCENTAGES, granted_multiprocessors

# SMs by profile and percentage on an A100-PCIE-40GB, which the workshop that this one replaces measured.
MEASURED = {("3g.20gb", 10): 4, ("3g.20gb", 30): 12, ("3g.20gb", 50): 20, ("7g.40gb", 30): 28, ("7g.40gb", 50): 48}
ASKED = (10, 30, 50)
CURVE = (PERCENTAGES[0], 5, *range(10, 91, 10), PERCENTAGES[-1])


@pytest.fixture(scope="module")
def shared(stack: LiveStack, free_mig_devices: None) -> Iterator[list[mig.Shared]]:
    """MIG devices of one model, each shared by a claim that gives its clients half of the SMs."""
    with stack.playground() as playground:
        yield [
            mig.share(playground, f"half-{number}", slice_, mig.mps(50, f"{slice_.profile.memory_mib}Mi"))
            for number, slice_ in enumerate(mig.of_one_model(stack))
        ]


@pytest.fixture
def unlimited(shared: list[mig.Shared]) -> Iterator[list[mig.Shared]]:
    """The same with daemons that give all SMs, for checks of what clients set."""
    for one in shared:
        one.daemon.apply(100, "0")
    yield shared
    for one in shared:
        one.daemon.apply(50, f"{one.slice_.profile.memory_mib}M")


def expected(slice_: mig.Slice, percentage: float) -> int:
    """SMs by the rule; AssertionError where they are not those that were measured on a real one."""
    granted = granted_multiprocessors(slice_.part, percentage)
    if slice_.model.product_name == mig.PRODUCT:
        assert granted == MEASURED.get((slice_.profile.name, int(percentage)), granted)
    return granted


def test_claim_gives_each_client_half(shared: list[mig.Shared], observed: Callable[[str], None]) -> None:
    """Fails if a client under a claim's 50 % is granted other SMs than the table says."""
    seen = []
    for one in shared:
        sms = one.context()["sms"]
        assert sms == one.holder.wait_line("holding")["sms"] == expected(one.slice_, 50)
        seen.append(f"{one.slice_.profile.name}: {sms} of {one.slice_.profile.multiprocessors}")
    observed("; ".join(seen))


def test_three_clients_of_a_half_run_at_once(shared: list[mig.Shared], observed: Callable[[str], None]) -> None:
    """Fails if one of the three waits, or is granted other SMs."""
    one = shared[0]
    others = [one.hold(64) for _ in range(2)]
    sms = [client.wait_line("holding")["sms"] for client in (one.holder, *others)]
    assert sms == [expected(one.slice_, 50)] * 3
    assert one.daemon.clients() == 3
    for client in others:
        client.remove()
    observed(f"three clients at once, {sms[0]} of {one.slice_.profile.multiprocessors} SMs each: 150 % in all")


def test_client_asks_for_less(unlimited: list[mig.Shared], observed: Callable[[str], None]) -> None:
    """Fails if at 10, 30 or 50 % of its own, under a daemon that gives all, a client is granted other SMs than the
    table says.
    """
    seen = []
    for one in unlimited:
        sms = [one.context(percentage=percentage)["sms"] for percentage in ASKED]
        assert sms == [expected(one.slice_, percentage) for percentage in ASKED]
        seen.append(f"{one.slice_.profile.name}: {', '.join(map(str, sms))}")
    observed(f"at {', '.join(map(str, ASKED))} %: {'; '.join(seen)}")


def test_curve_is_that_of_the_rule(
    unlimited: list[mig.Shared], plot: Callable[..., None], observed: Callable[[str], None]
) -> None:
    """Fails if at one of 12 percentages on one of the profiles the SMs are not the rule's."""
    curves: dict[str, list[int]] = {}
    for one in unlimited:
        curve = curves.setdefault(one.slice_.profile.name, [])
        for percentage in CURVE:
            sms = one.context(percentage=percentage)["sms"]
            assert sms == expected(one.slice_, percentage), f"{one.slice_.device_name} at {percentage} %"
            curve.append(sms)
    lines = {profile: list(zip(CURVE, curve, strict=True)) for profile, curve in curves.items()}
    plot("SMs that a client of a MIG device is granted", "thread percentage in %", "SMs", lines)
    observed(f"{len(CURVE) * len(curves)} as the rule says, at {len(CURVE)} percentages of {', '.join(curves)}")


def test_client_can_only_lower_what_the_claim_gives(shared: list[mig.Shared], observed: Callable[[str], None]) -> None:
    """Fails if a client that asks for 100 % under 50 % gets more, or one that asks for 10 % not less."""
    one = shared[0]
    more, less = one.context(percentage=100)["sms"], one.context(percentage=10)["sms"]
    assert (more, less) == (expected(one.slice_, 50), expected(one.slice_, 10))
    observed(f"claim 50 %: asking for 100 % gives {more} SMs, for 10 % {less}")
