"""Run of the Pulumi program without an engine, and the recording of what it registers.

Owns the mocked answers of the engine. Leaves out what a provider would make of the inputs.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pulumi
from google.protobuf.json_format import MessageToDict
from pulumi.runtime import mocks
from pulumi.runtime import settings as runtime
from pulumi.runtime.stack import run_in_stack
from pulumi.runtime.sync_await import _sync_await

from modules.changes import READ_STACK_OUTPUTS
from settings import PROJECT
from toolchain.paths import CHECKOUT

RELEASE = "kubernetes:helm.sh/v3:Release"
STACK = "pulumi:pulumi:Stack"
GPU = {"node": "a-node", "name": "gpu-0", "productName": "A GPU", "memory": "80Gi", "uuid": "GPU-0"}
MIG_DEVICE = {**GPU, "name": "gpu-1-mig", "profile": "1g.10gb", "uuid": "MIG-0"}
PUBLISHED = {"clusterUid": "00000000-0000-0000-0000-000000000000", "gpus": [GPU]}
# How Pulumi marks a secret on the wire: sdk/python/lib/pulumi/runtime/rpc.py.
SIGNATURE, SECRET = "4dabf18193072939515e22adb298388d", "1b47061264138c4ac30d75fd1eb44270"
OPTIONS = (
    "protect",
    "retainOnDelete",
    "deleteBeforeReplace",
    "replaceOnChanges",
    "ignoreChanges",
    "additionalSecretOutputs",
    "customTimeouts",
    "importId",
    "replacementTrigger",
    "hideDiffs",
)


@dataclass(frozen=True)
class Resource:
    """One registration: names instead of URNs, plain data instead of messages."""

    name: str
    type: str
    parent: str | None
    custom: bool
    provider: str | None
    depends_on: list[str]
    deleted_with: str | None
    options: dict[str, Any]
    inputs: dict[str, Any]


@dataclass(frozen=True)
class Recording:
    """What one run of the program registered."""

    resources: dict[str, Resource]
    outputs: dict[str, dict[str, Any]]
    """What each component and the stack registered as its outputs, by name."""

    @property
    def stack(self) -> str:
        """The stack's name among the outputs, or none where it exports nothing."""
        return next(iter(self.outputs.keys() - self.resources.keys()), "")

    @property
    def stack_outputs(self) -> dict[str, Any]:
        return self.outputs.get(self.stack, {})

    def of_type(self, token: str) -> list[Resource]:
        return [resource for resource in self.resources.values() if resource.type == token]

    def children(self, parent: str | None) -> list[Resource]:
        return sorted((r for r in self.resources.values() if r.parent == parent), key=lambda r: r.name)


class Secret(str):
    """A value that Pulumi keeps secret."""


class Answers(mocks.Mocks):
    """What the engine says: a resource's outputs are its inputs, and what commands and releases add."""

    def call(self, args: mocks.MockCallArgs) -> tuple[dict, list[tuple[str, str]]]:
        if args.token == READ_STACK_OUTPUTS:
            return {"outputs": {}}, []
        raise AssertionError(f"the program calls {args.token}, which asks a provider during a preview")

    def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str, dict]:
        outputs = dict(args.inputs)
        if args.typ == RELEASE:
            outputs["status"] = {"revision": 1}
        if args.typ == "command:local:Command":
            outputs["stdout"] = "standard output"
            if "wait_for_gpus" in args.inputs["create"]:
                mig = {"migDevices": [MIG_DEVICE]} if "EXPECTED_MIG" in args.inputs["environment"] else {}
                outputs["stdout"] = json.dumps({**PUBLISHED, **mig})
        return f"{args.name}-id", outputs


@dataclass
class Recorder(mocks.MockMonitor):
    """A resource monitor that keeps the requests."""

    requests: list[Any] = field(default_factory=list)
    registered_outputs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(Answers())

    def RegisterResource(self, request: Any) -> Any:
        self.requests.append(request)
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:
        self.registered_outputs[request.urn] = request.outputs
        return super().RegisterResourceOutputs(request)

    def recording(self) -> Recording:
        resources = [_resource(request) for request in self.requests if request.type != STACK]
        by_name = {resource.name: resource for resource in resources}
        assert len(by_name) == len(resources), "two resources have one name, so the text could not tell them apart"
        outputs = {_name(urn): _plain(MessageToDict(struct)) for urn, struct in self.registered_outputs.items()}
        return Recording(by_name, outputs)


def run(program: Callable[[], Any], stack: str, recorder: Recorder | None = None) -> Recording:
    """Run `program` as the stack; what it raises is raised here, with what it registered left in `recorder`."""
    recorder = recorder or Recorder()
    features = recorder.GetDeploymentInfo(None).supportedFeatures
    runtime.configure(
        mocks.MockSettings(
            monitor=recorder,
            monitor_features=set(features),
            engine=mocks.MockEngine(None),
            project=PROJECT,
            stack=stack,
            dry_run=False,
            organization=None,
            callbacks=None,
        )
    )
    # pulumi.export asks for it; an earlier run in this process leaves its own.
    runtime.ROOT.set(None)
    _sync_await(run_in_stack(lambda: _discard(program())))
    return recorder.recording()


def _discard(_: Any) -> None:
    """A program's return value is no coroutine for Pulumi to wait for."""


def export(outputs: Mapping[str, Any]) -> None:
    for name, value in outputs.items():
        pulumi.export(name, value)


def _resource(request: Any) -> Resource:
    data = MessageToDict(request)
    parent, provider = _name(request.parent), request.provider.rpartition("::")[0]
    return Resource(
        name=request.name,
        type=request.type,
        parent=None if f":{STACK}::" in request.parent else parent,
        custom=request.custom,
        provider=_name(provider) if provider else None,
        depends_on=sorted(map(_name, request.dependencies)),
        deleted_with=_name(request.deletedWith) if request.deletedWith else None,
        options={key: data[key] for key in OPTIONS if data.get(key)} | _replace_with(request) | _aliases(data),
        inputs=_plain(data.get("object", {})),
    )


def _replace_with(request: Any) -> dict[str, Any]:
    return {"replaceWith": sorted(map(_name, request.replace_with))} if request.replace_with else {}


def _aliases(data: dict[str, Any]) -> dict[str, Any]:
    # The Kubernetes SDK gives each kind the kind's older API versions as aliases; those say nothing of the program.
    ours = [alias for alias in data.get("aliases", []) if alias.get("spec", {}).keys() - {"type", "parentUrn"}]
    return {"aliases": ours} if ours else {}


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


def _plain(value: Any) -> Any:
    """Keys in order, whole numbers as such, secrets marked, no path of this machine."""
    match value:
        case {"value": content} if value.get(SIGNATURE) == SECRET:
            return Secret(_plain(content))
        case dict():
            return {key: _plain(value[key]) for key in sorted(value)}
        case list():
            return [_plain(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case str():
            return value.replace(str(CHECKOUT), "<checkout>")
    return value
