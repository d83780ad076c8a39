"""The LLM as an object: its metadata, and how it is stored and sent to other processes."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import pytest
from llama_index.core.base.llms.types import LLMMetadata
from llama_index.core.llms.function_calling import FunctionCallingLLM

from llamaindex_glimp.testing.base import Suite, ask, recorded

__all__ = ["StoringTests"]


TEXTS: dict[str, Callable[[FunctionCallingLLM], str]] = {
    "repr": repr,
    "str": str,
    "pickle": lambda llm: pickle.dumps(llm).decode("latin-1"),
    "to_dict": lambda llm: str(llm.to_dict()),
    "to_json": lambda llm: llm.to_json(),
}


class StoringTests(Suite):
    """Metadata, payloads, pickles, dictionaries."""

    def test_metadata(self, llm: FunctionCallingLLM) -> None:
        """``PromptHelper.from_llm_metadata`` subtracts ``num_output`` from the window."""
        metadata = llm.metadata
        assert isinstance(metadata, LLMMetadata)
        assert metadata.context_window > metadata.num_output > 0
        assert metadata.is_chat_model
        assert metadata.is_function_calling_model
        assert metadata.model_name.strip()

    def test_class_name(self, llm: FunctionCallingLLM) -> None:
        """``BaseComponent`` writes it into every dictionary, to find the class again."""
        name = type(llm).class_name()
        assert name.strip()
        assert name not in ("base_component", "custom_llm")
        assert llm.to_dict()["class_name"] == name

    def test_payload(self, llm: FunctionCallingLLM) -> None:
        """``llm_chat_callback`` sends ``to_payload()`` to every observer, and those write JSON."""
        payload = llm.to_payload()
        assert payload["class_name"] == type(llm).class_name()
        assert json.loads(json.dumps(payload, default=str))

    def test_observers_see_no_secret(self, llm: FunctionCallingLLM) -> None:
        """``BaseLLM.to_payload`` promises that it never contains credentials."""
        secret = _secret(self)
        assert secret not in json.dumps(llm.to_payload(), default=str)
        with recorded() as events:
            llm.chat(ask("Say yes."))
        assert events
        assert not [event for event in events if secret in str(event.model_dump())]

    def test_pickle(self, llm: FunctionCallingLLM) -> None:
        """``IngestionPipeline`` with ``num_workers`` sends extractors' LLMs to processes."""
        _check_copy(llm, pickle.loads(pickle.dumps(llm)))  # noqa: S301 - its own bytes

    def test_pickle_after_use(self, llm: FunctionCallingLLM) -> None:
        """The same, when clients are open already."""
        llm.chat(ask("Say yes."))
        copy = pickle.loads(pickle.dumps(llm))  # noqa: S301 - its own bytes
        _check_copy(llm, copy)

    def test_unpickled_answers(self, llm: FunctionCallingLLM) -> None:
        """The same: a worker process asks its copy."""
        llm.chat(ask("Say yes."))
        copy = pickle.loads(pickle.dumps(llm))  # noqa: S301 - its own bytes
        assert copy.chat(ask("Say yes.")).message.content.strip()

    def test_dictionary(self, llm: FunctionCallingLLM) -> None:
        """``get_transformation_hash`` of the ingestion cache takes ``to_dict()`` as identity."""
        assert llm.to_dict() == llm.to_dict()
        assert str(self.make_llm().to_dict()) == str(llm.to_dict())

    def test_from_dictionary(self, llm: FunctionCallingLLM) -> None:
        """``BaseComponent.from_dict`` is the way back, ``from_json`` goes through it."""
        _check_copy(llm, type(llm).from_dict(llm.to_dict()))

    @pytest.mark.parametrize("kind", TEXTS)
    def test_secret_stays(self, llm: FunctionCallingLLM, kind: str) -> None:
        """What ``BaseComponent`` makes of the LLM is logged and stored; see ``keeps_secret``."""
        secret = _secret(self)
        if not self.keeps_secret:
            pytest.skip("keeps_secret is off")
        assert secret not in TEXTS[kind](llm)


def _secret(suite: Suite) -> str:
    if suite.secret is None:
        pytest.skip("make_llm passes no secret")
    return suite.secret


def _check_copy(llm: FunctionCallingLLM, copy: FunctionCallingLLM) -> None:
    assert type(copy) is type(llm)
    assert copy.metadata == llm.metadata
    assert copy.to_payload() == llm.to_payload()
