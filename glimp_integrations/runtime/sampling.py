"""The sampling settings that not every model has: refused by name, and kept away from H."""

from __future__ import annotations

from typing import Any

from glimp_integrations.backends.base import Backend, Capabilities
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.ask_models import Answers
from glimp_integrations.runtime.call import Call
from glimp_integrations.settings import RoutingSettings, Strategy

__all__ = ["check_sampling", "fields_for", "glimpse_alone", "hides_entropy"]

_WITHOUT_EFFECT = {"min_p": 0, "presence_penalty": 0, "repetition_penalty": 1}
_PENALTIES = ("presence_penalty", "repetition_penalty")


def check_sampling(call: Call, answers: Answers) -> None:
    """Refuse settings that a model which may write does not have.

    Raises:
        ConfigError: It names the model, the settings and what to do.
    """
    for author, backend in call.models.items():
        if answers.only not in (None, author):
            continue
        known = answers.of[author].capabilities.sampling
        lacking = {
            name: value
            for name, value in call.settings.further_sampling.items()
            if name not in known and value != _WITHOUT_EFFECT.get(name)
        }
        if lacking:
            given = " and ".join(f"{name}={value:g}" for name, value in lacking.items())
            raise ConfigError(
                f"{given}: the {author} model, {_place(backend)}, has no such setting (of these it "
                f"has {', '.join(sorted(known)) or 'none'}). Leave it out; or set it for the other "
                "model alone, in its extra_body={...} (or generation={...} in this process). If "
                "the server is of a kind that was not recognised, name it: server='vllm'"
            )


def _place(backend: Backend) -> str:
    """A model and the kind of its server, where it has one."""
    kind = getattr(getattr(backend, "server", None), "name", None)
    return f"{backend.label} ({kind})" if kind else backend.label


def fields_for(settings: RoutingSettings, capabilities: Capabilities) -> dict[str, Any]:
    """The fields of a model's requests; a setting that it lacks would have no effect anyway."""
    own = settings.further_sampling
    return {name: value for name, value in own.items() if name in capabilities.sampling}


def hides_entropy(settings: RoutingSettings, small: Capabilities) -> bool:
    """Whether the small model's streams show another distribution than its own."""
    penalties = {n: v for n, v in settings.further_sampling.items() if n in _PENALTIES}
    changed = any(value != _WITHOUT_EFFECT[name] for name, value in penalties.items())
    return changed and not small.raw_under_penalties


def glimpse_alone(setting: Strategy, small: Backend) -> tuple[str, str]:
    """The strategy where each glimpse has to be a request without penalties.

    Raises:
        ConfigError: Another one is asked for.
    """
    why = (
        f"{_place(small)} does not promise that log-probabilities stay the model's own under "
        "penalties, so each glimpse is a request without them"
    )
    if setting not in ("auto", "two_request"):
        raise ConfigError(
            f"strategy {setting!r} measures H in the stream that is written, and {why}: use "
            "'two_request' or 'auto', or leave presence_penalty and repetition_penalty out"
        )
    return "two_request", why
