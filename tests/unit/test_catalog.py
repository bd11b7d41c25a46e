"""The catalog: its rows fit together, and each has what its number and slug promise."""

from dataclasses import replace

import pytest

import modules
from settings import Settings, SettingsError, catalog
from settings.catalog import MODULES, GpuUse
from toolchain.paths import CHECKOUT


@pytest.fixture(params=MODULES.values(), ids=lambda module: module.name)
def module(request: pytest.FixtureRequest) -> catalog.Module:
    return request.param


def test_requirements_come_earlier(module: catalog.Module):
    assert set(module.requires) <= {number for number in MODULES if number < module.number}


def test_requirements_include_those_of_the_required(module: catalog.Module):
    # So that "add it or drop this" names everything at once.
    for needed in module.requires:
        assert set(MODULES[needed].requires) <= set(module.requires)


def test_order_is_that_of_the_numbers():
    assert list(MODULES) == sorted(MODULES) == [module.number for module in MODULES.values()]


@pytest.mark.parametrize("field", ["slug", "title"])
def test_no_two_modules_share_a_name(field: str):
    assert len({getattr(module, field) for module in MODULES.values()}) == len(MODULES)


def test_module_has_a_builder(module: catalog.Module):
    assert callable(modules.builder(module))


def test_default_modules_meet_their_requirements():
    assert catalog.in_order(catalog.DEFAULT) == catalog.DEFAULT
    assert all({*row.requires} <= {*catalog.DEFAULT} for row in catalog.rows(catalog.DEFAULT))


def test_module_has_a_page(module: catalog.Module):
    assert (CHECKOUT / "docs" / "learn" / f"{module.name}.md").is_file()


def test_module_has_an_end_to_end_test(module: catalog.Module):
    assert (CHECKOUT / "checks" / module.check_file).is_file()


def test_manifests_belong_to_modules():
    folders = {folder.name for folder in (CHECKOUT / "manifests").iterdir()}
    assert folders <= {module.name for module in MODULES.values()}


def test_known_drops_what_is_no_module_and_in_order_sorts():
    assert catalog.in_order(["03", "none", "00"]) == ("00", "03")


FEATURES = {feature.gate: feature for module in MODULES.values() for feature in module.api_features}


def test_every_feature_of_kubernetes_can_be_asked_for():
    asked = {gate: feature.request or feature.device or feature.resource for gate, feature in FEATURES.items()}
    assert [gate for gate, by in asked.items() if not by] == []


@pytest.mark.parametrize("gate", FEATURES)
def test_page_on_prerequisites_names_every_feature_of_kubernetes(gate: str):
    page = (CHECKOUT / "docs" / "reference" / "modules" / "00-prerequisites.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith("| `") and f"`{gate}`" in line)
    numbers = {number for number, module in MODULES.items() if gate in {f.gate for f in module.api_features}}
    assert row.endswith(f"| {FEATURES[gate].since} |")
    assert all(number in row for number in numbers - {"02"})  # any stack may have 02's, by a key that the row names


def test_modules_that_exclude_each_other_are_refused_together(monkeypatch: pytest.MonkeyPatch):
    excluding = {**MODULES, "03": replace(MODULES["03"], excludes=("04",))}
    monkeypatch.setattr(catalog, "MODULES", excluding)
    Settings.parse({"modules": ["01", "02", "04"]}, "test")
    with pytest.raises(SettingsError) as caught:
        Settings.parse({"modules": ["01", "02", "03", "04"]}, "test")
    (found,) = caught.value.problems
    assert found.rule == f'and "04" ({MODULES["04"].title}) exclude each other'
    assert found.remedy == 'drop "03" or "04"'


def test_every_module_that_holds_a_gpu_is_named_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog, "MODULES", {**MODULES, "04": replace(MODULES["04"], gpu=GpuUse.OWN)})
    with pytest.raises(SettingsError) as caught:
        Settings.parse({"modules": ["01", "02", "03", "04"], "gpu": {"count": 1}}, "test")
    (found,) = caught.value.problems
    assert found.rule.endswith("use 2 GPUs of the first node, one of which each of modules 03, 04 holds for itself")
