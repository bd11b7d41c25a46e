"""A program that takes vLLM's place: starts, answers /health and /collective_rpc, and serves tokens; or fails."""

import asyncio
import os
import sys

from aiohttp import web

# Whoever starts it puts the checkout on PYTHONPATH.
from tests.unit.fake_openai import FakeServer


async def healthy(_request: web.Request) -> web.Response:
    return web.Response()


async def granted(_request: web.Request) -> web.Response:
    return web.json_response({"results": [os.environ.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "0")]})


async def serve(port: int) -> None:
    server = FakeServer(first=0.01, between=0.005)
    server.limit = None
    app = web.Application()
    app.router.add_post("/v1/completions", server.answer)
    app.router.add_get("/health", healthy)
    app.router.add_post("/collective_rpc", granted)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if "--fail" in sys.argv:
    print("INFO loading\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nERROR", file=sys.stderr)
    sys.exit(1)
if "--hang" in sys.argv:
    asyncio.run(asyncio.Event().wait())
(last,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--port=")][-1:]
asyncio.run(serve(int(last)))
