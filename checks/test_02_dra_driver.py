"""Checks of module 02: exactly the configured GPUs are published, attribute by attribute."""

from collections.abc import Callable, Mapping

import pytest

from checks.live import LiveStack, Playground
from components.dra_driver import describe
from gpus.models import GpuModel, simulated_gpus
from gpus.quantity import quantity_mib
from machine.gpus import discover_host
from settings import GPU_MODELS
from toolchain import versions

BRANDS = {"NVIDIA": "Nvidia"}  # as NVIDIA's go-nvlib writes NVML_BRAND_NVIDIA
# All of a GPU. Source: tests/bats of NVIDIA's driver v0.5.0, and numaNode, which it publishes where a GPU has one.
ATTRIBUTES = {
    *("addressingMode", "architecture", "brand", "cudaComputeCapability", "cudaDriverVersion", "driverVersion"),
    *("numaNode", "pciBusID", "pcieRoot", "productName", "type", "uuid"),
}
# All but the memory are published of a whole GPU with dynamic MIG only.
CAPACITIES = {
    *("memory", "multiprocessors", "copyEngines", "decoders", "encoders", "jpegEngines", "ofaEngines"),
}
NAMESPACE = "dra-driver-nvidia-gpu"
METRICS = "http://localhost:8080/metrics"


def test_kubelet_plugin_runs_on_every_gpu_node_and_nowhere_else(
    stack: LiveStack, observed: Callable[[str], None]
) -> None:
    """Fails if a GPU node lacks a plugin pod, another node has one, or a container of one is not ready."""
    plugin = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
    pods = stack.get("pods", namespace=NAMESPACE, label_selector=plugin)
    assert sorted(pod["spec"]["nodeName"] for pod in pods) == sorted(node.node for node in stack.settings.gpu_nodes)
    for pod in pods:
        assert all(state["ready"] for state in pod["status"]["containerStatuses"]), pod["metadata"]["name"]
    observed(f"{len(pods)} pods ready, driver v{stack.settings.driver.version}")


def test_metrics_of_the_plugin_can_be_read_inside_its_pod(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `wget` of `localhost:8080/metrics` in the plugin's container does not print
    `nvidia_dra_prepared_devices`.
    """
    plugin = {"dra-driver-nvidia-gpu-component": "kubelet-plugin"}
    for pod in stack.get("pods", namespace=NAMESPACE, label_selector=plugin):
        inside = ("exec", "-n", NAMESPACE, pod["metadata"]["name"], "-c", "gpus", "--")
        lines = stack.kubectl(*inside, "wget", "-qO-", METRICS).splitlines()
        assert [line for line in lines if line.startswith("nvidia_dra_prepared_devices")], lines[:10]
    observed(f"wget {METRICS} prints nvidia_dra_prepared_devices")


def test_device_classes_are_there(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if `gpu.nvidia.com` or `mig.nvidia.com` is missing."""
    names = {device_class["metadata"]["name"] for device_class in stack.get("deviceclasses.v1.resource.k8s.io")}
    assert {"gpu.nvidia.com", "mig.nvidia.com"} <= names
    observed(", ".join(sorted(names)))


def test_exactly_the_configured_gpus_are_published(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if a device is missing or one too many; its type, UUID, model, brand, architecture, compute capability,
    driver and CUDA version, bus ID, PCIe root or memory differs from the model's file. For the host's GPUs: those
    that `nvidia-smi` names and `gpu.devices` chooses, by UUID, product and memory. Skipped for real ones of an
    existing cluster.
    """
    if of_the_host := discover_host(stack.settings):
        published = {values["uuid"]: values for values in stack.devices().values() if values["type"] == "gpu"}
        expected = {gpu.uuid: (gpu.name, gpu.memory_mib) for gpu in of_the_host.published}
        assert {
            uuid: (values["productName"], quantity_mib(values["memory"])) for uuid, values in published.items()
        } == expected
        observed("; ".join(map(str, of_the_host.published)) + f"; {len(of_the_host.excluded)} others are not published")
        return
    if stack.settings.gpu.source == "host":
        pytest.skip("the GPUs of another cluster are not in the config, so there is nothing exact to compare with")
    expected = {}
    for node in stack.settings.gpu_nodes:
        model = GPU_MODELS[node.model or ""]
        gpus = simulated_gpus(node.node, model, node.count or 0)
        for gpu in (gpus[index] for index in node.whole_gpus):
            expected[node.node, f"gpu-{gpu.minor}"] = {
                "type": "gpu",
                "uuid": gpu.uuid,
                "productName": model.product_name,
                "brand": BRANDS.get(model.brand, model.brand),
                "architecture": model.architecture,
                "cudaComputeCapability": f"{model.cuda_compute_capability}.0",
                # A semantic version has no leading zeros: 580.159.04 is published as 580.159.4.
                "driverVersion": ".".join(str(int(part)) for part in versions.SIMULATED_DRIVER.split(".")),
                "cudaDriverVersion": "13.0.0",
                "pciBusID": gpu.pci_bus_id,
                "pcieRoot": gpu.pcie_root,
                "memory": published_memory_mib(model, stack.settings.feature_gates),
            }
    # What layouts make of the others is module 10.1's to check.
    published = {device: values for device, values in stack.devices().items() if values["type"] == "gpu"}
    assert published.keys() == expected.keys()
    for device, attributes in expected.items():
        actual = {**published[device], "memory": quantity_mib(published[device]["memory"])}
        assert {key: actual.get(key) for key in attributes} == attributes, device
        if stack.settings.driver.version == versions.DRA_DRIVER:
            assert actual.keys() - CAPACITIES == ATTRIBUTES, device
    observed("; ".join(f"{node} {name}: {values['productName']}" for (node, name), values in published.items()))


def published_memory_mib(model: GpuModel, gates: Mapping[str, bool]) -> int:
    """MiB that NVIDIA's driver publishes of a GPU: with dynamic MIG those that its largest partition would have.

    Of an Ampere GPU with MIG off it publishes no partitions.
    """
    partitions = model.mig_profiles if gates.get("DynamicMIG") and model.architecture != "Ampere" else ()
    return max((profile.memory_mib for profile in partitions), default=model.memory_mib)


def test_stack_exports_the_gpus_that_are_published(stack: LiveStack, observed: Callable[[str], None]) -> None:
    """Fails if the output `gpus` is not what the slices hold now."""
    note = " (simulated)" if stack.settings.gpu.source == "simulated" else ""
    for output, kind in (("gpus", "gpu"), ("migDevices", "mig")):
        published = [
            describe({"node": node, "name": name, **values}) + note
            for (node, name), values in stack.devices().items()
            if values["type"] == kind and (output in stack.outputs or kind == "gpu")
        ]
        assert sorted(stack.outputs.get(output, [])) == sorted(published)
    observed(
        f"{len(stack.outputs['gpus'])} in the output `gpus`, {len(stack.outputs.get('migDevices', []))} MIG devices"
    )


def test_claims_are_routed_by_cel_to_the_node_that_has_the_gpu(
    stack: LiveStack, playground: Playground, observed: Callable[[str], None]
) -> None:
    """Fails if a pod whose claim names a model runs on a node whose GPUs are of another one; skipped where all nodes
    have the same.
    """
    whole = {device: values for device, values in stack.devices().items() if values["type"] == "gpu"}
    products = {node: values["productName"] for (node, _), values in whole.items()}
    if len(set(products.values())) < 2:
        pytest.skip("every node has the same GPUs, so a claim cannot tell them apart by model")
    taken, routed = set(stack.allocations()), {}
    for number, (node, product) in enumerate(products.items()):
        if not [device for where, device in whole.keys() - taken if where == node]:
            pytest.skip(f"every GPU of {node} is taken")
        (pod,) = playground.create("by-product", **{"routed": f"routed-{number}", "NVIDIA L40S": product})
        playground.wait_running(pod)
        assert playground.pod(pod)["spec"]["nodeName"] == node
        (gpu,) = playground.report(pod)["gpus"]
        routed[gpu["name"]] = node
    assert routed == {product: node for node, product in products.items()}
    observed("; ".join(f"{product}: {node}" for product, node in routed.items()))
