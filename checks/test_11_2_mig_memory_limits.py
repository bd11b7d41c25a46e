"""Checks of module 11.2: limits of memory on a MIG device, and which of them MPS holds.

That a claim's limit is stored and not held was measured by the workshop that this one replaces, on an A100-PCIE-40GB:
the simulated GPU follows it (images/gpu-sim/src/config.h). It was not measured here.
"""

from collections.abc import Callable, Iterator

import pytest

from checks import mig
from checks.live import LiveStack, Playground
from checks.mps import MEMORY
from gpus.mps import context_mib

LIMIT_MIB, LARGE_LIMIT_MIB = 4096, 8192
# What clients ask for: beyond the limit and within it; and more than half of a MIG device, whose rest is for one more.
BEYOND, WITHIN = 4608, 3072
MOST, HALF_OF_MOST = 12288, 6144
SUCCESS, OUT_OF_MEMORY = "CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY"
REFUSED_MEMORY = 5  # gpu-probe's exit code
# Free MiB of a client on 3g.20gb of an A100-PCIE-40GB under 4096 MiB of its own, as the workshop that this one replaces
# measured it. A context there takes some MiB more or less than the rule says, which is an H100's.
MEASURED = {100: 3875, 50: 4004}
TOLERANCE_MIB = 48
ROUNDING_MIB = 4


@pytest.fixture(scope="module")
def playground(stack: LiveStack, free_mig_devices: None) -> Iterator[Playground]:
    """A namespace for all checks of this file, and every MIG device to have in it."""
    mig.of_the_layout(stack)
    with stack.playground() as playground:
        yield playground


@pytest.fixture(scope="module")
def shared(playground: Playground) -> mig.Shared:
    """3g.20gb that a claim shares, with half of the SMs and 4Gi of memory for each client."""
    slice_ = mig.of_the_layout(playground.stack)[0]
    return mig.share(playground, "limited", slice_, mig.mps(50, f"{LIMIT_MIB}Mi"))


def run(shared: mig.Shared, *mib: int, memory: str = "") -> tuple[int, list[str]]:
    """Exit code of a client in a pod of its own, and what became of its allocations."""
    env = {MEMORY: f"0={memory}"} if memory else {}
    ended = mig.client(shared.playground, shared.claim, "alloc", *(f"{size}Mi" for size in mib), env=env).ended()
    return ended.code, [line["result"] for line in ended.lines if "result" in line]


def test_limit_of_a_claim_is_stored_and_not_held(shared: mig.Shared, observed: Callable[[str], None]) -> None:
    """Fails if one of 4608, 3072 and 3072 MiB at once is refused, a client sees another total than the MIG device's, or
    the daemon answers another limit than the claim's.
    """
    clients = [shared.hold(size) for size in (BEYOND, WITHIN, WITHIN)]
    lines = [client.wait_line("holding") for client in clients]
    assert [line["total_mib"] for line in lines] == [shared.slice_.profile.memory_mib] * 3
    assert shared.daemon.clients() == 4
    assert shared.daemon.stored_limit() == LIMIT_MIB
    for client in clients:
        client.remove()
    observed(f"{BEYOND}, {WITHIN} and {WITHIN} MiB at once, while the daemon answers {LIMIT_MIB} MiB (simulated)")


def test_limit_by_ordinal_holds(shared: mig.Shared, observed: Callable[[str], None]) -> None:
    """Fails if under the same limit by ordinal 4608 MiB succeed or 3072 do not, or less than limit and context is free.

    What helps: the same limit once more, by the number that the daemon has for its device instead of the UUID.
    """
    before = shared.alloc(BEYOND)
    try:
        shared.daemon.apply(50, f"{LIMIT_MIB}M")
        limited = shared.context()
        beyond, within = run(shared, BEYOND), run(shared, WITHIN)
    finally:
        shared.daemon.apply(50, "0")
    assert before == shared.alloc(BEYOND) == [SUCCESS]
    assert (beyond, within) == ((REFUSED_MEMORY, [OUT_OF_MEMORY]), (0, [SUCCESS]))
    assert limited["free_mib"] == LIMIT_MIB - context_mib(limited["sms"])
    observed(f"set by ordinal 0: {BEYOND} MiB {OUT_OF_MEMORY}, {WITHIN} MiB {SUCCESS}; before and after: {SUCCESS}")


def test_limit_of_a_client_holds(shared: mig.Shared, observed: Callable[[str], None]) -> None:
    """Fails if under its own 4096 MiB a client gets 4608, or two do not get 3072 each at once."""
    memory = f"{LIMIT_MIB}M"
    clients = [shared.hold(WITHIN, memory) for _ in range(2)]
    lines = [client.wait_line("holding") for client in clients]
    assert [line["allocated_bytes"] >> 20 for line in lines] == [WITHIN] * 2
    assert run(shared, BEYOND, memory=memory) == (REFUSED_MEMORY, [OUT_OF_MEMORY])
    for client in clients:
        client.remove()
    observed(f"under 0={memory}: {BEYOND} MiB {OUT_OF_MEMORY}, {WITHIN} MiB twice at once")


def test_context_is_taken_from_the_limit_of_a_client(shared: mig.Shared, observed: Callable[[str], None]) -> None:
    """Fails if free memory is not the limit less the context of the rule, or differs by more than 48 MiB from what was
    measured on such a card.
    """
    free = {}
    try:
        for percentage in MEASURED:
            shared.daemon.apply(percentage, "0")
            client = shared.context(memory=f"{LIMIT_MIB}M")
            free[percentage] = client["free_mib"]
            assert free[percentage] == LIMIT_MIB - context_mib(client["sms"]), f"{client['sms']} SMs"
    finally:
        shared.daemon.apply(50, "0")
    for percentage, mib in MEASURED.items():
        assert free[percentage] == pytest.approx(mib, abs=TOLERANCE_MIB), f"at {percentage} %"
    observed("; ".join(f"at {percentage} %: {mib} of {LIMIT_MIB} MiB free" for percentage, mib in free.items()))


def test_client_without_a_limit_has_what_is_left_of_the_mig_device(
    shared: mig.Shared, observed: Callable[[str], None]
) -> None:
    """Fails if free memory is not the MIG device's less the two contexts."""
    holder = shared.holder.wait_line("holding")
    taken = holder["total_mib"] - holder["free_mib"]
    client = shared.context()
    whole = shared.slice_.profile.memory_mib
    assert client["total_mib"] == whole
    assert client["free_mib"] == pytest.approx(whole - taken - context_mib(client["sms"]), abs=ROUNDING_MIB)
    observed(f"{client['free_mib']} of {whole} MiB, of which another client has {taken}")


def test_mig_device_is_the_last_word(shared: mig.Shared, observed: Callable[[str], None]) -> None:
    """Fails if beside 12288 and 6144 MiB a third client gets 6144 under a limit of 8192.

    A limit is no reservation: beyond the MIG device's memory a client fails below its own limit.
    """
    memory = f"{LARGE_LIMIT_MIB}M"
    clients = [shared.hold(MOST), shared.hold(HALF_OF_MOST, memory)]
    for client in clients:
        client.wait_line("holding")
    third = run(shared, HALF_OF_MOST, memory=memory)
    for client in clients:
        client.remove()
    assert third == (REFUSED_MEMORY, [OUT_OF_MEMORY])
    observed(f"beside {MOST} and {HALF_OF_MOST} MiB, {HALF_OF_MOST} under 0={memory}: {OUT_OF_MEMORY}")


def test_index_and_uuid_in_a_claim_are_the_same_key(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if the daemon stores another limit for one of them, or one holds.

    `defaultPerDevicePinnedMemoryLimit`: NVIDIA's driver makes a UUID of either key.
    """
    stack, (_, by_index, by_uuid) = playground.stack, mig.of_the_layout(playground.stack)
    uuid = stack.devices()[by_uuid.node, by_uuid.device_name]["uuid"]
    limit = {"0": f"{LIMIT_MIB}Mi"}
    shared = [
        mig.share(playground, name, slice_, mig.mps(50, f"{LARGE_LIMIT_MIB}Mi", per_device))
        for name, slice_, per_device in (("index", by_index, limit), ("uuid", by_uuid, {uuid: limit["0"]}))
    ]
    assert [one.daemon.stored_limit() for one in shared] == [LIMIT_MIB] * 2
    assert [one.alloc(BEYOND) for one in shared] == [[SUCCESS]] * 2
    observed(f'keys "0" and "{uuid}": the daemon answers {LIMIT_MIB} MiB, and {BEYOND} MiB succeed')
