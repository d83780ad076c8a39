"""A stop given as one text, the ways LlamaIndex and its users give it."""

from __future__ import annotations

from typing import Any

import pytest
from scripted_llms import WAYS, ask, scripted

STOP = "Observation:"


def said(response: Any) -> str:
    return response.message.content if hasattr(response, "message") else response.text


@pytest.mark.parametrize("stop", [STOP, [STOP], (STOP,)], ids=["text", "list", "tuple"])
@pytest.mark.parametrize("where", ["call", "setting"])
@pytest.mark.parametrize("tags", [True, False], ids=["tags", "no tags"])
@pytest.mark.parametrize("way", WAYS)
async def test_one_text_is_one_stop(way: str, tags: bool, where: str, stop: Any) -> None:
    script = ["The weather", " is nice.", " Obser", "vation: Rain."]
    options = {"stop": stop} if where == "setting" else {}
    llm = scripted(*script, tags=tags, **options)
    response = await ask(way, llm, **({} if options else {"stop": stop}))
    assert said(response).endswith("The weather is nice. ")
