"""A fake OpenAI-compatible server for tests: real HTTP on loopback, no model behind it.

What it writes is a fixed function of the prompt: a script of tokens is followed from wherever
the text behind the generation prompt ends. Nothing it returns is a measurement.

The wire shapes copy llama.cpp's server (chat-shaped log-probabilities with bytes, ``/props``,
``/apply-template``, ``/tokenize``, ``/slots``, prompt progress) and vLLM (parallel lists,
``/tokenize`` with messages, ``/detokenize``, continuous usage).
"""

from __future__ import annotations

import codecs
import json
import math
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from glimp_integrations.backends.scripted import uniform
from wire.loopback import Handler, Loopback, Seen

__all__ = [
    "GENERATION_PROMPT",
    "THINKING_TEMPLATE",
    "Dropped",
    "FakeHandler",
    "FakeServer",
    "Fault",
    "Tok",
]

Tok = tuple[bytes, float]
"""A token's bytes and H in nats."""

GENERATION_PROMPT = "<|im_start|>assistant\n"
PLAIN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
THINKING_TEMPLATE = PLAIN_TEMPLATE + "{# strips '</think>' #}"
_PIECES = re.compile(r"<\|[a-z_]+\|>|</?think>|\s?\w+|\s+|.", re.S)
_PLAIN_PIECES = re.compile(r"\s?\w+|\s+|.", re.S)
_FOREVER = 10**9


@dataclass
class Fault:
    """Something that goes wrong, on requests of one route.

    ``status`` answers with a status and body. ``hang`` never answers; with ``tokens`` it goes
    silent after so many. ``drop`` breaks a chunked body off; ``close`` ends it cleanly but
    early; ``stream_error`` sends an error object. The first ``skip`` requests pass; ``times``
    are hit; ``chat_only`` spares the start-up probes, which hold no conversation; ``holding``
    hits the prompts that hold this text.
    """

    kind: Literal["status", "hang", "drop", "close", "stream_error"]
    route: str = "/v1/completions"
    status: int = 500
    body: Any = None
    tokens: int = 0
    skip: int = 0
    times: int = _FOREVER
    chat_only: bool = False
    holding: str = ""

    def hits(self, path: str, body: dict[str, Any]) -> bool:
        if path != self.route:
            return False
        if self.chat_only and GENERATION_PROMPT not in str(body.get("prompt")):
            return False
        if self.holding not in str(body.get("prompt")):
            return False
        if self.tokens >= body.get("max_tokens", _FOREVER):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times == 0:
            return False
        self.times -= 1
        return True


@dataclass
class FakeServer(Loopback):
    """A fake server; use it as a context manager.

    Attributes:
        engine: Which kind of server it imitates.
        logprobs: The most log-probabilities a request can have; with 0 the field stays null.
        refuse: Whether a request for more of them is answered with status 400.
        extra: Whether the sampled token is added as entry number k + 1.
        tempered: Whether log-probabilities are divided by the temperature.
        wraps: Whether the tokens of a chat template are counted around every prompt.
        usage: Whether token counts are reported.
        echo_key: Whether errors repeat the API key.
        delay: Seconds before every token.
        distance: Seconds before every short reply.
        busy: How many slots other clients use.
        lingers: Whether bodies stay open after their last event.
        missing: Routes that are answered with status 404.
        hushed: Prompts whose continuation begins with a part of a character, which is held back
            together with its log-probabilities.
        halves: How many of the likeliest tokens are parts of characters. vLLM gives them no text.
        faults: Failures to come.
        requests: All requests so far.
        aborted: Number of streams that were closed before their end.
        active: Number of streams that are running.
        peak: Highest number of streams that ran at the same time.
        accepted: Number of connections that were opened.
        finished: Number of streams that came to their end.
    """

    script: Sequence[Tok | str] = ()
    engine: Literal["llama.cpp", "vllm", "generic"] = "llama.cpp"
    model: str = "fake-model"
    template: str = PLAIN_TEMPLATE
    generation_prompt: str = GENERATION_PROMPT
    group: int = 1
    logprobs: int = 1000
    refuse: bool = False
    extra: bool = False
    tempered: bool = False
    wraps: bool = False
    usage: bool = True
    context_window: int | None = 4096
    api_key: str | None = None
    echo_key: bool = False
    delay: float = 0.0
    distance: float = 0.0
    busy: int = 0
    lingers: bool = False
    missing: set[str] = field(default_factory=set)
    hushed: set[str] = field(default_factory=set)
    halves: int = 0
    faults: list[Fault] = field(default_factory=list)
    requests: list[Seen] = field(default_factory=list)
    aborted: int = 0
    active: int = 0
    peak: int = 0
    accepted: int = 0
    finished: int = 0

    def __post_init__(self) -> None:
        self.handler = FakeHandler
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.connections: set[socket.socket] = set()
        self._tokens = [t if isinstance(t, tuple) else (t.encode(), 0.1) for t in self.script]
        self._vocabulary: list[str] = []

    # -- life --------------------------------------------------------------------------------

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        super().__exit__()
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def model_string(self) -> str:
        """The model string that names this server."""
        return f"openai:{self.model}@{self.url}"

    def seen(self, path: str) -> list[Seen]:
        """Requests of one route, in order."""
        with self.lock:
            return [r for r in self.requests if r.path == path]

    def completions(self) -> list[dict[str, Any]]:
        """Bodies of the completion requests that hold a conversation."""
        return [
            r.body
            for r in self.seen("/v1/completions")
            # A caller that was cancelled may leave before its body was sent.
            if GENERATION_PROMPT in r.body.get("prompt", "")
        ]

    def wait_for(self, condition: Callable[[], bool], seconds: float = 5.0) -> bool:
        give_up = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > give_up:
                return False
            time.sleep(0.005)
        return True

    # -- the "model" -------------------------------------------------------------------------

    def script_for(self, prompt: str) -> Sequence[Tok]:
        """What is written behind this prompt; the same for all, unless a subclass knows better."""
        return self._tokens

    def next_token(self, prompt: str, written: bytes) -> Tok:
        """``b""`` is the end of sequence."""
        _, marker, behind = prompt.rpartition(self.generation_prompt)
        if not marker:
            return _babble(prompt + written.decode(errors="ignore"))
        text = behind.encode() + written
        place = 0
        for data, entropy in self.script_for(prompt):
            if place + len(data) > len(text):
                start = len(text) - place
                whole = data[:start] == text[place:]
                return (data[start:], entropy if start == 0 else 0.1) if whole else (b"", 0.1)
            if text[place : place + len(data)] != data:
                return b"", 0.1
            place += len(data)
        return b"", 0.1

    def tokenize(self, text: str, *, special: bool = True) -> list[int]:
        pieces = (_PIECES if special else _PLAIN_PIECES).findall(text)
        with self.lock:
            for piece in pieces:
                if piece not in self._vocabulary:
                    self._vocabulary.append(piece)
            return [self._vocabulary.index(piece) for piece in pieces]

    def detokenize(self, ids: Sequence[int]) -> str:
        return "".join(self._vocabulary[i] for i in ids)

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        return text + self.generation_prompt


def _babble(text: str) -> Tok:
    """How a prompt without a conversation goes on: numbers are counted up, else a word."""
    match = re.search(r"(\d+)$", text)
    return (f" {int(match[1]) + 1}".encode() if match else b" word"), 0.5


class Dropped(Exception):
    """The connection is to be broken now."""


class FakeHandler(Handler):
    owner: FakeServer

    def setup(self) -> None:
        super().setup()
        with self.owner.lock:
            self.owner.connections.add(self.connection)
            self.owner.accepted += 1
            self.number = self.owner.accepted

    def finish(self) -> None:
        with self.owner.lock:
            self.owner.connections.discard(self.connection)
        try:
            super().finish()
        except OSError:
            return

    def handle(self) -> None:
        try:
            super().handle()
        except Dropped:
            self.close_connection = True

    def do_GET(self) -> None:
        time.sleep(self.owner.distance)
        super().do_GET()

    def serve(self, body: dict[str, Any]) -> None:
        fake = self.owner
        with fake.lock:
            request = self.seen(body)
            headers = request.headers
            fake.requests.append(request)
            fault = next((f for f in fake.faults if f.hits(self.path, body)), None)
        if self.path in fake.missing:
            return self.send_json(404, {"detail": "Not Found"})
        if fake.api_key and headers.get("authorization") != f"Bearer {fake.api_key}":
            return self._refuse(401, "Invalid API Key", headers)
        if fault is not None and fault.kind == "status":
            return self._refuse(fault.status, fault.body or "the fake fails on purpose", headers)
        if fault is not None and fault.kind == "hang" and fault.tokens == 0:
            return self._hang()
        route: Callable[[dict[str, Any]], None] | None = {
            "/v1/models": self._models,
            "/v1/completions": lambda body: self._completion(body, fault),
        }.get(self.path)
        if fake.engine == "llama.cpp":
            route = route or {
                "/props": self._props,
                "/apply-template": lambda b: self.send_json(
                    200, {"prompt": fake.render(b["messages"])}
                ),
                "/tokenize": self._tokenize_llama_cpp,
                "/slots": self._slots,
            }.get(self.path)
        elif fake.engine == "vllm":
            route = route or {
                "/tokenize": self._tokenize_vllm,
                "/detokenize": lambda b: self.send_json(
                    200, {"prompt": fake.detokenize(b["tokens"])}
                ),
            }.get(self.path)
        if route is None:
            return self.send_json(404, {"detail": "Not Found"})
        return route(body)

    # -- small routes ------------------------------------------------------------------------

    def _models(self, _: dict[str, Any]) -> None:
        owner = {"llama.cpp": "llamacpp", "vllm": "vllm"}.get(self.owner.engine, "somebody")
        entry: dict[str, Any] = {"id": self.owner.model, "object": "model", "owned_by": owner}
        if self.owner.engine == "vllm":
            entry["max_model_len"] = self.owner.context_window
        self.send_json(200, {"object": "list", "data": [entry]})

    def _props(self, _: dict[str, Any]) -> None:
        settings = {"n_ctx": self.owner.context_window}
        self.send_json(
            200,
            {"default_generation_settings": settings, "chat_template": self.owner.template},
        )

    def _slots(self, _: dict[str, Any]) -> None:
        working = self.owner.active + self.owner.busy
        self.send_json(200, [{"id": i, "is_processing": i < working} for i in range(4)])

    def _tokenize_llama_cpp(self, body: dict[str, Any]) -> None:
        special = body.get("parse_special", True)
        ids = self.owner.tokenize(body["content"], special=special)
        pieces = [{"id": i, "piece": self.owner.detokenize([i])} for i in ids]
        self.send_json(200, {"tokens": pieces if body.get("with_pieces") else ids})

    def _tokenize_vllm(self, body: dict[str, Any]) -> None:
        text = body.get("prompt") or self.owner.render(body["messages"])
        tokens = self.owner.tokenize(text)
        reply = {"tokens": tokens, "count": len(tokens), "max_model_len": self.owner.context_window}
        if body.get("return_token_strs"):
            reply["token_strs"] = [self.owner.detokenize([i]) for i in tokens]
        self.send_json(200, reply)

    # -- completions -------------------------------------------------------------------------

    def _completion(self, body: dict[str, Any], fault: Fault | None) -> None:
        fake = self.owner
        k = int(body.get("logprobs") or 0)
        if k > fake.logprobs and fake.refuse:
            text = f"Requested sample logprobs of {k}, which is greater than max allowed: "
            return self._refuse(400, text + str(fake.logprobs), {})
        prompt_tokens = 23 if fake.wraps else len(fake.tokenize(body["prompt"]))
        if fake.context_window is not None and prompt_tokens >= fake.context_window:
            return self._refuse(
                400,
                f"This model's maximum context length is {fake.context_window} tokens, but the "
                f"prompt has {prompt_tokens}",
                {},
            )
        self.begin_stream()
        with fake.lock:
            fake.active += 1
            fake.peak = max(fake.peak, fake.active)
        finished = False
        try:
            self._stream(body, min(k, fake.logprobs), prompt_tokens, fault)
            finished = True
        except Dropped:
            self.close_connection = True
        except OSError:  # the client has left, and what was sent to it was not read
            self.close_connection = True
            with fake.lock:
                fake.aborted += 1
        finally:
            with fake.lock:
                fake.active -= 1
                fake.finished += finished
        # Told to the client last: whoever it asks next is not at work beside this one.
        if finished:
            self.send_piece(b"data: [DONE]\n\n")
            if fake.lingers:
                self._hang()
            self.send_piece(b"")
        return None

    def _stream(
        self, body: dict[str, Any], k: int, prompt_tokens: int, fault: Fault | None
    ) -> None:
        fake, vllm = self.owner, self.owner.engine == "vllm"
        if body.get("return_progress") and fake.engine == "llama.cpp":
            progress = {"total": prompt_tokens, "cache": prompt_tokens // 2, "processed": 0}
            self._event({"choices": [_choice("")], "prompt_progress": progress})
        timed = body.get("timings_per_token") and fake.engine == "llama.cpp"
        done, finish = 0, None
        for tokens, text, finish in self._groups(body, prompt_tokens):
            self.check_client()
            if fault is not None and done >= fault.tokens:
                self._break(fault)
            done += len(tokens)
            choice = _choice(text, finish if vllm else None)
            if k and tokens and (vllm or text or not tokens[-1][0]):
                choice["logprobs"] = self._logprobs(tokens, text, k, body)
            if vllm and body.get("return_token_ids"):
                choice["token_ids"] = [7] * len(tokens)
            chunk: dict[str, Any] = {"choices": [choice]}
            if vllm and body.get("stream_options", {}).get("continuous_usage_stats"):
                chunk["usage"] = _usage(prompt_tokens, done)
            if timed:
                cached = prompt_tokens // 2
                counts = {"cache_n": cached, "prompt_n": prompt_tokens - cached}
                chunk["timings"] = {**counts, "predicted_n": done}
            # llama.cpp sends nothing for a token that only begins a character: it is kept back
            # together with its log-probabilities.
            if body["prompt"] not in fake.hushed and (text or finish or vllm):
                self._event(chunk)
        if not vllm:
            self._event({"choices": [_choice("", finish)]})
        if fake.usage:
            self._event({"choices": [], "usage": _usage(prompt_tokens, done)})

    def _groups(
        self, body: dict[str, Any], prompt_tokens: int
    ) -> Iterator[tuple[list[Tok], str, str | None]]:
        """Tokens that share a chunk, the text that is complete with them, why it ended."""
        fake, stops = self.owner, body.get("stop") or []
        decoder = codecs.getincrementaldecoder("utf-8")()
        written = b""
        group: list[Tok] = []
        text = ""
        for number in range(1, body["max_tokens"] + 1):
            if fake.delay:
                time.sleep(fake.delay)
            full = fake.context_window is not None and (
                prompt_tokens + number > fake.context_window
            )
            if full:
                yield group, text, "length"
                return
            data, entropy = fake.next_token(body["prompt"], written)
            if body.get("logit_bias"):  # a forced token; log-probabilities are from before it
                data = body["logit_bias"][0][0].encode()
            written += data
            group.append((data, entropy))
            text += decoder.decode(data)
            cut = min((text.find(s) for s in stops if s in text), default=None)
            if cut is not None or not data:
                yield group, text[:cut], "stop"
                return
            if number == body["max_tokens"]:
                yield group, text, "length"
                return
            if len(group) >= fake.group:
                yield group, text, None
                group, text = [], ""

    def _logprobs(
        self, tokens: list[Tok], text: str, k: int, body: dict[str, Any]
    ) -> dict[str, Any]:
        tables = [self._top(data, entropy, k, body) for data, entropy in tokens]
        if self.owner.engine == "llama.cpp":
            if len(tokens) == 1:
                return {"content": [_entry(text.encode() if text else b"", tables[0])]}
            return {
                "content": [_entry(d, table) for (d, _), table in zip(tokens, tables, strict=True)]
            }
        texts = [data.decode(errors="replace") or "<|im_end|>" for data, _ in tokens]
        named = [
            {
                "" if i < self.owner.halves else data.decode(errors="replace"): value
                for i, (data, value) in enumerate(table)
            }
            for table in tables
        ]
        if body.get("return_tokens_as_token_ids"):
            texts = ["token_id:0"] * len(tokens)
            named = [
                {f"token_id:{i}": value for i, (_, value) in enumerate(table)} for table in tables
            ]
        return {
            "tokens": texts,
            "token_logprobs": [table[0][1] for table in tables],
            "top_logprobs": named,
            "text_offset": [0] * len(tokens),
        }

    def _top(
        self, data: bytes, entropy: float, k: int, body: dict[str, Any]
    ) -> list[tuple[bytes, float]]:
        values = list(uniform(entropy)[:k])
        if self.owner.tempered and body["temperature"] > 0:
            values = [v / body["temperature"] for v in values]
            norm = math.log(math.fsum(math.exp(v) for v in values))
            values = [v - norm for v in values]
        if self.owner.extra:
            values.append(values[-1] - 5.0)
        names = [data, *(f" other{i}".encode() for i in range(len(values) - 1))]
        return list(zip(names, values, strict=True))

    def _break(self, fault: Fault) -> None:
        if fault.kind == "stream_error":
            message = fault.body or "the fake fails on purpose"
            if self.owner.echo_key:
                message = f"{message} {self.headers.get('Authorization')}"
            self._event({"error": {"message": message, "code": 500, "type": "server_error"}})
            self.send_piece(b"")
        elif fault.kind == "hang":
            self._hang()
        elif fault.kind == "close":
            self.send_piece(b"")
        raise Dropped

    # -- bytes -------------------------------------------------------------------------------

    def _hang(self) -> None:
        while not self.owner.stopping.wait(0.02):
            self.check_client()
        raise Dropped

    def check_client(self) -> None:
        readable, _, _ = select.select([self.connection], [], [], 0)
        if readable and not self.connection.recv(1, socket.MSG_PEEK):
            with self.owner.lock:
                self.owner.aborted += 1
            raise Dropped

    def _event(self, chunk: dict[str, Any]) -> None:
        chunk = {"id": "fake", "object": "text_completion", "model": self.owner.model, **chunk}
        self.send_piece(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _refuse(self, status: int, message: Any, headers: dict[str, str]) -> None:
        if self.owner.echo_key and isinstance(message, str):
            message = f"{message} (you sent {headers.get('authorization')})"
        if isinstance(message, bytes):  # what a proxy in front answers
            return self.send_bytes(status, message, "text/html")
        body = {"error": {"message": message, "type": "fake_error", "code": status}}
        return self.send_json(status, body)


def _choice(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


def _entry(shown: bytes, table: list[tuple[bytes, float]]) -> dict[str, Any]:
    """An entry of ``content``. llama.cpp writes the text of a whole character beside the id of
    its last token; among the top tokens that id stands with its own bytes.
    """
    tops = [_named(number, data, value) for number, (data, value) in enumerate(table)]
    return {**_named(0, shown, table[0][1]), "top_logprobs": tops}


def _named(number: int, data: bytes, logprob: float) -> dict[str, Any]:
    text = data.decode(errors="replace")
    return {"id": number, "token": text, "bytes": list(data), "logprob": logprob}


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
