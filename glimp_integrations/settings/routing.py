"""The routing settings as a whole: what fits together, what follows from it, what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import (
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    field_serializer,
    model_validator,
)

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.rule import name_of
from glimp_integrations.method.sampling import FURTHER_SAMPLING
from glimp_integrations.redact import public_model_string
from glimp_integrations.settings.checks import stops_of
from glimp_integrations.settings.fields import RoutingFields
from glimp_integrations.settings.mistakes import explained
from glimp_integrations.settings.model_names import (
    PAIR_VARIABLE,
    PLACES,
    overruled_names,
    with_passwords,
)
from glimp_integrations.settings.prices import Prices
from glimp_integrations.strict_json import plain

__all__ = ["RoutingSettings"]


class RoutingSettings(RoutingFields):
    """Everything that decides how a question is routed. Defaults follow the paper (appendix A).

    ``small`` and ``large`` take a backend object or a model string such as
    ``"openai:Qwen/Qwen3-32B@http://gpu2:8000/v1"``, ``"ollama:qwen3:4b"``,
    ``"llamacpp:/models/small.gguf"`` or ``"hf:Qwen/Qwen3-0.6B"``; ``pair`` names both at once, such
    as ``"qwen3-0.6b+8b"``. With nothing named, the bundled models are used.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=False)

    # -- what fits together ------------------------------------------------------------------

    @model_validator(mode="wrap")
    @classmethod
    def _mistakes_are_config_errors(
        cls, data: Any, handler: ModelWrapValidatorHandler[Self]
    ) -> Self:
        try:
            return handler(data)
        except ValidationError as error:
            raise ConfigError(f"{cls.__name__}: {explained(error)}") from None

    @model_validator(mode="after")
    def _one_policy(self) -> Self:
        given = [
            f"{name}={name_of(value) if name == 'policy' else value}"
            for name in ("threshold", "large_share", "policy")
            if name in self.model_fields_set and (value := getattr(self, name)) is not None
        ]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)}: each decides who writes a step; give one")
        if self.max_cost is not None and self.prices is None:
            raise ConfigError(
                f"max_cost={self.max_cost:g} needs prices of both models, such as prices="
                "{'small': {'input': 0.1, 'output': 0.3}, 'large': {'input': 1, 'output': 3}} "
                "(per million tokens)"
            )
        return self

    @model_validator(mode="after")
    def _random_share_needs_glimpses(self) -> Self:
        if self.random_share is not None and not self.routes:
            raise ConfigError(
                "random_share decides at random where the threshold would decide, and with "
                f"threshold {self.threshold} nothing is decided: leave one of them out"
            )
        return self

    def model_post_init(self, context: Any, /) -> None:
        """Settle who names the models, and take over what is advised for them.

        Raises:
            ConfigError: Two names of one rank, or a pair that does not exist.
        """
        super().model_post_init(context)
        # Here and not in a validator, which would come after the adapters have made their router.
        overruled = overruled_names(self.__dict__, self.model_fields_set)
        self.__dict__.update(dict.fromkeys(overruled))
        if self.pair is not None:
            self._take_advice(self.pair)

    def _take_advice(self, name: str) -> None:
        """Make what the makers of a pair advise the default of what nobody said."""
        from glimp_integrations.weights.pairs import find_pair

        given = self.model_fields_set
        pair = find_pair(name, "pair" if "pair" in given else PAIR_VARIABLE)
        # Not among the fields that were set, so that they are defaults in every other respect.
        self.__dict__.update(
            (setting, value)
            for setting, value in pair.sampling.items()
            if setting in type(self).model_fields and setting not in given
        )

    def __setattr__(self, name: str, value: Any) -> None:
        # What is assigned is not validated, and a text is as easily taken for a list of letters.
        super().__setattr__(name, stops_of(value) if name == "stop" else value)

    # -- what follows from them --------------------------------------------------------------

    @property
    def further_sampling(self) -> dict[str, Any]:
        """Those of :data:`FURTHER_SAMPLING` that are set."""
        return {
            name: value for name in FURTHER_SAMPLING if (value := getattr(self, name)) is not None
        }

    @property
    def known_prices(self) -> Prices | None:
        """The prices; ``None`` without any, and while they are to be looked up."""
        return self.prices if isinstance(self.prices, Prices) else None

    @property
    def routes(self) -> bool:
        """Whether steps are glimpsed at and decided on."""
        if self.large_share is not None or self.policy is not None:
            return True
        return 0 <= self.threshold < math.inf

    def changed(self, changes: Mapping[str, Any]) -> RoutingSettings:
        """These settings with some changed, for one call. What decides replaces what decided.

        Raises:
            ConfigError: As for new settings.
        """
        own = RoutingSettings.model_fields
        deciding = {"threshold", "large_share", "policy"}
        replaced = deciding if deciding & set(changes) else set()
        kept = {
            name: getattr(self, name)
            for name in own
            if name not in replaced
            and (name in self.model_fields_set or own[name].default_factory is not None)
        }
        return RoutingSettings(**kept | dict(changes))

    # -- what is shown and stored, without secrets -------------------------------------------

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            is_form = name in ("small", "large") and isinstance(value, str)
            yield name, public_model_string(value) if is_form else value

    @field_serializer("threshold", "timeout", when_used="json")
    def _infinity_is_text_in_json(self, value: float | None) -> Any:
        return None if value is None else plain(float(value))

    @field_serializer("small", "large")
    def _named_without_password(self, value: Any) -> Any:
        return public_model_string(value) if isinstance(value, str) else value

    @field_serializer("policy")
    def _policy_by_name(self, value: Any) -> str | None:
        return None if value is None else name_of(value)

    def __getstate__(self) -> dict[Any, Any]:
        # A pickle is stored, or sent to another process, so it holds no secrets. Whoever loads it
        # takes them from the environment. Copies do not come by here.
        state = super().__getstate__()
        fields = {name: value for name, value in state["__dict__"].items() if name != "api_key"}
        for role in PLACES:
            if isinstance(model := fields.get(role), str):
                fields[role] = public_model_string(model)
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        key = type(self).model_fields["api_key"].get_default(call_default_factory=True)
        fields = {**with_passwords(state["__dict__"]), "api_key": key}
        super().__setstate__({**state, "__dict__": fields})
