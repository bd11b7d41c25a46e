"""Registrations of each stack: they are what was reviewed, and hold what must hold for every stack."""

from collections.abc import Mapping

import pytest

from tests.golden.recorder import RELEASE, Recording, Resource, Secret
from tests.golden.reviewed import compare
from tests.golden.stacks import BASES, FILES, FOLDER, host, load, record, recorded, text_of

KUBERNETES_PROVIDER = "pulumi:providers:kubernetes"
COMMAND = "command:local:Command"
DEPLOYMENT, DAEMON_SET = "kubernetes:apps/v1:Deployment", "kubernetes:apps/v1:DaemonSet"
CLAIMS = ("kubernetes:resource.k8s.io/v1:ResourceClaim", "kubernetes:resource.k8s.io/v1:ResourceClaimTemplate")
ON_KIND = [stack for stack in FILES if load(stack).cluster.provider == "kind"]
ON_EXISTING = [stack for stack in FILES if stack not in ON_KIND]


@pytest.fixture(params=FILES)
def stack(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def recording(stack: str) -> Recording:
    return recorded(stack)


def test_registrations_are_the_reviewed_ones(stack: str, request: pytest.FixtureRequest):
    compare(FOLDER / f"{stack}.txt", text_of(stack), request)


def test_every_golden_file_belongs_to_a_stack():
    assert sorted(file.stem for file in FOLDER.glob("*.txt")) == sorted(FILES)


def test_every_base_is_whole():
    assert not set(BASES.values()) & BASES.keys()
    assert set(BASES) | set(BASES.values()) <= FILES.keys()


def test_no_golden_file_holds_a_path_of_this_machine(stack: str):
    assert str(FOLDER.parents[1]) not in text_of(stack)


def test_recording_is_the_same_every_time(stack: str):
    assert record(load(stack)) == recorded(stack)


def test_every_resource_has_a_component_above_it(recording: Recording):
    for resource in recording.resources.values():
        if resource.custom:
            assert resource.parent, f"{resource.name} hangs on the stack itself"
            assert recording.resources[resource.parent].type.startswith("dra-workshop:"), resource.name


def test_every_component_registers_outputs(recording: Recording):
    components = {resource.name for resource in recording.resources.values() if not resource.custom}
    # Without them the engine shows a component as unfinished; some have nothing to tell.
    assert components <= recording.outputs.keys()


def test_every_object_in_the_cluster_uses_the_clusters_provider(recording: Recording):
    (provider,) = recording.of_type(KUBERNETES_PROVIDER)
    used = {name: r.provider for name, r in recording.resources.items() if r.type.startswith("kubernetes:")}
    assert used and set(used.values()) == {provider.name}, used


def test_provider_names_its_context(stack: str, recording: Recording):
    (provider,) = recording.of_type(KUBERNETES_PROVIDER)
    assert provider.inputs["context"] == load(stack).context


def test_a_changed_claim_is_replaced_and_the_old_one_goes_first(stack: str, recording: Recording):
    claims = [resource for token in CLAIMS for resource in recording.of_type(token)]
    assert bool(claims) == bool({"03", "04", "07", "08", "10.1", "10.6"} & set(load(stack).modules))
    for claim in claims:
        assert claim.options["replaceOnChanges"] == ["spec"], claim.name
        assert claim.options["deleteBeforeReplace"] is True, claim.name


def test_what_uses_a_claim_depends_on_it(recording: Recording):
    for user in (*recording.of_type(DEPLOYMENT), *recording.of_type(DAEMON_SET)):
        assert _claims_of(recording, user) <= set(user.depends_on), user.name


def test_what_uses_a_claim_goes_before_it_and_comes_back_after_it(recording: Recording):
    # Kubernetes keeps a deleted claim until no pod uses it.
    for user in (*recording.of_type(DEPLOYMENT), *recording.of_type(DAEMON_SET)):
        depended = {name for name in user.depends_on if recording.resources[name].type in CLAIMS}
        named = set(user.options.get("replaceWith", ()))
        if user.inputs["metadata"].get("annotations", {}).get("pulumi.com/skipAwait") == "true":
            # One that waits would take what another's claim gives up while that is replaced, so it goes with all that
            # it comes after.
            assert _claims_of(recording, user) < depended == named, user.name
        else:
            assert _claims_of(recording, user) == named <= depended, user.name


def test_whoever_has_a_claim_goes_with_it_and_nobody_else_does(recording: Recording):
    users = [*recording.of_type(DEPLOYMENT), *recording.of_type(DAEMON_SET)]
    with_claims = {user.name for user in users if user.inputs["spec"]["template"]["spec"].get("resourceClaims")}
    assert {name for name, made in recording.resources.items() if "replaceWith" in made.options} == with_claims


def _claims_of(recording: Recording, user: Resource) -> set[str]:
    """The claims and templates that a workload's pods name, by their resources' names."""
    claims = {
        _in_namespace(r, r.inputs["metadata"]["name"]): r.name for token in CLAIMS for r in recording.of_type(token)
    }
    named = user.inputs["spec"]["template"]["spec"].get("resourceClaims", [])
    names = [claim.get("resourceClaimTemplateName") or claim["resourceClaimName"] for claim in named]
    return {claims[_in_namespace(user, name)] for name in names}


def _in_namespace(resource: Resource, name: str) -> str:
    return f"{resource.inputs['metadata']['namespace']}/{name}"


def test_kubeconfig_is_secret_wherever_it_appears(recording: Recording):
    (provider,) = recording.of_type(KUBERNETES_PROVIDER)
    assert isinstance(provider.inputs["kubeconfig"], Secret)
    outputs = recording.outputs["cluster"]
    assert all(isinstance(value, Secret) for key, value in outputs.items() if key == "kubeconfig"), outputs


@pytest.mark.parametrize("stack", ON_KIND)
def test_standard_output_of_the_command_that_makes_the_cluster_is_secret(stack: str):
    assert recorded(stack).resources["cluster-kind"].options["additionalSecretOutputs"] == ["stdout"]


@pytest.mark.parametrize("stack", ON_KIND)
def test_what_is_in_a_kind_cluster_goes_with_it(stack: str):
    recording = recorded(stack)
    inside = {
        name: resource.deleted_with
        for name, resource in recording.resources.items()
        if resource.type.startswith("kubernetes:") or (resource.type == COMMAND and name != "cluster-kind")
    }
    settings = load(stack)
    # Where a claim changes a real GPU, NVIDIA's driver has to undo that before it goes with the cluster.
    undone = settings.gpu.source == "host" and settings.mps.mode == "claim" and "04" in settings.modules
    first = {"shared-gpu-shared-gpu-claim", "shared-gpu-clients", "limited-client-limited"} if undone else set()
    first.add("destroy-guard-look")  # its deletion is what it is there for
    assert {name for name, deleted_with in inside.items() if deleted_with is None} == first & inside.keys()
    assert {deleted_with for name, deleted_with in inside.items() if name not in first} == {"cluster-kind"}, inside


@pytest.mark.parametrize("stack", ON_KIND)
def test_nothing_enters_a_kind_cluster_before_its_images_do(stack: str):
    recording = recorded(stack)
    for name, resource in recording.resources.items():
        if resource.provider == "cluster-kubernetes":
            assert {"cluster-kind", "cluster-images"} <= set(resource.depends_on), name


@pytest.mark.parametrize("stack", ON_EXISTING)
def test_existing_cluster_is_never_touched_by_kind_or_docker(stack: str):
    for command in recorded(stack).of_type(COMMAND):
        words = " ".join(str(command.inputs.get(key, "")) for key in ("create", "update", "delete"))
        assert "kind" not in words and "docker" not in words, command.name


@pytest.mark.parametrize("stack", ON_EXISTING)
def test_existing_cluster_has_only_the_named_nodes_labelled(stack: str):
    patched = [patch.inputs["metadata"]["name"] for patch in recorded(stack).of_type("kubernetes:core/v1:NodePatch")]
    assert sorted(patched) == sorted(node.node for node in load(stack).gpu_nodes)


def test_only_namespaces_with_a_reason_for_it_are_privileged(stack: str, recording: Recording):
    levels: Mapping[str, str] = {
        namespace.inputs["metadata"]["name"]: namespace.inputs["metadata"]["labels"][
            "pod-security.kubernetes.io/enforce"
        ]
        for namespace in recording.of_type("kubernetes:core/v1:Namespace")
    }
    # Two mount and make device nodes; the others mount the MPS daemon's folders of the node, or the kubelet's socket.
    reasons = {"dra-driver-nvidia-gpu", "gpu-sim", "gpu-metrics"}
    settings = load(stack)
    if settings.mps.mode == "daemon":
        reasons |= {"mps-system", "mps"}
    if settings.capacity_enforced:
        reasons |= {"shared"}
    assert {name for name, level in levels.items() if level != "restricted"} <= reasons, levels


def test_driver_is_asked_for_the_gpus_that_the_settings_name(stack: str, recording: Recording):
    if "02" not in load(stack).modules:
        assert recording.of_type(RELEASE) == []
        return
    expected = recording.resources["dra-driver-gpus"].inputs["environment"]["EXPECTED_GPUS"]
    for node in load(stack).gpu_nodes:
        count = node.count or len(host(None, load(stack).gpu.devices).chosen)
        count -= sum(bool(layout) for layout in node.mig)
        assert f'"{node.node}": {count}' in expected
