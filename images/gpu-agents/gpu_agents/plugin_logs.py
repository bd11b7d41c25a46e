"""Follower of the logs of NVIDIA's plugins, for faults of GPUs that the driver taints nothing for.

On a GPU that MIG divides, version 0.5.0 of the driver looks for an XID of the whole GPU among its devices, where only
the GPU's parts are, and ignores it. Its log is the only place that has it, from verbosity 6 on.
Source: run() in cmd/gpu-kubelet-plugin/device_health.go, by which one goroutine writes the lines of one XID in a row.
"""

import json
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import TaskGroup

from gpu_agents import api, log
from gpu_agents.taints import GpuFault

LABELS = "dra-driver-nvidia-gpu-component=kubelet-plugin"
CONTAINER = "gpus"
ASK_SECONDS = 30
# A watch or a stream that broke without a word would be kept for ever.
FOLLOW_SECONDS = 300
FIRST_WAIT, LONGEST_WAIT = 1, 30
# XIDs of an application's fault, by which the driver keeps nobody off a GPU. Source: xidsToSkip() in that file.
APPLICATION_XIDS = {13, 31, 43, 45, 68, 109}
_XID = re.compile(r"Processing event XID=(\d+) event")
_IGNORED = re.compile(r"Ignoring event for unexpected device \(UUID:(GPU-[0-9a-f-]+), GI:(\d+), CI:(\d+)\)")
# NVML's GPU and compute instance of an event that is of the whole GPU.
_WHOLE = str(0xFFFFFFFF)


class WatchEnded(Exception):
    """The API server ended the watch with an error."""


class PluginLog:
    """What one plugin's log has told: lines in their order go in, `faults` is what the driver ignored."""

    def __init__(self) -> None:
        self.faults: dict[GpuFault, None] = {}
        """In the order in which they came."""
        self.since = ""
        """Time of the last line, from which on the log is to be read again; empty for its beginning."""
        self._xid = 0

    def read(self, line: str) -> GpuFault | None:
        """Fault that is new with this line, which begins with its time."""
        self.since, _, text = line.partition(" ")
        if found := _XID.search(text):
            self._xid = int(found[1])
        if not (ignored := _IGNORED.search(text)) or self._xid in APPLICATION_XIDS:
            return None
        uuid, instance, compute = ignored.groups()
        fault = GpuFault(uuid, self._xid)
        if (instance, compute) != (_WHOLE, _WHOLE) or fault in self.faults:
            return None
        self.faults[fault] = None
        return fault


@dataclass(frozen=True)
class Plugin:
    """Container of a plugin that runs. The log of another one is another log, even in the same pod."""

    pod: str
    container_id: str

    @classmethod
    def of(cls, pod: dict[str, Any]) -> Iterator["Plugin"]:
        """The one of a pod; none while it does not run."""
        for status in pod.get("status", {}).get("containerStatuses", []):
            if status["name"] == CONTAINER and "running" in status["state"]:
                yield cls(pod["metadata"]["name"], status["containerID"])


class PluginLogs:
    """Reads the log of every plugin in a namespace, from its beginning, and forgets what it told when it ends."""

    def __init__(self, namespace: str, changed: Callable[[], Awaitable[None]]) -> None:
        """`changed` is awaited after each change of `faults`, and again after a failure.

        It may raise one of `api.ERRORS`.
        """
        self._namespace = namespace
        self._changed = changed
        self._logs: dict[Plugin, PluginLog] = {}
        self.ready = False
        """After the first list of plugins."""

    @property
    def faults(self) -> list[GpuFault]:
        """Those of all plugins that run."""
        return [fault for each in self._logs.values() for fault in each.faults]

    async def run(self) -> None:
        """Follow for ever; after a failure again, later and later."""
        wait = FIRST_WAIT
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    await self._list_and_watch(tasks)
                    wait = FIRST_WAIT
                except (*api.ERRORS, WatchEnded) as error:
                    told = {"reason": api.reason(error), "seconds": wait, **_remedy(error, self._namespace)}
                    log.error("the API failed; listing the driver's plugins again", **told)
                    await anyio.sleep(wait)  # an API server that is down must not be asked in a loop
                    wait = min(2 * wait, LONGEST_WAIT)

    async def _list_and_watch(self, tasks: TaskGroup) -> None:
        with anyio.fail_after(ASK_SECONDS):
            client = await api.connect()
            listed = await api.get(client, "v1", "pods", namespace=self._namespace, labelSelector=LABELS)
        names = {pod["metadata"]["name"] for pod in listed["items"]}
        for gone in {plugin.pod for plugin in self._logs} - names:
            await self._see(tasks, gone, [])
        for pod in listed["items"]:
            await self._see(tasks, pod["metadata"]["name"], list(Plugin.of(pod)))
        self.ready = True
        parameters = {
            "watch": "true",
            "labelSelector": LABELS,
            "resourceVersion": listed["metadata"]["resourceVersion"],
            "timeoutSeconds": str(FOLLOW_SECONDS),
        }
        request: dict[str, Any] = {"version": "v1", "namespace": self._namespace, "url": "pods", "params": parameters}
        request["timeout"] = FOLLOW_SECONDS + ASK_SECONDS
        async with client.call_api("GET", stream=True, **request) as response:
            async for line in response.aiter_lines():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise WatchEnded(event["object"].get("message", line))
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    pod = event["object"]
                    running = [] if event["type"] == "DELETED" else list(Plugin.of(pod))
                    await self._see(tasks, pod["metadata"]["name"], running)

    async def _see(self, tasks: TaskGroup, pod: str, running: list[Plugin]) -> None:
        """Follow what runs in a pod, and forget what does not any more."""
        for plugin in [known for known in self._logs if known.pod == pod and known not in running]:
            if self._logs.pop(plugin).faults:  # the same one of its next container is a new one
                await self._changed()
        for plugin in running:
            if plugin not in self._logs:
                self._logs[plugin] = PluginLog()
                tasks.start_soon(self._follow, plugin)

    async def _follow(self, plugin: Plugin) -> None:
        wait = FIRST_WAIT
        while each := self._logs.get(plugin):
            try:
                if each.faults:  # what came of them may have failed
                    await self._changed()
                with anyio.move_on_after(FOLLOW_SECONDS):
                    await self._read(plugin, each)
                wait = FIRST_WAIT
            except api.ERRORS as error:
                remedy = _remedy(error, self._namespace)
                told = {"reason": api.reason(error), "seconds": wait, "pod": plugin.pod, **remedy}
                log.error("no log of the driver's plugin; asking again", **told)
            await anyio.sleep(wait)  # the lines of a container that has ended are over, and the watch tells if it has
            wait = min(2 * wait, LONGEST_WAIT)

    async def _read(self, plugin: Plugin, each: PluginLog) -> None:
        client = await api.connect()
        parameters = {"container": CONTAINER, "follow": "true", "timestamps": "true"}
        if each.since:
            parameters["sinceTime"] = each.since
        request: dict[str, Any] = {"version": "v1", "namespace": self._namespace, "url": f"pods/{plugin.pod}/log"}
        request["timeout"] = FOLLOW_SECONDS + ASK_SECONDS
        async with client.call_api("GET", stream=True, params=parameters, **request) as response:
            async for line in response.aiter_lines():
                if fault := each.read(line):
                    told = {"gpu": fault.uuid, "xid": fault.xid, "pod": plugin.pod}
                    log.info("the driver ignored a fault of a GPU that MIG divides", **told)
                    await self._changed()


def _remedy(error: BaseException, namespace: str) -> dict[str, str]:
    if api.status(error) == 403:
        return {"remedy": f"the service account needs list and watch of pods and get of pods/log in {namespace}"}
    return {}
