"""Watches the ResourceSlices of NVIDIA's driver and keeps its taints as DeviceTaintRules."""

import json
from typing import Any

import anyio

from gpu_agents import api, log
from gpu_agents.plugin_logs import PluginLogs, WatchEnded
from gpu_agents.taints import DRIVER, MANAGED_BY, Tainted, lasting, of_divided_gpus, owner_reference

RBAC = "rbac.authorization.k8s.io/v1"
SELECTOR = f"spec.driver={DRIVER}"
# A list or a create; a watch ends by itself after WATCH_SECONDS, and everything is listed again.
ASK_SECONDS = 30
WATCH_SECONDS = 300
FIRST_WAIT, LONGEST_WAIT = 1, 30
MENDING = "the keeper never deletes a rule: once the GPU is mended, restart the driver's plugin, then delete the rule"


class Keeper:
    """Creates rules, never changes or deletes one. `ready` after the first full list."""

    def __init__(self, cluster_role: str, plugin_namespace: str = "") -> None:
        """The rules are owned by the ClusterRole of that name.

        With the namespace of the driver's plugins, faults of GPUs that MIG divides are read in their logs.
        """
        self._cluster_role = cluster_role
        self._logs = PluginLogs(plugin_namespace, self._keep_all) if plugin_namespace else None
        # The watch and each log that tells a fault look at the same slices: one at a time, or each of them would make a
        # rule that the other is about to have made, also after a person has deleted it.
        self._one_at_a_time = anyio.Lock()
        self._client: Any = None
        self._owner: dict[str, Any] = {}
        # Slices by name, as they were last seen.
        self._slices: dict[str, dict[str, Any]] = {}
        self._rules: set[str] = set()
        self._told: set[Tainted] = set()
        # By slice: what it was tainted with when it was last seen.
        self._tainted: dict[str, set[Tainted]] = {}
        self._listed = False

    @property
    def ready(self) -> bool:
        return self._listed and (self._logs is None or self._logs.ready)

    async def run(self) -> None:
        """List and watch for ever; after a failure again, later and later."""
        async with anyio.create_task_group() as tasks:
            if self._logs:
                tasks.start_soon(self._logs.run)
            tasks.start_soon(self._keep_for_ever)

    async def _keep_for_ever(self) -> None:
        wait = FIRST_WAIT
        while True:
            try:
                await self._list_and_watch()
                wait = FIRST_WAIT
            except (*api.ERRORS, WatchEnded) as error:
                log.error("the API failed; listing again", reason=api.reason(error), seconds=wait, **_remedy(error))
                await anyio.sleep(wait)  # an API server that is down must not be asked in a loop
                wait = min(2 * wait, LONGEST_WAIT)

    async def _list_and_watch(self) -> None:
        with anyio.fail_after(ASK_SECONDS):
            self._client = client = await api.connect()
            self._owner = owner_reference(await api.get(client, RBAC, f"clusterroles/{self._cluster_role}"))
            rules = await api.get(client, api.RESOURCE, "devicetaintrules")
            self._rules = {rule["metadata"]["name"] for rule in rules["items"]}
            listed = await api.get(client, api.RESOURCE, "resourceslices", fieldSelector=SELECTOR)
        self._slices = {resource_slice["metadata"]["name"]: resource_slice for resource_slice in listed["items"]}
        await self._keep_all()
        first, self._listed = not self._listed, True
        if first:
            log.info("every ResourceSlice is looked at; watching", slices=len(listed["items"]), rules=len(self._rules))
        await self._watch(client, listed["metadata"]["resourceVersion"])

    async def _watch(self, client: Any, since: str) -> None:
        # kr8s's own watch takes no end, and a connection that broke without a word would keep it for ever.
        parameters = {
            "watch": "true",
            "fieldSelector": SELECTOR,
            "resourceVersion": since,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        request: dict[str, Any] = {"version": api.RESOURCE, "url": "resourceslices", "params": parameters}
        request["timeout"] = WATCH_SECONDS + ASK_SECONDS
        async with client.call_api("GET", stream=True, **request) as response:
            async for line in response.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise WatchEnded(event["object"].get("message", line))
                name = event["object"].get("metadata", {}).get("name")
                if event["type"] in ("ADDED", "MODIFIED"):
                    self._slices[name] = event["object"]
                    await self._keep(event["object"])
                elif event["type"] == "DELETED":
                    self._slices.pop(name, None)
                    self._tainted.pop(name, None)

    async def _keep_all(self) -> None:
        for resource_slice in list(self._slices.values()):
            await self._keep(resource_slice)

    async def _keep(self, resource_slice: dict[str, Any]) -> None:
        async with self._one_at_a_time:
            await self._keep_this(resource_slice)

    async def _keep_this(self, resource_slice: dict[str, Any]) -> None:
        name, faults = resource_slice["metadata"]["name"], self._logs.faults if self._logs else []
        found = [*lasting(resource_slice), *of_divided_gpus(resource_slice, faults)]
        before, self._tainted[name] = self._tainted.get(name, set()), set(found)
        for tainted in found:
            # Of one that is new, or comes back, a person may have deleted the rule since the rules were listed.
            comes = tainted not in before
            if comes or tainted.rule_name not in self._rules or tainted not in self._told:
                await self._create(tainted)

    async def _create(self, tainted: Tainted) -> None:
        try:
            with anyio.fail_after(ASK_SECONDS):
                await api.create(self._client, api.RESOURCE, "devicetaintrules", tainted.rule(self._owner))
        except api.ERRORS as error:
            if api.status(error) != 409:
                raise
            log.info("the rule is there", **_told(tainted))
        else:
            log.info("made a rule for a tainted device", **_told(tainted), labels=MANAGED_BY)
        self._rules.add(tainted.rule_name)
        self._told.add(tainted)


def _told(tainted: Tainted) -> dict[str, str]:
    taint = f"{tainted.key}={tainted.value}:{tainted.effect}"
    return {
        "rule": tainted.rule_name,
        "pool": tainted.pool,
        "device": tainted.device,
        "taint": taint,
        "mending": MENDING,
    }


def _remedy(error: BaseException) -> dict[str, str]:
    if api.status(error) == 404:
        return {
            "remedy": "OWNER_CLUSTER_ROLE has to name a ClusterRole that exists, and the API server has to serve "
            f"DeviceTaintRule in {api.RESOURCE} (Kubernetes 1.37 does)"
        }
    if api.status(error) == 403:
        return {
            "remedy": "the service account needs list and watch of resourceslices, list and create of "
            "devicetaintrules, and get of its ClusterRole"
        }
    return {}
