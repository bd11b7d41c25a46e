"""MIG: profiles, placements and instances, created at run time and from the configuration."""

import re
import textwrap

import pytest

from tests.unit.gpu_sim.driver_root import MODELS
from tests.unit.gpu_sim.mig_instances import CREATE

MIG_MODELS = [key for key, model in MODELS.items() if model.mig_profiles]


@pytest.mark.parametrize("key", MIG_MODELS)
def test_every_profile_and_placement_can_be_created_read_back_and_destroyed(make_root, key):
    found = make_root(key, 1, mig=["on"]).nvml(
        CREATE
        + textwrap.dedent("""
        result = []
        for index in range(18):
            if code(n.nvmlDeviceGetGpuInstanceProfileInfo, d, index):
                continue
            p = n.nvmlDeviceGetGpuInstanceProfileInfo(d, index)
            places = [x.start for x in placements(p.id)]
            full = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[p.sliceCount]
            names = set()
            for start in places:
                gi, ci = create(index, start, full)
                info = n.nvmlGpuInstanceGetInfo(gi)
                assert (info.profileId, info.placement.start) == (p.id, start)
                assert n.nvmlDeviceGetMaxMigDeviceCount(d) == 7
                names.add(migs()[0][0].split(" MIG ")[1])
                assert code(n.nvmlGpuInstanceDestroy, gi) == 19
                n.nvmlComputeInstanceDestroy(ci)
                n.nvmlGpuInstanceDestroy(gi)
                assert migs() == []
            result.append([*names, p.id, index, p.multiprocessorCount, p.memorySizeMB, places])
        """)
    )
    expected = [
        [p.name, p.profile_id, p.profile_index, p.multiprocessors, p.memory_mib, list(p.placements)]
        for p in sorted(MODELS[key].mig_profiles, key=lambda profile: profile.profile_index)
    ]
    assert found == expected


def test_instances_that_overlap_exceed_a_limit_or_lack_mig_mode_are_refused(make_root):
    assert make_root().nvml(
        CREATE
        + textwrap.dedent("""
        result = [code(create, 0, 0)]
        n.nvmlDeviceSetMigMode(d, 1)
        create(2, 0, 2)
        result += [code(create, 0, 3), code(create, 0, 7), code(create, 7, 4), code(create, 7, 5), code(create, 4),
                   code(n.nvmlDeviceSetMigMode, d, 0), code(n.nvmlDeviceCreateGpuInstance, d, 99)]
        result += [n.nvmlDeviceGetGpuInstanceRemainingCapacity(d, profile) for profile in (19, 9)]
        """)
    ) == [3, 23, 2, 0, 23, 23, 19, 2, 2, 0]


# NVIDIA's DRA driver reads the second of the two as the error, so an error there would keep it from going on.
SET_MODE = """
set_function = n._nvmlGetFunctionPointer("nvmlDeviceSetMigMode")
def set_mode(mode):
    activation = n.c_uint(99)
    return [set_function(d, mode, n.byref(activation)), activation.value]
"""


def test_mig_mode_stays_on_while_instances_are_left_and_only_the_call_says_so(make_root):
    root = make_root(count=1)
    assert root.nvml(
        CREATE
        + SET_MODE
        + textwrap.dedent("""
        result = [set_mode(1)]
        pairs = [create(0, 0, 0), create(0, 1, 0)]
        for gi, ci in pairs:
            n.nvmlComputeInstanceDestroy(ci)
            n.nvmlGpuInstanceDestroy(gi)
            result += [set_mode(0), n.nvmlDeviceGetMigMode(d), len(migs())]
        """)
    ) == [[0, 0], [19, 0], [1, 1], 1, [0, 0], [0, 0], 0]
    assert root.nvml(CREATE + "result = n.nvmlDeviceGetMigMode(d)") == [0, 0]


def test_seven_smallest_instances_fit_and_an_eighth_does_not(make_root):
    names = make_root().nvml(
        CREATE
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        for _ in range(7):
            create(0, None, 0)
        assert code(create, 0) == 23
        result = migs()
        """)
    )
    assert len({uuid for _, uuid, _, _ in names}) == 7
    assert {tuple(rest) for _, _, *rest in names} == {(16, 9984)}


def test_a_gpu_instance_can_be_split_into_compute_instances(make_root):
    assert make_root().nvml(
        CREATE
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        gi, _ = create(2, 0)
        result = [code(n.nvmlGpuInstanceGetComputeInstanceProfileInfo, gi, index, 0) for index in range(9)]
        for index in (0, 1):
            info = n.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, index, 0)
            result.append([info.sliceCount, info.instanceCount, info.multiprocessorCount])
        n.nvmlGpuInstanceCreateComputeInstance(gi, 1)
        n.nvmlGpuInstanceCreateComputeInstance(gi, 0)
        result += [code(n.nvmlGpuInstanceCreateComputeInstance, gi, 0), [m[0].split(" MIG ")[1] for m in migs()]]
        """)
    ) == [0, 0, 0, 3, 3, 3, 3, 3, 3, [1, 3, 20], [2, 1, 40], 23, ["2c.3g.40gb", "1c.3g.40gb"]]


@pytest.mark.parametrize("compute_profile", [4, 8])
def test_the_largest_instance_takes_either_of_its_compute_profiles_and_keeps_it(make_root, compute_profile):
    root = make_root(count=1)
    made = root.nvml(
        CREATE + f"n.nvmlDeviceSetMigMode(d, 1)\ngi, ci = create(4, 0, {compute_profile})\n"
        "result = [n.nvmlComputeInstanceGetInfo_v2(ci).profileId, migs()]"
    )
    assert made[0] == compute_profile and made[1][0][2:] == [132, 81152]
    assert root.nvml(CREATE + "result = migs()") == made[1]


def test_mig_devices_and_their_uuids_survive_the_process(make_root):
    root = make_root()
    code = CREATE + "n.nvmlDeviceSetMigMode(d, 1)\ncreate(2, 4, 2)\ncreate(1, 0, 0)\nresult = migs()"
    made = root.nvml(code)
    assert len(made) == 2
    assert root.nvml(CREATE + "result = migs()") == made


def test_with_mig_off_nvml_answers_as_measured_on_an_h100(make_root):
    assert make_root(count=1).nvml(
        CREATE
        + textwrap.dedent("""
        count, handles = n.c_uint(9), (n.c_nvmlGpuInstance_t * 8)()
        listed = n._nvmlGetFunctionPointer("nvmlDeviceGetGpuInstances")(d, 19, handles, n.byref(count))
        result = [n.nvmlDeviceGetMaxMigDeviceCount(d), listed, count.value,
                  *[n.nvmlDeviceGetGpuInstanceRemainingCapacity(d, profile) for profile in (19, 0, 14)],
                  *[code(call, d) for call in (n.nvmlDeviceGetGpuInstanceId, n.nvmlDeviceGetComputeInstanceId)],
                  code(n.nvmlDeviceGetGpuInstanceById, d, 1), code(n.nvmlDeviceGetMigDeviceHandleByIndex, d, 0),
                  code(n.nvmlDeviceGetAttributes, d)]
        """)
    ) == [0, 0, 0, 7, 1, 3, 2, 2, 6, 6, 3]


@pytest.mark.parametrize(("key", "later"), [("a100-80gb", True), ("h100-80gb", False), ("b200-180gb", False)])
def test_a_mode_waits_for_a_reset_on_ampere_only(make_root, key, later):
    root = make_root(key, 1)
    code = CREATE + SET_MODE + "result = [set_mode(1), n.nvmlDeviceGetMigMode(d), code(create, 0, 0)]"
    waiting, done = [[0, 16], [0, 1], 3], [[0, 0], [1, 1], 0]
    assert root.nvml(code) == (waiting if later else done)
    shown = "Disabled, Enabled" if later else "Enabled, Enabled"
    query = root.smi("--query-gpu=mig.mode.current,mig.mode.pending", "--format=csv,noheader")
    assert query.stdout == shown + "\n"
    reset = root.smi("--gpu-reset", "-i", "0")
    assert reset.stdout == "GPU 00000000:0A:00.0 was successfully reset.\nAll done.\n"
    assert root.nvml(CREATE + "result = [n.nvmlDeviceGetMigMode(d), migs()]") == [[1, 1], []]
    assert root.nvml(code) == [[0, 0], [1, 1], 0]


@pytest.mark.parametrize("key", ["rtx-4090", "l40s"])
def test_a_model_without_mig_says_so(make_root, key):
    assert make_root(key).nvml(
        CREATE + "result = [code(n.nvmlDeviceGetMigMode, d), code(n.nvmlDeviceGetGpuInstanceProfileInfo, d, 0), "
        "n.nvmlDeviceGetMaxMigDeviceCount(d)]"
    ) == [3, 3, 0]


def test_static_mig_exists_from_the_start_on_every_gpu(make_root):
    root = make_root(static_mig=["3g.40gb@0", "1g.10gb@4"])
    listed = root.smi("-L").stdout
    assert re.findall(r"^(?:GPU \d|  MIG \S+ +Device +\d)", listed, re.MULTILINE) == [
        *("GPU 0", "  MIG 1g.10gb     Device  0", "  MIG 3g.40gb     Device  1"),
        *("GPU 1", "  MIG 1g.10gb     Device  0", "  MIG 3g.40gb     Device  1"),
    ]
    assert (
        len(set(re.findall(r"UUID: (MIG-[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12})", listed)))
        == 4
    )


# What another program does to the same GPU meanwhile.
OTHER = """
import subprocess
def smi(*words):
    subprocess.run([ROOT + "/usr/bin/nvidia-smi", *words], check=True, capture_output=True)
"""


def test_what_another_program_does_is_seen_at_once_by_one_that_runs(make_root):
    root = make_root(count=1)
    seen = root.nvml(
        f"ROOT = {str(root.path)!r}\n"
        + CREATE
        + OTHER
        + textwrap.dedent("""
        smi("-i", "0", "-mig", "1")
        result = [n.nvmlDeviceGetMigMode(d), len(migs())]
        gi, ci = create(0, 0, 0)
        mine = migs()
        smi("mig", "-i", "0", "-cgi", "3g.40gb", "-C")
        names = sorted(row[0] for row in migs())
        # Its own are the same: handles and UUIDs.
        result += [[name.rpartition(" ")[2] for name in names], mine[0] in migs(),
                   n.nvmlGpuInstanceGetInfo(gi).placement.start, code(create, 3, 0)]
        """)
    )
    assert seen == [[1, 1], 0, ["1g.10gb", "3g.40gb"], True, 0, 23]


def test_what_another_program_destroys_is_gone_and_leaves_its_place(make_root):
    root = make_root(count=1)
    gone = root.nvml(
        f"ROOT = {str(root.path)!r}\n"
        + CREATE
        + OTHER
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        gi, ci = create(3, 0, 3)
        (before,) = migs()
        result = [code(create, 3, 0)]
        smi("mig", "-i", "0", "-dci")
        smi("mig", "-i", "0", "-dgi")
        result += [migs(), code(n.nvmlGpuInstanceGetInfo, gi), code(n.nvmlDeviceGetHandleByUUID, before[1])]
        create(3, 0, 3)
        result.append(migs()[0][0] == before[0])
        """)
    )
    assert gone == [23, [], 2, 6, True]


def test_what_nobody_could_have_remembered_leaves_a_program_that_runs_as_it_is(make_root):
    root = make_root(count=1)
    kept = root.nvml(
        f"ROOT = {str(root.path)!r}\n"
        + CREATE
        + textwrap.dedent("""
        n.nvmlDeviceSetMigMode(d, 1)
        create(2, 4, 2)
        before = migs()
        with open(ROOT + "/run/gpu0.mig", "w") as file:
            file.write("1 9/77\\n")
        result = [migs() == before, n.nvmlDeviceGetMigMode(d)]
        """)
    )
    assert kept == [True, [1, 1]]
