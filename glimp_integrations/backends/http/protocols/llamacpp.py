r"""llama.cpp: text completions, and its own ``POST /completion`` where a stream has to end itself.

A stop string is cut off together with whatever else its token holds: ``.\n\n`` comes as ``.``, and
``\n\n\n`` as nothing. Its own route reports the id of every token, including those whose text is
held back, and why the stream ended. From these ``stop_strings`` puts the exact text together.

Sources: llama.cpp ``tools/server/README.md`` ("POST /completion": ``stop``, ``return_tokens``,
``stop_type``; "POST /detokenize"); observed with the server of xllamacpp 2026.10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glimp_integrations.backends.base import Report
from glimp_integrations.backends.http.chunks import note_counts, note_usage
from glimp_integrations.backends.http.protocols.base import ChunkParser, RequestContext, choice_of
from glimp_integrations.backends.http.protocols.completions import Completions
from glimp_integrations.backends.http.replies import NativeChunk, ReplyError

__all__ = ["LlamaCpp"]

_ENDS = {"eos": "stop", "limit": "length", "word": "stop_string"}
_GREEDY = {"top_k": 1, "top_p": 1.0}


class LlamaCpp(Completions):
    """Text completions, and llama.cpp's own route for requests with stop strings."""

    def path(self, root: str, context: RequestContext) -> str:
        return f"{root}/completion" if context.request.stop else super().path(root, context)

    def body(self, context: RequestContext) -> dict[str, Any]:
        body = super().body(context)
        if not context.request.temperature:
            # The likeliest token is the same without sorting the whole vocabulary for top-p. The
            # sorting takes a tenth of the time that a small model needs for a token.
            body |= {name: _GREEDY[name] for name in _GREEDY if name not in context.extra_body}
        if context.request.stop:
            body |= {
                "n_predict": body.pop("max_tokens"),
                "stop": list(context.request.stop),
                "return_tokens": True,
            }
            body.pop("stream_options", None)
        return body

    def parser(self, context: RequestContext) -> ChunkParser:
        stop = context.request.stop
        return NativeParser(stop) if stop else super().parser(context)


class NativeParser(ChunkParser):
    """Parses ``POST /completion``; choices also carry token ids and the stop string."""

    shape = NativeChunk

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop

    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report)
        note_counts(
            report,
            prompt_tokens=chunk.get("tokens_evaluated"),
            completion_tokens=chunk.get("tokens_predicted"),
        )
        finish = _ENDS.get(chunk.get("stop_type") or "") if chunk.get("stop") else None
        choice = choice_of(chunk.get("content") or "", None, finish)
        stop = chunk.get("stopping_word") or ""
        if stop not in self._stop and (stop or finish == "stop_string"):
            # It stands for text that was cut off, so a wrong one would become a part of the reply.
            raise ReplyError(f"stopping_word is {stop!r}, which is none of the request's `stop`")
        return [{**choice, "ids": chunk.get("tokens") or [], "stop_string": stop}]
