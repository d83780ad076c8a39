r"""llama.cpp: text completions, and its own ``POST /completion`` where a stream has to end itself.

A stop string is cut off together with whatever else its token holds: ``.\n\n`` comes as ``.``, and
``\n\n\n`` as nothing. The own route tells the id of every token, also of those it keeps back, and
why the stream ended, so that ``stop_strings`` can put the exact text together.

Sources: llama.cpp ``tools/server/README.md`` ("POST /completion": ``stop``, ``return_tokens``,
``stop_type``; "POST /detokenize"); seen with the server of xllamacpp 2026.10.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glimp_integrations.backends.base import Report
from glimp_integrations.backends.http.chunks import note_usage
from glimp_integrations.backends.http.protocols.base import Ask, Reading, choice_of
from glimp_integrations.backends.http.protocols.completions import Completions

__all__ = ["LlamaCpp"]

_ENDS = {"eos": "stop", "limit": "length", "word": "stop_string"}
_GREEDY = {"top_k": 1, "top_p": 1.0}


class LlamaCpp(Completions):
    """See the module's docstring."""

    def path(self, root: str, ask: Ask) -> str:
        own = bool(ask.request.stop)
        return f"{root}/completion" if own else super().path(root, ask)

    def body(self, ask: Ask) -> dict[str, Any]:
        body = super().body(ask)
        if not ask.request.temperature:
            # The likeliest token is the same without sorting the whole vocabulary for top-p, which
            # takes a tenth of a small model's token.
            body |= {name: _GREEDY[name] for name in _GREEDY if name not in ask.extra}
        if ask.request.stop:
            body |= {
                "n_predict": body.pop("max_tokens"),
                "stop": list(ask.request.stop),
                "return_tokens": True,
            }
            body.pop("stream_options", None)
        return body

    def reading(self, ask: Ask) -> Reading:
        return super().reading(ask) if not ask.request.stop else _Own()


class _Own(Reading):
    def choices(self, chunk: Mapping[str, Any], report: Report) -> list[dict[str, Any]]:
        note_usage(chunk, report)
        report.prompt_tokens = chunk.get("tokens_evaluated", report.prompt_tokens)
        report.completion_tokens = chunk.get("tokens_predicted", report.completion_tokens)
        finish = _ENDS.get(chunk.get("stop_type") or "") if chunk.get("stop") else None
        choice = choice_of(chunk.get("content") or "", None, finish)
        stop = chunk.get("stopping_word") or ""
        return [{**choice, "ids": chunk.get("tokens") or [], "stop_string": stop}]
