"""Order in which workers take files of tests, where several run side by side.

Most of an end-to-end test is a wait, so several clusters are up at once, and one worker more, the last, takes the files
that need none meanwhile. Two clusters are what 128 inotify instances hold, which many distributions give a user; three
are what two cores hold.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadfile import LoadFileScheduling
from xdist.workermanage import WorkerController

from machine.prerequisites import inotify_instances_of_root

# Those that bring clusters up, and one that measures milliseconds, which a busy machine does not give.
NOT_BESIDE_CLUSTERS = ("tests/e2e/", "tests/unit/test_loadgen.py")
# Begun first, so that none of them is what all others wait for at the end.
LONGEST = tuple(
    f"tests/e2e/test_{name}.py" for name in ("phase2", "lifecycle", "phase3", "lessons", "existing_cluster")
)
LIMIT = Path("/proc/sys/fs/inotify/max_user_instances")
# Measured: the largest clusters of the tests have three nodes.
INSTANCES_OF_A_CLUSTER = 58


def clusters_at_once(limit: int, taken: int | None) -> int:
    """Number of clusters for which a user's inotify instances are enough, where some are `taken`; at least one.

    A node that gets none starts all the same, and nothing tells why its pods wait.
    """
    return max(1, (limit - (taken or 0)) // INSTANCES_OF_A_CLUSTER)


def has_clusters(worker: str, workers: int, clusters: int | None = None) -> bool:
    """Whether a worker may bring clusters up: all but the last of several, and no more than there may be `clusters`."""
    # One that replaces a worker that crashed has a higher number.
    number = int(worker.removeprefix("gw") or 0) % workers
    return workers < 2 or number < min(workers - 1, clusters or workers)


def next_file(waiting: Iterable[str], worker: str, workers: int, clusters: int | None = None) -> str | None:
    """File that a worker takes next of those that wait, the longest first; None if it may have none of them."""
    files = list(waiting)
    if has_clusters(worker, workers, clusters):
        return next((file for file in LONGEST if file in files), files[0] if files else None)
    return next((file for file in files if not file.startswith(NOT_BESIDE_CLUSTERS)), None)


class FilesSideBySide(LoadFileScheduling):
    """Scheduler of files for workers, of which only some bring clusters up."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        self.workers = config.getvalue("numprocesses") or 1
        limit, taken = int(LIMIT.read_text()), inotify_instances_of_root()
        self.clusters = clusters_at_once(limit, taken)
        if self.clusters < self.workers - 1:
            print(
                f"tests: {self.clusters} at a time with a cluster, since {taken or 0} of {limit} inotify instances are "
                "taken; take down the stacks that are up, or `sysctl -w fs.inotify.max_user_instances=512` as root",
                file=sys.stderr,
            )

    def _assign_work_unit(self, node: WorkerController) -> None:
        file = next_file(self.workqueue, node.gateway.id, self.workers, self.clusters)
        if file is None:
            return  # it ends with the others, when the queue is empty
        self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)
