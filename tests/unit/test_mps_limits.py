"""What MPS grants and what a client's context takes: held against what was measured on an H100."""

from fractions import Fraction

import pytest

from gpus.models import load_models
from gpus.mps import context_mib, granted_multiprocessors, least_percentage
from gpus.quantity import MIB, mps_memory, quantity_bytes, quantity_mib

MODELS = load_models()
H100 = MODELS["h100-80gb"]
# Percentage -> SMs that a client then counts; driver 580.159.04.
GRANTED = {
    **dict.fromkeys(range(1, 8), 8),
    **{8: 10, 9: 10, 10: 12, 11: 14, 12.5: 16, 14: 18, 16: 20, 17: 22, 19: 24, 20: 26, 25: 32, 30: 38, 33: 42},
    **{33.3: 42, 40: 52, 45: 58, 49: 64, 50: 66, 51: 66, 60: 78, 66: 86, 70: 92, 75: 98, 80: 104, 90: 118, 95: 124},
    **{98: 128, 99: 130, 99.9: 130, 100: 132},
}
# SMs -> bytes that a context takes of its client's limit.
CONTEXT = {132: 538339472, 66: 283849808, 26: 128761680, 12: 75237776}


@pytest.mark.parametrize(("percentage", "multiprocessors"), GRANTED.items())
def test_a_percentage_grants_the_measured_multiprocessors(percentage: float, multiprocessors: int):
    assert granted_multiprocessors(H100, percentage) == multiprocessors


@pytest.mark.parametrize("key", MODELS)
def test_more_percent_never_grants_less_and_all_of_it_grants_all(key: str):
    granted = [granted_multiprocessors(MODELS[key], percentage) for percentage in range(1, 101)]
    assert granted == sorted(granted)
    assert granted[0] == MODELS[key].mps_minimum_multiprocessors and granted[-1] == MODELS[key].multiprocessors


@pytest.mark.parametrize("key", MODELS)
def test_multiprocessors_are_granted_in_pairs(key: str):
    assert all(granted_multiprocessors(MODELS[key], percentage) % 2 == 0 for percentage in range(1, 101))


@pytest.mark.parametrize("key", MODELS)
def test_least_percentage_is_the_first_that_grants_its_share(key: str):
    model, least = MODELS[key], least_percentage(MODELS[key])
    assert model.mps_minimum_multiprocessors * 100 <= least * model.multiprocessors
    assert (least - 1) * model.multiprocessors < model.mps_minimum_multiprocessors * 100


def test_seven_percent_is_the_h100s_least():
    assert least_percentage(H100) == 7


@pytest.mark.parametrize(("multiprocessors", "measured"), CONTEXT.items())
def test_a_context_takes_the_measured_memory_and_never_more_than_said(multiprocessors: int, measured: int):
    assert measured <= context_mib(multiprocessors) * MIB <= measured + 2 * MIB


@pytest.mark.parametrize(
    ("text", "size"),
    [
        *(("0", 0), ("1", 1), ("8192", 8192), ("1Ki", 1024), ("1Mi", MIB), ("8Gi", 8 * 2**30), ("2Ti", 2**41)),
        *(("1k", 1000), ("5M", 5 * 10**6), ("1G", 10**9), ("1T", 10**12)),
        *(("1.5Gi", 3 * 2**29), ("0.1Mi", Fraction(MIB, 10)), ("007Mi", 7 * MIB)),
    ],
)
def test_a_quantity_is_as_many_bytes_as_kubernetes_makes_of_it(text: str, size: Fraction):
    assert quantity_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "Gi", "8gi", "8GB", "8 Gi", " 8Gi", "8Gi\n", "-1Gi", "+1Gi", ".5Gi", "1.Gi", "1e3", "½"]
)
def test_what_is_no_quantity_of_memory_is_none(text: str):
    assert quantity_bytes(text) is None


@pytest.mark.parametrize(
    ("text", "mib"), [("8Gi", 8192), ("512Mi", 512), ("0.5Gi", 512), ("1048576", 1), ("2048Ki", 2)]
)
def test_whole_mib_are_what_mps_reads_with_an_m(text: str, mib: int):
    assert quantity_mib(text) == mib
    assert mps_memory(text) == f"{mib}M"


@pytest.mark.parametrize("text", ["8G", "1Ki", "lots"])
def test_what_settings_would_have_refused_is_not_rounded(text: str):
    with pytest.raises(ValueError, match=f'"{text}": is no quantity of whole MiB'):
        mps_memory(text)
