"""The quick reader of JSON, held against Python's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations.backends.http.replies import ReplyError, parse

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(VALUES, st.booleans())
def test_reads_what_python_reads(value: Any, escaped: bool) -> None:
    text = json.dumps(value, ensure_ascii=escaped)
    read = parse(text.encode("utf-8", "surrogatepass"))
    assert read == json.loads(text)
    assert json.dumps(read) == json.dumps(json.loads(text))  # 1 and 1.0, True and 1 are equal


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "[-Infinity, Infinity]",
        "[1E400, -1e400, 1e-400]",
        "123456789012345678901234567890",
        '"\\ud83d\\ude00"',
        ' {"a":\t[ ]}\r\n',
        "\ufeff{}",
        "-0.0",
        "[0.1, 1e22, 5e-324]",
    ],
)
def test_reads_odd_documents_alike(text: str) -> None:
    assert repr(parse(text.encode())) == repr(json.loads(text.removeprefix("\ufeff")))


def test_half_a_pair_of_surrogates_is_replaced() -> None:
    assert parse(b'{"a": "\\ud83d!"}') == {"a": "\ufffd!"}


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": }', "[1,]", "01", "'a'", '"a\nb"', "nan", "1 2", "[1]]", "{1: 2}"]
)
def test_refuses_what_python_refuses(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - Python's own
        json.loads(text)
    with pytest.raises(ReplyError):
        parse(text.encode())
