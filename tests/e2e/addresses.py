"""What a restart of the engine does to a cluster: its nodes start in another order, and get each other's addresses."""

import subprocess

from checks.live import LiveStack, wait_for
from machine import kind

READY_SECONDS = 180
ADDRESS = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"


def exchange_addresses(live: LiveStack) -> None:
    """Stop all nodes and start them in another order; then a pod with a claim runs, as did those that were there."""
    nodes = kind.node_containers(live.settings.cluster_name)
    before = addresses(nodes)
    # Docker gives the lowest that is free.
    last_first = sorted(nodes, key=lambda node: int(before[node].rpartition(".")[2]), reverse=True)
    with live.free_gpu(), live.playground() as playground:
        (pod,) = playground.create("exclusive")
        uuid = playground.report(pod)["gpus"][0]["uuid"]
        docker("stop", *nodes)
        for node in last_first:
            docker("start", node)
        after = addresses(nodes)
        assert after != before and sorted(after.values()) == sorted(before.values()), (before, after)
        ready = ("get", "--raw", "/readyz")
        wait_for("the API answers", lambda: live.kubectl(*ready, check=False) == "ok", READY_SECONDS)
        internal = '{.status.addresses[?(@.type=="InternalIP")].address}'
        for node, address in after.items():
            told = ("get", "node", node, "-o", f"jsonpath={internal}")
            wait_for(
                f"{node} has its new address", lambda told=told, a=address: live.kubectl(*told) == a, READY_SECONDS
            )
        wait_for(f"{pod} was started again", lambda: playground.life(pod)[1], READY_SECONDS)
        playground.wait_running(pod, READY_SECONDS)
        assert playground.report(pod)["gpus"][0]["uuid"] == uuid
        playground.delete_pod(pod)
        (fresh,) = playground.create("extended-resource")
        playground.wait_running(fresh, READY_SECONDS)


def addresses(nodes: list[str]) -> dict[str, str]:
    return {node: docker("inspect", "--format", ADDRESS, node).strip() for node in nodes}


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout
