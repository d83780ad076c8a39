"""``Settings.tokenizer = llm.router.token_ids``, as docs/how-to/llamaindex.md has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import Document
from llama_index.core.utilities.token_counting import TokenCounter
from scripted_llms import scripted
from wire.fake_server import FakeServer
from wire.helpers import CHAIN

from glimp_integrations import ConfigError
from glimp_integrations.backends import OpenAIBackend
from llamaindex_glimp import GlimpRouterLLM


@pytest.fixture
def served() -> Iterator[Callable[..., GlimpRouterLLM]]:
    servers: list[FakeServer] = []

    def make(**options: Any) -> GlimpRouterLLM:
        servers.append(FakeServer(CHAIN, **options).__enter__())
        model = OpenAIBackend("fake-model", base_url=servers[-1].url)
        return GlimpRouterLLM(small=model, large=model)

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    before = Settings.tokenizer
    yield
    Settings.tokenizer = before


TEXT = "Anna lives in Graz. She is 34."


@pytest.mark.parametrize("engine", ["llama.cpp", "vllm"])
async def test_llamaindex_counts_as_the_large_model_does(served: Any, engine: Any) -> None:
    llm = served(engine=engine)
    Settings.tokenizer = llm.router.token_ids
    count = len(llm.router.token_ids(TEXT))
    assert count > 5
    assert TokenCounter().get_string_tokens(TEXT) == count
    nodes = SentenceSplitter(chunk_size=count + 20, chunk_overlap=0)([Document(text=TEXT)])
    assert [node.get_content() for node in nodes] == [TEXT]


@pytest.mark.parametrize(
    "options", [{"engine": "generic"}, {"engine": "llama.cpp", "missing": {"/tokenize"}}]
)
def test_a_server_without_that_route_is_named(served: Any, options: Any) -> None:
    llm = served(**options)
    Settings.tokenizer = llm.router.token_ids
    with pytest.raises(ConfigError, match="does not count tokens: pass tokenizer=") as caught:
        TokenCounter().get_string_tokens(TEXT)
    assert f"fake-model at {llm.large.url}" in str(caught.value)


def test_a_backend_that_cannot_count_is_named() -> None:
    with pytest.raises(ConfigError, match="big does not count tokens"):
        scripted("x").router.token_ids(TEXT)
