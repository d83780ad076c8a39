"""From chunks to tokens, without a server."""

from __future__ import annotations

import codecs
import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends.base import Report, Token
from glimp_integrations.backends.http.chunks import (
    correct_count,
    note_usage,
    tokens_of,
    top_logprobs_of,
    undo_temperature,
)


def entry(data: bytes, *logprobs: float) -> dict[str, Any]:
    tops = [{"token": "?", "bytes": [63], "logprob": value} for value in logprobs]
    return {
        "token": data.decode(errors="replace"),
        "bytes": list(data),
        "logprob": logprobs[0] if logprobs else 0.0,
        "top_logprobs": tops,
    }


def content(text: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"text": text, "logprobs": {"content": list(entries)}}


def legacy(text: str, tokens: list[str], tops: list[Any], **more: Any) -> dict[str, Any]:
    return {"text": text, "logprobs": {"tokens": tokens, "top_logprobs": tops}, **more}


def tokens(choice: dict[str, Any], k: int = 2, *, token_per_chunk: bool = False) -> list[Token]:
    return tokens_of(choice, k=k, token_per_chunk=token_per_chunk)


def test_content_shape_gives_the_token_and_its_logprobs_highest_first() -> None:
    assert tokens(content(" a", entry(b" a", -2.0, -0.5))) == [Token(" a", (-0.5, -2.0))]


def test_legacy_shape_gives_the_token_and_its_logprobs_highest_first() -> None:
    choice = legacy(" a", [" a"], [{" b": -2.0, " a": -0.5}])
    assert tokens(choice) == [Token(" a", (-0.5, -2.0))]


@pytest.mark.parametrize(
    "choice",
    [
        content("ab\n\n", entry(b"a", -0.1, -3.0), entry(b"b\n\n", -0.2, -2.0)),
        legacy("ab\n\n", ["a", "b\n\n"], [{"a": -0.1, "x": -3.0}, {"b\n\n": -0.2, "x": -2.0}]),
    ],
    ids=["content", "legacy"],
)
def test_chunk_of_several_tokens_that_line_up_is_taken_apart(choice: dict[str, Any]) -> None:
    assert tokens(choice) == [Token("a", (-0.1, -3.0)), Token("b\n\n", (-0.2, -2.0))]


@pytest.mark.parametrize(
    "choice",
    [
        content("é.", entry(b"\xc3", -0.1), entry(b"\xa9", -0.2), entry(b".", -0.3)),
        legacy("é.", ["\ufffd", "é", "."], [{"a": -0.1}, {"b": -0.2}, {"c": -0.3}]),
    ],
    ids=["content", "legacy"],
)
def test_chunk_that_does_not_line_up_stays_whole_with_the_first_place_only(
    choice: dict[str, Any],
) -> None:
    assert tokens(choice) == [Token("é.", (-0.1,), multi_token=True, count=3)]


def test_hidden_end_of_sequence_in_a_group_does_not_become_text() -> None:
    choice = legacy("ab", ["a", "b", "<|im_end|>"], [{"a": -0.1}] * 3)
    assert tokens(choice) == [Token("ab", (-0.1,), multi_token=True, count=3)]


def test_half_a_character_is_pending_in_content_shape() -> None:
    assert tokens(content("", entry(b"\xf0\x9f", -0.1))) == [Token("", (-0.1,), pending=True)]


def test_half_a_character_is_pending_in_legacy_shape() -> None:
    assert tokens(legacy("", ["\ufffd"], [{"\ufffd": -0.1}])) == [Token("", (-0.1,), pending=True)]


def test_character_completed_by_a_later_token_has_no_logprobs_of_its_own() -> None:
    # The first byte was kept back: -0.1 is not the distribution at the place of the character.
    assert tokens(content("é", entry(b"\xa9", -0.1))) == [Token("é", None, count=2)]


@pytest.mark.parametrize(
    ("own", "logprobs", "count"),
    [
        (b"\xa9", None, 2),
        ("é".encode(), (-0.1,), 1),
        (None, None, 2),
    ],
)
def test_llama_cpp_writes_the_whole_character_beside_its_last_token(
    own: bytes | None, logprobs: tuple[float, ...] | None, count: int
) -> None:
    # What the token itself is stands among the top tokens, under the same id.
    top = {"id": 5 if own else 6, "bytes": list(own or b"x"), "logprob": -0.1}
    item = {"id": 5, "token": "é", "bytes": [0xC3, 0xA9], "top_logprobs": [top]}
    assert tokens(content("é", item)) == [Token("é", logprobs, count=count)]


def test_token_that_completes_a_character_and_begins_the_next_is_no_place_to_glimpse() -> None:
    assert tokens(content("é", entry(b"\xa9\xc3", -0.1))) == [Token("é", None, count=2)]


def test_end_of_sequence_in_content_shape_is_empty_and_not_pending() -> None:
    assert tokens(content("", entry(b"", -0.1))) == [Token("", (-0.1,))]


def test_end_of_sequence_in_legacy_shape_is_empty_and_not_pending() -> None:
    assert tokens(legacy("", ["<|im_end|>"], [{"<|im_end|>": -0.1}])) == [Token("", (-0.1,))]


@pytest.mark.parametrize(
    "choice",
    [
        content("a", entry(b"a", -0.1, -1.0, -9.0)),
        legacy("a", ["a"], [{"x": -9.0, "a": -0.1, "b": -1.0}]),
    ],
)
def test_one_entry_more_than_asked_for_is_cut_off(choice: dict[str, Any]) -> None:
    assert tokens(choice, k=2) == [Token("a", (-0.1, -1.0))]


def test_fewer_entries_than_asked_for_are_kept() -> None:
    assert tokens(content("a", entry(b"a", -0.1)), k=20) == [Token("a", (-0.1,))]


def test_minus_infinity_is_kept_and_nan_is_not() -> None:
    choice = legacy("a", ["a"], [{"a": -0.1, "b": float("-inf"), "c": float("nan"), "d": None}])
    assert tokens(choice, k=4) == [Token("a", (-0.1, float("-inf")))]


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"tokens": [], "top_logprobs": []},
        {"tokens": None},
        "unexpected",
    ],
)
def test_without_logprobs_a_chunk_is_text_of_unknown_division(logprobs: Any) -> None:
    assert tokens({"text": "ab", "logprobs": logprobs}) == [Token("ab", multi_token=True)]


@pytest.mark.parametrize("tops", [None, [None], [{}]])
def test_legacy_tokens_without_top_logprobs_are_tokens_all_the_same(tops: Any) -> None:
    assert tokens(legacy("a", ["a"], tops)) == [Token("a", None)]


def test_a_server_that_sends_single_tokens_is_believed() -> None:
    assert tokens({"text": "ab"}, token_per_chunk=True) == [Token("ab")]


@pytest.mark.parametrize("text", ["", None])
def test_chunk_without_text_and_logprobs_is_nothing(text: str | None) -> None:
    assert tokens({"text": text, "logprobs": None, "finish_reason": "stop"}) == []


def test_one_token_id_makes_the_text_one_token() -> None:
    assert tokens({"text": "ab", "token_ids": [5]}) == [Token("ab")]


def test_several_token_ids_are_counted() -> None:
    assert tokens({"text": "ab", "token_ids": [5, 6, 7]}) == [
        Token("ab", multi_token=True, count=3)
    ]


def test_none_asked_for_means_none_kept() -> None:
    assert tokens(content("a", entry(b"a", -0.1)), k=0) == [Token("a", None)]


def test_all_logprobs_of_the_first_place_are_available_to_probes() -> None:
    choice = content("ab", entry(b"a", -3.0, -1.0, -2.0), entry(b"b", -9.0))
    assert top_logprobs_of(choice) == (-1.0, -2.0, -3.0)
    assert top_logprobs_of({"text": "a", "logprobs": None}) is None


@st.composite
def tokenizations(draw: st.DrawFn) -> list[bytes]:
    """A text cut into tokens at any byte, also inside characters."""
    text = draw(st.text(st.sampled_from("ab .\n<é日\U0001f600"), min_size=1, max_size=12))
    data = text.encode()
    cuts = draw(st.sets(st.integers(1, max(1, len(data) - 1))))
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def grouped(parts: list[bytes], sizes: list[int], shape: str) -> list[Token]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    result: list[Token] = []
    rest, turn = list(parts), 0
    while rest:
        size = sizes[turn % len(sizes)]
        group, rest, turn = rest[:size], rest[size:], turn + 1
        text = decoder.decode(b"".join(group))
        if shape == "content":
            choice = content(text, *(entry(part, -0.1) for part in group))
        elif shape == "legacy":
            names = [part.decode(errors="replace") for part in group]
            choice = legacy(text, names, [{"x": -0.1}] * len(group))
        else:
            choice = {"text": text, "token_ids": [1] * len(group)}
        result += tokens(choice)
    return result


SHAPES = st.sampled_from(["content", "legacy", "none"])
SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)


@given(tokenizations(), SIZES, SHAPES)
def test_however_tokens_are_grouped_their_text_is_the_text(
    parts: list[bytes], sizes: list[int], shape: str
) -> None:
    tokens = grouped(parts, sizes, shape)
    assert "".join(token.text for token in tokens) == b"".join(parts).decode()


@given(tokenizations(), SIZES, st.sampled_from(["content", "legacy"]))
def test_however_tokens_are_grouped_whole_characters_come_out_one_by_one(
    parts: list[bytes], sizes: list[int], shape: str
) -> None:
    texts = [part.decode(errors="replace") for part in parts]
    if any("\ufffd" in text for text in texts):
        parts = [text.encode() for text in b"".join(parts).decode()]
        texts = [part.decode() for part in parts]
    tokens = grouped(parts, sizes, shape)
    assert [token.text for token in tokens] == texts
    assert all(token.logprobs == (-0.1,) and not token.multi_token for token in tokens)


@given(tokenizations(), SIZES)
def test_token_ids_count_every_token_that_came_with_text(
    parts: list[bytes], sizes: list[int]
) -> None:
    whole = [text.encode() for text in b"".join(parts).decode()]
    assert sum(token.count for token in grouped(whole, sizes, "none")) == len(whole)


# -- usage -----------------------------------------------------------------------------------


def test_usage_of_the_last_chunk_is_noted() -> None:
    report = Report()
    note_usage({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, report)
    assert report == Report(prompt_tokens=7, completion_tokens=3)


def test_continuous_usage_is_overwritten_by_later_usage() -> None:
    report = Report()
    for count in (1, 2, 3):
        note_usage({"usage": {"prompt_tokens": 7, "completion_tokens": count}}, report)
    assert report.completion_tokens == 3


def test_cached_tokens_come_from_the_details() -> None:
    report = Report()
    details = {"cached_tokens": 4}
    note_usage({"usage": {"prompt_tokens": 7, "prompt_tokens_details": details}}, report)
    assert (report.prompt_tokens, report.cached_tokens) == (7, 4)


@pytest.mark.parametrize("details", [None, {}, {"cached_tokens": None}])
def test_cached_tokens_stay_unknown_where_not_told(details: Any) -> None:
    report = Report()
    note_usage({"usage": {"prompt_tokens": 7, "prompt_tokens_details": details}}, report)
    assert report.cached_tokens is None


def test_timings_of_llama_cpp_count_prompt_cache_and_completion() -> None:
    report = Report()
    note_usage({"timings": {"cache_n": 5, "prompt_n": 4, "predicted_n": 1}}, report)
    assert report == Report(prompt_tokens=9, cached_tokens=5, completion_tokens=1)
    note_usage({"timings": {"cache_n": 5, "prompt_n": 4, "predicted_n": 2}}, report)
    assert report.completion_tokens == 2


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        (None, 1, 1),
        (3, 6, 3),
        (None, None, 1),
        (6, 6, 1),
    ],
)
def test_running_total_corrects_the_count_of_a_piece(
    before: int | None, after: int | None, count: int
) -> None:
    assert correct_count([Token("x")], before, after) == [Token("x", count=count)]


def test_running_total_leaves_tokens_alone_that_came_one_by_one() -> None:
    several = [Token("a"), Token("b")]
    assert correct_count(several, 0, 5) == several


def test_usage_without_a_field_leaves_what_is_known() -> None:
    report = Report(prompt_tokens=9, cached_tokens=5)
    note_usage({"usage": {"completion_tokens": 2}}, report)
    assert report == Report(prompt_tokens=9, cached_tokens=5, completion_tokens=2)


def test_null_in_usage_leaves_what_is_known() -> None:
    report = Report(prompt_tokens=9, completion_tokens=2)
    note_usage({"usage": {"prompt_tokens": None, "completion_tokens": None}}, report)
    assert report == Report(prompt_tokens=9, completion_tokens=2)


@pytest.mark.parametrize("chunk", [{}, {"usage": None}, {"choices": []}, {"usage": "many"}])
def test_chunk_without_usage_changes_nothing(chunk: dict[str, Any]) -> None:
    report = Report(prompt_tokens=9)
    note_usage(chunk, report)
    assert report == Report(prompt_tokens=9)


@given(
    st.lists(st.floats(-12, 0), min_size=2, max_size=20, unique=True),
    st.floats(0.1, 2.0),
)
def test_entropy_behind_a_temperature_is_that_of_temperature_one(
    logits: list[float], temperature: float
) -> None:
    def softmax(values: list[float]) -> tuple[float, ...]:
        norm = math.log(math.fsum(math.exp(v) for v in values))
        return tuple(sorted((v - norm for v in values), reverse=True))

    raw, behind = softmax(logits), softmax([z / temperature for z in logits])
    back = undo_temperature(Token("a", behind), temperature).logprobs
    assert back == pytest.approx(raw, abs=1e-9)
    assert undo_temperature(Token("a"), temperature) == Token("a")
