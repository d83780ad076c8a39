"""Chunks of a completion stream into tokens. Pure: dictionaries in, tokens out.

Two shapes of log-probabilities are in use on ``/v1/completions``: the legacy one of the OpenAI
API reference (parallel lists ``tokens`` and ``top_logprobs``, the latter keyed by token text) and
the one of chat completions (``content``: a list with ``bytes``), which llama.cpp sends here too.
Together's SDK describes a third one for streams: a number, and ``top_logprobs`` beside it. Other
protocols are translated into these (``protocols``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glimp_integrations.backends.base import Report, Token
from glimp_integrations.method.entropy import measurable

__all__ = [
    "complete",
    "counted",
    "note_usage",
    "shown",
    "tokens_of",
    "top_logprobs_of",
    "uncounted",
    "untempered",
]

_ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class _Entry:
    text: str
    data: bytes | None  # None: the server sends no bytes
    logprobs: tuple[float, ...] | None
    merged: bool = False  # stands for several tokens


def tokens_of(
    choice: Mapping[str, Any], *, k: int, token_per_chunk: bool, by_text: bool = False
) -> list[Token]:
    """The tokens of one choice of one chunk, with what log-probabilities came: see ``complete``.

    Args:
        choice: ``chunk["choices"][0]``.
        k: How many log-probabilities to keep per token; 0: none.
        token_per_chunk: Without log-probabilities, a chunk is one token.
        by_text: The likeliest tokens may be named by their text alone, and there is no better way
            to ask: see ``_named_by_text``.
    """
    text = choice.get("text") or ""
    entries = _entries(choice, k, by_text=by_text)
    if not entries:
        if not text:
            return []
        count = len(choice.get("token_ids") or ()) or 1
        exact = token_per_chunk or (count == 1 and bool(choice.get("token_ids")))
        return [Token(text, multi_token=not exact, count=count)]
    if len(entries) == 1:
        return [_single(text, entries[0])]
    if "".join(entry.text for entry in entries) == text:
        return [Token(entry.text, entry.logprobs) for entry in entries]
    # Text and tokens do not line up (characters of several tokens, hidden special tokens): only
    # the place of the first token is certain.
    return [Token(text, entries[0].logprobs, multi_token=True, count=len(entries))]


def _single(text: str, entry: _Entry) -> Token:
    if entry.merged:
        # A character of several tokens: the log-probabilities are those of its last token, not
        # of the place where it begins.
        return Token(text, None, count=2)
    if entry.data is None:
        begun = not text and "\ufffd" in entry.text
        return Token(text, entry.logprobs, pending=begun)
    if entry.data == text.encode():
        return Token(text, entry.logprobs)
    if not text:
        return Token("", entry.logprobs, pending=bool(entry.data))
    return Token(text, None, count=2)


def _entries(choice: Mapping[str, Any], k: int, *, by_text: bool = False) -> list[_Entry]:
    logprobs, beside = choice.get("logprobs"), choice.get("top_logprobs")
    named = _named_by_text if by_text else _named
    if isinstance(logprobs, int | float) and isinstance(beside, Mapping):
        return [_Entry(choice.get("text") or "", None, named(beside, k))]
    if not isinstance(logprobs, Mapping):
        return []
    if logprobs.get("content"):
        return [_chat_entry(item, k) for item in logprobs["content"]]
    texts = logprobs.get("tokens") or []
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    if isinstance(tops, Mapping):  # Together: of the only token
        tops = [tops]
    return [
        _Entry(text, None, named(top, k) if isinstance(top, Mapping) else None)
        for text, top in zip(texts, tops, strict=False)
    ]


def _chat_entry(item: Mapping[str, Any], k: int) -> _Entry:
    tops = item.get("top_logprobs") or ()
    data = None if item.get("bytes") is None else bytes(item["bytes"])
    # llama.cpp writes the whole character's bytes beside the id of its last token; among the top
    # tokens the id stands with its own bytes.
    merged = False
    if data is not None and item.get("id") is not None and not data.isascii():
        own = [t.get("bytes") for t in tops if t.get("id") == item["id"]]
        merged = not own or bytes(own[0] or ()) != data
    return _Entry(
        text=item.get("token") or "",
        data=data,
        logprobs=_top([t.get("logprob") for t in _distinct(tops, k)], k),
        merged=merged,
    )


def _distinct(tops: Sequence[Mapping[str, Any]], k: int) -> list[Mapping[str, Any]]:
    """Every token once: servers may list the sampled one again, beside the k likeliest."""
    if all(top.get("id") is not None for top in tops):
        return list({top["id"]: top for top in tops}.values())
    if len(tops) <= k:  # without ids, tokens of the same text may be two
        return list(tops)
    return list({(t.get("token"), str(t.get("bytes")), t.get("logprob")): t for t in tops}.values())


def _named(tops: Mapping[str, Any], k: int) -> tuple[float, ...] | None:
    return _top(list(tops.values()), k)


def _named_by_text(tops: Mapping[str, Any], k: int) -> tuple[float, ...] | None:
    """As ``_named``, where tokens without a text of their own may have fallen together.

    Halves of characters and hidden tokens are all called alike, and one name has one value. Where
    such a name is there and more than half of k are, the lost ones count as impossible: what they
    had is not known, and no request would tell.
    """
    found = _named(tops, k)
    if found is None or not any(not name or "\ufffd" in name for name in tops):
        return found
    lost = k - len(found)
    return found + (-math.inf,) * lost if 0 < lost < len(found) else found


def _top(values: list[Any], k: int) -> tuple[float, ...] | None:
    """The k highest, as servers may add the sampled token as one more."""
    numbers = [float(v) for v in values if _is_number(v)]
    return tuple(sorted(numbers, reverse=True)[:k]) if numbers and k else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def shown(choice: Mapping[str, Any], k: int, *, by_text: bool) -> list[tuple[float, ...]]:
    """The k highest log-probabilities of every token of a choice; empty where none came.

    Characters of several tokens are left out: they have no place of their own. So is text at the
    end, which a server may have kept back.

    The arguments are those of ``tokens_of``.
    """
    entries = _entries(choice, k, by_text=by_text)
    if not entries and choice.get("text") and not choice.get("finish_reason"):
        return [()]
    return [entry.logprobs or () for entry in entries if not entry.merged]


def top_logprobs_of(choice: Mapping[str, Any]) -> tuple[float, ...] | None:
    """All log-probabilities of the first token of a choice, highest first."""
    entries = _entries(choice, _ALL)
    return entries[0].logprobs if entries else None


CACHED = ("usage", "prompt_tokens_details", "cached_tokens")


def note_usage(chunk: Mapping[str, Any], report: Report, cached: Sequence[str] = CACHED) -> None:
    """Write what a chunk tells about its cost into the report.

    Args:
        chunk: As it was sent.
        report: Where to write.
        cached: Path to the number of cached prompt tokens; empty: it is not told.
    """
    usage = chunk.get("usage")
    if isinstance(usage, Mapping):
        for name in ("prompt_tokens", "completion_tokens"):
            if usage.get(name) is not None:
                setattr(report, name, usage[name])
    told: Any = chunk if cached else None
    for name in cached:
        told = told.get(name) if isinstance(told, Mapping) else None
    if told is not None:
        report.cached_tokens = told
    timings = chunk.get("timings")
    if isinstance(timings, Mapping) and "predicted_n" in timings:  # llama.cpp, in every chunk
        report.completion_tokens = timings["predicted_n"]
        report.cached_tokens = timings.get("cache_n", report.cached_tokens)
        if report.cached_tokens is not None and "prompt_n" in timings:
            report.prompt_tokens = report.cached_tokens + timings["prompt_n"]


def complete(tokens: list[Token], k: int) -> list[Token]:
    """Drop what are no log-probabilities of the k likeliest tokens, fewer than k among them."""
    return [
        token
        if token.logprobs is None or measurable(token.logprobs, k)
        else replace(token, logprobs=None)
        for token in tokens
    ]


def counted(tokens: list[Token], before: int | None, after: int | None) -> list[Token]:
    """Correct the count of a piece by the server's running total before and after it."""
    if len(tokens) != 1 or after is None:
        return tokens
    count = after - (before or 0)
    return [replace(tokens[0], count=count)] if count > 0 else tokens


def uncounted(tokens: list[Token], ahead: int, *, same: bool) -> tuple[list[Token], int]:
    """Take back what :func:`counted` gave to the first of several drafted tokens.

    Older builds of llama.cpp add all tokens that were accepted at once to their total, and then
    send them one by one.

    Args:
        tokens: Of one piece, counted.
        ahead: How many were counted before their text came.
        same: The server's total is what it was before this piece.

    Returns:
        The tokens, and how many are counted ahead now.
    """
    if len(tokens) != 1:
        return tokens, 0
    if same and ahead:
        return [replace(tokens[0], count=0)], ahead - 1
    return tokens, tokens[0].count - 1


def untempered(token: Token, temperature: float) -> Token:
    """A token as at temperature 1, from log-probabilities taken behind the temperature.

    Exact among the tokens that are shown: ``log p = z / T - c`` for every one of them. What the
    others would have together is lost, so the shown ones sum to 1.
    """
    if token.logprobs is None:
        return token
    scaled = [temperature * value for value in token.logprobs]
    norm = scaled[0] + math.log(math.fsum(math.exp(value - scaled[0]) for value in scaled))
    return replace(token, logprobs=tuple(value - norm for value in scaled))
