"""Which results of a claim only look on: an admin claim holds nothing, so nobody may be told to hold by it."""

from collections.abc import Iterable
from typing import Any

import anyio

from gpu_agents import api
from gpu_agents.failures import Failures
from gpu_agents.pods import DRIVER, Holder

SECONDS = 2

# (pool, device) of a claim's results of NVIDIA's driver that are all made with adminAccess
OnlyLooks = frozenset[tuple[str, str]]


def only_looks(claim: dict[str, Any]) -> OnlyLooks:
    """The devices that a claim has by adminAccess and not also without it."""
    results = claim.get("status", {}).get("allocation", {}).get("devices", {}).get("results", [])
    own = [result for result in results if result["driver"] == DRIVER]
    held = {(result["pool"], result["device"]) for result in own if not result.get("adminAccess")}
    return frozenset((result["pool"], result["device"]) for result in own) - held


class AdminClaims:
    """Asks the API once for each claim of a pod, and forgets it when the pod is gone.

    Where the API does not answer, every result counts as held.
    """

    def __init__(self, failures: Failures) -> None:
        self._failures = failures
        self._known: dict[tuple[str, ...], OnlyLooks] = {}

    def without(self, holders: list[Holder]) -> list[Holder]:
        """Those of `holders` that hold their device."""
        keys = {_key(holder) for holder in holders}
        self._known = {key: looks for key, looks in self._known.items() if key in keys}
        if missing := sorted(keys - self._known.keys()):
            anyio.run(self._ask, missing)
        nothing: OnlyLooks = frozenset()
        return [each for each in holders if (each.pool, each.device) not in self._known.get(_key(each), nothing)]

    async def _ask(self, keys: Iterable[tuple[str, ...]]) -> None:
        try:
            with anyio.fail_after(SECONDS):
                client = await api.connect()
                for key in keys:
                    await self._ask_one(client, key)
        except api.ERRORS as error:
            self._failures.add("api", api.reason(error), consequence="admin claims are told as holders")

    async def _ask_one(self, client: Any, key: tuple[str, ...]) -> None:
        namespace, name, *_ = key
        try:
            claim = await api.get(client, api.RESOURCE, f"resourceclaims/{name}", namespace)
        except api.ERRORS as error:
            if api.status(error) != 404:
                raise
            return  # its pod is about to go
        self._known[key] = only_looks(claim)


def _key(holder: Holder) -> tuple[str, ...]:
    # With the pod, since another claim may have the same name later, for another pod.
    return holder.claim_namespace, holder.claim, holder.namespace, holder.pod
