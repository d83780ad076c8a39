"""``with_structured_output``: what the answer is constrained to, and what reads it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    PydanticToolsParser,
)
from langchain_core.runnables import (
    Runnable,
    RunnableBranch,
    RunnableGenerator,
    RunnableMap,
    RunnablePassthrough,
)
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass

from glimp_integrations.errors import ConfigError
from langchain_glimp._tools import ToolLike, bind_tools, openai_tools

__all__ = ["Method", "structured"]

Method = Literal["json_schema", "function_calling", "json_mode"]
"""How the answer is made to follow the schema; see ``ChatGlimpRouter.with_structured_output``."""


def structured(
    model: BaseChatModel,
    schema: Any,
    *,
    method: Method,
    include_raw: bool,
    strict: bool | None,
    tools: Sequence[ToolLike] | None = None,
    **options: Any,
) -> Runnable[LanguageModelInput, Any]:
    """The model followed by an output parser.

    The arguments are those of ``ChatGlimpRouter.with_structured_output``.

    Raises:
        ConfigError: The method is unknown, or needs a schema and has none; or a response format is
            given in addition to the schema.
    """
    if method not in ("json_schema", "function_calling", "json_mode"):
        raise ConfigError(
            f"method is {method!r}; expected 'json_schema', 'function_calling' or 'json_mode'"
        )
    if schema is None and method != "json_mode":
        raise ConfigError(
            f"method {method!r} needs a schema: pass a pydantic class, a TypedDict or a JSON schema"
        )
    if "response_format" in options:
        raise ConfigError(
            "with_structured_output makes response_format from its schema: leave response_format "
            "out, or bind it without with_structured_output"
        )
    # Tracers show this; LangChain itself turns the schema into JSON for them.
    traced = {"kwargs": {"method": method, "strict": strict}, "schema": schema or {}}
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: Any
    name = None
    if method == "function_calling":
        name = openai_tools([schema])[0]["function"]["name"]
        arguments = {
            "tool_choice": "any" if tools else name,
            "parallel_tool_calls": False,
            "strict": strict,
            "ls_structured_output_format": traced,
        }
        bound = bind_tools(model, [schema, *(tools or ())], **{**arguments, **options})
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        response_format: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            response_format = {
                "type": "json_schema",
                "json_schema": {"schema": _json_schema(schema), "strict": strict},
            }
        options |= {"tools": openai_tools(tools)} if tools else {}
        bound = model.bind(
            response_format=response_format, ls_structured_output_format=traced, **options
        )
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    parser = RunnableGenerator(_complete, _acomplete) | parser
    if tools:
        # The model may call one of them instead of answering. Then there is nothing to parse yet.
        parser = RunnableBranch((lambda message: _calls_another(message, name), _nothing), parser)
    chain: Runnable[LanguageModelInput, Any]
    if not include_raw:
        chain = bound | parser
        return chain
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    chain = RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
    return chain


def _calls_another(message: AIMessage, name: str | None) -> bool:
    """Whether a message calls tools, and none of them has this name."""
    calls = [call["name"] for call in message.tool_calls]
    return bool(calls) and name not in calls


def _nothing(_: AIMessage) -> None:
    return None


def _complete(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """The same messages. An answer that was cut off is an error, as parsers would complete it."""
    for message in messages:
        yield _checked(message)


async def _acomplete(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for message in messages:
        yield _checked(message)


def _checked(message: AIMessage) -> AIMessage:
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "the answer was cut off before it was complete: raise max_tokens, or serve the models "
            "with a larger context window"
        )
    return message


def _json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of whatever LangChain takes for one.

    LangChain's own conversion makes a tool of it first. That accepts only objects with a title, and
    loses schemas that refer to themselves, so it is used only where there is no JSON schema yet.
    """
    if isinstance(schema, Mapping):
        if "name" in schema and isinstance(schema.get("schema"), Mapping):
            return dict(schema["schema"])  # OpenAI's {"name": ..., "schema": ...}
        return _tool_schema(schema) if _is_tool(schema) else dict(schema)
    if hasattr(schema, "model_json_schema"):
        json_schema: dict[str, Any] = schema.model_json_schema()
        return json_schema
    return convert_to_json_schema(schema)


# Keywords by which a dictionary is recognised as a JSON schema.
_KEYWORDS = frozenset(
    {
        "type",
        "properties",
        "$ref",
        "anyOf",
        "oneOf",
        "allOf",
        "enum",
        "const",
        "items",
        "title",
    }
)


def _is_tool(schema: Mapping[str, Any]) -> bool:
    """Whether a dictionary describes a tool, as OpenAI, Anthropic or Bedrock write it."""
    if "toolSpec" in schema or isinstance(schema.get("function"), Mapping):
        return True
    if not isinstance(schema.get("name"), str):
        return False
    return bool({"parameters", "input_schema"} & set(schema)) or not _KEYWORDS & set(schema)


def _tool_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, with the tool's name and description."""
    function = openai_tools([tool])[0]["function"]
    annotations = {"title": function["name"], "description": function.get("description")}
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {**{k: v for k, v in annotations.items() if v}, **parameters}
