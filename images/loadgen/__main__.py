"""`python -m loadgen complete | sweep`: what pods run. Prints lines of JSON."""

import argparse
import asyncio
import json
import os
import random
import sys
import time

import aiohttp

from . import sweep
from .client import Answer, ask, completion, prompt


async def complete(url: str, model: str, prompt_tokens: int, output_tokens: int) -> None:
    """One completion as a whole and one as a stream; prints both."""
    tokens = prompt(prompt_tokens, random.Random(0))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        body = completion(model, tokens, output_tokens, stream=False)
        async with session.post(f"{url}/v1/completions", json=body) as response:
            sweep.say({"status": response.status, "reply": await response.json()})
        answer = await ask(session, url, completion(model, tokens, output_tokens), Answer(due=time.perf_counter()))
        streamed = {"tokens": answer.count, "deliveries": len(answer.tokens), "failure": answer.failure}
        sweep.say({"streamed": streamed, "countedBy": answer.counted_by})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadgen", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("complete", help="ask for a completion twice: as a whole and as a stream")
    one.add_argument("--url", required=True)
    one.add_argument("--model", required=True)
    one.add_argument("--prompt-tokens", type=int, default=32)
    one.add_argument("--output-tokens", type=int, default=16)
    commands.add_parser("sweep", help="measure what the variable SWEEP says, as JSON")
    chosen = parser.parse_args()
    if chosen.command == "sweep":
        return sweep.main(json.loads(os.environ["SWEEP"]))
    asyncio.run(complete(chosen.url, chosen.model, chosen.prompt_tokens, chosen.output_tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
