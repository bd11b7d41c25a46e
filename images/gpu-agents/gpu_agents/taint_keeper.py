"""taint-keeper: keeps the taints that NVIDIA's DRA driver forgets when its plugin restarts, as DeviceTaintRules."""

import argparse
import os
import sys

from gpu_agents import log
from gpu_agents.serving import Answer, end_on_signals, serve

ENVIRONMENT = """\
It never deletes a rule: a person does, once the GPU is mended and the driver's plugin has been restarted.

environment:
  OWNER_CLUSTER_ROLE  the ClusterRole that owns the rules: they go when it goes
  PLUGIN_NAMESPACE    the namespace of the driver's plugins, whose logs have the faults of GPUs that MIG divides;
                      empty: no log is read
"""


def main(arguments: list[str] | None = None) -> int:
    end_on_signals()
    parser = argparse.ArgumentParser(
        prog="taint-keeper",
        description=f"{__doc__} Serves /healthz and /readyz.",
        epilog=ENVIRONMENT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=8080, help="port to listen on (default: 8080)")
    port = parser.parse_args(arguments).port
    cluster_role = os.environ.get("OWNER_CLUSTER_ROLE", "")
    if not cluster_role:
        log.error("OWNER_CLUSTER_ROLE: not set, but every rule needs an owner; name the keeper's ClusterRole")
        return 1

    # Imported here: it takes a second, in which a signal has to end the process too.
    import anyio

    from gpu_agents.keeper import Keeper

    keeper = Keeper(cluster_role, os.environ.get("PLUGIN_NAMESPACE", ""))
    routes = {
        "/healthz": lambda: Answer(200, b"ok\n"),
        "/readyz": lambda: Answer(200, b"ok\n") if keeper.ready else Answer(503, b"the slices are not listed yet\n"),
    }
    log.info("serving", port=serve(port, routes))
    anyio.run(keeper.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
