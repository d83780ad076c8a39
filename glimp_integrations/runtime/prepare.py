"""What a call needs before its first step: both models asked, prompts rendered, pens made."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

from glimp_integrations.backends.base import (
    CALL_LIMITS,
    Backend,
    Capabilities,
    Message,
    Rendered,
)
from glimp_integrations.calibrated_threshold import CalibratedThreshold, Conditions
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.earlier_reasoning import kept
from glimp_integrations.errors import BackendError, ConfigError, UnsuitableEndpointError
from glimp_integrations.method.chain import Author, Chain
from glimp_integrations.method.entropy import Estimator
from glimp_integrations.method.format_tokens import only_formats
from glimp_integrations.output.constraints import Plan, make_plan
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_parser import ToolCallParser
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.model_stream import ModelStream, Sampling
from glimp_integrations.runtime.recorder import Recorder
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.runtime.strategy import choose
from glimp_integrations.settings import RoutingSettings

__all__ = ["Prepared", "conditions", "prepare", "stand_in"]

TOP_LOGPROBS = 20  # the reference code's k and the cap of most servers


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a call works with.

    Attributes:
        chain: What is written.
        streams: Who writes it.
        strategy: How requests are made.
        recorder: Keeps the books.
        reader: Finds tool calls in the answer.
        replan: The plan for the answer where this model writes it.
    """

    chain: Chain
    streams: dict[Author, ModelStream]
    strategy: str
    recorder: Recorder
    reader: ToolCallParser
    replan: Callable[[Author], Plan]


async def prepare(asked: Call, speed: PairSpeed | None) -> Prepared:
    """Ask both models, choose a strategy, and make what the loop works with.

    Args:
        asked: What is asked of whom; its messages are checked by :func:`prompt.check_messages`.
        speed: What the pair's tokens and requests take, if it was measured.

    Raises:
        ConfigError: The settings do not fit the models, or the conversation does not.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed, and the other may not work alone.
    """
    started = time.perf_counter()
    settings, small, large = asked.settings, asked.small, asked.large
    messages, output = asked.messages, asked.output
    CALL_LIMITS.set((settings.timeout, settings.max_retries))
    models: dict[Author, Backend] = {"small": small, "large": large}
    ready, forced, errors = await _ask_both(settings, models, messages, output)
    tags = _tags(settings, {author: model.prompt for author, model in ready.items()})
    cans = ready["small"].can, ready["large"].can
    shared = cans[0].shares_device(cans[1])
    strategy = choose(settings.strategy, small, large, *cans, speed)
    if settings.warm_prefix_cache and (shared or cans[1].in_process):
        raise ConfigError(
            "warm_prefix_cache lets the large model read while the small one writes, and here they "
            "compute on one device: leave it out, or name the devices on the backends (device=...)"
        )
    glimpses = forced is None and 0 <= settings.threshold < math.inf
    estimator = _estimator(settings, cans[0], needed=glimpses)
    draft = _drafter(settings, models, ready) if forced is None else None
    k = _glimpse_size(small, cans[0], estimator) if glimpses else 0
    if glimpses and isinstance(settings.threshold, CalibratedThreshold):
        settings.threshold.compare(Conditions.of(settings, (small, large), cans[0], estimator, k))
    seeds = itertools.count(settings.seed or 0)

    def stream(author: Author) -> ModelStream:
        own = tags[author]
        return ModelStream(
            author=author,
            backend=models[author],
            prefix=ready[author].prompt.prefix(own),
            think_end_tag=own[1] if own else "",
            sampling=Sampling(
                temperature=settings.temperature,
                top_p=settings.top_p,
                timeout=settings.timeout,
                max_retries=settings.max_retries,
            ),
            top_logprobs=k,
            glimpse_alone=strategy[0] == "two_request",
            stream_logprobs=strategy[0] != "two_request" and glimpses and author == "small",
            draft=draft if author == "large" else None,
            shared=shared,
            skips=partial(only_formats, delimiter=settings.step_delimiter)
            if settings.glimpse == "skip_format"
            else None,
            next_seed=lambda: None if settings.seed is None else next(seeds),
        )

    def plan_for(author: Author) -> Plan:
        """The plan for the answer, where this model writes it."""
        said = ready[author]
        return make_plan(
            output,
            (said.can.template, said.prompt.text),
            supports_schema=said.can.supports_schema,
            model=models[author].label,
            calls=any(m["role"] == "tool" or m.get("tool_calls") for m in messages),
        )

    streams: dict[Author, ModelStream] = {author: stream(author) for author in models}
    chain = Chain(
        settings,
        think_end_tags=tuple(dict.fromkeys(own[1] for own in tags.values() if own)),
        window=min(
            (model.room for model in ready.values() if model.room is not None), default=None
        ),
        plan=plan_for(forced or ("small" if settings.answer_by == "small" else "large")),
        forced=forced,
        random_draw=_random_draw(settings, messages),
    )
    recorder = Recorder(
        settings, chain, streams, strategy, estimator, ready["large"].prompt.tokens, started, errors
    )
    reader = chain.plan.reader(recorder.new_id)
    return Prepared(chain, streams, strategy[0], recorder, reader, plan_for)


async def conditions(settings: RoutingSettings, small: Backend, large: Backend) -> Conditions:
    """What a threshold belongs to.

    Raises:
        ConfigError: The small model cannot be measured by the estimator.
        UnsuitableEndpointError: It shows no log-probabilities.
        BackendError: It cannot be reached.
    """
    with _blame("small"):
        can = await small.capabilities()
    estimator = _estimator(settings, can, needed=True)
    k = _glimpse_size(small, can, estimator)
    return Conditions.of(settings, (small, large), can, estimator, k)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What one model said before the first step."""

    can: Capabilities
    prompt: prompt.Prompt

    @property
    def room(self) -> int | None:
        """Tokens that fit behind the prompt."""
        if self.can.context_window is None or self.prompt.tokens is None:
            return None
        return self.can.context_window - self.prompt.tokens


async def _ask_both(
    settings: RoutingSettings,
    models: dict[Author, Backend],
    messages: Sequence[Message],
    output: OutputSpec,
) -> tuple[dict[Author, _Ready], Author | None, list[str]]:
    """Capabilities and prompts; a failing model is excused if the other may work alone.

    Returns:
        What each model said, who has to write everything (``None``: both work), the failure.
    """
    forced: Author | None = None
    ready: dict[Author, _Ready] = {}
    errors: list[str] = []
    # One after the other: on one machine, loading and first requests of two models only
    # disturb each other; later calls find everything cached.
    can: dict[Author, Capabilities | BaseException] = {}
    for author, backend in models.items():
        try:
            with _blame(author):
                can[author] = await backend.capabilities()
        except (BackendError, UnsuitableEndpointError) as error:
            can[author] = error
            if stand_in(settings, author) is None:
                raise

    async def ask(author: Author) -> _Ready:
        known = can[author]
        if isinstance(known, BaseException):
            raise known
        with _blame(author):
            text = await prompt.build(
                models[author],
                messages,
                output,
                show_schema=settings.show_schema,
                keep_reasoning=settings.keep_reasoning,
                think_tags=settings.think_tags,
            )
        return _Ready(known, text)

    # Rendering is a round trip where the server does it: both at once.
    said = await asyncio.gather(*map(ask, models), return_exceptions=True)
    for author, found in zip(models, said, strict=True):
        if isinstance(found, _Ready):
            ready[author] = found
            continue
        deputy = stand_in(settings, author)
        excused = isinstance(found, BackendError | UnsuitableEndpointError)
        if not excused or deputy is None or errors:
            raise found
        forced = deputy
        errors.append(str(found))
        ready[author] = _Ready(Capabilities(), prompt.Prompt(Rendered(""), None))
    return ready, forced, errors


def stand_in(settings: RoutingSettings, failed: Author) -> Author | None:
    """Who goes on alone when a model fails; ``None``: nobody, the failure is raised."""
    wanted = settings.on_backend_error
    return None if wanted == "raise" or wanted == failed else wanted


def _tags(
    settings: RoutingSettings, prompts: dict[Author, prompt.Prompt]
) -> dict[Author, tuple[str, str] | None]:
    """Each model's think tags: given, its own, or (if it has none) the other's as plain text."""
    if settings.think_tags is not None:
        return dict.fromkeys(prompts, settings.think_tags or None)
    found = next((prompts[a].tags for a in ("large", "small") if prompts[a].tags), None)
    return {author: text.tags or found for author, text in prompts.items()}


def _estimator(settings: RoutingSettings, small: Capabilities, *, needed: bool) -> Estimator:
    """The estimator of this call; thresholds of different ones are not comparable."""
    if settings.entropy_estimator == "auto":
        return "full" if small.in_process else "topk_renorm"
    if settings.entropy_estimator == "full" and needed and not small.in_process:
        raise ConfigError(
            "entropy_estimator 'full' needs the whole vocabulary, and this small model shows only "
            f"its {small.top_logprobs} likeliest tokens: use 'topk_renorm' or 'topk_other', or a "
            "small model of this process ('hf:...')"
        )
    return settings.entropy_estimator


def _drafter(
    settings: RoutingSettings, models: dict[Author, Backend], ready: dict[Author, _Ready]
) -> Backend | Literal["prompt_lookup"] | None:
    """Who proposes tokens to the large model."""
    if settings.draft is None:
        return None
    needed: tuple[Author, ...] = ("small", "large") if settings.draft == "small" else ("large",)
    for author in needed:
        if not ready[author].can.drafts:
            raise ConfigError(
                f"draft={settings.draft!r} needs a {author} model that transformers runs in this "
                f"process ('hf:...'), and {models[author].label} is none: leave draft out"
            )
    return models["small"] if settings.draft == "small" else "prompt_lookup"


def _random_draw(
    settings: RoutingSettings, messages: Sequence[Message]
) -> Callable[[], float] | None:
    """Lots of the random router: one question has the same ones in every run."""
    if settings.random_share is None:
        return None
    # Earlier reasoning is no part of the question: not every model reads it.
    question = json.dumps(kept(messages, "never"), sort_keys=True, default=str)
    return random.Random(f"{settings.seed}\0{question}").random  # noqa: S311


def _glimpse_size(small: Backend, can: Capabilities, estimator: Estimator) -> int:
    """How many log-probabilities a glimpse asks for."""
    if can.top_logprobs <= 0:
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=f"small model {small.label}",
            detail="returns no top-k log-probabilities, so there is no entropy to route by"
            + (f" ({can.logprobs_refusal})" if can.logprobs_refusal else ""),
            remedy="Use it as the large model only, or serve it with logprobs enabled",
        )
    k = min(TOP_LOGPROBS, can.top_logprobs) if can.wanted_logprobs is None else can.wanted_logprobs
    if can.top_logprobs < k:
        raise UnsuitableEndpointError(
            probe="P2 logprobs",
            server=f"small model {small.label}",
            detail=f"returns {can.top_logprobs} of {k} requested log-probabilities",
            remedy=f"Set top_logprobs={can.top_logprobs} on the backend and calibrate the "
            "threshold for it: entropies of different k are not comparable"
            if can.top_logprobs > 1
            else "Use it as the large model only: one token says nothing of the others",
        )
    if k == 1 and estimator == "topk_renorm":
        raise ConfigError(
            f"small model {small.label} is asked for 1 log-probability a token, and "
            "entropy_estimator 'topk_renorm' finds no doubt in one: H would be 0 at every step. "
            "Ask for more (top_logprobs=20), or use 'topk_other'"
        )
    return k


@contextmanager
def _blame(role: Author) -> Iterator[None]:
    """Name the model's role in errors that do not know it."""
    try:
        yield
    except BackendError as error:
        error.role = role
        raise
