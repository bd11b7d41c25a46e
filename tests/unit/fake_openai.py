"""An OpenAI-compatible server that answers with tokens at known times."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class FakeServer:
    """`first` and `between` are seconds; `slots` is how many requests it works on at a time, None for all."""

    first: float = 0.05
    between: float = 0.01
    slots: int | None = None
    ids: bool = True
    status: int = 200
    lost: int = 0
    """Tokens that it counts but does not send."""
    error: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    """When tokens went, by time.perf_counter(): a busy machine waits longer than it is told to."""
    url: str = ""
    limit: asyncio.Semaphore | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if self.status != 200:
            return web.Response(status=self.status, text="no such model")
        if not body.get("stream"):
            count = body["max_tokens"]
            choice = {"text": "", "finish_reason": "length", "token_ids": list(range(count))}
            usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}
            return web.json_response({"object": "text_completion", "choices": [choice], "usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with self._slot():
            for event, wait in self._events(body["max_tokens"]):
                await asyncio.sleep(wait)
                if b'"choices": [{' in event:
                    self.sent.append(time.perf_counter())
                await response.write(b"data: " + event + b"\n\n")
        return response

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        if self.limit is None:
            yield
            return
        async with self.limit:
            yield

    def _events(self, count: int) -> Iterator[tuple[bytes, float]]:
        for number in range(count):
            if self.error and number == 1:
                yield json.dumps({"error": self.error}).encode(), 0
                return
            choice = {"token_ids": [number], "text": ""} if self.ids else {"text": "x"}
            yield json.dumps({"choices": [choice]}).encode(), self.first if number == 0 else self.between
        yield json.dumps({"choices": [], "usage": {"completion_tokens": count + self.lost}}).encode(), 0
        yield b"[DONE]", 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeServer"]:
        self.limit = asyncio.Semaphore(self.slots) if self.slots else None
        app = web.Application()
        app.router.add_post("/v1/completions", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()
