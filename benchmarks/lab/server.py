"""A scripted OpenAI-compatible server with given costs, in real time.

Wire shapes: llama.cpp (``tools/server/README.md``: chat-shaped log-probabilities, timings in every
chunk) and vLLM ("OpenAI-Compatible Server": parallel lists, token ids, continuous usage).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from aiohttp import web

from benchmarks.lab.script import OPENED, Script
from glimp_integrations.backends.scripted import uniform

__all__ = ["PROMPT_TOKENS", "Costs", "LabServer", "serve"]

PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Costs:
    """What things take; milliseconds.

    Attributes:
        decode: A generated token.
        prefill: A token of the prompt that is in no cache.
        round_trip: A request's way there and back; half of it each way.
        request: Work for a request besides (scheduling, tokenising), once.
        connect: A new connection, in round trips (TCP: 1; with TLS: 2).
        cancel: From noticing a closed connection to the device being free.
        logprob: Added to every token where log-probabilities are requested.
        batches: Streams at the same time cost one another nothing; else they take turns.
    """

    decode: float
    prefill: float = 0.0
    round_trip: float = 0.0
    request: float = 0.0
    connect: float = 0.0
    cancel: float = 0.0
    logprob: float = 0.0
    batches: bool = True


@dataclass
class _Counts:
    requests: int = 0
    generated: int = 0
    prefilled: int = 0
    busy: float = 0.0
    connections: int = 0


@dataclass
class LabServer:
    """One model on one device. Give two servers one lock for one shared device."""

    name: str
    scripts: Sequence[Script]
    costs: Costs
    shape: Literal["llama.cpp", "vllm"] = "vllm"
    device: asyncio.Lock = field(default_factory=asyncio.Lock)
    counts: _Counts = field(default_factory=_Counts)
    _cached: dict[int, int] = field(default_factory=dict)
    _others: dict[str, int] = field(default_factory=dict)
    _known: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    _ids: dict[str, int] = field(default_factory=dict)
    _streams: int = 0

    def __post_init__(self) -> None:
        self._texts = [script.text for script in self.scripts]
        self._places = [_places(script) for script in self.scripts]
        self._tables = {h: uniform(h) for script in self.scripts for h in script.entropies}

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/slots", self._slots),
                web.get("/counts", self._counts_route),
                web.post("/tokenize", self._tokenize),
                web.post("/detokenize", self._detokenize),
                web.post("/v1/completions", self._completions),
            ]
        )
        return app

    async def _models(self, request: web.Request) -> web.Response:
        await self._travel(request)
        owner = "vllm" if self.shape == "vllm" else "llamacpp"
        return web.json_response({"data": [{"id": self.name, "owned_by": owner}]})

    async def _slots(self, request: web.Request) -> web.Response:
        await self._travel(request)
        return web.json_response([{"is_processing": self._streams > 0}])

    async def _counts_route(self, request: web.Request) -> web.Response:
        return web.json_response(vars(self.counts))

    async def _tokenize(self, request: web.Request) -> web.Response:
        await self._travel(request)
        messages = (await request.json()).get("messages")
        if messages is None:
            return web.json_response({"tokens": list(range(PROMPT_TOKENS))})
        # A conversation is rendered by taking its tokens back: they are the letters.
        turns = (f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return web.json_response({"tokens": list(map(ord, "".join(turns) + OPENED))})

    async def _detokenize(self, request: web.Request) -> web.Response:
        await self._travel(request)
        tokens = (await request.json())["tokens"]
        return web.json_response({"prompt": "".join(map(chr, tokens))})

    async def _travel(self, request: web.Request) -> None:
        """The way here and back of a short answer, and what a new connection takes."""
        await asyncio.sleep((self.costs.round_trip + self._connect(request)) / 1000)

    def _connect(self, request: web.Request) -> float:
        if request.transport in self._known:
            return 0.0
        self._known.add(request.transport)
        self.counts.connections += 1
        return self.costs.connect * self.costs.round_trip

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        costs = self.costs
        body = await request.json()
        arrival = (
            time.perf_counter()
            + (self._connect(request) + costs.round_trip / 2 + costs.request) / 1000
        )
        await _until(arrival)
        self.counts.requests += 1
        try:
            self._where(body["prompt"])
        except ValueError as error:
            return web.json_response({"error": {"message": str(error)}}, status=400)
        mail: asyncio.Queue[tuple[float, Any] | None] = asyncio.Queue()
        work = asyncio.create_task(self._work(body, mail))
        if not body.get("stream"):
            return await self._whole(work, mail)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            while (item := await mail.get()) is not None:
                due, data = item
                await _until(due + costs.round_trip / 2000)
                await response.write(b"data: " + json.dumps(data).encode() + b"\n\n")
            await response.write(b"data: [DONE]\n\n")
        except (ConnectionError, asyncio.CancelledError):
            # The closed connection is news here half a round trip later.
            await asyncio.sleep(costs.round_trip / 2000)
            raise
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work
        return response

    async def _whole(self, work: asyncio.Task[None], mail: asyncio.Queue[Any]) -> web.Response:
        """The answer in one piece, for clients that do not stream."""
        await work
        text, chunks, due = "", [], 0.0
        while (item := mail.get_nowait()) is not None:
            due, chunk = item
            chunks.append(chunk)
            text += "".join(choice["text"] for choice in chunk["choices"])
        await _until(due + self.costs.round_trip / 2000)
        first, last = chunks[0]["choices"][0], chunks[-2]["choices"][0]
        choice = {**last, "text": text, "logprobs": first.get("logprobs")}
        return web.json_response({"choices": [choice], "usage": chunks[-1]["usage"]})

    async def _work(self, body: dict[str, Any], mail: asyncio.Queue[Any]) -> None:
        chain, place, has_script = self._where(body["prompt"])
        script = self.scripts[chain]
        seen = PROMPT_TOKENS + place if has_script else 1 + len(body["prompt"]) // 4
        reusable = self._cached.get(chain, 0) if has_script else self._others.get(body["prompt"], 0)
        cached = min(reusable, seen - 1)
        if not has_script:
            self._others[body["prompt"]] = seen
        limit, stops = body.get("max_tokens", 16), body.get("stop") or ()
        stops = [stops] if isinstance(stops, str) else list(stops)
        each = self.costs.decode + (self.costs.logprob if body.get("logprobs") else 0.0)
        self._streams += 1
        started, clock = time.perf_counter(), time.perf_counter()
        usage = {
            "prompt_tokens": seen,
            "completion_tokens": 0,
            "total_tokens": seen,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        made, finish, text = 0, "length", ""
        try:
            clock = await self._spend(clock, self.costs.prefill * (seen - cached))
            self.counts.prefilled += seen - cached
            while made < limit:
                clock = await self._spend(clock, each)
                token = script.tokens[place + made] if has_script else "?"
                entropy = script.entropies[place + made] if has_script else 0.2
                made += 1
                self.counts.generated += 1
                if has_script:
                    self._cached[chain] = max(self._cached.get(chain, 0), seen + made - 1)
                usage = {**usage, "completion_tokens": made, "total_tokens": seen + made}
                text += token
                met = next((stop for stop in stops if stop in text), None)
                if not token or met is not None:
                    finish = "stop"
                # The stop string is cut off, and what follows it in the last token.
                shown = token if met is None else token.removesuffix(text[text.index(met) :])
                chunk = self._chunk(shown, token, entropy, body, usage)
                if finish == "stop" or made == limit:
                    chunk["choices"][0].update(finish_reason=finish, stop_reason=met)
                mail.put_nowait((clock, chunk))
                if finish == "stop":
                    break
            mail.put_nowait((clock, {"choices": [], "usage": usage}))
            mail.put_nowait(None)
        except asyncio.CancelledError:
            await self._spend(time.perf_counter(), self.costs.cancel)
            raise
        finally:
            self._streams -= 1
            self.counts.busy += time.perf_counter() - started

    async def _spend(self, clock: float, milliseconds: float) -> float:
        """Compute: the device is busy, for this stream alone unless it batches."""
        if self.costs.batches:
            clock += milliseconds / 1000
            await _until(clock)
            return clock
        async with self.device:
            done = max(clock, time.perf_counter() - 0.002) + milliseconds / 1000
            await _until(done)
        return done

    def _where(self, prompt: str) -> tuple[int, int, bool]:
        question = re.search(r"chain (\d+)\b", prompt)
        written = prompt.rpartition(OPENED)[2]
        if question is None or OPENED not in prompt:
            return 0, 0, False
        chain = int(question[1])
        place = self._places[chain].get(len(written))
        if place is None or not self._texts[chain].startswith(written):
            raise ValueError(f"chain {chain} does not begin like this: ...{written[-80:]!r}")
        return chain, place, True

    def _chunk(
        self, shown: str, token: str, entropy: float, body: dict[str, Any], usage: dict[str, Any]
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "text": shown, "finish_reason": None}
        logprobs = self._tables.get(entropy) or uniform(entropy)
        number = self._ids.setdefault(token, len(self._ids))
        if self.shape == "vllm":
            choice["token_ids"] = [number]
            if body.get("logprobs"):
                choice["logprobs"] = {
                    "tokens": [token],
                    "top_logprobs": [{f"t{i}": v for i, v in enumerate(logprobs)}],
                }
            return {"choices": [choice], "usage": usage}
        if body.get("logprobs"):
            table = [
                {"id": number, "token": token, "bytes": list(token.encode()), "logprob": v}
                if i == 0
                else {"id": -i, "token": f"t{i}", "bytes": [116], "logprob": v}
                for i, v in enumerate(logprobs)
            ]
            choice["logprobs"] = {"content": [{**table[0], "top_logprobs": table}]}
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        timings = {
            "predicted_n": usage["completion_tokens"],
            "cache_n": cached,
            "prompt_n": usage["prompt_tokens"] - cached,
        }
        return {"choices": [choice], "timings": timings}


def _places(script: Script) -> dict[int, int]:
    """From the length of the text so far to the number of its tokens."""
    lengths = itertools.accumulate((len(token) for token in script.tokens[:-1]), initial=0)
    return {length: index for index, length in enumerate(lengths)}


async def _until(moment: float) -> None:
    delay = moment - time.perf_counter()
    if delay > 0:
        await asyncio.sleep(delay)


async def serve(servers: Sequence[LabServer], ports: Sequence[int]) -> None:
    """Serve on loopback until cancelled."""
    runners = []
    for server, port in zip(servers, ports, strict=True):
        runner = web.AppRunner(server.app(), handler_cancellation=True, access_log=None)
        await runner.setup()
        # All conversations of a crowd connect at the same moment.
        await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
        runners.append(runner)
    try:
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()
