"""Checks of module 06 that need no answer of vLLM: what they accept, and that they can fail."""

from types import SimpleNamespace
from typing import Any

import pytest

from checks import test_06_vllm as checks

MIB = 1 << 20


def look(
    monkeypatch: pytest.MonkeyPatch, size: int, used: int, mode: str = "daemon", places: tuple[str, ...] = ()
) -> str:
    """Run the check of /dev/shm on a server that has these volumes and this file system; returns what it recorded."""
    mounts = [{"mountPath": place, "name": "a-volume"} for place in places]
    monkeypatch.setattr(checks, "template", lambda _: {"containers": [{"volumeMounts": mounts}]})
    monkeypatch.setattr(checks, "run_in_server", lambda *_: [size, used])
    vllm = SimpleNamespace(shared_memory="32Mi")
    stack: Any = SimpleNamespace(settings=SimpleNamespace(vllm=vllm, mps=SimpleNamespace(mode=mode)))
    recorded: list[str] = []
    checks.test_no_volume_hides_what_the_driver_mounts(stack, recorded.append)
    return recorded[0]


OWN = ("/dev/shm", "/tmp/nvidia-mps", "/cache")


def test_shared_memory_may_hold_what_the_server_wrote_itself(monkeypatch: pytest.MonkeyPatch):
    words = look(monkeypatch, 32 * MIB, 4096, places=OWN)
    assert words == "/dev/shm is the pod's, 32 MiB, of which 4 KiB are in use"


def test_shared_memory_of_a_claim_is_the_drivers(monkeypatch: pytest.MonkeyPatch):
    assert look(monkeypatch, 64 * MIB, 8192, "claim", ("/cache",)).startswith("/dev/shm is the driver's, 64 MiB")


def test_smaller_shared_memory_than_was_asked_for_is_found(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(AssertionError, match=r"/dev/shm has 31 MiB, vllm\.sharedMemory is 32"):
        look(monkeypatch, 32 * MIB - 4096, 0, places=OWN)


@pytest.mark.parametrize("place", ["/dev", "/dev/shm", "/tmp"])
def test_volume_over_what_the_driver_mounts_is_found(monkeypatch: pytest.MonkeyPatch, place: str):
    with pytest.raises(AssertionError):
        look(monkeypatch, 64 * MIB, 0, "claim", (place,))
