"""What a call needs before its first step: both models asked, prompts rendered, streams made."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

from glimp_integrations.backends.base import CALL_LIMITS, Backend, Capabilities, Message
from glimp_integrations.conversation.earlier_reasoning import kept
from glimp_integrations.errors import ConfigError, ModelError
from glimp_integrations.method.budgets import Budgets
from glimp_integrations.method.chain import Chain
from glimp_integrations.method.format_tokens import only_formats
from glimp_integrations.method.policy import Author, RoutingPolicy
from glimp_integrations.method.rule import RandomBaseline, Rule, Threshold
from glimp_integrations.output.constraints import Plan, make_plan
from glimp_integrations.runtime.ask_models import Answers, ask_both
from glimp_integrations.runtime.call import Call
from glimp_integrations.runtime.failures import stand_in
from glimp_integrations.runtime.list_prices import with_list_prices
from glimp_integrations.runtime.measuring import Measuring, plan_measuring
from glimp_integrations.runtime.model_stream import ModelStream
from glimp_integrations.runtime.recorder import Recorder
from glimp_integrations.runtime.reply_events import ReplyEvents
from glimp_integrations.runtime.request_stream import RequestStream, Sampling
from glimp_integrations.runtime.sampling import (
    check_sampling,
    fields_for,
    glimpse_alone,
    hides_entropy,
)
from glimp_integrations.runtime.speed import PairSpeed
from glimp_integrations.runtime.strategy import choose
from glimp_integrations.settings import RoutingSettings

__all__ = ["Prepared", "prepare", "within"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything a call works with.

    Attributes:
        chain: What is written.
        rule: Who writes the next step.
        streams: The models.
        strategy: How requests are made.
        recorder: Makes the trace.
        reply: Turns shown text into events.
        plan_for: The answer's shape where this model writes it.
    """

    chain: Chain
    rule: Rule
    streams: dict[Author, ModelStream]
    strategy: str
    recorder: Recorder
    reply: ReplyEvents
    plan_for: Callable[[Author], Plan]

    async def in_time(self, waiting: Awaitable[T]) -> T:
        """Wait for a model; raises ``TimeoutError`` when the call's time is over."""
        budgets, chain = self.rule.budgets, self.chain
        if budgets.deadline is None:
            return await waiting
        wall = budgets.wall(can_close=chain.can_close, constrained=chain.constrained)
        async with within(wall, self.recorder.started):
            return await waiting


def within(deadline: float | None, started: float) -> asyncio.Timeout:
    """Raises ``TimeoutError`` when so many seconds have passed since ``time.perf_counter()``."""
    if deadline is None:
        return asyncio.timeout(None)
    return asyncio.timeout(max(0.0, started + deadline - time.perf_counter()))


async def prepare(call: Call, speed: PairSpeed | None) -> Prepared:
    """Ask both models, choose a strategy, and make what the loop works with.

    Args:
        call: What is asked of which models; its messages are checked.
        speed: How fast the models are, if it was measured.

    Raises:
        ConfigError: The settings do not fit the models, or the conversation does not.
        UnsuitableEndpointError: A server lacks what routing needs.
        BackendError: A model failed, and the other may not work alone.
    """
    started = time.perf_counter()
    settings = call.settings
    CALL_LIMITS.set((settings.timeout, settings.max_retries))
    answers, measuring = _measured(call, await ask_both(call))
    if settings.prices == "auto":
        # Now that the models are known. Its data take a moment to import.
        call = await asyncio.to_thread(with_list_prices, call)
        settings = call.settings
    only = answers.only
    check_sampling(call, answers)
    small, large = (answers.of[author].capabilities for author in call.models)
    # A model that failed has shown nothing of what the strategy asks of it.
    asked_for = settings.strategy if only is None else "auto"
    if measuring.glimpses and hides_entropy(settings, small):
        strategy = glimpse_alone(asked_for, call.small)
    else:
        strategy = choose(asked_for, call.small, call.large, small, large, speed)
    if only is not None:
        strategy = strategy[0], f"the {only} model writes alone"
    _check_prefix_cache(settings, small, large)
    draft = None if only is not None else _draft(call, answers)
    tags = _think_tags(settings, answers)
    plan_for = _planner(call, answers)
    plan = plan_for(only or ("small" if settings.answer_by == "small" else "large"))
    streams = _streams(call, answers, measuring, tags, strategy[0], draft)
    chain = Chain(
        settings,
        plan,
        think_end_tags=tuple(dict.fromkeys(own[1] for own in tags.values() if own)),
        think_start_tags=tuple(dict.fromkeys(own[0] for own in tags.values() if own)),
        window=answers.window,
        forced=only,
        forced_reason=call.large_alone or "the other model failed",
        after_tool=bool(call.messages) and call.messages[-1]["role"] == "tool",
    )
    rule = Rule(
        _policy(call),
        settings.answer_by,
        settings.first_large_steps,
        _budgets(settings),
        call.large_alone,
    )
    recorder = Recorder(
        settings,
        chain,
        plan,
        streams,
        strategy,
        measuring.estimator,
        answers.of["large"].prompt.tokens,
        started,
        answers.errors,
        (call.plan.route, call.plan.reason),
    )
    reply = ReplyEvents(chain, plan.parser(recorder.new_id))
    return Prepared(chain, rule, streams, strategy[0], recorder, reply, plan_for)


def _measured(call: Call, answers: Answers) -> tuple[Answers, Measuring]:
    """How H is computed; where the small model cannot be measured, the large one may go on."""
    settings = call.settings

    def plan(answers: Answers) -> Measuring:
        small, needed = answers.of["small"].capabilities, answers.only is None
        return plan_measuring(settings, call.small, call.large, small, needed=needed)

    try:
        return answers, plan(answers)
    except ModelError as error:
        deputy = stand_in(settings, "small")
        if deputy is None or answers.only is not None:
            raise
        answers = answers.without("small", deputy, error)
        return answers, plan(answers)


def _check_prefix_cache(
    settings: RoutingSettings, small: Capabilities, large: Capabilities
) -> None:
    if settings.warm_prefix_cache and (small.shares_device(large) or large.in_process):
        raise ConfigError(
            "warm_prefix_cache lets the large model read while the small one writes, and here they "
            "compute on one device: leave it out, or name the devices on the backends (device=...)"
        )


def _think_tags(
    settings: RoutingSettings, answers: Answers
) -> dict[Author, tuple[str, str] | None]:
    """Each model's think tags: given, its own, or (if it has none) the other's as plain text."""
    if settings.think_tags is not None:
        return dict.fromkeys(answers.of, settings.think_tags or None)
    own = {author: answer.prompt.tags for author, answer in answers.of.items()}
    others = own["large"] or own["small"]
    return {author: tags or others for author, tags in own.items()}


def _planner(call: Call, answers: Answers) -> Callable[[Author], Plan]:
    """From the answer's author to the answer's shape."""
    has_calls = any(m["role"] == "tool" or m.get("tool_calls") for m in call.messages)

    def plan_for(author: Author) -> Plan:
        answer = answers.of[author]
        return make_plan(
            call.output,
            (answer.capabilities.template, answer.prompt.text),
            supports_schema=answer.capabilities.supports_schema,
            model=call.models[author].label,
            calls=has_calls,
        )

    return plan_for


def _streams(
    call: Call,
    answers: Answers,
    measuring: Measuring,
    tags: dict[Author, tuple[str, str] | None],
    strategy: str,
    draft: Backend | Literal["prompt_lookup"] | None,
) -> dict[Author, ModelStream]:
    settings = call.settings
    seeds = itertools.count(settings.seed or 0)
    sampling = Sampling(
        temperature=settings.temperature,
        top_p=settings.top_p,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        next_seed=lambda: None if settings.seed is None else next(seeds),
        sure=settings.policy is not None,  # none of ours goes by it
    )
    skips = (
        partial(only_formats, delimiter=settings.step_delimiter)
        if settings.glimpse == "skip_format"
        else None
    )
    small, large = (answers.of[author].capabilities for author in call.models)

    def stream(author: Author, backend: Backend) -> ModelStream:
        own = tags[author]
        request = RequestStream(
            author=author,
            backend=backend,
            prefix=answers.of[author].prompt.prefix(own),
            think_end_tag=own[1] if own else "",
            sampling=replace(
                sampling, further=fields_for(settings, answers.of[author].capabilities)
            ),
            top_logprobs=measuring.k,
            draft=draft if author == "large" else None,
        )
        return ModelStream(
            request,
            glimpse_alone=strategy == "two_request",
            stream_logprobs=(
                author == "small" and strategy != "two_request" and measuring.glimpses
            ),
            shares_device=small.shares_device(large),
            skips=skips,
        )

    return {author: stream(author, backend) for author, backend in call.models.items()}


def _draft(call: Call, answers: Answers) -> Backend | Literal["prompt_lookup"] | None:
    """Who proposes tokens to the large model (speculative decoding)."""
    draft = call.settings.draft
    if draft is None:
        return None
    needed: tuple[Author, ...] = ("small", "large") if draft == "small" else ("large",)
    for author in needed:
        if not answers.of[author].capabilities.drafts:
            raise ConfigError(
                f"draft={draft!r} needs a {author} model that transformers runs in this process "
                f"('hf:...'), and {call.models[author].label} is not one: leave draft out"
            )
    return call.small if draft == "small" else "prompt_lookup"


def _policy(call: Call) -> RoutingPolicy:
    """Who decides; the random baseline takes any policy's place."""
    settings = call.settings
    if settings.random_share is not None:
        return RandomBaseline(settings.random_share, _random_draw(settings, call.messages))
    return call.policy or Threshold(settings.threshold)


def _budgets(settings: RoutingSettings) -> Budgets:
    prices = settings.known_prices
    return Budgets(
        settings.max_large_tokens,
        settings.max_cost,
        settings.deadline,
        (0.0, 0.0) if prices is None else (prices.small.output / 1e6, prices.large.output / 1e6),
        settings.max_tokens,
    )


def _random_draw(settings: RoutingSettings, messages: Sequence[Message]) -> Callable[[], float]:
    """The random baseline's numbers: one question has the same ones in every run."""
    # Earlier reasoning is not part of the question: not every model reads it.
    question = json.dumps(kept(messages, "never"), sort_keys=True, default=str)
    return random.Random(f"{settings.seed}\0{question}").random  # noqa: S311
