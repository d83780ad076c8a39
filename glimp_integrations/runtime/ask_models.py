"""What both models say before a call's first step: their capabilities and their prompts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from glimp_integrations.backends.base import Capabilities, Rendered
from glimp_integrations.conversation import prompt
from glimp_integrations.errors import ModelError
from glimp_integrations.method.policy import Author
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.failures import asked, stand_in

__all__ = ["Answers", "ModelAnswer", "ask_both"]


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
        only: Who has to write everything; ``None``: both may.
        errors: The failure that was excused, in words.
    """

    of: dict[Author, ModelAnswer]
    only: Author | None
    errors: list[str]

    @property
    def window(self) -> int | None:
        """Tokens that fit after the prompt in the smaller of the context windows, if known."""
        return min((a.room for a in self.of.values() if a.room is not None), default=None)

    def without(self, failed: Author, deputy: Author, error: ModelError) -> Answers:
        """These answers where one model turned out to be of no use, and the other works alone."""
        of = {**self.of, failed: _NOTHING}
        return replace(self, of=of, only=deputy, errors=[*self.errors, str(error)])


# Of a model that failed.
_NOTHING = ModelAnswer(Capabilities(), prompt.Prompt(Rendered(""), None))


async def ask_both(call: Call) -> Answers:
    """Ask for capabilities and prompts; a failing model is excused if the other may work alone.

    Raises:
        ConfigError: The conversation does not fit a model.
        UnsuitableEndpointError: A server cannot be used.
        BackendError: A model failed, and the other may not work alone.
    """
    settings, models = call.settings, call.models
    if call.large_alone is not None and stand_in(settings, "large") is None:
        # The small model is not asked for anything.
        models = {"large": call.large}
    # One after the other: on one machine, loading and first requests of two models only
    # disturb each other; later calls find everything cached.
    capabilities: dict[Author, Capabilities | BaseException] = {}
    for author, backend in models.items():
        try:
            with asked(author, backend):
                capabilities[author] = await backend.capabilities()
        except ModelError as error:
            capabilities[author] = error
            if stand_in(settings, author) is None:
                raise

    async def render(author: Author) -> ModelAnswer:
        own = capabilities[author]
        if isinstance(own, BaseException):
            raise own
        with asked(author, models[author]):
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
    if len(models) == 1:
        only, answers["small"] = "large", _NOTHING
    for author, result in zip(models, results, strict=True):
        if isinstance(result, ModelAnswer):
            answers[author] = result
            continue
        deputy = stand_in(settings, author)
        excused = isinstance(result, ModelError)
        if not excused or deputy is None or errors:
            raise result
        only = deputy
        errors.append(str(result))
        answers[author] = _NOTHING
    return Answers(answers, only, errors)
