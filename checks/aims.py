"""Aims of a measurement, each met or missed, and the rules of the simulated GPU beside measured values."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from checks import measured as sheets
from checks.measured import Measurement
from gpus.mps import context_mib, granted_multiprocessors

PEAK_SHARE = 0.95  # of the chip's FP32 peak, by one client that has the GPU
MPS_COST = 0.01  # of exclusive, that MPS at 100 % may differ
UNFAIRNESS = 0.01  # of their mean, by which clients of one percentage may differ
LIVE_SECONDS = 5.0
# Of a small client's p99 alone, beside a neighbour that leaves it some SMs; without MPS it is a hundredfold.
LATENCY_RATIO = 2.0
# The driver's rounding to 2 MiB, of the limit and of the context.
CONTEXT_ROUNDING_MIB = 4


@dataclass(frozen=True)
class Repeats:
    """FP32 TFLOPS of the repeats of one client."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float:
        """Difference between the least and the most, as a part of the mean."""
        return (max(self.values) - min(self.values)) / self.mean


@dataclass(frozen=True)
class Aim:
    """One aim, what was measured of it, and whether that meets it; None where nothing was measured."""

    aim: str
    measured: str
    met: bool | None

    @property
    def verdict(self) -> str:
        return "not measured" if self.met is None else "met" if self.met else "**missed**"


@dataclass(frozen=True)
class Rule:
    """One rule of the simulated GPU beside the real one."""

    rule: str
    simulated: str
    real: str
    same: bool


def clients_of(measurement: Measurement, who: str) -> list[Repeats]:
    """The clients of one way to use the GPU, in order; none if it was not measured."""
    return [_repeats(row) for row in measurement.rows(sheets.TOGETHER) if row[0] == who]


def _repeats(row: Sequence[Any]) -> Repeats:
    return Repeats(tuple(float(value) for value in row[-len(sheets.REPEATS) :]))


def peak(measurement: Measurement) -> float | None:
    """The chip's FP32 peak in TFLOPS; None if it was not found out."""
    return next((float(row[-1]) for row in measurement.rows(sheets.CHIP)), None)


def unfairness(clients: Sequence[Repeats]) -> float:
    """Difference between the fastest and the slowest client, as a part of their mean."""
    means = [client.mean for client in clients]
    return (max(means) - min(means)) / statistics.fmean(means)


def aims(measurement: Measurement) -> list[Aim]:
    """Every aim, measured or not."""
    return [
        _peak_aim(measurement),
        _cost_aim(measurement),
        _fairness_aim(measurement),
        _grants_aim(measurement),
        _live_aim(measurement),
    ]


def _peak_aim(measurement: Measurement) -> Aim:
    aim = f"exclusive use reaches {PEAK_SHARE:.0%} of the chip's FP32 peak"
    exclusive, most = clients_of(measurement, sheets.EXCLUSIVE), peak(measurement)
    if not exclusive or most is None:
        return Aim(aim, "", None)
    share = exclusive[0].mean / most
    return Aim(aim, f"{exclusive[0].mean:.2f} of {most:.2f} TFLOPS: {share:.1%}", share >= PEAK_SHARE)


def _cost_aim(measurement: Measurement) -> Aim:
    aim = f"MPS at 100 % is within {MPS_COST:.0%} of exclusive use"
    exclusive, whole = clients_of(measurement, sheets.EXCLUSIVE), clients_of(measurement, sheets.WHOLE)
    if not exclusive or not whole:
        return Aim(aim, "", None)
    difference = whole[0].mean / exclusive[0].mean - 1
    words = f"{whole[0].mean:.2f} against {exclusive[0].mean:.2f} TFLOPS: {difference:+.2%}"
    return Aim(aim, words, abs(difference) <= MPS_COST)


def _fairness_aim(measurement: Measurement) -> Aim:
    aim = f"three clients at 20 % are within {UNFAIRNESS:.0%} of each other"
    clients = clients_of(measurement, sheets.FIFTHS)
    if not clients:
        return Aim(aim, "", None)
    words = f"{' / '.join(f'{client.mean:.2f}' for client in clients)} TFLOPS: {unfairness(clients):.2%}"
    return Aim(aim, words, len(clients) == 3 and unfairness(clients) <= UNFAIRNESS)


def _grants_aim(measurement: Measurement) -> Aim:
    aim = "every client is granted exactly the SMs that the rule predicts"
    rows = [row[:3] for sheet in (sheets.GRANTS, sheets.THROTTLE) for row in measurement.rows(sheet)]
    if not rows:
        return Aim(aim, "", None)
    wrong = sorted({f"{p} %: {sms} instead of {rule}" for p, sms, rule in rows if sms != rule})
    percentages = sorted({float(row[0]) for row in rows}, reverse=True)
    words = "; ".join(wrong) or f"at {', '.join(f'{percentage:g}' for percentage in percentages)} %"
    return Aim(aim, words, not wrong)


def _live_aim(measurement: Measurement) -> Aim:
    aim = f"a changed limit reaches new clients in under {LIVE_SECONDS:g} s without a restart"
    values = {str(what): float(value) for what, value in measurement.rows(sheets.LIVE)}
    if sheets.LIVE_SECONDS not in values:
        return Aim(aim, "", None)
    seconds, servers = values[sheets.LIVE_SECONDS], values[sheets.LIVE_SERVERS]
    words = f"{seconds:.1f} s, with the pod's start; {servers:.0f} servers started again"
    return Aim(aim, words, seconds < LIVE_SECONDS and not servers)


def rules(measurement: Measurement) -> list[Rule]:
    """Each rule of the simulated GPU, computed anew from `mps_limits`, beside what was measured.

    Empty for a GPU that images/gpu-sim/models does not know.
    """
    model = measurement.model
    if model is None:
        return []
    granted = {float(row[0]): int(row[1]) for row in measurement.rows(sheets.GRANTS)}
    compared = [
        _number(f"SMs at {percentage:g} %", granted_multiprocessors(model, percentage), sms)
        for percentage, sms in sorted(granted.items(), reverse=True)
    ]
    for sms, context in dict.fromkeys((int(row[1]), int(row[3])) for row in measurement.rows(sheets.GRANTS)):
        rule, same = context_mib(sms), abs(context_mib(sms) - context) <= CONTEXT_ROUNDING_MIB
        compared.append(Rule(f"context of a client with {sms} SMs, in MiB", str(rule), str(context), same))
    for case, percentage, _, sms in measurement.rows(sheets.WINS_PERCENTAGE):
        compared.append(_number(f"SMs: {case}", granted_multiprocessors(model, float(percentage)), int(sms)))
    for case, limit, holds in measurement.rows(sheets.WINS_MEMORY):
        lifted = sheets.NO_LIMIT in (limit, holds)
        same = limit == holds if lifted else abs(int(limit) - int(holds)) <= CONTEXT_ROUNDING_MIB
        compared.append(Rule(f"memory in MiB: {case}", str(limit), str(holds), same))
    for limit, asked, result in measurement.rows(sheets.MEMORY):
        rule = "CUDA_SUCCESS" if int(asked) < int(limit) else "CUDA_ERROR_OUT_OF_MEMORY"
        compared.append(Rule(f"{asked} MiB under a limit of {limit} MiB", rule, str(result), rule == result))
    return compared


def _number(rule: str, simulated: int, real: int) -> Rule:
    return Rule(rule, str(simulated), str(real), simulated == real)
