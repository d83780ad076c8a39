"""What servers may send: JSON, read and checked where it comes in.

Every reply is read by :func:`read`, which either returns data of the declared shape or raises a
``ReplyError``. What is optional and of no use as it was sent (a count that is not a count, a
context window that is a text) becomes ``None``, as if the server had not said it. What the text
and the log-probabilities are made of has to be right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import from_json
from typing_extensions import TypedDict

from glimp_integrations.method.tokens import count_of
from glimp_integrations.unicode_text import without_surrogates

__all__ = [
    "Anything",
    "BusySlot",
    "Choice",
    "Chunk",
    "DetokenizedText",
    "ListedModel",
    "ModelList",
    "NativeChunk",
    "OllamaChunk",
    "OllamaModels",
    "OllamaPrompt",
    "OllamaShow",
    "Prompt",
    "Props",
    "ReplyError",
    "TgiChunk",
    "TgiInfo",
    "TgiPrompt",
    "TgiToken",
    "TokenIds",
    "TokenPieces",
    "TokenStrings",
    "checked",
    "parse",
    "read",
]

T = TypeVar("T")

# A lone half of a pair of surrogates, as JSON can write it. UTF-8 cannot.
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


# As Python's data a part takes up to a hundred bytes: 60 MB of empty lists would take 1.5 GB. A
# text of a million tokens, or a vocabulary with its log-probabilities, has three million parts.
_MOST_PARTS = 4_000_000
# Much more than a message shows. ``errors`` hides secrets first and shortens then: a cut here could
# leave a half of one.
_QUOTED = 4096


class ReplyError(ValueError):
    """A reply is not JSON, or not of the shape that it must have; the text says where."""


def parse(data: bytes) -> Any:
    """JSON as Python's data.

    Raises:
        ReplyError: It is not JSON, not UTF-8, nested too deeply, or of too many parts.
    """
    if len(data) > _MOST_PARTS and sum(map(data.count, (b",", b"[", b"{"))) > _MOST_PARTS:
        raise ReplyError(f"it has more than {_MOST_PARTS:,} parts")
    try:
        try:
            # Four times as quick as Python's own, which is for a line per token half of the work.
            value = from_json(data)
        except ValueError:
            # A mark at the beginning, half a pair of surrogates; or it is broken, and the other
            # reader says where in words that people know.
            value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ReplyError(f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise ReplyError("it is nested too deeply") from None
    except ValueError as error:
        begin = data[:_QUOTED].decode(errors="replace")
        raise ReplyError(
            f"it is not JSON ({error}): {begin!r}" if data else "it is empty"
        ) from None
    return _without_surrogates(value) if _ESCAPED_SURROGATE.search(data) else value


def read(data: bytes, shape: type[T]) -> T:
    """A reply of a declared shape.

    Args:
        data: The body, or one event of a stream.
        shape: One of this module's shapes, or a list of one.

    Raises:
        ReplyError: It is not JSON, or of another shape.
    """
    return checked(parse(data), shape)


def checked(value: Any, shape: type[T]) -> T:
    """Parsed JSON of a declared shape.

    Raises:
        ReplyError: It is of another shape.
    """
    try:
        result: T = _adapter(shape).validate_python(value)  # type: ignore[arg-type]  # hashable
        return result
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the reply"
        given = repr(first["input"])
        given = given if len(given) <= _QUOTED else f"{given[:_QUOTED]}…"
        raise ReplyError(f"{place} is {given}: {first['msg']}") from None


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


# No template renders a conversation to nothing. From an empty prompt a model writes anything.
WrittenText = Annotated[str, StringConstraints(min_length=1)]


def _text_or_none(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _window(value: Any) -> int | None:
    return count_of(value) or None


def _object_or_empty(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {}


def _without_surrogates(value: Any) -> Any:
    """The value with the replacement character for every lone surrogate in its texts."""
    if isinstance(value, str):
        return without_surrogates(value)
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(k): _without_surrogates(v) for k, v in value.items()}
    return value


# Other fields stay: where the number of cached tokens is differs from server to server.
_open = with_config(ConfigDict(extra="allow"))
Optional = Annotated[str | None, BeforeValidator(_text_or_none)]
Count = Annotated[int | None, BeforeValidator(count_of)]
Window = Annotated[int | None, BeforeValidator(_window)]
Byte = Annotated[int, Field(ge=0, le=255)]
TokenId = int | str | None
"""Ids are only compared, and sent back."""


# -- log-probabilities -----------------------------------------------------------------------


@_open
class TopToken(TypedDict, total=False):
    """One of the likeliest tokens, in the format of chat completions."""

    token: str | None
    bytes: list[Byte] | None
    logprob: float | None
    id: TokenId


@_open
class TokenEntry(TopToken, total=False):
    """A token with the likeliest ones at its place."""

    top_logprobs: list[TopToken] | None


@_open
class Logprobs(TypedDict, total=False):
    """Both formats: of chat completions (``content``), and the legacy one (parallel lists)."""

    content: list[TokenEntry] | None
    tokens: list[str] | None
    top_logprobs: list[dict[str, float | None] | None] | dict[str, float | None] | None


# -- streams ---------------------------------------------------------------------------------


@_open
class ThoughtPart(TypedDict, total=False):
    """A part of a thinking chunk."""

    text: str | None


@_open
class ContentPart(TypedDict, total=False):
    """A part of a message's content."""

    type: str | None
    text: str | None
    thinking: list[ThoughtPart] | None


@_open
class Delta(TypedDict, total=False):
    """What a chunk adds to a chat message."""

    content: str | list[ContentPart] | None
    reasoning_content: str | None
    reasoning: str | None


@_open
class Choice(TypedDict, total=False):
    """One choice of a chunk; there is only one."""

    text: str | None
    delta: Delta | None
    finish_reason: str | None
    logprobs: Logprobs | float | None
    top_logprobs: dict[str, float | None] | None
    token_ids: list[int] | None


@_open
class Chunk(TypedDict, total=False):
    """A chunk of ``/v1/completions`` or ``/v1/chat/completions``."""

    choices: list[Choice] | None
    finish_reason: str | None
    usage: Any
    timings: Any


@_open
class NativeChunk(TypedDict, total=False):
    """A chunk of llama.cpp's ``POST /completion``."""

    content: str | None
    tokens: list[int] | None
    stop: bool | None
    stop_type: str | None
    stopping_word: str | None
    tokens_evaluated: Any
    tokens_predicted: Any


@_open
class OllamaChunk(TypedDict, total=False):
    """A line of Ollama's ``POST /api/generate``."""

    response: str | None
    done: bool | None
    done_reason: str | None
    logprobs: list[TokenEntry] | None
    prompt_eval_count: Any
    eval_count: Any


@_open
class TgiTopToken(TypedDict, total=False):
    """A token of TGI."""

    id: TokenId
    text: str | None
    special: bool | None
    logprob: float | None


@_open
class TgiDetails(TypedDict, total=False):
    """TGI's last words about a stream."""

    finish_reason: str | None
    generated_tokens: Any
    input_length: Any


@_open
class TgiChunk(TypedDict):
    """A chunk of TGI's ``POST /generate_stream``."""

    token: TgiTopToken
    top_tokens: NotRequired[list[TgiTopToken] | None]
    details: NotRequired[TgiDetails | None]


# -- small routes ----------------------------------------------------------------------------


@_open
class ListedModel(TypedDict, total=False):
    """An entry of ``GET /v1/models``."""

    id: Optional
    root: Optional
    owned_by: Optional
    aliases: Annotated[
        list[str], BeforeValidator(lambda v: [x for x in v or () if isinstance(x, str)])
    ]


def _entries(value: Any) -> list[Any]:
    """The entries of a list of models, in the forms that servers give it."""
    if isinstance(value, Mapping):
        value = value.get("data")
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


ModelList = Annotated[list[ListedModel], BeforeValidator(_entries)]
"""The reply of ``GET /v1/models``; a reply of another form lists no models."""

Anything = Annotated[object, BeforeValidator(lambda value: value)]
"""A reply that nobody reads."""


@_open
class Props(TypedDict, total=False):
    """llama.cpp's ``GET /props``."""

    chat_template: Optional
    default_generation_settings: Annotated[dict[str, Any], BeforeValidator(_object_or_empty)]


@_open
class BusySlot(TypedDict, total=False):
    """An entry of llama.cpp's ``GET /slots``."""

    is_processing: bool | None


class TokenIds(TypedDict):
    """The reply of ``POST /tokenize`` (llama.cpp, vLLM)."""

    tokens: list[int]


class TokenPiece(TypedDict):
    """A token with its text, or its bytes if it is a part of a character."""

    piece: str | list[Byte]


class TokenPieces(TypedDict):
    """The reply of ``POST /tokenize`` with ``with_pieces`` (llama.cpp)."""

    tokens: list[TokenPiece]


class TokenStrings(TypedDict, total=False):
    """The reply of ``POST /tokenize`` with ``return_token_strs`` (vLLM since 0.9)."""

    token_strs: list[str] | None


class Prompt(TypedDict):
    """The reply of ``POST /apply-template`` (llama.cpp) and of ``POST /detokenize`` (vLLM)."""

    prompt: WrittenText


class DetokenizedText(TypedDict):
    """The reply of ``POST /detokenize`` (llama.cpp)."""

    content: str


@_open
class OllamaModel(TypedDict, total=False):
    """A model in Ollama's lists."""

    model: Optional
    name: Optional
    context_length: Window


class OllamaModels(TypedDict, total=False):
    """The reply of ``GET /api/tags`` and ``GET /api/ps``."""

    models: list[OllamaModel] | None


@_open
class OllamaShow(TypedDict, total=False):
    """The reply of ``POST /api/show``."""

    model_info: Annotated[dict[str, Any], BeforeValidator(_object_or_empty)]
    parameters: Optional
    capabilities: list[str] | None


@_open
class OllamaDebug(TypedDict, total=False):
    """The rendered prompt in a reply of ``POST /api/chat``."""

    rendered_template: WrittenText | None


@_open
class OllamaPrompt(TypedDict, total=False):
    """The reply of ``POST /api/chat`` to a request that only renders."""

    _debug_info: OllamaDebug | None


@_open
class TgiInfo(TypedDict, total=False):
    """The reply of TGI's ``GET /info``."""

    model_id: Optional
    max_total_tokens: Window


class TgiToken(TypedDict):
    """A token of TGI's ``POST /tokenize``."""

    id: int
    text: str
    start: int
    stop: int


class TgiPrompt(TypedDict):
    """The reply of TGI's ``POST /chat_tokenize``."""

    templated_text: WrittenText
    tokenize_response: list[TgiToken]
