"""One request to an OpenAI-compatible server, its tokens as they come, by the clock of this process."""

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

# Any model has these tokens, and none of them is one of its special ones, which are first or last.
TOKENS = range(1000, 10000)


@dataclass
class Answer:
    """What became of one request; times in seconds of time.perf_counter().

    `due` is when it was to be sent, `sent` when it was. Of an open loop both matter: a client that falls behind would
    otherwise hide what its server makes callers wait.
    """

    due: float
    sent: float = 0
    tokens: list[tuple[float, int]] = field(default_factory=list)
    """When tokens came, and how many at once."""
    failure: str | None = None
    counted_by: str = ""

    @property
    def count(self) -> int:
        return sum(number for _, number in self.tokens)

    @property
    def first(self) -> float:
        return self.tokens[0][0]

    @property
    def last(self) -> float:
        return self.tokens[-1][0]


def prompt(length: int, random_: random.Random) -> list[int]:
    """A prompt of that many tokens, of which no two are alike: a cache of prefixes would answer for the model."""
    return random_.choices(TOKENS, k=length)


def completion(model: str, prompt_: list[int], output_tokens: int, *, stream: bool = True) -> dict[str, Any]:
    """The body of a request for exactly that many tokens. `return_token_ids` and `ignore_eos` are vLLM's own."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt_,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def ask(session: aiohttp.ClientSession, url: str, body: Mapping[str, Any], answer: Answer) -> Answer:
    """Send a streaming request and keep when its tokens come. A failure is the answer's; nothing is raised for it."""
    answer.sent = time.perf_counter()
    try:
        async with session.post(f"{url}/v1/completions", json=body) as response:
            if response.status != 200:
                answer.failure = f"HTTP {response.status}: {(await response.text())[:200]}"
                return answer
            usage = await _read(response, answer)
    except (aiohttp.ClientError, TimeoutError, json.JSONDecodeError) as error:
        answer.failure = f"{type(error).__name__}: {error}"
        return answer
    if answer.failure is None and not answer.tokens:
        answer.failure = "no token came"
    if answer.failure is None and usage is not None and answer.count != usage:
        answer.failure = f"{answer.count} tokens came, and the server counted {usage}"
    return answer


async def _read(response: aiohttp.ClientResponse, answer: Answer) -> int | None:
    """Fill the answer from server-sent events; returns the server's own count of tokens, where it tells."""
    usage, rest = None, b""
    async for data in response.content.iter_any():
        now = time.perf_counter()
        *events, rest = (rest + data).split(b"\n\n")
        for event in events:
            for chunk in _chunks(event):
                if error := chunk.get("error"):
                    answer.failure = str(error)[:200]
                    return None
                if chunk.get("usage"):
                    usage = chunk["usage"]["completion_tokens"]
                number = _tokens(chunk, answer)
                if number:
                    answer.tokens.append((now, number))
    return usage


def _chunks(event: bytes) -> Iterator[dict[str, Any]]:
    for line in event.splitlines():
        if line.startswith(b"data:") and line != b"data: [DONE]":
            yield json.loads(line.removeprefix(b"data:"))


def _tokens(chunk: Mapping[str, Any], answer: Answer) -> int:
    """How many tokens a chunk brings: as many as ids, or one for a text where the server sends no ids."""
    number = 0
    for choice in chunk.get("choices") or ():
        ids = choice.get("token_ids")
        if ids is not None:
            answer.counted_by = "token ids"
            number += len(ids)
        elif choice.get("text"):
            answer.counted_by = answer.counted_by or "chunks"
            number += 1
    return number
