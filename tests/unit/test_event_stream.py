"""Decoding streams: the standard's examples, any pieces, limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends.http import event_stream
from glimp_integrations.backends.http.event_stream import Decoder, EventStream, JsonLines


def decode(decoder: Decoder, data: bytes, size: int = 1 << 20) -> list[bytes]:
    documents: list[bytes] = []
    for start in range(0, len(data), size):
        documents += decoder.feed(data[start : start + size])
    return [*documents, *decoder.rest()]


CASES = {
    "the standard's two lines": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [b"YHOO\n+2\n10"]),
    "the standard's comment, ids and spaces": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third\n\n",
        [b"first event", b"second event", b" third"],
    ),
    "an event without data is none": (b"id: 5\n\nretry: 100\n\nevent: ping\n\n: alive\n\n", []),
    "empty data is no document": (b"data\n\ndata:\ndata:\n\n", []),
    "named events": (b"event: message\ndata: 1\n\n", [b"1"]),
    "unknown fields": (b"errors: 2\ndatas: 3\ndata: 1\n\n", [b"1"]),
    "a byte order mark": (b"\xef\xbb\xbfdata: 1\n\n", [b"1"]),
    "a byte order mark later is text": (b"data: 1\n\n\xef\xbb\xbfdata: 2\n\n", [b"1"]),
    "carriage returns": (b"data: 1\r\rdata: 2\r\r", [b"1", b"2"]),
    "both": (b"data: 1\r\n\r\ndata: 2\r\n\r\n", [b"1", b"2"]),
    "line ends of other alphabets": ("data: a\u2028b\x85\n\n".encode(), ["a\u2028b\x85".encode()]),
    "what is cut off is left out": (b"data: 1\n\ndata: 2\n", [b"1"]),
    "nothing comes after the end": (b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n", [b"1"]),
}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("name", CASES)
def test_the_standard_in_any_pieces(name: str, size: int) -> None:
    data, documents = CASES[name]
    assert decode(EventStream(), data, size) == documents


def test_the_end_is_noted() -> None:
    decoder = EventStream()
    assert not decode(decoder, b"data: [DONE]\n\n") and decoder.done


@given(
    st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(str.strip)),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
    st.integers(1, 50),
)
def test_what_was_written_is_read(texts: list[str], end: bytes, size: int) -> None:
    documents = [json.dumps(text).encode() for text in texts]
    data = b"".join(b"data: " + document + end + end for document in documents)
    assert decode(EventStream(), data, size) == documents


@pytest.mark.parametrize("size", [1, 3, 17, 1000])
def test_lines_end_at_line_feeds_only(size: int) -> None:
    objects = [{"response": "é\u2028\x85 {"}, {"error": "late"}, {"done": True}]
    data = b"\n\n".join(json.dumps(o, ensure_ascii=False).encode() for o in objects)
    assert [json.loads(document) for document in decode(JsonLines(), data, size)] == objects


@pytest.mark.parametrize("data", [b"data: " + b"x" * 2000, b"data: x\n" * 2000])
def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    with pytest.raises(ValueError, match="longer than 1,000 bytes"):
        decode(EventStream(), data, 100)
