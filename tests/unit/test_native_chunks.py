"""Chunks of llama.cpp's own route."""

from __future__ import annotations

import pytest

from glimp_integrations.backends.base import Report
from glimp_integrations.backends.http.protocols.llamacpp import NativeParser
from glimp_integrations.backends.http.replies import ReplyError

END = {"content": "", "tokens": [1], "stop": True, "stop_type": "word", "stopping_word": "\n\n"}


def test_the_stop_string_is_given_back() -> None:
    (choice,) = NativeParser(["\n\n", "</think>"]).choices(END, Report())
    assert (choice["finish_reason"], choice["stop_string"]) == ("stop_string", "\n\n")


@pytest.mark.parametrize("word", ["\n", "\ufffd", "", None])
def test_a_stop_string_that_nobody_asked_for_becomes_no_text(word: str | None) -> None:
    with pytest.raises(ReplyError, match=r"stopping_word is .*none of the request's `stop`"):
        NativeParser(["\n\n", "</think>"]).choices({**END, "stopping_word": word}, Report())


def test_other_ends_have_none() -> None:
    end = {**END, "stop_type": "limit", "stopping_word": ""}
    (choice,) = NativeParser(["\n\n"]).choices(end, Report())
    assert (choice["finish_reason"], choice["stop_string"]) == ("length", "")
