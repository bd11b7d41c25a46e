"""The model files and what is rendered from them; needs no compiler."""

import configparser
import math
import re
import shutil
from itertools import pairwise

import pytest

from gpus import mig
from gpus import models as gpu_models
from gpus.models import GPU_MODELS, ModelError, SimulatedDriver, load_models, render_node_config, simulated_gpus
from gpus.mps import granted_multiprocessors

MODELS = load_models()
MEMORY_AND_MULTIPROCESSORS = {
    "rtx-4090": (24564, 128),
    "a100-40gb": (40960, 108),
    "a100-80gb": (81920, 108),
    "a100-pcie-40gb": (40960, 108),
    "l40s": (46068, 142),
    "h100-80gb": (81559, 132),
    "h200-141gb": (143771, 132),
    "b200-180gb": (183359, 148),
}


def parsed(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.read_string(text)
    return parser


def changed_model(tmp_path, old: str, new: str, key: str = "h100-80gb"):
    text = (gpu_models.MODELS_FOLDER / f"{key}.ini").read_text()
    assert text.count(old) >= 1
    (tmp_path / f"{key}.ini").write_text(text.replace(old, new, 1))
    return tmp_path


def test_models_have_the_published_memory_and_multiprocessors():
    assert {key: (m.memory_mib, m.multiprocessors) for key, m in MODELS.items()} == MEMORY_AND_MULTIPROCESSORS


def test_every_model_file_names_its_source():
    for file in gpu_models.MODELS_FOLDER.glob("*.ini"):
        assert "# Source: " in file.read_text(), file


def test_only_the_measured_mps_minimum_is_not_marked_as_assumed():
    unmarked = [
        file.stem
        for file in gpu_models.MODELS_FOLDER.glob("*.ini")
        if not re.search(r"# Assumed: .*\nmps_minimum_multiprocessors", file.read_text())
    ]
    assert unmarked == ["h100-80gb"]


@pytest.mark.parametrize("key", [key for key, model in MODELS.items() if model.mig_profiles])
def test_mig_profile_names_follow_from_memory_as_nvidias_tools_compute_them(key):
    model = MODELS[key]
    for profile in model.mig_profiles:
        # go-nvlib's rule: the fraction of the GPU in eighths, rounded up, of the GPU's whole GiB.
        eighths = math.ceil(profile.memory_mib / model.memory_mib * 8)
        gigabytes = math.floor(eighths / 8 * math.ceil(model.memory_mib / 1024) + 0.5)
        assert profile.name.split("+")[0] == f"{profile.slices}g.{gigabytes}gb"


@pytest.mark.parametrize("key", [key for key, model in MODELS.items() if model.mig_profiles])
def test_as_many_mig_instances_as_promised_fit_the_placements(key):
    for profile in MODELS[key].mig_profiles:
        assert profile.instances == 1 or profile.instances == len(profile.placements)
        starts = profile.placements[: profile.instances]
        assert all(b - a >= profile.placement_size for a, b in pairwise(starts))
        assert profile.instances * profile.multiprocessors <= MODELS[key].multiprocessors


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("memory_mib = 81559\n", "memory_mib = lots\n", ['memory_mib = "lots"', "whole number"]),
        ("memory_mib = 81559\n", "", ['memory_mib = ""', "required", "add"]),
        ("brand = NVIDIA", "brand = Nvidia", ['brand = "Nvidia"', "GeForce, NVIDIA"]),
        ("slices = 7", "slices = 9", ['slices = "9"', "1 to 8"]),
        ("placements = 0,4\n", "placements = 4,0\n", ['placements = "4,0"', "rising"]),
        ("placements = 0,4\n", "placements = 0,6\n", ["memory slice 8"]),
        ("profile_id = 9\n", "profile_id = 19\n", ['profile_id = "19"', "1g.10gb", "already used"]),
        ("ofa_engines = 0", "ofa_engine = 0", ["ofa_engines", "required"]),
        ("power_limit_watts = 700", "power_limit_watts = 700\ncolour = green", ['colour = "green"', "not a key"]),
        ("reserved_memory_mib = 480", "reserved_memory_mib = 81559", ['reserved_memory_mib = "81559"', "0 to 81558"]),
        ("[mig 3g.40gb]", "[mig big]", ['"big"', "must read like"]),
        ("[model]", "[modell]", ["modell", "neither"]),
        ("cuda_compute_capability = 9.0", "cuda_compute_capability = 90", ['"90"', "must read like 9.0"]),
        ("pci_device_id = 0x233010de", "pci_device_id = 0x0", ['pci_device_id = "0x0"', "must be 1 to 4294967295"]),
        (
            "pci_device_id = 0x233010de",
            "pci_device_id = 0xno",
            ['pci_device_id = "0xno"', "whole number", "hex digits"],
        ),
        ("product_name = NVIDIA H100", "product_name = NVIDIA\n  H100", ["product_name", "printable ASCII"]),
        ("product_name = NVIDIA H100", f"product_name = {'H' * 63}", ["product_name", "1 to 63"]),
        ("profile_index = 9\n", "profile_index = 0\n", ['[mig 1g.20gb] profile_index = "0"', "used by [mig 1g.10gb]"]),
        ("memory_mib = 81152", "memory_mib = 81560", ['[mig 7g.80gb] memory_mib = "81560"', "1 to 81559"]),
        ("placements = 0,4\n", "placements = 0,4,4\n", ['[mig 3g.40gb] placements = "0,4,4"', "different"]),
        ("placements = 0,4\n", "placements = 0,8\n", ['[mig 3g.40gb] placements = "0,8"', "0 to 7"]),
        ("placement_size = 8\n", "placement_size = 1\nname = x\n", ['[mig 7g.80gb] name = "x"', "not a key"]),
        ("reserved_memory_mib = 480", "key = x\nmig_profiles = y", ['[model] key = "x"', '[model] mig_profiles = "y"']),
        ("[mig 3g.40gb]", "[section] = 3g.40gb", ["[section]", "neither"]),
        ("brand = NVIDIA", "brand", ["not an ini file", "correct that line"]),
    ],
)
def test_a_broken_model_file_is_refused_with_file_key_value_and_rule(tmp_path, old, new, told):
    with pytest.raises(ModelError) as error:
        load_models(changed_model(tmp_path, old, new))
    for part in ["h100-80gb.ini", *told]:
        assert part in str(error.value)


def test_all_problems_of_a_model_file_are_told_at_once_each_on_a_line_of_its_own(tmp_path):
    changed_model(tmp_path, "brand = NVIDIA", "brand = Nvidia\ncolour = green")
    text = (tmp_path / "h100-80gb.ini").read_text()
    (tmp_path / "h100-80gb.ini").write_text(text.replace("slices = 7", "slices = 9").replace("decoders = 3\n", ""))
    with pytest.raises(ModelError) as error:
        load_models(tmp_path)
    file = tmp_path / "h100-80gb.ini"
    assert sorted(str(error.value).splitlines()) == [
        f'{file}: [mig 3g.40gb] decoders = "": the key is required; add "decoders = ..." to this section',
        f'{file}: [mig 7g.80gb] slices = "9": must be 1 to 8; correct the figure',
        f'{file}: [model] brand = "Nvidia": must be one of GeForce, NVIDIA, Tesla; write it exactly like that',
        f'{file}: [model] colour = "green": is not a key of this section; remove it or correct its spelling',
    ]


def test_more_placements_than_there_are_instance_ids_are_refused(tmp_path):
    changed_model(
        tmp_path, "placements = 0,2,4,6\nplacement_size = 2", "placements = 0,1,2,3,4,5,6\nplacement_size = 1"
    )
    file = tmp_path / "h100-80gb.ini"
    file.write_text(
        file.read_text().replace("placements = 0\nplacement_size = 8", "placements = 0,1,2,3,4,5,6\nplacement_size = 1")
    )
    file.write_text(
        file.read_text().replace("placements = 0\nplacement_size = 4", "placements = 0,1,2,3,4\nplacement_size = 1")
    )
    with pytest.raises(
        ModelError, match=r"7 MIG profiles with 38 placements; at most 16 and 31 are simulated, so remove"
    ):
        load_models(tmp_path)


@pytest.mark.parametrize("name", ["My GPU", "-x", "x" * 33])
def test_a_file_name_that_is_no_key_is_refused(tmp_path, name):
    shutil.copy(gpu_models.MODELS_FOLDER / "l40s.ini", tmp_path / f"{name}.ini")
    with pytest.raises(
        ModelError, match=f'file = "{name}": must be 1 to 32 lower-case letters, digits and dashes; rename'
    ):
        load_models(tmp_path)


def test_a_file_without_a_model_names_every_key_that_it_has_to_have(tmp_path):
    (tmp_path / "empty.ini").write_text("")
    with pytest.raises(ModelError) as error:
        load_models(tmp_path)
    assert str(error.value).count("the key is required") == 9


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no \*\.ini file"):
        load_models(tmp_path)


def test_adding_a_model_is_adding_a_file(tmp_path):
    shutil.copy(gpu_models.MODELS_FOLDER / "l40s.ini", tmp_path / "my-gpu.ini")
    assert list(load_models(tmp_path)) == ["my-gpu"]


def test_gpus_depend_on_nothing_but_node_name_and_index():
    model, other = MODELS["h100-80gb"], MODELS["b200-180gb"]
    first = simulated_gpus("worker-1", model, 4)
    assert [gpu.uuid for gpu in first] == [gpu.uuid for gpu in simulated_gpus("worker-1", other, 8)][:4]
    assert first[0].uuid == "GPU-8520a02a-9dda-586d-8a8d-9486980b18e6"


def test_a_full_node_has_distinct_uuids_minors_and_bus_ids():
    gpus = simulated_gpus("worker", MODELS["h100-80gb"], 16) + simulated_gpus("worker2", MODELS["h100-80gb"], 16)
    assert len({gpu.uuid for gpu in gpus}) == 32
    assert len({gpu.pci_bus_id for gpu in gpus[:16]}) == 16
    assert [gpu.minor for gpu in gpus[:16]] == list(range(16))
    assert gpus[0].pci_bus_id == "0000:0a:00.0" and gpus[0].pcie_root == "pci0000:00"


def test_two_neighbouring_gpus_share_a_pcie_root():
    roots = [gpu.pcie_root for gpu in simulated_gpus("worker", MODELS["h100-80gb"], 4)]
    assert roots == ["pci0000:00", "pci0000:00", "pci0000:10", "pci0000:10"]


@pytest.mark.parametrize("count", [0, 17, -1])
def test_a_count_outside_the_limits_is_refused(count):
    with pytest.raises(ModelError, match="1 to 16"):
        simulated_gpus("worker", MODELS["l40s"], count)


@pytest.mark.parametrize("node", ["", "Worker", "a/b", "-x", "a\nb"])
def test_a_node_name_that_kubernetes_would_refuse_is_refused(node):
    with pytest.raises(ModelError, match="node"):
        simulated_gpus(node, MODELS["l40s"], 1)


def test_the_rendered_file_holds_driver_model_profiles_and_gpus():
    text = parsed(render_node_config("worker", MODELS["h100-80gb"], 2))
    profiles = [f"mig h100-80gb {profile.name}" for profile in MODELS["h100-80gb"].mig_profiles]
    assert text.sections() == ["driver", "model h100-80gb", *profiles, "gpu 0", "gpu 1"]
    assert dict(text["driver"]) == {"version": "580.159.04", "cuda": "13.0"}
    assert "mig" not in text["gpu 0"]


def test_reserved_memory_is_rendered_only_where_a_model_states_it(tmp_path):
    assert {key: model.reserved_memory_mib for key, model in MODELS.items() if model.reserved_memory_mib} == {
        "h100-80gb": 480
    }
    section = parsed(render_node_config("worker", MODELS["h100-80gb"], 1))["model h100-80gb"]
    assert section["reserved_memory_mib"] == "480"
    assert "reserved_memory_mib" not in render_node_config("worker", MODELS["l40s"], 1)


def test_static_mig_is_given_to_every_gpu():
    text = parsed(render_node_config("worker", MODELS["h100-80gb"], 2, static_mig=["3g.40gb@0", "3g.40gb@4"]))
    assert [text[f"gpu {i}"]["mig"] for i in range(2)] == ["3g.40gb@0,3g.40gb@4"] * 2


@pytest.mark.parametrize("entries", [["3g.40gb@1"], ["9g.1gb@0"], ["3g.40gb"], ["3g.40gb@0", "1g.10gb@3"]])
def test_static_mig_that_does_not_fit_is_refused(entries):
    with pytest.raises(ModelError, match="MIG"):
        render_node_config("worker", MODELS["h100-80gb"], 1, static_mig=entries)


@pytest.mark.parametrize(("driver", "cuda"), [("580", "13.0"), ("580.159.04\n[gpu 7]", "13.0"), ("580.1", "13")])
def test_a_version_that_does_not_read_like_one_is_refused(driver, cuda):
    with pytest.raises(ModelError, match="version"):
        render_node_config("worker", MODELS["l40s"], 1, SimulatedDriver(driver, cuda))


def test_slices_of_a_layout_have_the_drivers_names_and_their_memory_slices():
    found = list(mig.slices("a", GPU_MODELS["h100-80gb"], [(), ("3g.40gb@4", "1g.10gb+me", "1g.10gb@1"), "empty"]))
    assert [(one.gpu, one.device_name, list(one.memory_slices)) for one in found] == [
        (1, "gpu-1-mig-3g40gb-9-4", [4, 5, 6, 7]),
        (1, "gpu-1-mig-1g10gb-me-20-0", [0]),
        (1, "gpu-1-mig-1g10gb-19-1", [1]),
    ]


def test_part_of_a_gpu_is_one_of_its_own_for_mps():
    (slice_,) = mig.slices("a", GPU_MODELS["a100-pcie-40gb"], [["3g.20gb"]])
    assert (slice_.part.multiprocessors, slice_.part.memory_mib) == (42, 20096)
    assert slice_.part.key == "3g.20gb of a100-pcie-40gb"
    assert [granted_multiprocessors(slice_.part, percentage) for percentage in (10, 30, 50)] == [4, 12, 20]
