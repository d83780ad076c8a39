"""Servers in the wire shapes of Ollama, TGI and chat services, whose "model" follows a script.

What they write is a function of the text they are to continue, as in ``fake_server``. The chat
services differ in faults a real one may have: they trim the text, start anew, close a thought, or
think again behind their answer.
"""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from glimp_integrations.backends.scripted import uniform
from wire.fake_server import GENERATION_PROMPT, FakeServer, Tok
from wire.loopback import Handler, Loopback, Seen

__all__ = ["Fault", "Scripted"]

Fault = Literal["trims", "restarts", "closes", "thinks_again", "silent", None]
OPEN, CLOSE = "<think>", "</think>"


@dataclass
class Scripted(Loopback):
    """Use it as a context manager; ``base`` is its base URL."""

    script: Sequence[Tok | str]
    wire: Literal["ollama", "tgi", "deepseek", "mistral", "openrouter"]
    fault: Fault = None
    window: int = 4096
    cached: bool = True
    version_only: bool = False
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.handler = _Handler
        self.lock = threading.Lock()
        self.model = FakeServer(self.script)

    @property
    def base(self) -> str:
        return self.root + {"mistral": "/v1", "openrouter": "/api/v1"}.get(self.wire, "")

    def bodies(self, path: str) -> list[Any]:
        with self.lock:
            return [seen.body for seen in self.seen if seen.path.endswith(path)]

    def tokens(self, prompt: str, most: int) -> Iterator[tuple[bytes, float, bool, bool]]:
        """Bytes, H, whether this is the last token, and whether the sequence ends with it."""
        written = b""
        for number in range(1, most + 1):
            data, entropy = self.model.next_token(prompt, written)
            written += data
            yield data, entropy, number == most or not data, not data
            if not data:
                return


class _Handler(Handler):
    owner: Scripted

    def serve(self, body: dict[str, Any]) -> None:
        server = self.owner
        with server.lock:
            server.seen.append(self.seen(body))
        answers: dict[str, Any] = {}
        if server.wire == "ollama":
            answers = self._ollama(body)
        elif server.wire == "tgi":
            answers = self._tgi(body)
        elif self.path.endswith("/chat/completions"):
            return self._stream(self._chat(body), lines=False)
        answer = answers.get(self.path)
        if answer is None:
            return self.send_json(404, {"error": "page not found"})
        if isinstance(answer, Iterator):
            return self._stream(answer, lines=server.wire == "ollama")
        return self.send_json(200, answer)

    # -- shapes ------------------------------------------------------------------------------

    def _ollama(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.owner
        if self.path == "/api/generate":
            return {self.path: self._ollama_stream(body)}
        name = "scripted:1b"
        info = {"general.architecture": "qwen3", "qwen3.context_length": 32768}
        rendered = server.model.render(body["messages"]) if self.path == "/api/chat" else ""
        running = {"model": name, "context_length": server.window}
        own = {
            "/api/version": {"version": "0.12.11"},
            "/api/tags": {"models": [{"name": name, "model": name}]},
            "/api/show": {"model_info": info, "capabilities": ["completion"]},
            "/api/ps": {"models": [running] if server.bodies("/api/generate") else []},
            "/api/chat": {"message": {}, "_debug_info": {"rendered_template": rendered}},
        }
        if not server.version_only:
            entry = {"id": name, "object": "model", "owned_by": "library"}
            own["/v1/models"] = {"object": "list", "data": [entry]}
        return own

    def _ollama_stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        k = body.get("top_logprobs", 0) if body.get("logprobs") else 0
        decoder = codecs.getincrementaldecoder("utf-8")()
        held: list[dict[str, Any]] = []
        done, last = 0, False
        for data, entropy, _, ended in self.owner.tokens(
            body["prompt"], body["options"]["num_predict"]
        ):
            last, done = ended, done + 1
            if ended:  # it shows no log-probabilities of an end of sequence
                break
            text = decoder.decode(data)
            if k:
                held.append(_entry(data, uniform(entropy)[:k]))
            if text:
                yield {"response": text, "done": False, **({"logprobs": held} if held else {})}
                held = []
        prompt = len(self.owner.model.tokenize(body["prompt"]))
        counts = {"prompt_eval_count": prompt, "eval_count": done}
        yield {"response": "", "done": True, "done_reason": "stop" if last else "length", **counts}

    def _tgi(self, body: dict[str, Any]) -> dict[str, Any]:
        server = self.owner
        if self.path == "/generate_stream":
            return {self.path: self._tgi_stream(body)}
        own: dict[str, Any] = {
            "/info": {"model_id": "scripted/tgi", "max_total_tokens": server.window},
            "/tokenize": [{"id": 5, "text": "a", "start": 0, "stop": 1}],
        }
        if self.path == "/chat_tokenize":
            text = server.model.render(body["messages"])
            ids = [
                {"id": i, "text": "?", "start": 0, "stop": 1} for i in server.model.tokenize(text)
            ]
            own[self.path] = {"templated_text": text, "tokenize_response": ids}
        return own

    def _tgi_stream(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        k = body["parameters"].get("top_n_tokens", 0)
        decoder = codecs.getincrementaldecoder("utf-8")()
        prompt = len(self.owner.model.tokenize(body["inputs"]))
        for number, (data, entropy, last, ended) in enumerate(
            self.owner.tokens(body["inputs"], body["parameters"]["max_new_tokens"]), 1
        ):
            token = {"id": number, "text": "</s>" if ended else decoder.decode(data)}
            chunk: dict[str, Any] = {"index": number, "token": {**token, "special": ended}}
            if k:
                values = uniform(min(entropy, 1.5), k)
                chunk["top_tokens"] = [{"id": n, "logprob": v} for n, v in enumerate(values)]
            if last:
                reason = "eos_token" if ended else "length"
                counts = {"generated_tokens": number, "input_length": prompt}
                chunk["details"] = {"finish_reason": reason, **counts}
            yield chunk

    def _chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        server, messages = self.owner, list(body["messages"])
        thought, answer = "", ""
        if messages[-1]["role"] == "assistant":
            thought, answer = _partial(messages.pop())
        if server.fault == "trims":
            thought, answer = thought.rstrip(), answer.rstrip()
        if server.fault == "restarts":
            thought = answer = ""
        thinks = body.get("thinking", {}).get("type") == "enabled" or "prompt_mode" in body
        text = f"{OPEN}\n{thought}" if thinks else ""
        if thinks and answer:
            text = text.removesuffix(CLOSE) + (CLOSE if CLOSE not in text else "") + "\n\n"
        prompt = GENERATION_PROMPT + text + answer
        if server.fault == "thinks_again":
            yield _delta(server.wire, "Hm, let me see.", "")
        if server.wire == "mistral" and (thought or answer):  # it repeats the prefix
            yield _delta(server.wire, thought, "")
            yield _delta(server.wire, "", answer)
        thinking = thinks and not answer and CLOSE not in text
        yield from self._deltas(body, prompt, thinking=thinking, fresh=CLOSE in text)

    def _deltas(
        self, body: dict[str, Any], prompt: str, *, thinking: bool, fresh: bool
    ) -> Iterator[dict[str, Any]]:
        server, done, finish = self.owner, 0, "length"
        decoder = codecs.getincrementaldecoder("utf-8")()
        if server.fault == "closes":
            thinking = False
        for data, _, _, ended in server.tokens(prompt, body["max_tokens"]):
            done += 1
            finish = "stop" if ended else "length"
            text = decoder.decode(data)
            if thinking and text == CLOSE:
                thinking, fresh = False, True
                continue
            text = text.lstrip("\n") if fresh else text
            fresh = fresh and not text
            if text and server.fault != "silent":
                yield _delta(server.wire, text if thinking else "", "" if thinking else text)
        words = len(server.model.tokenize(prompt))
        usage: dict[str, Any] = {"prompt_tokens": words, "completion_tokens": done}
        if server.cached:
            usage["prompt_cache_hit_tokens"] = words // 2
            usage["prompt_tokens_details"] = {"cached_tokens": words // 2}
        last = {"index": 0, "delta": {"content": ""}, "finish_reason": finish}
        yield {"choices": [last], "usage": usage}

    # -- bytes -------------------------------------------------------------------------------

    def _stream(self, chunks: Iterator[dict[str, Any]], *, lines: bool) -> None:
        self.begin_stream("application/x-ndjson" if lines else "text/event-stream")
        for chunk in chunks:
            data = json.dumps(chunk).encode()
            self.send_piece(data + b"\n" if lines else b"data: " + data + b"\n\n")
        if not lines:
            self.send_piece(b"data: [DONE]\n\n")
        self.send_piece(b"")


def _entry(data: bytes, values: Sequence[float]) -> dict[str, Any]:
    tops = [{"token": "?", "logprob": value} for value in values]
    shown = data.decode(errors="replace")
    return {"token": shown, "bytes": list(data), "logprob": values[0], "top_logprobs": tops}


def _partial(message: dict[str, Any]) -> tuple[str, str]:
    """Thought and answer of the message to be continued; a closed thought ends with its tag."""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message["content"]
    if isinstance(content, str):
        return thought, content
    answer = ""
    for chunk in content:
        if chunk["type"] == "thinking":
            thought = "".join(inner["text"] for inner in chunk["thinking"])
            thought += CLOSE if chunk["closed"] else ""
        else:
            answer += chunk["text"]
    return thought, answer


def _delta(wire: str, thought: str, answer: str) -> dict[str, Any]:
    delta: dict[str, Any] = {"role": "assistant", "content": answer}
    if wire == "mistral" and thought:
        inner = [{"type": "text", "text": thought}]
        delta["content"] = [{"type": "thinking", "thinking": inner}]
    elif thought:
        delta["reasoning" if wire == "openrouter" else "reasoning_content"] = thought
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
