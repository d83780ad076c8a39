"""What every framework adapter shares: the settings as its fields, and the router behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import PrivateAttr

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.rule import name_of
from glimp_integrations.output.json_schema import ANY_OBJECT
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.router import FIXED, GlimpRouter
from glimp_integrations.settings import RoutingSettings, nested
from glimp_integrations.strict_json import plain
from glimp_integrations.trace.records import Usage
from glimp_integrations.trace.trace import RoutedAnswer, finish_reason

__all__ = [
    "RECORD",
    "RoutedModel",
    "finish_reason",
    "output_spec",
    "record",
    "shaping",
    "token_usage",
]

RECORD = "glimprouter"
"""The key under which replies carry their :func:`record`."""

PER_CALL = frozenset(RoutingSettings.model_fields) - FIXED
OUTPUT_ARGUMENTS = frozenset(
    {"tools", "tool_choice", "strict", "parallel_tool_calls", "response_format"}
)
"""Arguments of a call that ask for more than text, named as in OpenAI's API."""
_NOT_SHAPING = {"strategy", "timeout", "max_retries", "prices"}


class RoutedModel(RoutingSettings):
    """Base of the adapters' classes: routing settings that answer."""

    _output_arguments: ClassVar[frozenset[str]] = frozenset()
    """Which of :data:`OUTPUT_ARGUMENTS` a call may ask for."""

    _router: GlimpRouter | None = PrivateAttr(default=None)
    _models: tuple[Any, ...] = PrivateAttr(default=(None, None, None, None))

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        # Here, so that an unknown model string fails where it was written.
        self._make_router()

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        # Both hold models with their keys; the router is made anew.
        private = {"_router": None, "_models": (None, None, None, None)}
        kept = {**(state["__pydantic_private__"] or {}), **private}
        return {**state, "__pydantic_private__": kept}

    def _make_router(self) -> GlimpRouter:
        self._models = self.small, self.large, self.pair, self.api_key
        self._router = GlimpRouter(settings=self)
        return self._router

    @property
    def router(self) -> GlimpRouter:
        """The router that does the work, with the settings as they are now."""
        # A copy (model_copy, configurable fields) brings the original's router along, and models
        # may be assigned.
        kept, models = self._router, (self.small, self.large, self.pair, self.api_key)
        same = all(one is other for one, other in zip(self._models, models, strict=True))
        return kept if kept is not None and kept.settings is self and same else self._make_router()

    @property
    def pair_name(self) -> str:
        """Both models' names, for traces of frameworks that know one model per call."""
        return f"{self.router.small.name}+{self.router.large.name}"

    @property
    def identity(self) -> dict[str, Any]:
        """All that shapes a reply, without secrets: equal for models that answer alike.

        JSON data, for tracers and caches.
        """
        models = {"small": self.router.small.label, "large": self.router.large.label}
        return {**models, **shaping(self)}

    def call_changes(
        self, stop: str | Sequence[str] | None, given: Mapping[str, Any]
    ) -> tuple[dict[str, Any], OutputSpec]:
        """Settings and output of one call, from a framework's keyword arguments.

        Raises:
            ConfigError: An argument is not known; it would otherwise be ignored in silence.
        """
        unknown = sorted(set(given) - PER_CALL - self._output_arguments)
        if unknown:
            shown = ", ".join(f"{name!r}{nested(given[name])}" for name in unknown)
            raise ConfigError(
                f"unknown argument {shown} for {type(self).__name__}; a "
                f"call can change: {', '.join(sorted(PER_CALL | self._output_arguments))}"
            )
        changes = {name: value for name, value in given.items() if name not in OUTPUT_ARGUMENTS}
        if stop is not None:
            changes["stop"] = stop
        return changes, output_spec(
            {name: given[name] for name in OUTPUT_ARGUMENTS if name in given}
        )


def shaping(settings: RoutingSettings) -> dict[str, Any]:
    """All settings but the models that shape a reply, as JSON data."""
    names = set(RoutingSettings.model_fields) - FIXED - _NOT_SHAPING
    policy = settings.policy
    return {
        **{name: plain(getattr(settings, name)) for name in sorted(names)},
        # Policies of one name may decide differently; what they are made of, their repr says.
        "policy": None if policy is None else f"{name_of(policy)}: {policy!r}",
    }


def output_spec(given: Mapping[str, Any]) -> OutputSpec:
    """What a reply has to be, from OpenAI's arguments; ``None`` means that one was not given.

    Args:
        given: Any of :data:`OUTPUT_ARGUMENTS`.

    Raises:
        ConfigError: The response format or the tools are malformed.
    """
    arguments = {name: value for name, value in given.items() if value is not None}
    schema = _response_format(arguments.pop("response_format", None))
    return OutputSpec(**{**schema, **arguments})


def _response_format(response_format: Any) -> dict[str, Any]:
    kind = response_format.get("type") if isinstance(response_format, Mapping) else response_format
    if kind in (None, "text"):
        return {}
    if kind == "json_object":
        # The conversation itself says which JSON it wants.
        return {"schema": ANY_OBJECT}
    inner = response_format.get("json_schema") if kind == "json_schema" else None
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    if inner is None or not isinstance(schema, Mapping):
        raise ConfigError(
            f"response_format is {response_format!r}; expected {{'type': 'json_schema', "
            "'json_schema': {'schema': ...}}, {'type': 'json_object'} or {'type': 'text'}"
        )
    return {"schema": schema, **({"strict": True} if inner.get("strict") else {})}


def record(result: RoutedAnswer) -> dict[str, Any]:
    """Who wrote what, and what it took, as plain JSON data; a ``Trace`` can be made of it."""
    return {
        **result.trace.model_dump(mode="json"),
        "usage": result.usage.model_dump(mode="json"),
    }


def token_usage(usage: Usage) -> dict[str, int]:
    """Tokens of every request of the call, both models, named as in OpenAI's API."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }
