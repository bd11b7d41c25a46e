"""Measurement of a plan: each server is started and put under each load; a line of JSON for each point."""

import asyncio
import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .figures import figures, tokens_per_second
from .load import Load, Noise, closed, noise, opened
from .plan import Plan, Point
from .server import Limits, Server, ServerFailed

PORT, NEIGHBOURS_PORT = 8100, 8200


def say(record: dict[str, Any]) -> None:
    print(json.dumps(record), flush=True)


async def sweep(
    plan: Plan, done: Iterable[str], command: Sequence[str], model: str, memory: str, start_seconds: float, folder: Path
) -> int:
    """Measure all points whose keys are not in `done`; returns how many servers did not start.

    A server that does not start is said with its cause, and the others are measured all the same.
    """
    known, failed = set(done), 0
    for chosen in plan.servers:
        points = [point for point in plan.points(chosen) if point.key not in known]
        if not points:
            continue
        async with AsyncExitStack() as stack:
            limits = [chosen.percentage] if chosen.neighbour is None else [chosen.percentage, chosen.neighbour]
            servers = [
                Server(command, Limits(percentage, memory) if chosen.mps else None, port, folder)
                for percentage, port in zip(limits, (PORT, NEIGHBOURS_PORT), strict=False)
            ]
            for server in servers:
                stack.push_async_callback(server.stop)
            try:
                # Neighbours start at once: what one takes of the GPU is its own, under its own limit.
                await asyncio.gather(*(server.start(start_seconds) for server in servers))
            except ServerFailed as error:
                failed += 1
                say({**asdict(chosen), "error": str(error)})
                continue
            for point in points:
                say(await measure(plan, point, servers, model))
    return failed


async def measure(plan: Plan, point: Point, servers: Sequence[Server], model: str) -> dict[str, Any]:
    """One point: its load, while the neighbour, if there is one, is busy."""
    # Every repeat has prompts of its own, and every run of a point the same ones.
    seed = zlib.crc32(point.key.encode())
    load = Load(servers[0].url, model, plan.prompt_tokens, plan.output_tokens, seed)
    times = (plan.warmup_seconds, plan.seconds, plan.drain_seconds)
    async with AsyncExitStack() as stack:
        noisy = Noise()
        if len(servers) > 1:
            other = Load(servers[1].url, model, plan.prompt_tokens, plan.output_tokens, seed + 1)
            noisy = await stack.enter_async_context(noise(other, plan.noise))
        if point.loop == "closed":
            window = await closed(load, int(point.level), *times)
        else:
            window = await opened(load, point.level, *times)
    first = servers[0]
    beside = len(servers) > 1
    return {
        "key": point.key,
        "percentage": point.percentage,
        "neighbour": point.neighbour,
        "loop": point.loop,
        "level": point.level,
        "repeat": point.repeat,
        "multiprocessors": first.multiprocessors,
        "mps": point.mps,
        "neighbourMultiprocessors": servers[1].multiprocessors if beside else None,
        "startSeconds": first.start_seconds,
        "neighbourRequests": sum(answer.failure is None for answer in noisy.answers),
        "neighbourOutputTokensPerSecond": tokens_per_second(noisy.begun, window) if beside else None,
        **figures(window),
    }


def main(arguments: dict[str, Any]) -> int:
    """`arguments` is what the Job's environment says, as JSON."""
    plan = Plan.from_json(json.dumps(arguments["plan"]))
    folder = Path(arguments["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    words = ("done", "command", "model", "memory", "start_seconds")
    failed = asyncio.run(sweep(plan, **{word: arguments[word] for word in words}, folder=folder))
    if failed:
        print(f"{failed} servers did not start; the lines with an error have the causes", file=sys.stderr)
    say({"end": True, "failed": failed})
    return 0
