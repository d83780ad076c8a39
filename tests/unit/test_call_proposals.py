"""Who decides to call a tool in a chain without think tags: whoever writes the answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from helpers import TAGS, result_of, shown, steps, told
from hypothesis import given
from hypothesis import strategies as st

from glimp_integrations import GlimpRouter, RoutedAnswer, Trace
from glimp_integrations.backends import ScriptedBackend
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.trace.events import Event, StepStarted

HERMES = "{% if tools %}<tool_call>{% endif %}"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    for name in ("get_weather", "clock")
]
WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
PARIS = [("get_weather", {"city": "Paris"})]
BEGUN = [
    "<tool_call>",
    WEATHER,
    f"```json\n{WEATHER}\n```",
    '{"name": "get_time", "arguments": {"zone": "CET"}}',  # no such tool
    '```json\n{"name": "search.web", "parameters": {}}\n```',
    '[{"type": "function", "name": "nothing", "arguments": {}}]',
]


def says(*lines: tuple[str, str | list[str]], **options: Any) -> ScriptedBackend:
    """A model that goes on, character by character, behind texts that match the patterns.

    What it says is a text, or one text for each time that it is asked there.
    """
    started: dict[bytes, str] = {}

    def follow(behind: bytes) -> tuple[bytes, float]:
        if behind not in started:
            text = behind.decode()
            for place, said in lines:
                if re.fullmatch(place, text, re.DOTALL):
                    started[behind] = said if isinstance(said, str) else said.pop(0)
                    break
        for size in range(len(behind) + 1):
            begun = started.get(behind[: len(behind) - size])
            written = behind[len(behind) - size :].decode()
            if begun is not None and begun.startswith(written):
                rest = begun[len(written) :]
                return (rest[:1].encode(), 0.1) if rest else (b"", 0.0)
        return b"", 0.0

    return ScriptedBackend(follow, template=HERMES, **options)


def ask(
    small: ScriptedBackend, large: ScriptedBackend, form: OutputSpec | None = None, **options: Any
) -> tuple[RoutedAnswer, list[Event]]:
    options.setdefault("temperature", 0.0)
    router = GlimpRouter(small, large, **options)
    events = list(router.stream("Weather in Paris?", form or OutputSpec(tools=TOOLS)))
    result = result_of(events)
    for kind, text in (("reasoning", result.reasoning), ("answer", result.answer)):
        assert told(events, kind) == text
    return result, events


def called(result: RoutedAnswer) -> list[tuple[str, Any]]:
    return [(call.name, call.arguments) for call in result.tool_calls]


class TestTheLargeModelDecides:
    @pytest.mark.parametrize("begun", BEGUN)
    @pytest.mark.parametrize("strategy", ["two_request", "fused", "overlap"])
    def test_it_may_say_something_else(self, begun: str, strategy: str):
        small = says(("", begun), name="S")
        large = says(("", "Paris is in France."), name="L")
        result, events = ask(small, large, strategy=strategy)
        assert result.answer == shown(events) == "Paris is in France."
        assert not result.tool_calls and not result.invalid_tool_calls
        assert steps(result, "author", "text", "end") == [
            ("small", "", "call_proposed"),
            ("large", "Paris is in France.", "eos"),
        ]

    @pytest.mark.parametrize("begun", BEGUN)
    def test_it_may_make_the_call_and_is_bound_as_ever(self, begun: str):
        small = says(("", begun), name="S")
        large = says(
            ("", "<tool_call>\n"), ("<tool_call>\n", WEATHER), name="L", supports_schema=True
        )
        result, events = ask(small, large)
        assert called(result) == PARIS
        assert result.answer == "" == shown(events)
        assert [request.schema is not None for request in large.requests][:2] == [False, True]
        assert not any(request.schema for request in small.requests)

    def test_text_before_the_call_stays_and_the_large_model_goes_on_behind_it(self):
        small = says(("", f"I look it up.\n\nOne moment: \n{WEATHER}"))
        large = says((r"I look it up\.\n\nOne moment: \n", "it is sunny."))
        result, events = ask(small, large)
        assert shown(events) == "I look it up.\n\nOne moment: \nit is sunny."
        assert result.answer == "One moment: \nit is sunny."  # one paragraph, of two authors
        assert steps(result, "author", "text") == [
            ("small", "I look it up.\n\n"),
            ("small", "One moment: \n"),
            ("large", "it is sunny."),
        ]

    def test_the_next_step_is_routed_again(self):
        small = says(("", "<tool_call>"), ("No\\.\n\n", "It is noon."))
        large = says(("", "No.\n\n"), ("No\\.\n\n", "WRONG"))
        result, _ = ask(small, large)
        assert result.answer == "It is noon."
        assert [s.entropy is None for s in result.trace.steps] == [False, True, False]

    def test_it_decides_again_at_every_proposal(self):
        small = says(("", "<tool_call>"), ("No\\.\n\n", "<tool_call>"))
        large = says(("", "No.\n\n"), ("No\\.\n\n", "Sunny."))
        result, _ = ask(small, large)
        assert result.answer == "Sunny." and result.reasoning == "No.\n\n"
        assert [p.called for p in result.trace.call_proposals] == [False, False]

    def test_a_pair_that_goes_in_circles_ends(self):
        small = says((".*", "<tool_call>"))
        large = says((".*", "\n\n"))
        result, _ = ask(small, large)
        assert result.trace.stop_reason == "repeated_step"

    def test_a_fence_that_an_earlier_step_closed_is_not_taken_back(self):
        small = says(("", f"```py\nx\n```\n\n{WEATHER}"))
        large = says((r"```py\nx\n```\n\n", "That prints x."))
        result, events = ask(small, large, untagged_answer="whole")
        assert result.answer == shown(events) == "```py\nx\n```\n\nThat prints x."

    @pytest.mark.parametrize("answer_by", ["large", "router"])
    def test_whoever_writes_calls(self, answer_by: str):
        small, large = says(("", "<tool_call>")), says(("", "Sunny."))
        assert ask(small, large, answer_by=answer_by)[0].answer == "Sunny."

    @pytest.mark.parametrize("begun", BEGUN)
    def test_no_tool_is_left_but_the_conversation_shows_how_to_call(self, begun: str):
        """Such as the last agent of a workflow, which has none of the others' tools."""
        call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "noon", "tool_call_id": "1"},
        ]
        small, large = says(("", f"So:\n{begun}")), says(("So:\n", "It is noon."))
        with GlimpRouter(small, large, temperature=0) as router:
            result = router.run(messages)
        assert result.answer == "So:\nIt is noon."

    def test_without_a_glimpse_too(self):
        small, large = says(("", "<tool_call>")), says(("", "Sunny."))
        assert ask(small, large, threshold=float("inf"))[0].answer == "Sunny."


class TestNothingElseChanges:
    def test_where_the_small_model_answers_it_decides(self):
        small = says(("", f"<tool_call>{WEATHER}"), ("<tool_call>", WEATHER))
        result, _ = ask(small, says(("", "Sunny.")), answer_by="small")
        assert called(result) == PARIS
        (proposal,) = result.trace.call_proposals
        assert (proposal.proposed_by, proposal.decided_by, proposal.called) == (
            "small",
            "small",
            True,
        )

    def test_a_demanded_call_needs_no_decision(self):
        small = says(("", "<tool_call>"))
        large = says(("\\s*<tool_call>\n", WEATHER), ("", "Sunny."))
        result, _ = ask(small, large, OutputSpec(tools=TOOLS, tool_choice="any"))
        assert called(result) == PARIS and not result.trace.call_proposals

    def test_with_tags_nothing_changes(self):
        tagged: dict[str, Any] = {"generation_prompt": "<assistant>\n<think>\n"}
        small = says(("", f"{WEATHER}\n</think>"), **tagged)
        large = says((".*</think>\n\n", "Sunny."), **tagged)
        result, _ = ask(small, large, think_tags=TAGS)
        assert result.reasoning == f"{WEATHER}\n" and result.answer == "Sunny."
        assert not result.trace.call_proposals

    def test_without_tools_json_is_text(self):
        text = '{"name": "get_time", "arguments": {}}'
        assert ask(says(("", text)), says(("", "no")), OutputSpec())[0].answer == text

    @pytest.mark.parametrize(
        "text",
        [
            '{"name": "Bob", "age": 3}',
            'He said {"name": "get_time", "arguments": {}} to her.',  # not at a line's beginning
            '{"name": "get_time"}',
            '"name": "get_time", "arguments": {}',
        ],
    )
    def test_other_json_of_the_small_model_is_text(self, text: str):
        result, _ = ask(says(("", text)), says(("", "no")))
        assert result.answer == text and not result.trace.call_proposals

    def test_the_large_models_own_json_is_text_where_it_names_no_tool(self):
        text = '{"name": "get_time", "arguments": {}}'
        result, _ = ask(says(("", "<tool_call>")), says(("", text)))
        assert result.answer == text

    def test_the_stand_in_of_a_failed_large_model_decides(self):
        small = says(("", f"<tool_call>{WEATHER}"), ("<tool_call>", WEATHER))
        large = says(("", "Sunny."), fail_after=0)
        result, _ = ask(small, large, on_backend_error="small", max_retries=0)
        assert called(result) == PARIS
        (proposal,) = result.trace.call_proposals
        assert proposal.decided_by == "small" and proposal.called


class TestTheTrace:
    def test_tells_who_proposed_and_who_decided(self):
        small = says(("", "Hm.\n\n<tool_call>"), ("Hm\\.\n\nNo\\.\n\n", WEATHER))
        large = says(
            ("Hm\\.\n\n", "No.\n\n"),
            ("Hm\\.\n\nNo\\.\n\n", "<tool_call>\n"),
            (".*<tool_call>\n", WEATHER),
        )
        result, events = ask(small, large)
        assert [
            (p.step, p.proposed_by, p.decided_in, p.decided_by, p.called)
            for p in result.trace.call_proposals
        ] == [(1, "small", 2, "large", False), (3, "small", 4, "large", True)]
        assert result.trace.call_proposals[1].trigger == '{"name": "get_weather"'
        begun = [e for e in events if isinstance(e, StepStarted)]
        assert [e.index for e in begun if e.decides_call] == [2, 4]
        assert Trace.from_json(result.trace.to_json()) == result.trace

    def test_a_call_of_the_large_models_own_accord(self):
        small = says(("", "unused"))
        large = says(("", "<tool_call>\n"), ("<tool_call>\n", WEATHER))
        result, _ = ask(small, large, threshold=-1)
        (proposal,) = result.trace.call_proposals
        assert (proposal.step, proposal.decided_in, proposal.decided_by) == (0, 0, "large")
        assert proposal.called

    @pytest.mark.parametrize("strategy", ["two_request", "fused"])
    def test_what_was_begun_counts_as_discarded(self, strategy: str):
        small = says(("", "One.\n<tool_call>"))
        result, _ = ask(small, says(("One\\.\n", "Two.")), strategy=strategy)
        first, second = result.trace.steps
        assert (first.tokens, second.tokens) == (5, len("Two.") + 1)
        assert first.discarded_tokens == len("<tool_call>")
        assert result.usage.small.output_tokens == 5 + len("<tool_call>")

    def test_the_views_say_it(self):
        result, _ = ask(says(("", "<tool_call>")), says(("", "Sunny.")))
        text = str(result.trace)
        assert "(began a tool call)" in text and "decides on the tool call" in text
        assert "the small model began 1 tool call, the large model made none of them" in text
        page = result.trace.to_html()
        assert "a tool call, for the large model to decide on" in page
        assert "decides on the tool call" in page and "made none of them" in page


PIECES = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(st.sampled_from(BEGUN), st.sampled_from(["", "I look.\n\n", "Hm: \n"]), PIECES)
def test_pieces_of_any_size_propose_alike(begun: str, before: str, sizes: list[int]):
    def outcome(sizes: list[int]) -> Any:
        small = says(("", f"{before}{begun} and so on"), chunk_sizes=sizes)
        large = says((re.escape(before), "It is sunny."))
        result, _ = ask(small, large, threshold=float("inf"))
        return steps(result, "author", "text", "end")

    assert outcome(sizes) == outcome([1])


def test_words_before_a_call_are_the_same_streamed_and_not() -> None:
    """Also the white space in front of them, as no tag stands before it."""
    model = says(("", f" Let me look.<tool_call>\n{WEATHER}\n</tool_call>"))
    form = OutputSpec(TOOLS, strict=False)
    result, events = ask(model, model, form, threshold=-1.0, untagged_answer="whole")
    assert [(call.name, call.arguments) for call in result.tool_calls] == PARIS
    assert result.answer == told(events, "answer") == " Let me look."
