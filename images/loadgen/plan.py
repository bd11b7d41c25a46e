"""Plan of a measurement: its profiles and points. Standard library only, since both sides of it read this."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Loop = Literal["closed", "open"]
WHOLE = 100  # per cent


@dataclass(frozen=True)
class Point:
    """One figure of a plot: a server's percentage, its neighbour's if it has a busy one, a load, a repeat.

    `level` is how many requests are under way (closed loop), or how many begin a second (open loop).
    """

    percentage: int
    neighbour: int | None
    loop: Loop
    level: float
    repeat: int
    mps: bool = True

    @property
    def key(self) -> str:
        beside = "alone" if self.neighbour is None else f"beside-{self.neighbour}"
        sliced = "" if self.mps else "-time-sliced"
        return f"{self.percentage}/{beside}{sliced}/{self.loop}/{self.level:g}/{self.repeat}"


@dataclass(frozen=True)
class Servers:
    """Servers that run at once: one of a percentage, and a busy neighbour's percentage where it has one.

    Without `mps` neither has a limit, and the GPU lets one run after the other.
    """

    percentage: int
    neighbour: int | None = None
    mps: bool = True


@dataclass(frozen=True)
class Plan:
    """All that is measured, in which order, and for how long.

    Lengths are tokens, times seconds. Each (own, neighbour's) percentage of `tenants` is measured while the neighbour
    has `noise` requests under way; with `time_sliced` two servers without MPS are as well. `seconds` of each load
    count, after `warmup_seconds` that do not; what is still under way after `drain_seconds` more is given up, and
    counted as such.
    """

    alone: tuple[int, ...]
    tenants: tuple[tuple[int, int], ...]
    closed: tuple[int, ...]
    open: tuple[float, ...]
    tenant_closed: tuple[int, ...]
    tenant_open: tuple[float, ...]
    time_sliced: bool
    repeats: int
    seconds: float
    warmup_seconds: float
    drain_seconds: float
    prompt_tokens: int
    output_tokens: int
    noise: int

    def of(self, percentages: Sequence[int] = (), repeats: int | None = None) -> "Plan":
        """The plan, but for what is given."""
        return replace(self, alone=tuple(percentages) or self.alone, repeats=repeats or self.repeats)

    @property
    def servers(self) -> Iterator[Servers]:
        """All that run at once: each is started once, so that a repeat is not one of the start."""
        tenants = [Servers(*percentages) for percentages in self.tenants]
        if self.time_sliced:
            tenants.insert(0, Servers(WHOLE, WHOLE, mps=False))
        yield from (Servers(percentage) for percentage in self.alone)
        # What a tenant has beside a neighbour is compared with what it has alone.
        own = dict.fromkeys(tenant.percentage for tenant in tenants)
        yield from (Servers(percentage) for percentage in own if percentage not in self.alone)
        yield from tenants

    def points(self, servers: Servers) -> Iterator[Point]:
        """What is measured on one of `servers`: every load once, then every load again."""
        percentage, neighbour, mps = servers.percentage, servers.neighbour, servers.mps
        tenant = neighbour is not None or percentage not in self.alone
        closed, opened = (self.tenant_closed, self.tenant_open) if tenant else (self.closed, self.open)
        for repeat in range(1, self.repeats + 1):
            yield from (Point(percentage, neighbour, "closed", level, repeat, mps) for level in closed)
            yield from (Point(percentage, neighbour, "open", level, repeat, mps) for level in opened)

    @property
    def all_points(self) -> list[Point]:
        return [point for servers in self.servers for point in self.points(servers)]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        raw: dict[str, Any] = json.loads(text)
        for name in ("alone", "closed", "open", "tenant_closed", "tenant_open"):
            raw[name] = tuple(raw[name])
        raw["tenants"] = tuple((own, other) for own, other in raw["tenants"])
        return cls(**raw)


# The levels reach from one request at a time to more than the GPU can serve: a load below that hides what a smaller
# share of the GPU costs.
PROFILES = {
    "quick": Plan(
        alone=(100, 50, 20, 10),
        tenants=((50, 50), (30, 70), (20, 80)),
        closed=(1, 16, 64),
        open=(8, 32),
        tenant_closed=(16,),
        tenant_open=(8,),
        time_sliced=False,
        repeats=2,
        seconds=4,
        warmup_seconds=1,
        drain_seconds=2,
        prompt_tokens=512,
        output_tokens=128,
        noise=64,
    ),
    # A chat, one caller at a time, beside a batch: who has to be limited, so that the chat is answered as if alone?
    "standard": Plan(
        alone=(100, 50, 20, 10),
        tenants=((100, 100), (100, 90), (10, 90), (50, 50)),
        closed=(1, 64),
        open=(16,),
        tenant_closed=(1,),
        tenant_open=(),
        time_sliced=True,
        repeats=3,
        seconds=10,
        warmup_seconds=1,
        drain_seconds=3,
        prompt_tokens=512,
        output_tokens=128,
        noise=64,
    ),
    "full": Plan(
        alone=(100, 80, 70, 50, 30, 20, 10, 7),
        tenants=((50, 50), (30, 70), (20, 80)),
        closed=(1, 4, 16, 64, 128),
        open=(1, 2, 4, 8, 16, 32, 64, 96),
        tenant_closed=(1, 16, 64),
        tenant_open=(2, 8, 16),
        time_sliced=True,
        repeats=5,
        seconds=30,
        warmup_seconds=5,
        drain_seconds=30,
        prompt_tokens=512,
        output_tokens=128,
        noise=64,
    ),
}
