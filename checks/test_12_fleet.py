"""Module 12: the scheduler's choice among nodes that are only objects, with GPUs as NVIDIA's driver publishes them."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from checks import fleet
from checks.live import LiveStack, Playground, wait_for
from gpus.fleet import LABEL, MIG
from gpus.mig import smallest_profile
from gpus.models import GPU_MODELS, GpuModel
from gpus.quantity import quantity_bytes
from settings.stack import NodeGpus

SHARE = "19Gi"  # what share.yaml asks for
L40S = "NVIDIA L40S"  # what by-product.yaml asks for
PART, H100 = "1g.10gb", "NVIDIA H100 80GB HBM3"  # what by-profile.yaml asks for
MOST_PARTS = 40  # of one kind of nodes
MIXED_NODES = 4  # on which whole GPUs and parts come and go
PCIE_ROOT, FIRST_ROOT = "resource.kubernetes.io/pcieRoot", "pci0000:10"  # what either.yaml asks for first
RACKS, FULL, TURNS, TURNED = 2, 0.9, 3, 0.25  # of churn: racks, part of their GPUs, rounds, part of the pods


def names(start: str, count: int) -> list[str]:
    return [f"{start}-{number}" for number in range(count)]


@pytest.fixture
def node(stack: LiveStack) -> NodeGpus:
    """A node in the middle of those that are alike and have whole GPUs."""
    for kind, alike in fleet.by_kind(stack).items():
        if not kind.endswith(MIG):
            return alike[len(alike) // 2]
    pytest.skip(
        "every node of the fleet has GPUs in parts; fleet.model with a model that the driver leaves whole adds some"
    )


def uuid_of(stack: LiveStack, node: NodeGpus, device: str) -> str:
    (found,) = (one for one in fleet.slices(stack)[node.node]["devices"] if one["name"] == device)
    return found["attributes"]["uuid"]["string"]


def place(playground: Playground, example: str, pods: Sequence[str], on: NodeGpus | None = None) -> dict[str, str]:
    """Create an example's pods, wait until each has a node, and return these."""
    fleet.create(playground, fleet.example(example), pods, fleet.on(on) if on else None)
    return fleet.wait_placed(playground, pods)


def test_every_node_has_the_gpus_that_a_simulated_node_publishes(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if a device or counter of a copy differs from its original in anything but the GPU's UUID, if one is
    missing or too many, or if two GPUs have the same UUID."""
    specs, nodes = fleet.slices(stack), stack.settings.fleet_nodes
    published = {kind: specs[node.node] for kind, node in stack.settings.fleet_originals.items()}
    seen: set[str] = set()
    devices = 0
    for node in nodes:
        template, spec = published[stack.settings.fleet_kind(node)], specs[node.node]
        numbers = sorted({fleet.gpu_number(device["name"]) for device in template["devices"]})[: node.count]
        originals = {
            device["name"]: device for device in template["devices"] if fleet.gpu_number(device["name"]) in numbers
        }
        assert len(numbers) == node.count and {device["name"] for device in spec["devices"]} == originals.keys()
        assert len(spec["devices"]) == len(originals) and {pool["name"] for pool in spec["pools"]} == {node.node}
        wanted = {one["counterSet"] for device in originals.values() for one in device.get("consumesCounters", [])}
        assert sorted(spec["sharedCounters"], key=str) == sorted(
            (one for one in template["sharedCounters"] if one["name"] in wanted), key=str
        )
        uuids: dict[int, set[str]] = {}
        for device in spec["devices"]:
            original, attributes = originals[device["name"]], device["attributes"]
            assert attributes.keys() == original["attributes"].keys()
            others = {key for key in attributes if attributes[key] != original["attributes"][key]}
            assert others == {"uuid" if fleet.is_whole(device) else "parentUUID"}, (
                f"{node.node} {device['name']}: {others}"
            )
            assert {**device, "attributes": {}} == {**original, "attributes": {}}
            uuids.setdefault(fleet.gpu_number(device["name"]), set()).add(attributes[others.pop()]["string"])
        # A GPU and its parts say the same.
        assert {len(of_gpu) for of_gpu in uuids.values()} == {1}
        seen |= set().union(*uuids.values())
        devices += len(spec["devices"])
    own = {value["string"] for spec in published.values() for d in spec["devices"] for value in _uuids(d)}
    assert len(seen) == sum(node.count or 0 for node in nodes) and not seen & own
    observed(
        f"{len(nodes)} nodes, {len(seen)} GPUs, {devices} devices; nothing but the UUID is other than on "
        f"{len(published)} own nodes"
    )


def _uuids(device: Mapping[str, Any]) -> list[dict[str, str]]:
    return [value for key, value in device["attributes"].items() if key in ("uuid", "parentUUID")]


def test_every_node_is_ready_and_takes_only_pods_that_say_so(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a node is missing or not ready, or if its taints are others than the one of the fleet."""
    nodes = fleet.listed(stack, f"/api/v1/nodes?labelSelector={LABEL}%3Dtrue")
    assert {one["metadata"]["name"] for one in nodes} == {node.node for node in stack.settings.fleet_nodes}
    ready = [one for one in nodes if {"type": "Ready", "status": "True"}.items() <= _condition(one).items()]
    assert len(ready) == len(nodes)
    assert {tuple(taint["key"] for taint in one["spec"]["taints"]) for one in nodes} == {(LABEL,)}
    fleet_names = {one["metadata"]["name"] for one in nodes}
    strangers = [
        f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        for pod in fleet.listed(stack, "/api/v1/pods")
        if pod["spec"].get("nodeName") in fleet_names and not pod["metadata"]["namespace"].startswith("check-")
    ]
    observed(f"{len(ready)} ready; pods of others there: {', '.join(strangers) or 'none'}")


def _condition(node: dict) -> dict[str, str]:
    return next(one for one in node["status"]["conditions"] if one["type"] == "Ready")


def test_only_gpu_that_fits_is_found_among_all(
    playground: Playground, node: NodeGpus, observed: Callable[[str], None]
) -> None:
    """Fails if of two pods that ask for one UUID not exactly one gets it, or if the other one does not wait."""
    stack, device = playground.stack, f"gpu-{(node.count or 1) - 1}"
    words = {"GPU-00000000-0000-0000-0000-000000000000": uuid_of(stack, node, device)}
    fleet.create(playground, fleet.example("by-uuid", **words), names("one", 2), None)
    wait_for("one of the two has the GPU", lambda: any(fleet.nodes_of(playground).values()))
    (taken,) = fleet.taken(stack, playground.namespace)
    assert taken.device == (node.node, device)
    (waiting,) = set(names("one", 2)) - {taken.pod}
    reason = playground.wait_unschedulable(waiting)
    assert "cannot allocate all claims" in reason
    observed(f"{'/'.join(taken.device)} of {len(fleet.slices(stack))} nodes; the other: {reason}")


def test_only_nodes_that_fit_are_used(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if a pod is on a node without the product, or if one more than there are GPUs of it does not wait. Skipped
    where all nodes have one model, as on stack `fleet`."""
    stack = playground.stack
    nodes = stack.settings.fleet_nodes
    # The rarest: in the order of the nodes' numbers it is the last.
    product = GPU_MODELS[nodes[-1].model or ""].product_name
    fitting = [node for node in nodes if node.model == nodes[-1].model]
    if len(fitting) == len(nodes):
        pytest.skip(f"every node of the fleet has {product}; fleet.mix adds others")
    specs = fleet.slices(stack)
    room = sum(fleet.is_whole(device) for node in fitting for device in specs[node.node]["devices"])
    if not room:
        pytest.skip(f"of {product} the fleet has parts only")
    pods = names("fits", min(room, 40) + 1)
    fleet.create(playground, fleet.example("by-product", **{L40S: product}), pods, None)
    wait_for("all but one have nodes", lambda: sum(map(bool, fleet.nodes_of(playground).values())) >= len(pods) - 1)
    used = {node for node in fleet.nodes_of(playground).values() if node}
    assert used <= {node.node for node in fitting}
    if len(pods) > room:
        (waiting,) = (name for name, node in fleet.nodes_of(playground).items() if not node)
        assert "cannot allocate all claims" in playground.wait_unschedulable(waiting)
    waits = f"the {len(pods)}th waits" if len(pods) > room else f"there are {room}"
    observed(f"{product}: {len(pods) - 1} pods on {', '.join(sorted(used))}; {waits}")


def test_partitions_are_found_on_nodes_of_their_kind_only(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if a pod that asks for a MIG device of one model is on a node of another kind, if two have one device, or
    if one more than there are does not wait. Skipped where no node has GPUs in parts, as on stack `fleet`."""
    stack, specs, seen = playground.stack, fleet.slices(playground.stack), []
    in_parts = {kind: nodes for kind, nodes in fleet.by_kind(stack).items() if kind.endswith(MIG)}
    if not in_parts:
        pytest.skip("no node of the fleet has GPUs in parts; the gate DynamicMIG and fleet.mix add some")
    for number, (kind, nodes) in enumerate(in_parts.items()):
        model = GPU_MODELS[nodes[0].model or ""]
        profile = large_profile(model)
        room = sum(
            device["attributes"].get("profile", {}).get("string") == profile
            for node in nodes
            for device in specs[node.node]["devices"]
        )
        pods = names(f"part-{number}", min(room, MOST_PARTS) + 1)
        words = {PART: profile, H100: model.product_name, "by-profile": f"by-profile-{number}"}
        fleet.create(playground, fleet.example("by-profile", **words), pods, None)
        expected = min(room, len(pods))
        used = held(playground, pods, expected)
        assert {one.device[0] for one in used} <= {node.node for node in nodes}
        assert len({one.device for one in used}) == expected
        if len(pods) > room:
            (waiting,) = set(pods) - {one.pod for one in used}
            assert "cannot allocate all claims" in playground.wait_unschedulable(waiting)
        seen.append(f"{expected} of {room} {profile} of {kind} on {len({one.device[0] for one in used})} nodes")
    left = fleet.counters_left(fleet.taken(stack), specs)
    assert not (lines := fleet.overdrawn(left)), lines
    observed("; ".join(seen))


def held(playground: Playground, pods: Sequence[str], count: int) -> list[fleet.Taken]:
    """What these pods have, once that is so many devices."""

    def enough() -> list[fleet.Taken] | None:
        found = [one for one in fleet.taken(playground.stack, playground.namespace) if one.pod in pods]
        return found if len(found) == count else None

    return wait_for(f"{count} of {len(pods)} pods have a device", enough, fleet.MANY_SECONDS)


def large_profile(model: GpuModel) -> str:
    """Profile of the largest parts of which a GPU has several, and one at each of its places."""
    several = [one for one in model.mig_profiles if 1 < len(one.placements) == one.instances]
    return min(several, key=lambda one: len(one.placements)).name


def test_two_gpus_of_one_claim_are_behind_one_root(
    playground: Playground, node: NodeGpus, observed: Callable[[str], None]
) -> None:
    """Fails if a pair is behind two PCIe roots, or if one more pair runs where two single GPUs are free.

    One GPU of each of the first two pairs is taken, so that as many others are free, but not together.
    """
    stack = playground.stack
    roots = {
        device["name"]: device["attributes"][PCIE_ROOT]["string"]
        for device in fleet.slices(stack)[node.node]["devices"]
    }
    groups = Counter(roots.values())
    if len(groups) < 3 or set(groups.values()) != {2}:
        pytest.skip(f"{node.node} has not three pairs of GPUs behind a PCIe root each, but {dict(groups)}")
    first, second = list(groups)[:2]
    for number, root in enumerate((first, second)):
        device = next(name for name in roots if roots[name] == root)
        words = {
            "GPU-00000000-0000-0000-0000-000000000000": uuid_of(stack, node, device),
            "by-uuid": f"single-{number}",
        }
        fleet.create(playground, fleet.example("by-uuid", **words), [f"single-{number}"], None)
    fleet.wait_placed(playground, names("single", 2))
    whole = len(groups) - 2
    pairs = names("pair", whole + 1)
    fleet.create(playground, fleet.example("pair"), pairs, fleet.on(node))
    wait_for("all pairs are taken", lambda: len(fleet.taken(stack, playground.namespace)) == 2 + 2 * whole)
    by_pod: dict[str, list[str]] = {}
    for one in fleet.taken(stack, playground.namespace):
        by_pod.setdefault(one.pod or "", []).append(roots[one.device[1]])
    found = {pod: set(of_pod) for pod, of_pod in by_pod.items() if pod in pairs}
    assert len(found) == whole and all(len(of_pod) == 1 for of_pod in found.values())
    (waiting,) = set(pairs) - set(found)
    reason = playground.wait_unschedulable(waiting)
    assert "cannot allocate all claims" in reason
    observed(f"{whole} pairs on {node.node}; two GPUs are free behind two roots, and the next pair waits: {reason}")


def test_shares_fill_each_gpu_of_a_node(
    playground: Playground, node: NodeGpus, observed: Callable[[str], None]
) -> None:
    """Fails if a GPU of the node has more or fewer shares than fit, or if the next one does not wait."""
    stack = playground.stack
    memory = fleet.memory_by_device({node.node: fleet.slices(stack)[node.node]})  # of whole GPUs: see the fixture
    share = quantity_bytes(SHARE) or 0
    room = {device: int(size // share) for device, size in memory.items()}
    pods = names("share", sum(room.values()) + 1)
    fleet.create(playground, fleet.example("share"), pods, fleet.on(node))
    wait_for(
        "all but one have a share",
        lambda: len(fleet.taken(stack, playground.namespace)) >= len(pods) - 1,
        fleet.MANY_SECONDS,
    )
    taken = fleet.taken(stack, playground.namespace)
    assert Counter(one.device for one in taken) == room and {one.memory for one in taken} == {share}
    (waiting,) = set(pods) - {one.pod for one in taken}
    reason = playground.wait_unschedulable(waiting)
    assert "cannot allocate all claims" in reason
    each = sorted(set(room.values()))
    observed(f"{len(taken)} shares of {SHARE} on {len(room)} GPUs, {', '.join(map(str, each))} each; the next waits")


def test_second_choice_is_for_those_that_come_late(
    playground: Playground, node: NodeGpus, observed: Callable[[str], None]
) -> None:
    """Fails if on a full node a GPU of the first choice was given as the second, or the other way round."""
    devices = fleet.slices(playground.stack)[node.node]["devices"]
    room = sum(device["attributes"][PCIE_ROOT] == {"string": FIRST_ROOT} for device in devices)
    if not room or room == len(devices):
        pytest.skip(
            f"{room} of the {len(devices)} GPUs of {node.node} are behind {FIRST_ROOT}, which the example names"
        )
    pods = place(playground, "either", names("either", len(devices)), node)
    requests = Counter(one.request for one in fleet.taken(playground.stack, playground.namespace))
    assert requests == {"gpu/first": room, "gpu/second": len(devices) - room}
    observed(f"{len(pods)} pods on {node.node}: {requests['gpu/first']} first, {requests['gpu/second']} second")


def test_rack_is_drained_by_its_taints(playground: Playground, observed: Callable[[str], None]) -> None:
    """Fails if a pod with a GPU stays in the rack, or if one outside of it moves."""
    stack, whole = playground.stack, fleet.racks(playground.stack)
    if len(whole) < 2:
        pytest.skip("the fleet has not two whole racks of one model, one to drain and one to go to")
    rack, other = whole[:2]
    template, deployment = fleet.example("replaced")
    # Spread over both, or the scheduler could have put all of them into the other rack.
    replicas = max(deployment["spec"]["replicas"], sum(node.count or 0 for node in fleet.of_rack(stack, other)) // 2)
    deployment = fleet.in_racks({**deployment, "spec": {**deployment["spec"], "replicas": replicas}}, [rack, other])
    fleet.create_all(playground, [template, deployment])
    inside = {node.node for node in fleet.of_rack(stack, rack)}

    def running() -> dict[str, str] | None:
        there = {name: node for name, node in fleet.nodes_of(playground).items() if node}
        return there if len(there) == replicas else None

    before = wait_for(f"{replicas} pods have nodes", running, fleet.MANY_SECONDS)
    moved = {name for name, node in before.items() if node in inside}
    assert moved, f"no pod is in {rack}"
    with fleet.drained(stack, rack) as rules:

        def away() -> bool:
            there = running()
            return there is not None and not inside & set(there.values())

        wait_for(f"all pods are outside of {rack}", away, fleet.MANY_SECONDS)
        after = fleet.nodes_of(playground)
        assert {name: node for name, node in before.items() if name not in moved}.items() <= after.items()

        def given_back() -> bool:
            return not inside & {one.device[0] for one in fleet.taken(stack, playground.namespace)}

        # A pod's claim goes after its pod: the controllers of both are asked one after the other.
        wait_for(f"no claim has a GPU of {rack}", given_back, fleet.MANY_SECONDS)
    observed(
        f"{len(rules)} rules moved {len(moved)} of {replicas} pods out of {rack}; the others stayed where they were"
    )


def test_nothing_is_allocated_twice_while_pods_come_and_go(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if claims ever have more memory of a device than it has, or if in the end a pod has no GPU of its own."""
    stack, whole = playground.stack, fleet.racks(playground.stack)[:RACKS]
    if not whole:
        pytest.skip("the fleet has no whole rack")
    memory = fleet.memory_by_device(fleet.slices(stack))
    room = sum(node.count or 0 for rack in whole for node in fleet.of_rack(stack, rack))
    template, pod = fleet.example("one-of-fleet")
    documents = [template, fleet.in_racks(pod, whole)]
    there, looks, made = names("pod-0", int(FULL * room)), 0, 0
    fleet.create(playground, documents, there, None)
    chooser = random.Random(room)  # the same choice at every run

    def look() -> bool:
        nonlocal looks
        taken = fleet.taken(stack)
        assert not (lines := fleet.overbooked(taken, memory)), lines
        looks += 1
        placed = {name for name, node in fleet.nodes_of(playground).items() if node}
        return placed == set(there)

    wait_for("the racks are full", look, fleet.MANY_SECONDS)
    for turn in range(1, TURNS + 1):
        gone = chooser.sample(there, int(TURNED * len(there)))
        stack.kubectl("delete", "pods", "-n", playground.namespace, "--wait=false", *gone)
        new = names(f"pod-{turn}", len(gone))
        fleet.create(playground, documents[1:], new, None)
        there = [name for name in there if name not in set(gone)] + new
        made += len(new)
        wait_for(f"the pods of turn {turn} have nodes", look, fleet.MANY_SECONDS)
    # Those of pods that went may still be on their way.
    wait_for("each pod has one GPU", lambda: len(fleet.taken(stack, playground.namespace)) == len(there))
    taken = fleet.taken(stack, playground.namespace)
    assert len({one.device for one in taken}) == len(taken) == len(there)
    assert {one.device[0] for one in taken} <= {node.node for rack in whole for node in fleet.of_rack(stack, rack)}
    observed(f"{len(there)} of {room} GPUs, {made} pods replaced in {TURNS} turns; {looks} looks at every claim")


def test_full_gpu_and_its_parts_exclude_each_other_while_pods_come_and_go(
    playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if ever, over all claims, a GPU is in use both whole and in part, or a counter is overdrawn; or if a pod
    waits in the end though a device that it could have is free. Skipped where no node has GPUs in parts, as on stack
    `fleet`."""
    stack, specs = playground.stack, fleet.slices(playground.stack)
    kind, nodes = next(((kind, nodes) for kind, nodes in fleet.by_kind(stack).items() if kind.endswith(MIG)), ("", []))
    if not kind:
        pytest.skip("no node of the fleet has GPUs in parts; the gate DynamicMIG and fleet.mix add some")
    model, nodes = GPU_MODELS[nodes[0].model or ""], nodes[:MIXED_NODES]
    here = {node.node: specs[node.node] for node in nodes}
    gpus = sum(node.count or 0 for node in nodes)
    # The first half of the GPUs goes whole; of parts there are more than the other half has.
    wanted: dict[str | None, int] = {
        None: gpus // 2,
        large_profile(model): gpus,
        smallest_profile(model).name: 2 * gpus,
    }
    examples: dict[str | None, list[dict[str, Any]]] = {}
    for number, profile in enumerate(wanted):
        words = {PART: profile, H100: model.product_name, "by-profile": f"by-profile-{number}"} if profile else {}
        template, pod = fleet.example("by-profile" if profile else "one-of-fleet", **words)
        examples[profile] = [fleet.where(pod, "kubernetes.io/hostname", list(here))]
        fleet.create_all(playground, [template])
    there: dict[str, str | None] = {}  # pod -> profile
    looks, most, chooser = 0, Counter[str](), random.Random(gpus)  # the same choice at every run

    def settled() -> bool:
        """Whether nobody waits for what is free; each look is at all claims."""
        nonlocal looks
        taken = fleet.taken(stack)
        left = fleet.counters_left(taken, specs)
        lines = [*fleet.overdrawn(left), *fleet.halves(taken)]
        assert not lines, lines
        looks += 1
        placed = fleet.nodes_of(playground)
        own = [one for one in taken if one.claim.startswith(f"{playground.namespace}/")]
        gone = any(one.pod not in there for one in own)
        waiting = {profile for name, profile in there.items() if not placed.get(name)}
        most.update("part" if "-mig-" in one.device[1] else "whole" for one in own)
        return not gone and not any(fleet.could_have(taken, left, here, profile) for profile in waiting)

    for turn in range(TURNS + 1):
        if turn:
            holders = sorted(one.pod for one in fleet.taken(stack, playground.namespace) if one.pod)
            gone = chooser.sample(holders, len(holders) // 2)
            stack.kubectl("delete", "pods", "-n", playground.namespace, "--wait=false", *gone)
            there = {name: profile for name, profile in there.items() if name not in set(gone)}
        # In turn the parts and the whole ones come first, so that each finds GPUs that the others have.
        for profile in list(wanted)[:: -1 if turn % 2 else 1]:
            new = names(f"turn-{turn}-{list(wanted).index(profile)}", wanted[profile] // (1 + bool(turn)))
            fleet.create(playground, examples[profile], new, None)
            there |= dict.fromkeys(new, profile)
            wait_for(f"nobody waits in turn {turn} for what is free", settled, fleet.MANY_SECONDS)
    taken = [one for one in fleet.taken(stack, playground.namespace) if one.pod in there]
    by_profile = Counter(there[one.pod or ""] or "whole" for one in taken)
    assert most["part"] and most["whole"], f"one of the two was never there: {dict(most)}"
    assert len({one.device for one in taken}) == len(taken), "two pods have one device"
    shown = ", ".join(f"{count} {name}" for name, count in sorted(by_profile.items()))
    waits = len(there) - len(taken)
    observed(f"{gpus} GPUs of {kind}: {shown}, and {waits} pods wait; {TURNS} turns, {looks} looks at every claim")
