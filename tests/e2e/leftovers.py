"""Clusters that killed end-to-end runs left: the next run removes them, since they take what its own clusters need.

A test's folder has the process of its run as the checkout's mark, which every network of its clusters bears. A cluster
whose process has ended is nobody's; one of a run that is still at work, or of a user, is left alone.
"""

import os
import subprocess
import uuid
from pathlib import Path

from machine.kind import OWNER_LABEL, node_containers

PREFIX = "test-run"


def _started(process: int) -> str | None:
    """When a process started, in ticks since the machine did; None if there is no such process.

    https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: field 22, counted behind the name in parentheses.
    """
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except FileNotFoundError:
        return None


def mark(state: Path) -> None:
    """Let a checkout's clusters, whose folder of state this is, be those of this process, and of this folder only."""
    (state / "owner").write_text(f"{PREFIX}-{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4()}\n")


def _is_over(owner: str) -> bool:
    """Whether the mark is that of a run that has ended."""
    if not owner.startswith(f"{PREFIX}-"):
        return False
    process, started, *_ = owner.removeprefix(f"{PREFIX}-").split("-")
    return _started(int(process)) != started


def remove(cluster: str, network: str | None = None) -> None:
    """Remove a cluster's containers, and its network where one is given."""
    if containers := node_containers(cluster):
        subprocess.run(["docker", "rm", "--force", "--volumes", *containers], check=True, capture_output=True)
    if network is not None:
        subprocess.run(["docker", "network", "rm", network], check=True, capture_output=True)


def remove_those_of_ended_runs() -> list[str]:
    """Remove the clusters of runs that have ended, and return their names."""
    listed = ["docker", "network", "ls", "--format", f'{{{{.Name}}}} {{{{.Label "{OWNER_LABEL}"}}}}']
    lines = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines()
    networks = [name for name, owner in (line.split(" ", 1) for line in lines) if _is_over(owner)]
    clusters = [network.removeprefix("kind-") for network in networks]
    for cluster, network in zip(clusters, networks, strict=True):
        remove(cluster, network)
    return clusters
