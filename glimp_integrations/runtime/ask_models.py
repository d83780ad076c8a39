"""What both models say before a call's first step: their capabilities and their prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from glimp_integrations.backends.base import Capabilities, Rendered
from glimp_integrations.conversation import prompt
from glimp_integrations.errors import BackendError, UnsuitableEndpointError
from glimp_integrations.method.rule import Author
from glimp_integrations.runtime.call import Call
from glimp_integrations.settings import RoutingSettings

__all__ = ["Answers", "ModelAnswer", "ask_both", "name_role", "stand_in"]


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """What one model said."""

    capabilities: Capabilities
    prompt: prompt.Prompt

    @property
    def room(self) -> int | None:
        """Tokens that fit after the prompt; ``None``: unknown."""
        window = self.capabilities.context_window
        if window is None or self.prompt.tokens is None:
            return None
        return window - self.prompt.tokens


@dataclass(frozen=True, slots=True)
class Answers:
    """What both models said.

    Attributes:
        of: By model. A model that failed, and may be replaced, has empty ones.
        only: Who has to write everything; ``None``: both work.
        errors: The failure that was excused, in words.
    """

    of: dict[Author, ModelAnswer]
    only: Author | None
    errors: list[str]

    @property
    def window(self) -> int | None:
        """Tokens that fit after the prompt in the smaller of the context windows, if known."""
        return min((a.room for a in self.of.values() if a.room is not None), default=None)


async def ask_both(call: Call) -> Answers:
    """Ask for capabilities and prompts; a failing model is excused if the other may work alone.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server cannot be used.
        BackendError: A model failed, and the other may not work alone.
    """
    settings, models = call.settings, call.models
    # One after the other: on one machine, loading and first requests of two models only
    # disturb each other; later calls find everything cached.
    capabilities: dict[Author, Capabilities | BaseException] = {}
    for author, backend in models.items():
        try:
            with name_role(author):
                capabilities[author] = await backend.capabilities()
        except (BackendError, UnsuitableEndpointError) as error:
            capabilities[author] = error
            if stand_in(settings, author) is None:
                raise

    async def render(author: Author) -> ModelAnswer:
        own = capabilities[author]
        if isinstance(own, BaseException):
            raise own
        with name_role(author):
            rendered = await prompt.build(
                models[author],
                call.messages,
                call.output,
                show_schema=settings.show_schema,
                keep_reasoning=settings.keep_reasoning,
                think_tags=settings.think_tags,
            )
        return ModelAnswer(own, rendered)

    # Rendering is a round trip where the server does it: both at once.
    results = await asyncio.gather(*map(render, models), return_exceptions=True)
    only: Author | None = None
    answers: dict[Author, ModelAnswer] = {}
    errors: list[str] = []
    for author, result in zip(models, results, strict=True):
        if isinstance(result, ModelAnswer):
            answers[author] = result
            continue
        deputy = stand_in(settings, author)
        excused = isinstance(result, BackendError | UnsuitableEndpointError)
        if not excused or deputy is None or errors:
            raise result
        only = deputy
        errors.append(str(result))
        answers[author] = ModelAnswer(Capabilities(), prompt.Prompt(Rendered(""), None))
    return Answers(answers, only, errors)


def stand_in(settings: RoutingSettings, failed: Author) -> Author | None:
    """Who goes on alone when a model fails; ``None``: nobody, the failure is raised."""
    deputy = settings.on_backend_error
    return None if deputy == "raise" or deputy == failed else deputy


@contextmanager
def name_role(role: Author) -> Iterator[None]:
    """Put the model's role into errors that do not know it."""
    try:
        yield
    except BackendError as error:
        error.role = role
        raise
