"""Rules of the block `driver`: feature gates of NVIDIA's DRA driver, and those that need or exclude each other."""

from collections.abc import Iterator, Mapping

from settings import catalog
from settings.blocks import Draft, Driver
from settings.catalog import Gate, Module
from settings.problems import Problem, suggest
from toolchain.versions import (
    DRA_DRIVER_DEFAULT_GATES,
    DRA_DRIVER_EXCLUSIVE_GATES,
    DRA_DRIVER_FEATURE_GATES,
    DRA_DRIVER_REQUIRED_GATES,
)

# Refused beside any other, by the rules of the host's GPUs and of simulated ones; so is what requires them.
REFUSED_GATES = ("PassthroughSupport",)


def driver_rules(draft: Draft) -> Iterator[Problem]:
    """Problems of the gates by themselves, and with the modules that need some."""
    if draft.driver is None:
        return
    yield from _gate_rules(draft.driver)
    for row in catalog.rows(draft.modules or ()):
        verbosity = draft.driver.log_verbosity
        if verbosity is not None and verbosity < row.log_verbosity:
            rule = f'is too low for module "{row.number}", which reads in the log what the driver says from '
            rule += f"{row.log_verbosity} on"
            remedy = f'set it to {row.log_verbosity}, or drop it or "{row.number}"'
            yield Problem("driver.logVerbosity", verbosity, rule, remedy)
        for gate in row.gates:
            if gate.needed is catalog.always:
                yield from _needed_gate_rules(draft.driver, row, gate)


def _gate_rules(driver: Driver) -> Iterator[Problem]:
    gates = driver.feature_gates
    for gate in gates:
        if gate not in DRA_DRIVER_FEATURE_GATES[driver.version]:
            rule = f"is no feature gate of NVIDIA's driver v{driver.version}"
            yield Problem("driver.featureGates", gate, rule, suggest(gate, DRA_DRIVER_FEATURE_GATES[driver.version]))
    for gate, other in DRA_DRIVER_EXCLUSIVE_GATES:
        if gates.get(gate) and gates.get(other) and not {gate, other} & {*REFUSED_GATES}:
            rule = f"and {gate} exclude each other in NVIDIA's driver"
            yield Problem("driver.featureGates", other, rule, "switch one of the two off")
    for gate, required in DRA_DRIVER_REQUIRED_GATES.items():
        if _is_on(gates, gate) and not _is_on(gates, required):
            rule = f"requires {required} in NVIDIA's driver"
            # What is on by default is broken by what the stack switches off.
            on = "drop that" if gates.get(required) is False else f"switch {required} on"
            remedy = f"switch {gate} off" if required in REFUSED_GATES else f"{on}, or switch {gate} off"
            yield Problem("driver.featureGates", gate, rule, remedy)


def _is_on(gates: Mapping[str, bool], gate: str) -> bool:
    return gates.get(gate, gate in DRA_DRIVER_DEFAULT_GATES)


def excluded_by(gate: str) -> list[str]:
    """Gates that NVIDIA's driver refuses beside another one."""
    return [other for pair in DRA_DRIVER_EXCLUSIVE_GATES if gate in pair for other in pair if other != gate]


def _needed_gate_rules(driver: Driver, row: Module, gate: Gate) -> Iterator[Problem]:
    """Problems of a gate that a module needs whatever the configuration is."""
    gates, number = driver.feature_gates, row.number
    if gates.get(gate.name) is False:
        rule = f'is off, and module "{number}" needs it: without it {gate.without}'
        yield Problem(f"driver.featureGates.{gate.name}", False, rule, f'drop it or drop "{number}" from modules')
    for other in excluded_by(gate.name):
        if gates.get(other) and not gates.get(gate.name):
            rule = f'and {gate.what} (gate {gate.name}, which module "{number}" needs) exclude each other'
            yield Problem(f"driver.featureGates.{other}", True, rule, f'switch it off or drop "{number}" from modules')
