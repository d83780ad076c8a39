"""Parsing the chunks of a completion stream into tokens. Pure: dictionaries in, tokens out.

Servers use two shapes of log-probabilities on ``/v1/completions``: the legacy one of the OpenAI
API reference (parallel lists ``tokens`` and ``top_logprobs``, the latter keyed by token text) and
the one of chat completions (``content``: a list with ``bytes``), which llama.cpp sends here, too.
Together's SDK describes a third one for streams: a number, with ``top_logprobs`` next to it. Other
protocols translate their streams into these shapes (``protocols``).

How servers group tokens makes this harder than it looks. A chunk may hold several tokens, and a
token may hold only a part of a character, so that its text comes later or together with that of
other tokens. The router needs log-probabilities for the exact place where a step begins. So a
token keeps its log-probabilities only where they certainly belong to it, and loses them otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from glimp_integrations.backends.base import Report, Token
from glimp_integrations.method.entropy import measurable
from glimp_integrations.method.tokens import count_of

__all__ = [
    "correct_count",
    "discount_drafted",
    "drop_unmeasurable",
    "logprobs_by_token",
    "note_counts",
    "note_usage",
    "tokens_of",
    "top_logprobs_of",
    "undo_temperature",
]

_ALL = 1_000_000


@dataclass(frozen=True, slots=True)
class _Entry:
    text: str
    data: bytes | None  # None: the server sends no bytes
    logprobs: tuple[float, ...] | None
    merged: bool = False  # the entry stands for several tokens


def tokens_of(
    choice: Mapping[str, Any], *, k: int, token_per_chunk: bool, by_text: bool = False
) -> list[Token]:
    """The tokens of one choice of one chunk, with the log-probabilities that came with them.

    There may be fewer log-probabilities than ``k``; see ``drop_unmeasurable``.

    Args:
        choice: ``chunk["choices"][0]``.
        k: How many log-probabilities to keep per token; 0 for none.
        token_per_chunk: Whether a chunk without log-probabilities is exactly one token.
        by_text: Whether the likeliest tokens may be named by their text alone, and the server
            offers no better way to ask; see ``_named_by_text``.
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
    # Text and tokens do not line up: some characters have several tokens, or special tokens are
    # hidden. Only the first token certainly begins where the chunk's text begins, so only its
    # log-probabilities are kept.
    return [Token(text, entries[0].logprobs, multi_token=True, count=len(entries))]


def _single(text: str, entry: _Entry) -> Token:
    """The token of a chunk with one entry."""
    if entry.merged:
        # A character of several tokens. The log-probabilities are those of its last token and not
        # those of the place where the character begins.
        return Token(text, None, count=2)
    if entry.data is None:
        # Without bytes, a replacement character and no text mean a part of a character.
        incomplete = not text and "\ufffd" in entry.text
        return Token(text, entry.logprobs, pending=incomplete)
    if entry.data == text.encode():
        return Token(text, entry.logprobs)
    if not text:
        # The token's bytes are there, but not its text: they are a part of a character.
        return Token("", entry.logprobs, pending=bool(entry.data))
    # Text and bytes differ: the text also holds the parts of a character that came before.
    return Token(text, None, count=2)


def _entries(choice: Mapping[str, Any], k: int, *, by_text: bool = False) -> list[_Entry]:
    logprobs, beside = choice.get("logprobs"), choice.get("top_logprobs")
    named = _named_by_text if by_text else _named
    if isinstance(beside, dict) and isinstance(logprobs, int | float):
        return [_Entry(choice.get("text") or "", None, named(beside, k))]
    if not isinstance(logprobs, dict):
        return []
    if logprobs.get("content"):
        return [_chat_entry(item, k) for item in logprobs["content"]]
    texts = logprobs.get("tokens") or []
    tops = logprobs.get("top_logprobs") or [None] * len(texts)
    if isinstance(tops, dict):  # Together sends no list for a single token
        tops = [tops]
    return [
        _Entry(text, None, named(top, k) if isinstance(top, dict) else None)
        for text, top in zip(texts, tops, strict=False)
    ]


def _chat_entry(item: Mapping[str, Any], k: int) -> _Entry:
    tops = item.get("top_logprobs") or ()
    data = None if item.get("bytes") is None else bytes(item["bytes"])
    # For a character of several tokens, llama.cpp sends the bytes of the whole character with the
    # id of its last token. Among the top tokens, the same id has only its own bytes. So a
    # difference between the two reveals a merged entry.
    merged = False
    if data is not None and item.get("id") is not None and not data.isascii():
        own_bytes = [t.get("bytes") for t in tops if t.get("id") == item["id"]]
        merged = not own_bytes or bytes(own_bytes[0] or ()) != data
    return _Entry(
        text=item.get("token") or "",
        data=data,
        logprobs=_top([t.get("logprob") for t in _distinct(tops, k)], k),
        merged=merged,
    )


def _distinct(tops: Sequence[Mapping[str, Any]], k: int) -> list[Mapping[str, Any]]:
    """Every token once: servers may list the sampled one again after the k likeliest."""
    if all(top.get("id") is not None for top in tops):
        return list({top["id"]: top for top in tops}.values())
    if len(tops) <= k:  # without ids, two entries with the same text may be two tokens
        return list(tops)
    return list({(t.get("token"), str(t.get("bytes")), t.get("logprob")): t for t in tops}.values())


def _named(tops: Mapping[str, Any], k: int) -> tuple[float, ...] | None:
    return _top(list(tops.values()), k)


def _named_by_text(tops: Mapping[str, Any], k: int) -> tuple[float, ...] | None:
    """As ``_named``, where tokens without a text of their own share one entry.

    The entries are keyed by text. Parts of characters and hidden tokens all have the same text, so
    the last one replaces the others, and fewer than k entries remain. If there is an entry of that
    kind and more than half of the k are there, the lost ones are filled in with probability 0.
    Their true values are unknown, and no request would return them.
    """
    logprobs = _named(tops, k)
    if logprobs is None or not any(not name or "\ufffd" in name for name in tops):
        return logprobs
    lost = k - len(logprobs)
    return logprobs + (-math.inf,) * lost if 0 < lost < len(logprobs) else logprobs


def _top(values: list[Any], k: int) -> tuple[float, ...] | None:
    """The k highest values; servers may send one more for the sampled token."""
    # Nearly always plain numbers, with none among them that is no number.
    plain = set(map(type, values)) == {float} and not math.isnan(sum(values))
    numbers = values if plain else [float(v) for v in values if _is_number(v)]
    return tuple(sorted(numbers, reverse=True)[:k]) if numbers and k else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def logprobs_by_token(
    choice: Mapping[str, Any], k: int, *, by_text: bool
) -> list[tuple[float, ...]]:
    """The k highest log-probabilities of every token of a choice; empty where none came.

    Entries for characters of several tokens are left out, because their log-probabilities belong
    to the last of these tokens. Text at the end of the stream is left out, because the server may
    have held it back.

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


CACHED_PATH = ("usage", "prompt_tokens_details", "cached_tokens")


def note_usage(
    chunk: Mapping[str, Any], report: Report, cached_path: Sequence[str] = CACHED_PATH
) -> None:
    """Copy the token counts of a chunk into the report.

    Args:
        chunk: The chunk as it was sent.
        report: Where to write.
        cached_path: Where the number of cached prompt tokens is, as a path of keys; empty if the
            server does not report it.
    """
    usage = chunk.get("usage")
    if isinstance(usage, dict):
        note_counts(
            report,
            prompt_tokens=usage.get("prompt_tokens"),
            completion_tokens=usage.get("completion_tokens"),
        )
    cached: Any = chunk if cached_path else None
    for name in cached_path:
        cached = cached.get(name) if isinstance(cached, dict) else None
    if cached is not None:
        note_counts(report, cached_tokens=cached)
    timings = chunk.get("timings")
    if isinstance(timings, dict) and "predicted_n" in timings:  # llama.cpp, in every chunk
        note_counts(
            report,
            completion_tokens=timings["predicted_n"],
            cached_tokens=timings.get("cache_n"),
        )
        read = count_of(timings.get("prompt_n"))
        if report.cached_tokens is not None and read is not None:
            report.prompt_tokens = report.cached_tokens + read


def note_counts(report: Report, **counts: Any) -> None:
    """Write numbers of tokens into the report; what cannot be one is left out.

    Args:
        report: Where to write.
        **counts: Fields of ``Report``, with what the server sent for them.
    """
    for name, value in counts.items():
        if (count := count_of(value)) is not None:
            setattr(report, name, count)


def drop_unmeasurable(tokens: list[Token], k: int) -> list[Token]:
    """Drop log-probabilities that are fewer than k, or not those of the k likeliest tokens."""
    for place, token in enumerate(tokens):
        if token.logprobs is not None and not measurable(token.logprobs, k):
            tokens[place] = replace(token, logprobs=None)
    return tokens


def correct_count(tokens: list[Token], before: int | None, after: int | None) -> list[Token]:
    """Correct the token count of a chunk by the server's running total before and after it."""
    if len(tokens) != 1 or after is None:
        return tokens
    count = after - (before or 0)
    if count <= 0 or count == tokens[0].count:
        return tokens
    return [replace(tokens[0], count=count)]


def discount_drafted(tokens: list[Token], ahead: int, *, same: bool) -> tuple[list[Token], int]:
    """Do not count drafted tokens twice.

    With speculative decoding, older builds of llama.cpp add all tokens that were accepted at once
    to their running total, and then send them one by one. So :func:`correct_count` has counted all
    of them with the first one, and those that follow count as 0.

    Args:
        tokens: The tokens of one chunk, after :func:`correct_count`.
        ahead: How many tokens were counted before their text came.
        same: Whether the server's total is the same as before this chunk.

    Returns:
        The tokens, and how many are counted ahead now.
    """
    if len(tokens) != 1:
        return tokens, 0
    if same and ahead:
        return [replace(tokens[0], count=0)], ahead - 1
    return tokens, tokens[0].count - 1


def undo_temperature(token: Token, temperature: float) -> Token:
    """A token with log-probabilities as at temperature 1, from those after the temperature.

    Exact up to a constant: ``log p = z / T - c`` for every token with logit ``z``. The probability
    of the tokens that are not among the top ones is lost, so the top ones are made to sum to 1.

    Args:
        token: A token with log-probabilities in nats, shape ``(k,)``, or without any.
        temperature: The sampling temperature, above 0.
    """
    if token.logprobs is None:
        return token
    scaled = [temperature * value for value in token.logprobs]
    top = max(scaled)  # which some server may not send first
    norm = top + math.log(math.fsum(math.exp(value - top) for value in scaled))
    return replace(token, logprobs=tuple(value - norm for value in scaled))
