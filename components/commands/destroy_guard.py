"""Command that looks at the cluster before a stack, or its driver, is taken away.

Environment: KUBECONFIG and KUBE_CONTEXT; DRA_WORKSHOP_STACK, the stack; CLUSTER_FOLDER, where a Kind cluster's files
are, unset for an existing cluster; GUARDED=driver where other parts of the stack may have gone before;
DRA_WORKSHOP_DESTROY=force goes on in spite of pods of others.

Names pods of others that hold GPUs. Without the driver's plugin they could neither go nor be deleted, so on an existing
cluster it ends with 1, and nothing is deleted; a Kind cluster takes its pods with it, so there it only warns. An
existing cluster that does not answer ends it too: nothing could be deleted, and the state must stay.
"""

import os
import sys
from pathlib import Path

from components.commands.left_behind import left
from machine import docker_engine
from machine.ownership import CONSEQUENCE, FORCE, ApiServer, UnreachableError, is_forced


def say(*lines: str) -> None:
    print("\n".join(lines), file=sys.stderr)


def look_on_kind(server: ApiServer, stack: str, folder: Path) -> int:
    """Warn of pods of others; refuse where the shell's Docker Engine cannot be the one to delete the cluster."""
    if not docker_engine.engine_id():
        say("no Docker Engine answers, so nothing was deleted; run `make setup`, which starts or explains it")
        return 1
    if problem := docker_engine.engine_problem(folder):
        say(f"{problem.observed}, so nothing was deleted; {problem.remedy}")
        return 1
    try:
        holders = server.strangers(stack)
    except UnreachableError:
        return 0  # it goes with its containers, whether it answers or not
    if holders:
        say(f"pods of others hold GPUs of stack {stack}; they go with its cluster:", *(f"  {h}" for h in holders))
    return 0


def look_on_existing(server: ApiServer, stack: str, *, driver_only: bool = False) -> int:
    """Refuse where pods of others hold GPUs, and where the cluster does not answer.

    `driver_only`: other parts of the stack may have been deleted by now.
    """
    kept = "the driver was not deleted" if driver_only else "nothing was deleted"
    try:
        holders = server.strangers(stack)
    except UnreachableError as error:
        if not (names := left(stack)):
            return 0
        say(
            f"the cluster at context {server.context} does not answer ({error}), so {kept} and the state "
            "stays. Run it again when the cluster answers. If it is gone for good, "
            f"`PULUMI_K8S_DELETE_UNREACHABLE=true pulumi refresh --stack {stack}` first forgets what was in it:",
            *(f"  {name}" for name in names),
        )
        return 1
    if not holders:
        return 0
    lines = [f"  {holder}" for holder in holders]
    if is_forced():
        say(f"{FORCE}=force: going on under pods of others; {CONSEQUENCE}, until a driver is installed again:", *lines)
        return 0
    say(
        f"pods of others hold GPUs by the driver of stack {stack}, and {CONSEQUENCE}:",
        *lines,
        f"{kept[0].upper()}{kept[1:]}. Delete these pods first, or set {FORCE}=force to go on all the same.",
    )
    return 1


def main() -> int:
    server = ApiServer(os.environ["KUBECONFIG"], os.environ["KUBE_CONTEXT"])
    stack = os.environ["DRA_WORKSHOP_STACK"]
    if folder := os.environ.get("CLUSTER_FOLDER"):
        return look_on_kind(server, stack, Path(folder))
    return look_on_existing(server, stack, driver_only=os.environ.get("GUARDED") == "driver")


if __name__ == "__main__":
    sys.exit(main())
