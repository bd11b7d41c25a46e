"""Changes of a stack in words, beside the diff that Pulumi prints; and refusal of one that a running stack cannot make.

Reads the outputs of the stack's last update from the backend; asks a cluster only before its driver is taken away.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pulumi
from packaging.version import Version

from machine.ownership import CONSEQUENCE, FORCE, ApiServer, UnreachableError, is_forced
from settings import Settings
from settings.catalog import CONSUMABLE_CAPACITY, DRA_DRIVER

READ_STACK_OUTPUTS = "pulumi:pulumi:readStackOutputs"
# Those of them that are set; the others follow, from the GPU's model too.
LIMITS = {"activeThreadPercentage", "pinnedDeviceMemoryLimit"}
# What NVIDIA's driver does with a claim that it serves by MPS. Source: cmd/gpu-kubelet-plugin/sharing.go of v0.5.0.
COMPUTE_MODE = (
    "mps.mode claim: NVIDIA's driver sets the compute mode EXCLUSIVE_PROCESS on the shared GPU of the host while the "
    "claim lives, and DEFAULT when it goes; destroy deletes the claim and its clients before the cluster"
)
NUMBERS = {
    "activeThreadPercentage": "thread percentage",
    "grantedMultiprocessors": "SMs granted",
    "pinnedDeviceMemoryLimit": "memory limit",
    "memoryLeftForAClient": "memory left for a client",
}


def outputs_before() -> dict[str, Any]:
    """The stack's outputs as its last update left them; none if they cannot be read.

    To be asked before anything is registered: from then on the backend writes the state that this reads.
    """
    try:
        answer = pulumi.runtime.invoke(READ_STACK_OUTPUTS, {"name": pulumi.get_stack()})
    except Exception as error:  # noqa: BLE001 - the SDK raises no narrower one, and words must not fail an update
        pulumi.log.debug(f"no outputs of the last update to compare with: {error}")
        return {}
    return (answer.value or {}).get("outputs", {})


class ChangeError(Exception):
    """The running stack cannot become the one that the config describes; the message has the remedy."""


def refuse(before: Mapping[str, Any], settings: Settings) -> None:
    """Raise `ChangeError` for a change that would leave something behind, or end in a time-out."""
    _refuse_another_cluster(before, settings)
    _refuse_no_driver(before, settings)
    _refuse_no_shares(before, settings)


def _refuse_another_cluster(before: Mapping[str, Any], settings: Settings) -> None:
    """A stack cannot move from or to a cluster of somebody else: nothing would look at what still runs there."""
    kept = {"cluster": settings.cluster_name, "kubeconfig": str(settings.kubeconfig)}
    was = {key: before.get(key, value) for key, value in kept.items()}
    # By its end: a checkout may have moved.
    on_kind_before = Path(was["kubeconfig"]).parts[-3:] == (settings.state_folder / "kubeconfig").parts[-3:]
    if on_kind_before and settings.cluster.provider == "kind":
        return  # it is made anew
    if was["cluster"] != kept["cluster"] or on_kind_before != (settings.cluster.provider == "kind"):
        raise ChangeError(
            f"cluster: the stack is in {was['cluster']} and would move to {kept['cluster']}; "
            f"run `make down STACK={settings.stack}` with the config that it was made with first, or use another stack"
        )


def _refuse_no_driver(before: Mapping[str, Any], settings: Settings) -> None:
    """NVIDIA's driver would go, and pods of others that hold GPUs through it would stay."""
    if "driver" not in before or settings.has(DRA_DRIVER) or is_forced():
        return
    try:
        holders = ApiServer(str(settings.kubeconfig), settings.context).strangers(settings.stack)
    except UnreachableError:
        return  # then nothing can be changed there
    if holders:
        raise ChangeError(
            f'modules: "{DRA_DRIVER.number}" is taken away under pods of others that hold GPUs, and {CONSEQUENCE}: '
            f"{'; '.join(map(str, holders))}; delete these pods first, or set {FORCE}=force to go on all the same"
        )


def _refuse_no_shares(before: Mapping[str, Any], settings: Settings) -> None:
    """Claims share a GPU, and the driver would no longer let them.

    The scheduler does not give a GPU out again while a claim has a share of it and the driver no longer publishes it as
    one that can be shared, not even to an admin claim.
    """
    old, new = before.get("driver", {}).get("consumableShares", "disabled"), settings.consumable_shares
    if new == "disabled" and _number(old) != new:
        why = "" if settings.has(CONSUMABLE_CAPACITY) else f" (its default without module {CONSUMABLE_CAPACITY.number})"
        raise ChangeError(
            f"driver.consumableShares: {_number(old)} -> {new}{why} cannot be done under the claims that share a GPU; "
            f"set it to {_number(old)}, or run `make down STACK={settings.stack}` first"
        )


def driver_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[str]:
    """What another version of NVIDIA's driver means for pods that run."""
    if not before or not after or before.get("version") == after.get("version"):
        return
    old, new = before["version"], after["version"]
    yield f"version: {old} -> {new}; pods with claims run on, new ones wait until the plugin is registered again"
    if Version(new) < Version(old):
        yield "that is a downgrade, which NVIDIA does not test: delete pods with claims first, or their claims may stay"


def explain(before: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
    """Say what changes in NVIDIA's driver, in the way that GPUs are shared, and in a fleet, if anything does."""
    found = {
        "NVIDIA's driver changes": driver_changes(before.get("driver"), outputs.get("driver")),
        "MIG layouts change": mig_changes(before.get("mig"), outputs.get("mig")),
        "MPS changes": mps_changes(before.get("mps"), outputs.get("mps")),
        "The fleet changes": fleet_changes(before.get("fleetNodes"), outputs.get("fleetNodes")),
    }
    for title, changed in found.items():
        if lines := list(changed):
            pulumi.log.info("\n".join([f"{title}:", *(f"  {line}" for line in lines)]))


def mig_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[str]:
    """What other layouts of GPUs mean for pods that run; nothing where there were or will be none."""
    if not before or not after or before == after:
        return
    for node in sorted(before.keys() | after.keys()):
        gpus = zip_longest(before.get(node, ()), after.get(node, ()), fillvalue="none")
        for index, (old, new) in enumerate(gpus):
            if old != new:
                yield f"{node} GPU {index}: {old} -> {new}"
    yield "NVIDIA's plugin starts again, since it looks at MIG devices only then"
    yield "the stack's own pods with MIG devices start again; delete other pods whose MIG device changes or goes first"


def fleet_changes(before: Sequence[str] | None, after: Sequence[str] | None) -> Iterator[str]:
    """What a fleet's nodes were and will be; nothing where there was or will be none."""
    if not before or not after or list(before) == list(after):
        return
    yield from (f"was {line}" for line in before if line not in after)
    yield from (f"will be {line}" for line in after if line not in before)
    yield "pods on nodes that go are deleted"
    yield "pods on other nodes keep what they have, also where the GPUs change"


def mps_changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[str]:
    """What differs and what running clients feel of it; nothing where there was or will be no MPS."""
    if not before or not after or _plain(before) == _plain(after):
        return
    if before["mode"] != after["mode"]:
        yield f"mode: {before['mode']} -> {after['mode']}; every client is deleted and made anew"
    changed = set()
    for key, name in NUMBERS.items():
        old, new = before.get(key), after.get(key)
        if _number(old) != _number(new):
            changed.add(key)
            yield f"{name}: {_number(old)} -> {_number(new)}"
    old_classes, new_classes = before.get("classes", {}), after.get("classes", {})
    for name in sorted(old_classes.keys() | new_classes.keys()):
        if (old := old_classes.get(name)) != (new := new_classes.get(name)):
            yield f"class {name}: {old or 'none'} -> {new or 'none'}; the stack's clients of that class start again"
    if not changed & LIMITS:
        return
    if before["mode"] == after["mode"] == "daemon":
        yield "the running daemons take the limits without a restart; from then on new clients have them"
        yield "the stack's own clients (Deployments in namespace mps) start again, so that none keeps the old limits"
        yield "any other client that runs keeps the old limits until it starts again"
    elif after["mode"] == "claim" and before["mode"] == "claim":
        yield "the claim that clients share cannot be changed, so it is replaced: they are deleted first and lose"
        yield "their context, NVIDIA's driver ends the claim's MPS daemon and starts another one"


def _number(value: Any) -> Any:
    """The backend keeps every number as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _number(value) for key, value in values.items()}
