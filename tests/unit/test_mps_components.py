"""What shares a GPU through MPS: the clients' pods, the daemon's, the claim that carries limits, the policy."""

import copy
import json
import re
from typing import Any

import pulumi
import pytest

from components.dra_driver import uuid_of
from components.manifests import MANIFESTS, by_kind, load, manifest
from components.mps_clients import (
    CLASS_LABEL,
    LIMITS_ANNOTATION,
    PIPE_FOLDER,
    WAIT_FIRST,
    WAIT_FOLDER,
    MpsByClaim,
    MpsByDaemon,
    NodeDaemon,
    add_to_pod,
    limit,
)
from components.mps_daemon import NAME, NAMESPACE, VARIABLES
from components.mps_policy import repository
from components.pods import pod_of
from components.sharing import shared
from gpus.mps import Limits
from settings import Settings
from settings.blocks import Mps
from tests.golden import stacks
from tests.golden.recorder import Recording, Resource

LIMITS = Limits(active_thread_percentage=50, pinned_device_memory_limit="8Gi")

MODULES = ["01", "02", "03", "04", "05"]
CLIENTS, LIMITED = "shared-gpu-clients", "limited-client-limited"
PIPE = "/run/dra-workshop/mps/pipe"
MOUNTS: list[dict[str, Any]] = [
    {"name": "mps-pipe", "mountPath": "/tmp/nvidia-mps"},
    {"name": "wait", "mountPath": WAIT_FOLDER, "readOnly": True},
]
PIPE_VARIABLE = {"name": "CUDA_MPS_PIPE_DIRECTORY", "value": "/tmp/nvidia-mps"}
WANTED = {"name": "MPS_DAEMON_LIMITS", "value": "50/8192M"}


def record(mode: str = "daemon", modules: list[str] = MODULES, mps: dict[str, Any] | None = None, **blocks: Any):
    return stacks.record(Settings.parse({"modules": modules, "mps": {"mode": mode, **(mps or {})}, **blocks}, "test"))


def template(recording: Recording, name: str) -> dict[str, Any]:
    return recording.resources[name].inputs["spec"]["template"]


def container(recording: Recording, name: str) -> dict[str, Any]:
    (only,) = template(recording, name)["spec"]["containers"]
    return only


@pytest.fixture(scope="module")
def daemon() -> Recording:
    return record()


@pytest.fixture(scope="module")
def by_claim() -> Recording:
    return record("claim")


@pytest.fixture
def pod() -> dict[str, Any]:
    security = {"capabilities": {"drop": ["ALL"]}}
    resources = {"claims": [{"name": "gpu"}], "requests": {"cpu": "8"}, "limits": {"memory": "24Gi"}}
    return {
        "containers": [
            {
                "name": "a",
                "command": ["program", "a"],
                "env": [{"name": "A", "value": "1"}],
                "securityContext": security,
                "resources": resources,
            },
            {"name": "b", "command": ["b"], "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
        ],
        "initContainers": [{"name": "first"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    }


def test_every_container_of_a_client_gets_the_pipe_and_the_program_that_waits(pod: dict[str, Any]):
    add_to_pod(pod, "mps:1")
    first, second = pod["containers"]
    assert first["volumeMounts"] == MOUNTS
    assert second["volumeMounts"] == [{"name": "data", "mountPath": "/data"}, *MOUNTS]


def test_the_pipe_comes_first_in_the_environment_and_keeps_the_rest(pod: dict[str, Any]):
    add_to_pod(pod, "mps:1")
    first, second = pod["containers"]
    assert first["env"] == [PIPE_VARIABLE, {"name": "A", "value": "1"}]
    assert second["env"] == [PIPE_VARIABLE]


def test_every_container_of_a_client_is_started_by_the_wait(pod: dict[str, Any]):
    add_to_pod(pod, "mps:1")
    assert [one["command"] for one in pod["containers"]] == [[*WAIT_FIRST, "program", "a"], [*WAIT_FIRST, "b"]]


def test_the_program_that_waits_is_installed_before_any_other_runs_and_has_no_gpu(pod: dict[str, Any]):
    before = copy.deepcopy(pod["containers"][0])
    add_to_pod(pod, "mps:1")
    install, own = pod["initContainers"]
    assert own == {"name": "first"}
    assert (install["name"], install["image"], install["args"]) == ("install-wait", "mps:1", ["install", WAIT_FOLDER])
    assert install["securityContext"] == before["securityContext"]
    assert "claims" not in install["resources"]
    (place,) = install["volumeMounts"]
    assert (place["mountPath"], place.get("readOnly")) == (WAIT_FOLDER, None)
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == place["name"]]
    assert "emptyDir" in volume


def test_an_init_container_that_has_the_gpu_is_a_client_as_well(pod: dict[str, Any]):
    sidecar = {"name": "sidecar", "restartPolicy": "Always", "command": ["c"], "resources": {"claims": [{"name": "g"}]}}
    pod["initContainers"].append(sidecar)
    limit(pod, "20", "1024M")
    add_to_pod(pod, "mps:1")
    _, without, client = pod["initContainers"]
    assert without == {"name": "first"}
    assert client["command"] == [*WAIT_FIRST, "c"]
    assert client["volumeMounts"] == MOUNTS
    assert [variable["value"] for variable in client["env"]] == ["/tmp/nvidia-mps", "20", "0=1024M"]


def test_a_program_that_is_left_to_the_image_is_refused_with_the_remedy(pod: dict[str, Any]):
    del pod["containers"][1]["command"]
    with pytest.raises(ValueError, match=r"container b: a client of MPS names its command.*add the image's entrypoint"):
        add_to_pod(pod, "mps:1")


def test_every_client_of_the_manifests_names_its_command():
    documents = [
        document for file in sorted(MANIFESTS.glob("*/*.yaml")) for document in load(file.parent.name, file.name)
    ]
    deployments = [document for document in documents if document["kind"] == "Deployment"]
    pods = [(document["metadata"]["name"], pod_of(document)) for document in deployments]
    clients = [
        (name, pod)
        for name, pod in pods
        if [claim.get("resourceClaimName") for claim in pod.get("resourceClaims", [])] == ["shared-gpu"]
    ]
    sharing = [(name, pod) for name, pod in pods if name in ("small", "medium", "large", "waiting")]
    assert {"clients", "limited", "vllm"} <= {name for name, _ in clients} and len(sharing) == 4
    for _, pod in (*clients, *sharing):
        add_to_pod(pod, "mps:1")


def test_other_simulated_gpus_restart_the_daemon_and_its_clients():
    notes = {
        template(record("daemon", gpu={"count": count}), name)["metadata"]["annotations"]["dra-workshop/gpus"]
        for count in (2, 3)
        for name in (CLIENTS, LIMITED)
    }
    assert len(notes) == 2
    before, after = (template(record(gpu={"count": count}), "mps-daemon-daemonset")["metadata"] for count in (2, 3))
    assert before != after
    on_host = record(gpu={"source": "host"})
    assert "annotations" not in template(on_host, "mps-daemon-daemonset")["metadata"]


def test_a_clients_pipe_must_be_there_before_it(pod: dict[str, Any]):
    add_to_pod(pod, "mps:1")
    assert pod["volumes"] == [
        {"name": "data", "emptyDir": {}},
        {"name": "mps-pipe", "hostPath": {"path": PIPE, "type": "Directory"}},
        {"name": "wait", "emptyDir": {"sizeLimit": "64Mi"}},
    ]


def test_sharing_leaves_the_document_that_it_was_given_as_it_was(pod: dict[str, Any]):
    template = {"metadata": {"labels": {CLASS_LABEL: "small"}}, "spec": pod}
    documents: list[dict[str, Any]] = [
        {"kind": "Namespace", "metadata": {"labels": {}}},
        {"kind": "ResourceClaim", "spec": {"devices": {"requests": [{"name": "gpu", "exactly": {}}]}}},
        {"kind": "Deployment", "metadata": {}, "spec": {"template": template}},
    ]
    before = copy.deepcopy(documents)
    classes, daemon = {"small": LIMITS}, NodeDaemon("mps:1", "digest")
    for sharing in (MpsByDaemon(LIMITS, classes, daemon, claimed_memory="8Gi"), MpsByClaim(LIMITS, classes)):
        changed = [shared(document, sharing) for document in documents]
        assert documents == before
        assert changed[1:] != before[1:]


def test_names_that_checks_use_are_those_of_the_manifests():
    daemon = by_kind(manifest("mps-daemon.yaml"))["DaemonSet"]
    assert (daemon["metadata"]["namespace"], daemon["metadata"]["name"]) == (NAMESPACE, NAME)
    assert daemon["spec"]["selector"]["matchLabels"] == {"app": NAME}
    (client,) = manifest("mps-client.yaml")
    spec = client["template"]["spec"]
    assert spec["containers"][0]["command"] == list(WAIT_FIRST)
    assert spec["volumes"][0]["hostPath"]["path"] == PIPE_FOLDER == PIPE


def test_client_pods_of_the_stack_use_the_nodes_daemon(daemon: Recording):
    for name in (CLIENTS, LIMITED):
        assert container(daemon, name)["volumeMounts"] == [dict(sorted(mount.items())) for mount in MOUNTS]
        (install,) = template(daemon, name)["spec"]["initContainers"]
        assert install["image"] == stacks.IMAGES["mps-daemon"]


def test_module_03_has_nothing_of_mps(daemon: Recording):
    for name in ("exclusive-gpu-holder", "exclusive-gpu-waiter"):
        assert "mps" not in json.dumps(daemon.resources[name].inputs).lower()


def test_a_classs_limits_are_in_the_environment_of_its_clients_alone(daemon: Recording):
    assert container(daemon, CLIENTS)["env"] == [PIPE_VARIABLE, WANTED]
    assert container(daemon, LIMITED)["env"] == [
        PIPE_VARIABLE,
        WANTED,
        {"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": "20"},
        {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": "0=1024M"},
    ]


def test_a_classs_limits_are_in_every_container_of_its_client():
    sharing = MpsByClaim(LIMITS, {"small": Limits(active_thread_percentage=7, pinned_device_memory_limit="0.5Gi")})
    metadata: dict[str, Any] = {"labels": {CLASS_LABEL: "small"}}
    containers: list[dict[str, Any]] = [{"name": "a"}, {"name": "b", "env": []}]
    template = {"metadata": metadata, "spec": {"containers": containers}}
    document = shared({"kind": "Deployment", "spec": {"template": template}}, sharing)
    for part in document["spec"]["template"]["spec"]["containers"]:
        assert [variable["value"] for variable in part["env"]] == ["7", "0=512M"]


@pytest.mark.parametrize("mode", ["daemon", "claim"])
def test_changed_limits_restart_the_clients(mode: str):
    recording = record(mode, mps={"activeThreadPercentage": 30, "pinnedDeviceMemoryLimit": "4Gi"})
    notes = [template(recording, name)["metadata"]["annotations"][LIMITS_ANNOTATION] for name in (CLIENTS, LIMITED)]
    own = "20 % of the SMs, 1Gi (class small; at most 30 % of the SMs, 4Gi)"
    assert notes == ["30 % of the SMs, 4Gi", own]


def test_limits_of_single_gpus_are_in_the_annotation_as_well():
    limits = Mps(per_device_pinned_memory_limit={"1": "2Gi", "0": "4Gi"})
    assert limits.words == "50 % of the SMs, 8Gi, GPU 0: 4Gi, GPU 1: 2Gi"


def test_mps_by_claim_puts_the_limits_into_the_claim_and_names_its_request(by_claim: Recording):
    devices = by_claim.resources["shared-gpu-shared-gpu-claim"].inputs["spec"]["devices"]
    (config,) = devices["config"]
    assert config["requests"] == [request["name"] for request in devices["requests"]] == ["gpu"]
    assert config["opaque"]["parameters"]["sharing"]["mpsConfig"] == {
        "defaultActiveThreadPercentage": 50,
        "defaultPinnedDeviceMemoryLimit": "8Gi",
        "multiUser": True,
    }


def test_mps_by_claim_takes_limits_of_single_gpus():
    recording = record("claim", mps={"perDevicePinnedMemoryLimit": {"0": "4Gi"}})
    (config,) = recording.resources["shared-gpu-shared-gpu-claim"].inputs["spec"]["devices"]["config"]
    limits = config["opaque"]["parameters"]["sharing"]["mpsConfig"]
    assert limits["defaultPerDevicePinnedMemoryLimit"] == {"0": "4Gi"}


def test_mps_by_claim_configures_templates_as_well():
    template = {"kind": "ResourceClaimTemplate", "spec": {"spec": {"devices": {"requests": [{"name": "one"}]}}}}
    document = shared(template, MpsByClaim(LIMITS, {}))
    assert document["spec"]["spec"]["devices"]["config"][0]["requests"] == ["one"]


def test_mps_by_claim_leaves_pods_and_namespace_without_folders_of_the_node(by_claim: Recording):
    assert not any(name.startswith("mps-daemon") for name in by_claim.resources)
    for name in (CLIENTS, LIMITED):
        spec = template(by_claim, name)["spec"]
        assert {"volumes", "initContainers"} & set(spec) == set()
        assert "volumeMounts" not in container(by_claim, name)
    labels = by_claim.resources["shared-gpu-mps"].inputs["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_a_daemon_on_the_node_leaves_the_claim_as_it_is(daemon: Recording):
    assert "config" not in daemon.resources["shared-gpu-shared-gpu-claim"].inputs["spec"]["devices"]


def test_the_daemon_has_no_privilege_and_none_of_the_nodes_namespaces(daemon: Recording):
    spec = template(daemon, "mps-daemon-daemonset")["spec"]
    assert not {"hostPID", "hostIPC", "hostNetwork", "initContainers", "securityContext"} & set(spec)
    (only,) = spec["containers"]
    assert only["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_the_daemon_mounts_its_pipe_and_nothing_else_of_the_node(daemon: Recording):
    volumes = template(daemon, "mps-daemon-daemonset")["spec"]["volumes"]
    assert [volume["hostPath"]["path"] for volume in volumes if "hostPath" in volume] == [PIPE]
    assert [volume["name"] for volume in volumes if "hostPath" not in volume] == ["log"]


def test_changed_limits_change_the_daemons_configuration_and_not_its_pods():
    before = record()
    after = record(mps={"activeThreadPercentage": 30, "pinnedDeviceMemoryLimit": "4Gi"})
    assert before.resources["mps-daemon-daemonset"] == after.resources["mps-daemon-daemonset"]
    assert after.resources["mps-daemon-config"].inputs["data"] == {
        "activeThreadPercentage": "30",
        "pinnedDeviceMemoryLimit": "4096M",
    }


def test_the_daemon_reads_every_limit_that_its_configuration_has(daemon: Recording):
    only = container(daemon, "mps-daemon-daemonset")
    read = {
        variable["name"]: variable["valueFrom"]["configMapKeyRef"]
        for variable in only["env"]
        if "value" not in variable
    }
    assert read == {variable: {"name": "mps-limits", "key": key} for key, variable in VARIABLES.items()}
    assert set(daemon.resources["mps-daemon-config"].inputs["data"]) == set(VARIABLES)
    assert set(by_kind(manifest("mps-daemon.yaml"))["ConfigMap"]["data"]) == set(VARIABLES)


def test_running_daemons_get_the_limits_on_every_gpu_node():
    recording = record(cluster={"workers": 2, "name": "a"})
    command = recording.resources["mps-daemon-limits"]
    assert command.inputs["create"] == command.inputs["update"]
    environment = command.inputs["environment"]
    assert json.loads(environment["NODES"]) == ["a-worker", "a-worker2"]
    assert (environment["ACTIVE_THREAD_PERCENTAGE"], environment["PINNED_DEVICE_MEMORY_LIMIT"]) == ("50", "8192M")
    assert "mps-daemon-daemonset" in command.depends_on


def test_the_daemon_sees_every_gpu_in_a_namespace_that_may(daemon: Recording):
    (request,) = daemon.resources["mps-daemon-gpus-claim"].inputs["spec"]["spec"]["devices"]["requests"]
    assert request["exactly"]["adminAccess"] is True and request["exactly"]["allocationMode"] == "All"
    labels = daemon.resources["mps-daemon-namespace"].inputs["metadata"]["labels"]
    assert labels["resource.kubernetes.io/admin-access"] == "true"


def test_no_claim_but_the_daemons_has_admin_access(daemon: Recording):
    asked = [name for name, resource in daemon.resources.items() if "adminAccess" in json.dumps(resource.inputs)]
    assert asked == ["mps-daemon-gpus-claim"]


def parameters(recording: Recording, name: str) -> dict[str, str]:
    return recording.resources[f"mps-policy-class-{name}"].inputs["data"]


def test_each_class_has_its_limits_as_the_policys_parameters():
    same = {"activeThreadPercentage": 50, "pinnedDeviceMemoryLimit": "8192Mi"}
    classes: dict[str, Any] = {"small": {}, "half": {"activeThreadPercentage": 25}, "same": same}
    recording = record(mps={"classes": classes})
    assert {name: tuple(parameters(recording, name).values()) for name in ("default", *classes)} == {
        "default": ("50", "8192", "node", "false", "localhost/dra-workshop/mps-daemon"),
        "small": ("20", "1024", "node", "true", "localhost/dra-workshop/mps-daemon"),
        "half": ("25", "1024", "node", "true", "localhost/dra-workshop/mps-daemon"),
        "same": ("50", "8192", "node", "false", "localhost/dra-workshop/mps-daemon"),
    }
    keys = ["activeThreadPercentage", "pinnedDeviceMemoryLimitMiB", "pipe", "required", "waitImage"]
    assert list(parameters(recording, "default")) == keys


def test_clients_need_no_pipe_of_the_node_where_the_driver_mounts_its_own(by_claim: Recording):
    for name in ("default", "small"):
        assert (parameters(by_claim, name)["pipe"], parameters(by_claim, name)["waitImage"]) == ("claim", "")


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("localhost/dra-workshop/mps-daemon:v1-0123456789ab", "localhost/dra-workshop/mps-daemon"),
        ("registry:5000/mps-daemon", "registry:5000/mps-daemon"),
        ("registry:5000/mps-daemon:v1", "registry:5000/mps-daemon"),
        ("mps-daemon@sha256:0123", "mps-daemon"),
        ("registry:5000/mps-daemon:v1@sha256:0123", "registry:5000/mps-daemon"),
        ("", ""),
    ],
)
def test_clients_may_wait_by_the_daemons_image_of_any_tag(image: str, name: str):
    assert repository(image) == name


@pytest.mark.parametrize(("policy", "suffix"), [("clients", ""), ("claims", "-claims")])
def test_each_class_is_bound_to_the_namespaces_with_its_label(daemon: Recording, policy: str, suffix: str):
    for name in ("default", "small"):
        binding = daemon.resources[f"mps-policy-class-{name}{suffix}-binding"]
        assert binding.inputs["metadata"]["name"] == f"dra-workshop-mps-{policy}-{name}"
        assert binding.inputs["spec"] == {
            "policyName": f"dra-workshop-mps-{policy}",
            "validationActions": ["Deny"],
            "paramRef": {"name": name, "namespace": "mps-classes", "parameterNotFoundAction": "Deny"},
            "matchResources": {"namespaceSelector": {"matchLabels": {CLASS_LABEL: name}}},
        }
        assert {f"mps-policy-class-{name}", f"mps-policy-mps-{policy}"} <= set(binding.depends_on)


def test_the_stacks_own_limits_are_for_one_gpu_as_the_policy_asks():
    """What a class sets holds for GPU number 0, so each claim of the stack is for one."""
    for recording in (record(), record(modules=["01", "02", "04", "05", "07"])):
        claims = [
            resource.inputs
            for resource in recording.resources.values()
            if resource.inputs.get("kind", resource.type.rpartition(":")[2]) == "ResourceClaim"
        ]
        assert claims
        for claim in claims:
            (request,) = claim["spec"]["devices"]["requests"]
            assert not {"count", "allocationMode"} & set(request["exactly"])


def test_a_policy_is_there_before_what_binds_it(daemon: Recording):
    assert "mps-policy-mps-pipe" in daemon.resources["mps-policy-mps-pipe-binding"].depends_on


def test_policies_read_only_parameters_that_a_class_has(daemon: Recording):
    text = json.dumps([document for document in load("05-mps-limits") if document["kind"].endswith("Policy")])
    used = set(re.findall(r"params\.data\.(\w+)", text))
    assert used == set(parameters(daemon, "default"))


def objects(recording: Recording, parent: str) -> list[Resource]:
    return [resource for resource in recording.resources.values() if resource.parent == parent]


def test_a_workload_makes_its_namespace_then_its_claim_then_its_pods(daemon: Recording):
    namespace, claim, clients = "shared-gpu-mps", "shared-gpu-shared-gpu-claim", CLIENTS
    names = [resource.name for resource in objects(daemon, "shared-gpu")]
    assert names == [namespace, claim, clients, f"{clients}-rollout"]
    assert namespace in daemon.resources[claim].depends_on
    assert {namespace, claim} <= set(daemon.resources[clients].depends_on)


def test_a_workload_leaves_kinds_of_other_components_alone(daemon: Recording):
    assert [resource.name for resource in objects(daemon, "limited-client")] == [LIMITED, f"{LIMITED}-rollout"]


def test_the_limited_client_comes_after_those_that_it_shares_with(daemon: Recording):
    assert {CLIENTS, "shared-gpu-shared-gpu-claim"} <= set(daemon.resources[LIMITED].depends_on)


def test_clients_start_while_the_limits_are_set_and_wait_for_these_themselves(daemon: Recording):
    depends_on = daemon.resources[CLIENTS].depends_on
    assert {"mps-daemon-config", "mps-daemon-daemonset"} <= set(depends_on)
    assert "mps-daemon-limits" not in depends_on
    limits = daemon.resources["mps-daemon-limits"].inputs["environment"]
    wanted = f"{limits['ACTIVE_THREAD_PERCENTAGE']}/{limits['PINNED_DEVICE_MEMORY_LIMIT']}"
    assert wanted == WANTED["value"]
    started_with = daemon.resources["mps-daemon-config"].inputs["data"]
    assert "/".join(started_with[key] for key in VARIABLES) == wanted


def test_clients_with_limits_of_their_own_are_made_when_the_daemon_has_its_limits():
    """None of them has to start again for another one's limits."""
    recording = record(modules=["01", "02", "04", "05", "07"], gpu={"count": 4})
    for name in (CLIENTS, "shared-gpus-small"):
        assert "mps-daemon-limits" in recording.resources[name].depends_on
        assert WANTED["name"] not in {variable["name"] for variable in container(recording, name)["env"]}


def test_nothing_comes_after_a_restarted_deployment_before_its_new_pods_are_ready(daemon: Recording):
    wait = daemon.resources[f"{CLIENTS}-rollout"]
    assert CLIENTS in wait.depends_on
    assert f"{CLIENTS}-rollout" in daemon.resources[LIMITED].depends_on
    assert {key: wait.inputs["environment"][key] for key in ("NAMESPACE", "DEPLOYMENT", "WAIT_SECONDS")} == {
        "NAMESPACE": "mps",
        "DEPLOYMENT": "clients",
        "WAIT_SECONDS": "180",
    }
    assert wait.inputs["update"] == wait.inputs["create"] == "python -m components.commands.rollout"


def test_changed_limits_have_the_rollout_of_their_clients_waited_for_again():
    def revisions(**mps: int) -> dict[str, str]:
        resources = record(mps=mps).resources
        waits = {name: resource for name, resource in resources.items() if name.endswith("-rollout")}
        return {name: wait.inputs["environment"]["REVISION"] for name, wait in waits.items()}

    before, after = revisions(), revisions(activeThreadPercentage=30)
    assert {name for name in before if before[name] != after[name]} == {f"{CLIENTS}-rollout", f"{LIMITED}-rollout"}
    assert "exclusive-gpu-holder-rollout" in before
    # It is there to wait for a GPU, so nobody waits for it.
    assert "exclusive-gpu-waiter-rollout" not in before


def test_whoever_uses_a_claim_is_replaced_with_it(daemon: Recording):
    named = {name: daemon.resources[name].options["replaceWith"] for name in (CLIENTS, LIMITED, "exclusive-gpu-holder")}
    assert named == {
        **{name: ["shared-gpu-shared-gpu-claim"] for name in (CLIENTS, LIMITED)},
        "exclusive-gpu-holder": ["exclusive-gpu-one-gpu-claim"],
    }


def selected(recording: Recording, name: str) -> str:
    spec = recording.resources[name].inputs["spec"]
    (request,) = spec.get("spec", spec)["devices"]["requests"]
    (selector,) = request["exactly"]["selectors"]
    return selector["cel"]["expression"]


@pytest.mark.parametrize(("modules", "number"), [(MODULES, 1), (["01", "02", "04"], 0)])
def test_the_shared_gpu_is_not_the_one_that_module_03_holds(modules: list[str], number: int):
    recording = record(modules=modules)
    uuid = Settings.parse({}, "test").gpu_uuid(number)
    assert selected(recording, "shared-gpu-shared-gpu-claim") == f'device.attributes["gpu.nvidia.com"].uuid == "{uuid}"'


def test_both_workloads_of_module_03_want_the_first_gpu(daemon: Recording):
    uuid = Settings.parse({}, "test").gpu_uuid(0)
    assert f'"{uuid}"' in selected(daemon, "exclusive-gpu-one-gpu-claim")


def test_a_gpu_of_the_host_is_selected_by_what_the_driver_published():
    cluster = {"provider": "existing", "kubeconfig": str(stacks.FOLDER / "kubeconfig.yaml"), "context": "lab"}
    # The recorder's driver publishes one GPU, on this node.
    gpu = {"source": "host", "nodes": [{"name": "a-node"}]}
    recording = record(modules=["01", "02", "04"], cluster=cluster, gpu=gpu)
    expression = selected(recording, "shared-gpu-shared-gpu-claim")
    assert expression == 'device.attributes["gpu.nvidia.com"].uuid == "GPU-0"'


def test_a_node_with_too_few_gpus_is_told_with_the_remedy():
    gpus = [{"node": "a", "uuid": "GPU-0"}, {"node": "b", "uuid": "GPU-1"}]
    assert uuid_of(gpus, "b", 0) == "GPU-1"
    with pytest.raises(pulumi.RunError, match="node a has 1 GPU, and the modules of the stack use 2; switch"):
        uuid_of(gpus, "a", 1)
