"""GlimpRouterLLM: the routed pair as a LlamaIndex LLM."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.llms.utils import parse_partial_json
from pydantic import ConfigDict, Field, PrivateAttr

from glimp_integrations.adapter import OUTPUT_ARGUMENTS
from glimp_integrations.errors import ConfigError
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.router import result_of
from glimp_integrations.runtime.pair_info import PairInfo
from glimp_integrations.trace.events import Event, Finished
from glimp_integrations.trace.trace import RoutedAnswer
from llamaindex_glimp._asked import reads_first_block, sending, settings_of, veiled
from llamaindex_glimp._convert import (
    INVALID,
    Growing,
    as_completion,
    to_chat_response,
    to_messages,
)
from llamaindex_glimp._serialization import Stored
from llamaindex_glimp._streaming import Held
from llamaindex_glimp._structured import Predicting
from llamaindex_glimp.events import atold, told

if TYPE_CHECKING:
    from llama_index.core.chat_engine.types import AgentChatResponse
    from llama_index.core.tools import BaseTool

__all__ = ["GlimpRouterLLM"]

Response = TypeVar("Response", ChatResponse, CompletionResponse)

_TOOLS = OUTPUT_ARGUMENTS - {"response_format"}

_log = logging.getLogger(__name__)


class GlimpRouterLLM(Stored, Predicting):
    """LLM whose chain of thought is written by two models, step by step.

    At the start of every reasoning step the small model's first token is glimpsed; if the
    entropy of its distribution exceeds ``threshold``, the large model writes the step, else the
    small one. The large model writes the answer (arXiv 2601.05110, section 3).

    Setup:
        ``pip install 'glimp-integrations[llamaindex,llamacpp]'`` for the bundled models;
        ``[llamaindex]`` is enough for endpoints.

    Key init args:
        All fields of ``glimp_integrations.RoutingSettings``, ``step_events``, and those of
        LlamaIndex's ``LLM`` (``callback_manager``, ``rate_limiter``, ``system_prompt``, ...).

    Example:
        .. code-block:: python

            from llama_index.core import Settings
            from llamaindex_glimp import GlimpRouterLLM

            Settings.llm = GlimpRouterLLM()  # the bundled models

            llm = GlimpRouterLLM(
                small="openai:Qwen/Qwen3-4B@http://gpu1:8000/v1",
                large="openai:Qwen/Qwen3-32B@http://gpu2:8000/v1",
                threshold=1.0,  # nats
            )
            response = llm.complete("What is 17 * 23?")
            response.text                  # the answer
            response.raw["glimprouter"]    # who wrote what, and why
            response.raw["usage"]          # tokens of all requests

    In chat the chain of thought is a ``ThinkingBlock`` in front of the answer; while streaming it
    comes as ``additional_kwargs["thinking_delta"]``, and ``delta`` is of the answer alone.

    Raises:
        ConfigError: A setting or a conversation that cannot be served.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed; ``.partial`` holds what was written.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    context_window: int | None = Field(
        default=None,
        gt=0,
        description="Tokens a prompt and its reply may have, for LlamaIndex's prompt helper; "
        "None: the smaller of the two models' windows.",
    )
    is_function_calling_model: bool | None = Field(
        default=None,
        description="Whether agents may hand tools to it; None: as the chat template of whoever "
        "writes the answer has it.",
    )
    step_events: bool = Field(
        default=False,
        description="Send every routing event to LlamaIndex's instrumentation, as the classes of "
        "llamaindex_glimp.events.",
    )

    _output_arguments: ClassVar[frozenset[str]] = OUTPUT_ARGUMENTS
    _told_of_headers: bool = PrivateAttr(default=False)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex knows the class."""
        return "glimprouter_llm"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex plans with. Asks both models, and so loads them, on first use.

        ``num_output`` is the room that prompts leave for the reply: the chain of thought and the
        answer, at most half the window.

        Raises:
            BackendError: A model cannot be reached.
            UnsuitableEndpointError: A model cannot be used.
        """
        told = None not in (self.context_window, self.is_function_calling_model, self.think_tags)
        return self._metadata(None if told else self.router.pair_info())

    def _metadata(self, facts: PairInfo | None) -> LLMMetadata:
        window = self.context_window or (facts and facts.context_window) or DEFAULT_CONTEXT_WINDOW
        tagged = facts.thinks_in_tags if facts and self.think_tags is None else self.think_tags
        reply = self.max_tokens + (self.max_thinking_tokens if tagged else 0)
        calls = self.is_function_calling_model
        if calls is None and facts is not None:
            authors = {"small", "large"} if self.answer_by == "router" else {self.answer_by}
            calls = authors <= facts.shows_tools
        return LLMMetadata(
            context_window=window,
            num_output=min(reply, window // 2),
            is_chat_model=True,
            is_function_calling_model=bool(calls),
            model_name=self.pair_name,
        )

    def to_payload(self) -> dict[str, Any]:
        """What observers are told of this LLM: no secrets, and nothing is loaded for it."""
        known = self.router.known_info
        return {
            "class_name": self.class_name(),
            **self._metadata(known).model_dump(),
            **self.identity,
        }

    # -- Chat and completion --

    @veiled
    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Answer a conversation.

        Args:
            messages: Text, tool calls and tool results; earlier thinking is left out.
            **kwargs: Routing settings for this call; ``tools``, ``tool_choice``, ``strict``,
                ``parallel_tool_calls``, ``response_format`` as in OpenAI's API;
                ``extra_headers``, for the servers that are asked; ``n=1``.
        """
        return self._whole(self._answer(to_messages(messages), kwargs), kwargs)

    @veiled
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """Answer a conversation, piece by piece. Closing the generator stops the models."""
        held = Held(lambda: self._responses(_itself, to_messages(messages), kwargs))
        return held.stream(llm_chat_callback(), self, messages, **kwargs)

    @veiled
    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Asynchronous :meth:`chat`. Cancelling it stops the models."""
        return self._whole(await self._aanswer(to_messages(messages), kwargs), kwargs)

    @veiled
    async def astream_chat(
        self, messages: Sequence[ChatMessage], **kwargs: Any
    ) -> ChatResponseAsyncGen:
        """Asynchronous :meth:`stream_chat`."""
        held = Held(lambda: self._aresponses(_itself, to_messages(messages), kwargs))
        return await held.astream(llm_chat_callback(), self, messages, **kwargs)

    @veiled
    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt, which the models read as one user message.

        Args:
            prompt: The text.
            formatted: ``completion_to_prompt`` was applied already.
            **kwargs: As for :meth:`chat`.
        """
        asked = self._asked(prompt, formatted, kwargs)
        return as_completion(to_chat_response(self._answer(asked, kwargs), self.pair_name))

    @veiled
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseGen:
        """Answer a prompt, piece by piece."""
        held = Held(
            lambda: self._responses(as_completion, self._asked(prompt, formatted, kwargs), kwargs)
        )
        return held.stream(llm_completion_callback(), self, prompt, **kwargs)

    @veiled
    @llm_completion_callback()
    async def acomplete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponse:
        """Asynchronous :meth:`complete`."""
        result = await self._aanswer(self._asked(prompt, formatted, kwargs), kwargs)
        return as_completion(to_chat_response(result, self.pair_name))

    @veiled
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> CompletionResponseAsyncGen:
        """Asynchronous :meth:`stream_complete`."""
        held = Held(
            lambda: self._aresponses(as_completion, self._asked(prompt, formatted, kwargs), kwargs)
        )
        return await held.astream(llm_completion_callback(), self, prompt, **kwargs)

    def _asked(self, prompt: str, formatted: bool, kwargs: dict[str, Any]) -> str:
        if misplaced := sorted(_TOOLS & set(kwargs)):
            raise ConfigError(
                f"a completion is text and has no place for tool calls ({', '.join(misplaced)}): "
                "use chat"
            )
        if formatted or self.completion_to_prompt is None:
            return prompt
        return self.completion_to_prompt(prompt)

    def _whole(self, result: RoutedAnswer, kwargs: dict[str, Any]) -> ChatResponse:
        response = to_chat_response(result, self.pair_name)
        if reads_first_block(kwargs):
            response.message.blocks.sort(key=lambda block: isinstance(block, ThinkingBlock))
        return response

    def call_changes(
        self, stop: Sequence[str] | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], OutputSpec]:
        """Settings and form of one call; see ``RoutedModel.call_changes``."""
        return super().call_changes(stop, settings_of(given))

    @contextmanager
    def _headed(self, kwargs: dict[str, Any]) -> Iterator[None]:
        """Requests made here carry the call's headers, where there are servers that read them."""
        with sending(kwargs) as names:
            deaf = [m.name for m in (self.router.small, self.router.large) if not m.sends_headers]
            if names and deaf and not self._told_of_headers:
                self._told_of_headers = True
                _log.warning(
                    "extra_headers (%s) are not sent for %s: no server is asked there",
                    ", ".join(names),
                    " and ".join(deaf),
                )
            yield

    def _answer(self, messages: Any, kwargs: dict[str, Any]) -> RoutedAnswer:
        if not self.step_events:  # handing over events nobody looks at has its price
            changes, form = self.call_changes(None, kwargs)
            with self._headed(kwargs):
                return self.router.run(messages, form, **changes)
        last = deque(self._events(messages, kwargs), maxlen=1).pop()
        assert isinstance(last, Finished), last  # that it comes last is the router's promise
        return last.result

    async def _aanswer(self, messages: Any, kwargs: dict[str, Any]) -> RoutedAnswer:
        if not self.step_events:
            changes, form = self.call_changes(None, kwargs)
            with self._headed(kwargs):
                return await self.router.arun(messages, form, **changes)
        return await result_of(self._aevents(messages, kwargs))

    def _responses(
        self, form: Callable[[ChatResponse], Response], messages: Any, kwargs: dict[str, Any]
    ) -> Generator[Response, None, None]:
        events, growing = self._events(messages, kwargs), Growing(self.pair_name)

        def responses() -> Generator[Response, None, None]:
            with closing(events):
                for event in events:
                    if (response := growing.add(event)) is not None:
                        yield form(response)

        return responses()

    def _aresponses(
        self, form: Callable[[ChatResponse], Response], messages: Any, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Response, None]:
        events, growing = self._aevents(messages, kwargs), Growing(self.pair_name)

        async def responses() -> AsyncGenerator[Response, None]:
            async with aclosing(events):
                async for event in events:
                    if (response := growing.add(event)) is not None:
                        yield form(response)

        return responses()

    def _events(self, messages: Any, kwargs: dict[str, Any]) -> Generator[Event, None, None]:
        """Events of one call; what cannot be asked for fails here, before the first of them."""
        changes, form = self.call_changes(None, kwargs)
        with self._headed(kwargs):  # the stream keeps them
            events: Any = self.router.stream(messages, form, **changes)
        return told(events) if self.step_events else events

    def _aevents(self, messages: Any, kwargs: dict[str, Any]) -> AsyncGenerator[Event, None]:
        """Asynchronous :meth:`_events`."""
        changes, form = self.call_changes(None, kwargs)
        with self._headed(kwargs):
            events = self.router.astream(messages, form, **changes)
        return atold(events) if self.step_events else events

    # -- Tools --

    @veiled
    def predict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        error_on_no_tool_call: bool = True,
        error_on_tool_error: bool = False,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Answer with what the called tools return; see ``FunctionCallingLLM``."""
        return super().predict_and_call(
            tools,
            user_msg,
            chat_history,
            verbose,
            allow_parallel_tool_calls,
            error_on_no_tool_call or None,  # type: ignore[arg-type]
            error_on_tool_error,
            **kwargs,
        )

    @veiled
    async def apredict_and_call(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        error_on_no_tool_call: bool = True,
        error_on_tool_error: bool = False,
        **kwargs: Any,
    ) -> AgentChatResponse:
        """Asynchronous :meth:`predict_and_call`."""
        return await super().apredict_and_call(
            tools,
            user_msg,
            chat_history,
            verbose,
            allow_parallel_tool_calls,
            error_on_no_tool_call or None,  # type: ignore[arg-type]
            error_on_tool_error,
            **kwargs,
        )

    @veiled
    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        messages = [*(chat_history or ()), *([user_msg] if user_msg is not None else ())]
        if tools:
            kwargs |= {
                "tools": [tool.metadata.to_openai_tool(skip_length_check=True) for tool in tools],
                "tool_choice": tool_choice or ("required" if tool_required else "auto"),
                "parallel_tool_calls": allow_parallel_tool_calls,
            }
        elif tool_required or tool_choice not in (None, "auto", "none"):
            asked = "tool_required" if tool_required else f"tool_choice {tool_choice!r}"
            raise ConfigError(f"{asked} asks for a call, and there are no tools: pass tools")
        return {"messages": messages, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool | None = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a reply; of one that is still written, with arguments as far as they go.

        Args:
            response: The reply.
            error_on_no_tool_call: ``False``, as agents ask: what was meant as a call and cannot be
                read is among them too, under a name that no tool has. The agent answers it with an
                error, and the model tries again. ``None``: it is left out.
            **kwargs: Not used.

        Raises:
            ValueError: There is none, and ``error_on_no_tool_call`` is set; or the budget ended
                inside one, so that the next attempt would end there, too.
        """
        blocks = [b for b in response.message.blocks if isinstance(b, ToolCallBlock)]
        broken = response.message.additional_kwargs.get(INVALID, ())
        if not blocks and error_on_no_tool_call:
            raise ValueError(
                "Expected at least one tool call, but the reply holds none."
                + (_told(broken) or f" It reads: {response.message.content!r}")
            )
        found = [
            ToolSelection(
                tool_id=block.tool_call_id or "",
                tool_name=block.tool_name,
                tool_kwargs=_arguments(block.tool_kwargs),
            )
            for block in blocks
        ]
        if broken and error_on_no_tool_call is False:
            if (response.raw or {}).get("finish_reason") == "length":
                raise ValueError(
                    "The reply was cut off inside a tool call: raise max_tokens, or serve the "
                    f"models with a larger context window.{_told(broken)}"
                )
            found += [
                ToolSelection(
                    tool_id=call["id"],
                    # "Tool ... not found" is what agents write around it.
                    tool_name=f"{call['name'] or 'call'} ({call['error']}; write the call again)",
                    tool_kwargs={},
                )
                for call in broken
            ]
        return found


def _told(broken: Sequence[Mapping[str, Any]]) -> str:
    return "".join(
        f" It meant to call {call['name'] or 'something'} ({call['error']}): {call['text']}"
        for call in broken
    )


def _itself(response: ChatResponse) -> ChatResponse:
    return response


def _arguments(written: dict[str, Any] | str) -> dict[str, Any]:
    if not isinstance(written, str):
        return written
    with suppress(ValueError):
        if isinstance(found := parse_partial_json(written), dict):
            return found
    return {}
