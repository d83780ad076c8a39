"""top_k, min_p and the penalties: checked, passed on where they are known, refused by name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from scripts import SPOKEN

from glimp_integrations import ConfigError, GlimpRouter, RoutingSettings
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.backends.base import Capabilities, Report, Request, Token
from glimp_integrations.method.sampling import FURTHER_SAMPLING

ALL = {"top_k": 20, "min_p": 0.05, "presence_penalty": 1.5, "repetition_penalty": 1.1}


class Hiding(ScriptedBackend):
    """A model whose log-probabilities are not its own under penalties."""

    async def capabilities(self) -> Capabilities:
        return replace(await super().capabilities(), raw_under_penalties=False)

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        penalised = bool(request.logprobs and request.penalises)
        async for token in super().generate(request, report):
            yield replace(token, text="", pending=True) if penalised else token
            if penalised:
                return


def scripted(**options: Any) -> ScriptedBackend:
    return ScriptedBackend([*SPOKEN, "So", "."], **options)


def sent(backend: ScriptedBackend) -> list[dict[str, Any]]:
    return [{name: getattr(r, name) for name in FURTHER_SAMPLING} for r in backend.requests]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 0),
        ("top_k", 1.5),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("presence_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("repetition_penalty", 0),
        ("repetition_penalty", 1e-300),
        ("repetition_penalty", 0.009),
        ("repetition_penalty", 101),
        ("repetition_penalty", 1e300),
        ("repetition_penalty", float("inf")),
        ("repetition_penalty", float("nan")),
    ],
)
def test_an_impossible_value_is_named(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{name}: .*\(got {value!r}".replace("+", r"\+")):
        RoutingSettings(**{name: value})


def test_nothing_is_sent_unless_it_is_set() -> None:
    small, large = scripted(), scripted()
    GlimpRouter(small, large).run("hi")
    assert sent(small)[0] == dict.fromkeys(FURTHER_SAMPLING)


def test_every_request_of_both_models_has_what_is_set() -> None:
    small, large = scripted(), scripted()
    GlimpRouter(small, large, **ALL).run("hi")
    assert small.requests and large.requests
    assert all(fields == ALL for fields in [*sent(small), *sent(large)])


def test_a_call_may_change_it() -> None:
    small, large = scripted(), scripted()
    router = GlimpRouter(small, large, top_k=20)
    router.run("hi", top_k=5, presence_penalty=1)
    assert {(f["top_k"], f["presence_penalty"]) for f in sent(small)} == {(5, 1)}
    router.run("hi", top_k=None)
    assert sent(small)[-1]["top_k"] is None


@pytest.mark.parametrize("lacking", FURTHER_SAMPLING)
@pytest.mark.parametrize("role", ["small", "large"])
def test_a_model_without_a_setting_refuses_it_by_name(role: str, lacking: str) -> None:
    poor = scripted(name="poor", sampling=[n for n in FURTHER_SAMPLING if n != lacking])
    models = {"small": scripted(), "large": scripted(), role: poor}
    with pytest.raises(ConfigError) as caught:
        GlimpRouter(**models, **ALL).run("hi")
    for part in (f"{lacking}={ALL[lacking]:g}", f"{role} model, poor", "extra_body"):
        assert part in str(caught.value)
    assert not poor.requests
    GlimpRouter(**models, **{**ALL, lacking: None}).run("hi")


def test_a_value_without_effect_is_nobodys_problem() -> None:
    poor = scripted(sampling=[])
    GlimpRouter(poor, poor, min_p=0, presence_penalty=0, repetition_penalty=1).run("hi")
    assert sent(poor)[0] == dict.fromkeys(FURTHER_SAMPLING)


def test_a_model_that_writes_nothing_needs_nothing() -> None:
    failing = scripted(sampling=[], fail_after=0)
    failing.render = None  # type: ignore[assignment, method-assign]  # so it fails before it is needed
    router = GlimpRouter(failing, scripted(), top_k=20, on_backend_error="large")
    assert router.run("hi").trace.errors


class TestEntropyUnderPenalties:
    """Where a server shows log-probabilities after penalties, H comes from requests without."""

    @pytest.mark.parametrize("penalty", [{"presence_penalty": 1.5}, {"repetition_penalty": 1.1}])
    def test_each_glimpse_is_a_request_of_its_own(self, penalty: dict[str, float]) -> None:
        hiding = Hiding([*SPOKEN, "So", "."])
        trace = GlimpRouter(hiding, scripted(), **penalty).run("hi").trace
        assert trace.strategy == "two_request"
        assert "without them" in trace.strategy_reason
        assert {r.max_tokens for r in hiding.requests if r.logprobs} == {1}
        plain = GlimpRouter(scripted(), scripted()).run("hi").trace
        assert [s.entropy for s in trace.steps] == [s.entropy for s in plain.steps]
        assert [s.text for s in trace.steps] == [s.text for s in plain.steps]

    @pytest.mark.parametrize(
        "harmless", [{"top_k": 5, "min_p": 0.1}, {"presence_penalty": 0, "repetition_penalty": 1}]
    )
    def test_nothing_changes_without_penalties(self, harmless: dict[str, float]) -> None:
        trace = GlimpRouter(Hiding([*SPOKEN, "So"]), scripted(), **harmless).run("hi").trace
        assert trace.strategy == "fused"

    @pytest.mark.parametrize("strategy", ["fused", "overlap"])
    def test_a_strategy_that_reads_h_from_the_text_is_refused(self, strategy: str) -> None:
        router = GlimpRouter(
            Hiding(SPOKEN, name="hiding"), scripted(), strategy=strategy, presence_penalty=1
        )
        with pytest.raises(ConfigError) as caught:
            router.run("hi")
        for part in (strategy, "hiding", "'two_request'", "presence_penalty"):
            assert part in str(caught.value)

    def test_without_glimpses_it_does_not_matter(self) -> None:
        router = GlimpRouter(
            Hiding(SPOKEN), scripted(), threshold=float("inf"), presence_penalty=1, strategy="fused"
        )
        assert router.run("hi").trace.strategy == "fused"


@pytest.mark.parametrize("argument", ["extra_body", "model_kwargs"])
def test_a_setting_in_another_librarys_place_is_told_where_it_belongs(argument: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RoutingSettings(**{argument: {"top_k": 20, "guided_regex": "x"}})
    for part in (argument, "give top_k=...", "OpenAIBackend"):
        assert part in str(caught.value)
