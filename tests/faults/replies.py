"""What a healthy server answers: llama.cpp, vLLM, or a plain imitation of OpenAI's.

Sources: those named in ``glimp_integrations.backends.http.servers``.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from .texts import ASSISTANT, OPEN, RightText

__all__ = ["SHAPES", "TEMPLATE", "Model", "Refused"]

SHAPES = ("llama.cpp", "vllm", "generic")
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}\n{% endfor %}" + ASSISTANT
_OWNERS = {"llama.cpp": "llamacpp", "vllm": "vllm", "generic": "somebody"}
_PIECES = re.compile(r"<\|\w+\|>|\w+|\s+|.", re.S)
_WINDOW = 4096
_ENDLESS = 10**9


class Refused(Exception):
    """A request that a healthy server refuses: status and message."""


class Model:
    """A model behind a server: what it writes after a prompt, and what small routes answer.

    Args:
        role: ``"small"`` or ``"large"``.
        shape: One of ``SHAPES``.
        text: The right text.
    """

    def __init__(self, role: str, shape: str, text: RightText) -> None:
        self.role = role
        self.shape = shape
        self.text = text
        self.name = f"{role}-model"
        self.strays: list[str] = []
        self._rendered: list[str] = []
        self._ids: dict[int, str] = {}

    def small(self, method: str, route: str, body: dict[str, Any]) -> Any:
        """The reply of a small route.

        Raises:
            Refused: There is none.
        """
        routes: dict[str, Callable[[dict[str, Any]], Any]] = {"GET /v1/models": self._models}
        if self.shape == "llama.cpp":
            routes |= {
                "GET /props": self._props,
                "GET /slots": lambda _: [{"id": 0, "is_processing": False}],
                "POST /apply-template": lambda b: {"prompt": self._render(b["messages"])},
                "POST /tokenize": self._tokenize,
                "POST /detokenize": lambda b: {"content": self._text_of(b["tokens"])},
            }
        elif self.shape == "vllm":
            routes |= {"POST /tokenize": self._tokenize_vllm, "POST /detokenize": self._prompt_of}
        if f"{method} {route}" not in routes:
            raise Refused(404, "Not Found")
        self._check(body, content=str, prompt=str, tokens=list, messages=list)
        return routes[f"{method} {route}"](body)

    def _check(self, body: dict[str, Any], **types: type) -> None:
        """Refuse what is of another type; only a client that was misled sends it."""
        for name, kind in types.items():
            if not isinstance(body.get(name, kind()), kind):
                self.strays.append(f"{name}={body[name]!r}")
                raise Refused(422, f"{name} is no {kind.__name__}")

    def _models(self, _: dict[str, Any]) -> Any:
        entry: dict[str, Any] = {
            "id": self.name,
            "object": "model",
            "owned_by": _OWNERS[self.shape],
        }
        if self.shape == "vllm":
            entry["max_model_len"] = _WINDOW
        return {"object": "list", "data": [entry]}

    def _props(self, _: dict[str, Any]) -> Any:
        return {"default_generation_settings": {"n_ctx": _WINDOW}, "chat_template": TEMPLATE}

    def _render(self, messages: list[dict[str, Any]]) -> str:
        return "".join(f"<|{m['role']}|>\n{m['content']}\n" for m in messages) + ASSISTANT

    def _tokenize(self, body: dict[str, Any]) -> Any:
        pieces = _PIECES.findall(body["content"])
        if body.get("with_pieces"):
            return {"tokens": [{"id": self._id(piece), "piece": piece} for piece in pieces]}
        return {"tokens": [self._id(piece) for piece in pieces]}

    def _text_of(self, ids: list[int]) -> str:
        if unknown := [i for i in ids if i not in self._ids]:
            raise Refused(400, f"unknown ids {unknown}")
        return "".join(self._ids[i] for i in ids)

    def _tokenize_vllm(self, body: dict[str, Any]) -> Any:
        text = body.get("prompt") or self._render(body["messages"])
        pieces = _PIECES.findall(text)
        strings = {"token_strs": pieces} if body.get("return_token_strs") else {}
        tokens = [self._id(piece) for piece in pieces]
        return {"tokens": tokens, "count": len(tokens), "max_model_len": _WINDOW, **strings}

    def _prompt_of(self, body: dict[str, Any]) -> Any:
        if not body["tokens"]:
            raise Refused(400, "no tokens")
        return {"prompt": self._text_of(body["tokens"])}

    def _id(self, piece: str) -> int:
        number = zlib.crc32(piece.encode())
        self._ids[number] = piece
        return number

    # -- completions -------------------------------------------------------------------------

    def events(
        self, route: str, body: dict[str, Any], *, endless: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The chunks of a completion.

        Args:
            route: ``/v1/completions``, or ``/completion`` of llama.cpp.
            body: The request.
            endless: Whether ``max_tokens`` is ignored; where the text of a conversation ends, and
                one token was asked for, others follow for ever.

        Raises:
            Refused: The request is wrong.
        """
        if self.shape != "llama.cpp":
            if route != "/v1/completions":
                raise Refused(404, "Not Found")
            if body.get("model") != self.name:
                raise Refused(404, f"The model `{body.get('model')}` does not exist.")
        self._check(body, prompt=str)
        most: int = body.get("max_tokens") or body.get("n_predict") or 0
        tokens = self._tokens(body, most, endless=endless)
        make = self._native if route == "/completion" else self._completion
        return make(body, tokens, _ENDLESS if endless else most)

    def _tokens(
        self, body: dict[str, Any], most: int, *, endless: bool
    ) -> Iterator[tuple[str, bool]]:
        prompt = body["prompt"]
        _, marker, behind = prompt.rpartition(ASSISTANT)
        if not marker:  # a probe
            yield from ((f" word{i}", False) for i in range(_ENDLESS))
        written = behind.removeprefix(OPEN)
        if self.text.question not in prompt or not self.text.begins(written):
            self.strays.append(prompt)
        if body.get("logit_bias"):
            _, hard = next(self.text.after(written, self.role), ("", False))
            yield body["logit_bias"][0][0], hard
        else:
            yield from self.text.after(written, self.role)
        if endless and most == 1:
            yield from ((f" more{i}", False) for i in range(_ENDLESS))

    def _completion(
        self, body: dict[str, Any], tokens: Iterator[tuple[str, bool]], most: int
    ) -> Iterator[dict[str, Any]]:
        prompt_tokens, count, finish = self._length(body), 0, "length"
        common = {"id": "cmpl-1", "object": "text_completion", "model": self.name}
        while count < most:
            token, hard = next(tokens, (None, False))
            if token is None:
                finish = "stop"
                break
            count += 1
            choice = {"index": 0, "text": token, "logprobs": None, "finish_reason": None}
            if body.get("logprobs"):
                choice["logprobs"] = self._logprobs(token, hard, body)
            event: dict[str, Any] = {**common, "choices": [choice]}
            if self.shape == "vllm":
                choice["token_ids"] = [self._id(token)]
                event["usage"] = _usage(prompt_tokens, count)
            elif self.shape == "llama.cpp":
                event["timings"] = {"cache_n": 0, "prompt_n": prompt_tokens, "predicted_n": count}
            yield event
        last = {"index": 0, "text": "", "logprobs": None, "finish_reason": finish}
        yield {**common, "choices": [last]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**common, "choices": [], "usage": _usage(prompt_tokens, count)}

    def _native(
        self, body: dict[str, Any], tokens: Iterator[tuple[str, bool]], most: int
    ) -> Iterator[dict[str, Any]]:
        """llama.cpp's own route: the token that completes a stop string loses it."""
        text, count = "", 0
        common = {"stop": False, "tokens_evaluated": self._length(body)}
        while count < most:
            token, _ = next(tokens, (None, False))
            if token is None:
                break
            count += 1
            text += token
            found = [s for s in body.get("stop") or () if text.endswith(s)]
            shown = token[: len(token) - len(found[0])] if found else token
            event = {"content": shown, "tokens": [self._id(token)], "tokens_predicted": count}
            if found:
                end = {"stop": True, "stop_type": "word", "stopping_word": found[0]}
                yield {**common, **event, **end}
                return
            yield {**common, **event}
        end = {"stop": True, "stop_type": "limit" if count >= most else "eos"}
        rest = {"content": "", "tokens": [], "tokens_predicted": count, "stopping_word": ""}
        yield {**common, **rest, **end}

    def _length(self, body: dict[str, Any]) -> int:
        prompt: str = body["prompt"]
        return 1 if ASSISTANT not in prompt else len(_PIECES.findall(prompt))

    def _logprobs(self, token: str, hard: bool, body: dict[str, Any]) -> dict[str, Any]:
        k = body["logprobs"]
        rest = 0.01 / max(1, k - 1)
        values = [-math.log(k)] * k if hard else [math.log(0.99), *[math.log(rest)] * (k - 1)]
        names = [token, *(f" other{i}" for i in range(k - 1))]
        if self.shape == "llama.cpp":
            tops = [
                {"id": self._id(n), "token": n, "bytes": list(n.encode()), "logprob": v}
                for n, v in zip(names, values, strict=True)
            ]
            return {"content": [{**tops[0], "top_logprobs": tops}]}
        if body.get("return_tokens_as_token_ids"):
            names = [f"token_id:{self._id(name)}" for name in names]
        return {
            "tokens": names[:1],
            "token_logprobs": values[:1],
            "top_logprobs": [dict(zip(names, values, strict=True))],
            "text_offset": [0],
        }


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
