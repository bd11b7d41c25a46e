"""gpu-exporter: Prometheus metrics of the GPUs that this container sees, or of its node's GPUs and MIG devices, with
the pods that hold them."""

import argparse
import os
import socket
import sys
from threading import Event

from gpu_agents import log
from gpu_agents.serving import Answer, end_on_signals, serve

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
ENVIRONMENT = """\
environment:
  NODE_NAME                the label Hostname; else the container's own name
  POD_RESOURCES_SOCKET     the kubelet's pod-resources socket (%(default_socket)s)
  CUDA_MPS_PIPE_DIRECTORY  the pipe of the node's MPS daemon; without it there are no metrics of MPS
  GPU_SIMULATED            true where the GPUs are simulated: adds the metric gpu_simulated
  DEVICE_SOURCE            nvml (default): what NVML tells of the GPUs that this container has; slices: what the
                           ResourceSlices of the node NODE_NAME tell of GPUs and MIG devices, for a container without
  CDI_FOLDER               with slices: CDI files of the node, which tell the GPU instance (%(default_cdi)s)
  CAPABILITIES_FOLDER      with slices: the capability files of NVIDIA's kernel module
                           (%(default_capabilities)s)
"""
DEFAULT_SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
DEFAULT_CDI = "/var/run/cdi"
DEFAULT_CAPABILITIES = "/proc/driver/nvidia/capabilities"
DEFAULTS = {
    "default_socket": DEFAULT_SOCKET,
    "default_cdi": DEFAULT_CDI,
    "default_capabilities": DEFAULT_CAPABILITIES,
}
SOURCES = ("nvml", "slices")


def main(arguments: list[str] | None = None) -> int:
    end_on_signals()
    parser = argparse.ArgumentParser(
        prog="gpu-exporter",
        description=f"{__doc__}\nServes /metrics and /healthz.",
        epilog=ENVIRONMENT % DEFAULTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=9400, help="port to listen on (default: 9400)")
    port = parser.parse_args(arguments).port
    simulated = os.environ.get("GPU_SIMULATED", "false")
    if simulated not in ("true", "false"):
        log.error(f'GPU_SIMULATED: "{simulated}" is neither true nor false; set one of them, or leave it out')
        return 1
    source = os.environ.get("DEVICE_SOURCE", "nvml")
    if source not in SOURCES:
        log.error(f'DEVICE_SOURCE: "{source}" is neither {" nor ".join(SOURCES)}; set one of them, or leave it out')
        return 1

    # Imported here: it takes a second, in which a signal has to end the process too.
    from gpu_agents.collector import GpuCollector, NodeCollector, SliceCollector, render

    hostname = os.environ.get("NODE_NAME") or socket.gethostname()
    pod_resources = os.environ.get("POD_RESOURCES_SOCKET", DEFAULT_SOCKET)
    collector: NodeCollector
    if source == "nvml":
        collector = GpuCollector(
            hostname=hostname,
            pod_resources=pod_resources,
            mps_pipe=bool(os.environ.get("CUDA_MPS_PIPE_DIRECTORY")),
            simulated=simulated == "true",
        )
    else:
        collector = SliceCollector(
            hostname=hostname,
            pod_resources=pod_resources,
            simulated=simulated == "true",
            cdi_folder=os.environ.get("CDI_FOLDER", DEFAULT_CDI),
            capabilities_folder=os.environ.get("CAPABILITIES_FOLDER", DEFAULT_CAPABILITIES),
        )
    # XIDs are told from now on, not from the first scrape on.
    collector.start()
    routes = {
        "/metrics": lambda: Answer(200, render(collector), CONTENT_TYPE),
        "/healthz": lambda: Answer(200, b"ok\n"),
    }
    log.info("serving", port=serve(port, routes))
    Event().wait()  # until a signal ends the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
