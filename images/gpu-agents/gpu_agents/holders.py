"""gpu-holders: the containers of this node that hold a device of NVIDIA's DRA driver, as the kubelet tells.

Prints one line of JSON for each, and ends.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict

import grpc

from gpu_agents import log
from gpu_agents.exporter import DEFAULT_SOCKET
from gpu_agents.pods import holders


def main(arguments: list[str] | None = None) -> int:
    epilog = f"environment:\n  POD_RESOURCES_SOCKET  the kubelet's pod-resources socket ({DEFAULT_SOCKET})\n"
    parser = argparse.ArgumentParser(
        prog="gpu-holders",
        description=__doc__,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(arguments)
    socket = os.environ.get("POD_RESOURCES_SOCKET", DEFAULT_SOCKET)
    try:
        found = holders(socket)
    except grpc.RpcError as error:
        reason = error.details() if isinstance(error, grpc.Call) else error
        log.error("the kubelet does not answer; mount its folder, and run as root", socket=socket, reason=reason)
        return 1
    for holder in found:
        print(json.dumps(asdict(holder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
