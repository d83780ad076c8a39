"""The same suite on LlamaIndex's own OpenAILike, so that it is no mirror of our adapter.

It talks to a llama.cpp server of this process, which serves the larger file of the embedded pair.
What it fails is marked with what its source (llama-index-llms-openai) does there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import xllamacpp
from gguf import GGUFReader
from llama_index.llms.openai_like import OpenAILike

from glimp_integrations.weights import LARGE, ensure
from llamaindex_glimp.testing import FunctionCallingLLMTests

pytestmark = [
    pytest.mark.pair,
    pytest.mark.slow,
    # The OpenAI client leaves connections behind, of event loops that are gone.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def _template(path: Path) -> str:
    """The model's own, but for how calls are written: this model writes them into code fences."""
    field = GGUFReader(path).fields["tokenizer.chat_template"]
    own = bytes(field.parts[field.data[0]]).decode()
    told = own.replace("within <tool_call></tool_call> XML tags", "in a code fence")
    return told.replace("</tool_call>", "```").replace("<tool_call>", "```json")


class TestOpenAILike(FunctionCallingLLMTests):
    address: ClassVar[str]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def server(cls) -> Iterator[None]:
        path = ensure(LARGE)
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.model_alias = {LARGE.model}
        params.hostnames = ["127.0.0.1"]
        params.port = 0
        params.n_ctx = 8192
        params.n_parallel = 4
        params.kv_unified = True
        params.use_jinja = True
        params.chat_template = _template(path)
        params.api_keys = ["sk-nobody-may-read-this"]
        params.verbosity = 0
        server = xllamacpp.Server(params)
        cls.address = server.listening_address
        yield
        del server

    def make_llm(self) -> OpenAILike:
        return OpenAILike(
            model=LARGE.model,
            api_base=f"{self.address}/v1",
            api_key=self.secret,
            context_window=8192,
            is_chat_model=True,
            is_function_calling_model=True,
            should_use_structured_outputs=True,
            temperature=0,
            max_tokens=96,
            timeout=600,
            additional_kwargs={"stream_options": {"include_usage": True}},
        )

    @property
    def has_usage(self) -> bool:
        return True

    @property
    def has_tool_choice(self) -> bool:
        # llama.cpp knows "auto", "required" and "none"; a tool's name it takes for "auto".
        return False

    @property
    def secret(self) -> str:
        return "sk-nobody-may-read-this"
