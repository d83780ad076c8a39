"""``bind_tools`` and ``with_structured_output``: what is bound, and what reads the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
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
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from glimp_integrations.errors import ConfigError

__all__ = ["Method", "ToolLike", "bind_tools", "openai_tools", "structured"]

Method = Literal["json_schema", "function_calling", "json_mode"]
ToolLike = Mapping[str, Any] | type | Callable[..., Any] | BaseTool


def bind_tools(
    model: BaseChatModel, tools: Sequence[ToolLike], **options: Any
) -> Runnable[LanguageModelInput, AIMessage]:
    """The model with tools in OpenAI's format among its arguments."""
    given = {name: value for name, value in options.items() if value is not None}
    return model.bind(tools=openai_tools(tools), **given)


def openai_tools(tools: Sequence[ToolLike]) -> list[dict[str, Any]]:
    """Tools in OpenAI's format, from whatever LangChain takes: Anthropic's and Bedrock's too."""
    return [_openai_tool(tool) for tool in tools]


def _openai_tool(tool: ToolLike) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        return convert_to_openai_tool(tool)
    given = dict(tool)
    if given.get("type") == "function" and "function" not in given:
        del given["type"]  # OpenAI's Responses API; LangChain takes it for a tool of theirs
    return convert_to_openai_tool(given)


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
    """The model behind an output parser.

    Raises:
        ConfigError: The method is unknown, or needs a schema and has none; a response format is
            given beside the schema.
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
            "response_format is what with_structured_output makes of its schema: leave it out, or "
            "bind it without with_structured_output"
        )
    # LangChain itself turns the schema into what tracers are told.
    told = {"kwargs": {"method": method, "strict": strict}, "schema": schema or {}}
    is_class = isinstance(schema, type) and is_basemodel_subclass(schema)
    parser: Any
    name = None
    if method == "function_calling":
        name = openai_tools([schema])[0]["function"]["name"]
        choice = "any" if tools else name
        bound = bind_tools(
            model,
            [schema, *(tools or ())],
            **{
                "tool_choice": choice,
                "parallel_tool_calls": False,
                "strict": strict,
                "ls_structured_output_format": told,
                **options,
            },
        )
        parser = (
            PydanticToolsParser(tools=[schema], first_tool_only=True)
            if is_class
            else JsonOutputKeyToolsParser(key_name=name, first_tool_only=True)
        )
    else:
        wanted: dict[str, Any] = {"type": "json_object"}
        if method == "json_schema":
            wanted = {
                "type": "json_schema",
                "json_schema": {"schema": _json_schema(schema), "strict": strict},
            }
        options |= {"tools": openai_tools(tools)} if tools else {}
        bound = model.bind(response_format=wanted, ls_structured_output_format=told, **options)
        parser = PydanticOutputParser(pydantic_object=schema) if is_class else JsonOutputParser()
    parser = RunnableGenerator(_whole, _awhole) | parser
    if tools:
        # The model may call one of them instead: then there is nothing to parse (yet).
        parser = RunnableBranch((lambda message: _calls_another(message, name), _nothing), parser)
    found: Runnable[LanguageModelInput, Any]
    if not include_raw:
        found = bound | parser
        return found
    parsed = RunnablePassthrough.assign(
        parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
    )
    failed = RunnablePassthrough.assign(parsed=lambda _: None)
    found = RunnableMap(raw=bound) | parsed.with_fallbacks([failed], exception_key="parsing_error")
    return found


def _calls_another(message: AIMessage, name: str | None) -> bool:
    """Whether a message calls tools, and none of this name."""
    calls = [call["name"] for call in message.tool_calls]
    return bool(calls) and name not in calls


def _nothing(_: AIMessage) -> None:
    return None


def _whole(messages: Iterator[AIMessage]) -> Iterator[AIMessage]:
    """Messages as they come, unless the answer was cut off: parsers would complete it."""
    for message in messages:
        yield _checked(message)


async def _awhole(messages: AsyncIterator[AIMessage]) -> AsyncIterator[AIMessage]:
    async for message in messages:
        yield _checked(message)


def _checked(message: AIMessage) -> AIMessage:
    if message.response_metadata.get("finish_reason") == "length":
        raise OutputParserException(
            "the answer was cut off before it was whole: raise max_tokens, or serve the models "
            "with a larger context window"
        )
    return message


def _json_schema(schema: Any) -> dict[str, Any]:
    """The schema as it is; LangChain's conversion, which goes by way of a tool, where it is none.

    That way leads through objects with a title only, and loses what refers to itself.
    """
    if isinstance(schema, Mapping):
        if "name" in schema and isinstance(schema.get("schema"), Mapping):
            return dict(schema["schema"])  # OpenAI's {"name", "schema"}
        return _tool_schema(schema) if _is_tool(schema) else dict(schema)
    if hasattr(schema, "model_json_schema"):
        found: dict[str, Any] = schema.model_json_schema()
        return found
    return convert_to_json_schema(schema)


# What says of a dictionary that it is a JSON schema.
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
    """Whether a dictionary describes a tool: OpenAI's, Anthropic's, Bedrock's."""
    if "toolSpec" in schema or isinstance(schema.get("function"), Mapping):
        return True
    if not isinstance(schema.get("name"), str):
        return False
    return bool({"parameters", "input_schema"} & set(schema)) or not _KEYWORDS & set(schema)


def _tool_schema(tool: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a tool's arguments, named and described as the tool is."""
    function = openai_tools([tool])[0]["function"]
    described = {"title": function["name"], "description": function.get("description")}
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return {**{k: v for k, v in described.items() if v}, **parameters}
