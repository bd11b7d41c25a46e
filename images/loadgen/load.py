"""Load of two shapes. Closed loop: so many requests are under way. Open loop: so many begin a second, come what may."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp

from .client import Answer, ask, completion, prompt


@dataclass
class Window:
    """The part of a load that counts: seconds of time.perf_counter(), and the requests that were due in it.

    `unfinished` are those of them that were given up. `all` also has the others, whose tokens came meanwhile.
    """

    begin: float
    end: float
    answers: list[Answer] = field(default_factory=list)
    all: list[Answer] = field(default_factory=list)
    unfinished: int = 0


@dataclass
class Noise:
    """What a neighbour was asked for: all requests that were begun, and those of them that were answered."""

    begun: list[Answer] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """Who is asked for what."""

    url: str
    model: str
    prompt_tokens: int
    output_tokens: int
    seed: int = 0

    def bodies(self) -> Callable[[], dict]:
        """Makes the body of the next request; the same ones for the same seed."""
        random_ = random.Random(self.seed)
        return lambda: completion(self.model, prompt(self.prompt_tokens, random_), self.output_tokens)


@asynccontextmanager
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """As many connections as there are requests: waiting for one here would be the client's doing."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as opened:
        yield opened


async def closed(load: Load, concurrency: int, warmup: float, seconds: float, drain: float) -> Window:
    """`concurrency` callers who ask again as soon as they have their answer."""
    body, window = load.bodies(), _window(warmup, seconds)

    async def caller() -> None:
        while (now := time.perf_counter()) < window.end:
            await _one(http, load, body(), now, window)

    async with session() as http:
        callers = [asyncio.create_task(caller()) for _ in range(concurrency)]
        await _drained(callers, window, drain)
    return window


async def opened(load: Load, rate: float, warmup: float, seconds: float, drain: float) -> Window:
    """Requests that begin at random times, `rate` a second on average, whether earlier ones are answered or not."""
    body, window = load.bodies(), _window(warmup, seconds)
    random_ = random.Random(load.seed + 1)
    due, begun = window.begin - warmup, []
    async with session() as http:
        while (due := due + random_.expovariate(rate)) < window.end:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            begun.append(asyncio.create_task(_one(http, load, body(), due, window)))
        await asyncio.sleep(max(0, window.end - time.perf_counter()))
        await _drained(begun, window, drain)
    return window


@asynccontextmanager
async def noise(load: Load, concurrency: int) -> AsyncIterator[Noise]:
    """Callers of another server for as long as the block lasts; yields their answers, which grow meanwhile."""
    body, made = load.bodies(), Noise()

    async def caller() -> None:
        while True:
            answer = Answer(due=time.perf_counter())
            # Its tokens count as they come, also those of a request that the end of the block cuts off.
            made.begun.append(answer)
            made.answers.append(await ask(http, load.url, body(), answer))

    async with session() as http:
        callers = [asyncio.create_task(caller()) for _ in range(concurrency)]
        try:
            yield made
        finally:
            await _cancelled(callers)


def _window(warmup: float, seconds: float) -> Window:
    begin = time.perf_counter() + warmup
    return Window(begin, begin + seconds)


async def _one(http: aiohttp.ClientSession, load: Load, body: dict, due: float, window: Window) -> None:
    counts = window.begin <= due < window.end
    window.unfinished += counts
    answer = await ask(http, load.url, body, Answer(due=due))
    window.unfinished -= counts
    window.all.append(answer)
    if counts:
        window.answers.append(answer)


async def _drained(tasks: list[asyncio.Task], window: Window, drain: float) -> None:
    """Wait for what is under way, until `drain` seconds after the window's end; give up the rest."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0, window.end + drain - time.perf_counter()))
    await _cancelled(tasks)


async def _cancelled(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task
