"""The method as a pure state machine: tokens in, actions out, no backend anywhere."""

from __future__ import annotations

import math

import pytest
from helpers import TAGS

from glimp_integrations import RoutingSettings
from glimp_integrations.backends.base import Token
from glimp_integrations.method.chain import Chain
from glimp_integrations.method.policy import Done, Glimpse, Glimpsed, StepStart, Write
from glimp_integrations.method.reply import Reply
from glimp_integrations.method.rule import Action, Rule, Threshold
from glimp_integrations.method.steps import StepUpdate
from glimp_integrations.output.constraints import FREE


def chain(*, tags: tuple[str, str] | None = TAGS, window: int | None = None, **options) -> Chain:
    think_end_tags = (tags[1],) if tags else ()
    return Chain(RoutingSettings(**options), FREE, think_end_tags, window=window)


def rule(chain: Chain) -> Rule:
    return Rule(Threshold(chain.settings.threshold), chain.settings.answer_by)


def author(threshold: float, *entropies: float) -> str:
    """Who writes a step whose glimpse showed this."""
    decision = Rule(Threshold(threshold)).action(StepStart(0, glimpse=Glimpsed(entropies)))
    assert isinstance(decision, Write)
    return decision.author


def action(chain: Chain) -> Action:
    """The decision without its words and numbers."""
    decision = rule(chain).action(chain.next_step)
    return Write(decision.author) if isinstance(decision, Write) else decision


def write(chain: Chain, *texts: str, author: str = "small") -> StepUpdate:
    """One step's tokens; returns what the last one led to."""
    chain.begin(author, None)
    for text in texts:
        kept = chain.take(Token(text))
    return kept


def ends(chain: Chain) -> list[str | None]:
    return [step.end for step in chain.steps]


class TestWhoWrites:
    @pytest.mark.parametrize(
        ("entropy", "writer"),
        [(0.0, "small"), (1.0, "small"), (1.0000001, "large"), (3.0, "large")],
    )
    def test_above_the_threshold_is_large_and_equal_is_small(self, entropy, writer):
        assert author(1.0, entropy) == writer

    def test_no_distribution_is_small(self):
        assert author(0.0) == "small"

    def test_every_step_begins_with_a_glimpse(self):
        c = chain()
        assert action(c) == Glimpse()
        write(c, "a", "\n\n")
        assert action(c) == Glimpse()

    @pytest.mark.parametrize(
        ("threshold", "author"), [(math.inf, "small"), (-1.0, "large"), (-math.inf, "large")]
    )
    def test_extreme_thresholds_cost_no_glimpse(self, threshold, author):
        assert action(chain(threshold=threshold)) == Write(author)

    def test_threshold_zero_still_glimpses(self):
        assert action(chain(threshold=0.0)) == Glimpse()

    @pytest.mark.parametrize("author", ["small", "large"])
    def test_the_answer_has_one_author(self, author):
        c = chain(answer_by=author)
        write(c, "a", "</think>")
        assert action(c) == Write(author)
        c.begin(author, None)
        assert not c.take(Token("one\n\ntwo")).step_over

    def test_the_answer_can_be_routed(self):
        c = chain(answer_by="router")
        write(c, "a", "</think>")
        assert action(c) == Glimpse()
        assert write(c, "one.\n\n").step_over
        assert action(c) == Glimpse()
        assert [step.is_answer for step in c.steps] == [False, True]

    def test_extreme_thresholds_also_rule_a_routed_answer(self):
        c = chain(answer_by="router", threshold=math.inf)
        write(c, "</think>")
        assert action(c) == Write("small")


class TestStepsAndCaps:
    def test_a_step_ends_behind_its_delimiter(self):
        c = chain()
        assert write(c, "a", ".\n\n") == StepUpdate(".\n\n", step_over=True, truncated=False)
        assert (c.steps[0].text, c.steps[0].tokens, c.steps[0].end) == ("a.\n\n", 2, "delimiter")

    def test_text_behind_the_delimiter_is_left_over(self):
        c = chain()
        assert write(c, "a\n\nFoo").truncated
        assert c.context() == "a\n\n"

    def test_context_is_all_kept_text_and_the_running_step(self):
        c = chain()
        write(c, "a\n\n")
        c.begin("large", 2.0)
        c.take(Token("b"))
        assert c.context() == "a\n\nb"

    def test_the_step_cap_invents_no_delimiter(self):
        c = chain(max_step_tokens=2)
        assert write(c, "a", "b").step_over
        assert c.context() == "ab"
        assert ends(c) == ["length"]
        assert action(c) == Glimpse()

    def test_the_step_cap_waits_for_a_whole_character(self):
        c = chain(max_step_tokens=2)
        c.begin("small", 0.0)
        c.take(Token("a"))
        assert not c.take(Token("", pending=True)).step_over
        assert c.take(Token("é")).step_over
        assert (c.steps[0].text, c.steps[0].tokens) == ("aé", 3)

    def test_grouped_tokens_count_as_many(self):
        c = chain(max_step_tokens=4)
        c.begin("large", 2.0)
        assert not c.take(Token("a b c", multi_token=True, count=3)).step_over
        assert c.step_room == 1
        assert c.take(Token(" d")).step_over

    def test_rooms_shrink(self):
        c = chain(max_step_tokens=3, max_thinking_tokens=5)
        assert (c.room, c.step_room) == (5, 3)
        c.begin("small", 0.0)
        c.take(Token("a"))
        assert (c.room, c.step_room) == (4, 2)
        c.take(Token("\n\n"))
        assert (c.room, c.step_room) == (3, 3)
        c.begin("small", 0.0)
        c.take(Token("b"))
        assert (c.room, c.step_room) == (2, 2)

    def test_the_step_cap_does_not_cut_the_answer(self):
        c = chain(max_step_tokens=2, max_tokens=4)
        write(c, "</think>")
        assert not write(c, "a", "b", "c", author="large").step_over
        assert c.step_room == 1


class TestEnds:
    def test_end_of_thinking(self):
        c = chain()
        write(c, "a", "\n", "</think>")
        assert (c.phase, c.stop_reason, ends(c)) == ("answer", "think_end", ["think_end"])
        assert Reply(c).reasoning == "a\n"
        assert c.context("</think>") == "a\n</think>\n\n"

    def test_a_tag_across_tokens_leaves_no_trace(self):
        c = chain()
        write(c, "a</th", "ink>")
        assert Reply(c).reasoning == "a"
        assert c.context("</think>") == "a</think>\n\n"

    def test_a_tag_across_steps_leaves_no_trace(self):
        c = chain(max_step_tokens=1)
        write(c, "a</th")
        assert c.steps[0].text == "a</th"
        write(c, "ink>")
        assert [step.text for step in c.steps] == ["a", ""]
        assert (Reply(c).reasoning, c.context("</think>")) == ("a", "a</think>\n\n")

    @pytest.mark.parametrize(
        ("text", "context"), [("a", "a\n</think>\n\n"), ("a\n", "a\n</think>\n\n")]
    )
    def test_a_forced_close_puts_the_tag_on_its_own_line(self, text, context):
        c = chain(max_thinking_tokens=1)
        write(c, text)
        assert (c.phase, c.stop_reason) == ("answer", "budget")
        assert c.context("</think>") == context
        assert Reply(c).reasoning == text

    def test_a_forced_close_shows_text_that_was_held_back(self):
        c = chain(max_thinking_tokens=1)
        assert write(c, "a</th").shown == "a</th"
        assert Reply(c).reasoning == "a</th"

    def test_end_of_sequence_in_thinking(self):
        c = chain()
        write(c, "a")
        c.ended("eos")
        assert (c.phase, c.stop_reason) == ("answer", "eos")
        assert c.context("</think>") == "a\n</think>\n\n"

    def test_budget_in_the_middle_of_the_third_step(self):
        c = chain(max_thinking_tokens=5)
        write(c, "a", "\n\n")
        write(c, "b", "\n\n")
        assert c.stop_reason is None
        write(c, "c")
        assert (c.stop_reason, ends(c)) == ("budget", ["delimiter", "delimiter", "length"])

    def test_context_full_is_told_by_the_backend(self):
        c = chain()
        write(c, "a")
        c.ended("context")
        assert (c.stop_reason, ends(c)) == ("context_full", ["context_full"])

    def test_context_full_leaves_the_answer_its_place(self):
        c = chain(window=40, max_step_tokens=1000)
        room = c.room
        assert 0 < room <= 40 - 10
        write(c, *["a"] * room)
        assert (c.phase, c.stop_reason) == ("answer", "context_full")
        assert c.room >= 10

    def test_a_stream_that_ends_early_ends_the_step_only(self):
        c = chain()
        write(c, "a")
        c.ended("length")
        assert (c.phase, c.stop_reason, ends(c)) == ("thinking", None, ["length"])

    def test_the_answer_ends_with_its_sequence(self):
        c = chain()
        write(c, "</think>")
        write(c, "42", author="large")
        c.ended("eos")
        assert action(c) == Done()
        assert (Reply(c).answer, c.stop_reason, c.answer_stop) == ("42", "think_end", "eos")

    def test_the_answer_ends_at_its_own_budget(self):
        c = chain(max_thinking_tokens=1, max_tokens=2)
        write(c, "a")
        write(c, "4", "2", author="large")
        assert (action(c), Reply(c).answer, c.answer_stop) == (Done(), "42", "budget")

    def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(self):
        c = chain(stop=["END"])
        write(c, "a END", "</think>")
        kept = write(c, "42 E", "ND more", author="large")
        assert (Reply(c).answer, c.answer_stop, c.stop_reason) == ("42 ", "stop", "think_end")
        assert kept.truncated
        assert Reply(c).reasoning == "a END"

    def test_white_space_in_front_of_the_answer_is_not_shown(self):
        c = chain()
        write(c, "</think>")
        c.begin("large", None)
        assert c.take(Token("\n\n")).shown == ""
        assert c.take(Token(" 4")).shown == "4"
        assert c.take(Token(" 2")).shown == " 2"
        assert Reply(c).answer == "4 2"


class TestGuards:
    def test_two_equal_steps(self):
        c = chain()
        write(c, "a\n\n")
        assert c.stop_reason is None
        write(c, "a\n\n")
        assert (c.phase, c.stop_reason) == ("answer", "repeated_step")

    def test_equal_steps_with_another_between_are_fine(self):
        c = chain()
        for text in ("a\n\n", "b\n\n", "a\n\n"):
            write(c, text)
        assert c.stop_reason is None

    def test_two_steps_in_turn(self):
        c = chain()
        for text in ("a\n\n", "b\n\n", "a\n\n", "b\n\n"):
            assert c.stop_reason is None
            write(c, text)
        assert c.stop_reason == "repeated_step"

    def test_two_blank_steps(self):
        c = chain()
        write(c, "\n\n")
        assert c.stop_reason is None
        write(c, " \n\n\n")
        assert c.stop_reason == "repeated_step"

    def test_the_answer_may_repeat_the_last_thought(self):
        c = chain(answer_by="router")
        write(c, "a\n\n")
        write(c, "b</think>")
        write(c, "b\n\n")
        assert c.answer_stop is None
        write(c, "b\n\n")
        assert c.answer_stop == "repeated_step"

    def test_a_failed_step_is_no_repetition(self):
        c = chain()
        write(c, "\n\n")
        c.begin("large", 2.0)
        c.fall_back("small", FREE)
        assert (c.phase, c.stop_reason) == ("thinking", None)


class TestWithoutTags:
    def test_the_last_step_is_the_answer(self):
        c = chain(tags=None)
        write(c, "one\n\n")
        write(c, "two\n\n")
        write(c, "42")
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("one\n\ntwo\n\n", "42")
        assert (action(c), c.stop_reason, c.answer_stop) == (Done(), "eos", None)

    def test_blank_steps_behind_it_belong_to_it(self):
        c = chain(tags=None)
        write(c, "one\n\n")
        write(c, "42\n\n")
        c.begin("small", None)
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("one\n\n", "42\n\n")

    def test_a_single_step_is_the_answer(self):
        c = chain(tags=None)
        write(c, "42")
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("", "42")

    def test_the_whole_reply_can_be_the_answer(self):
        c = chain(tags=None, untagged_answer="whole")
        write(c, "one\n\n")
        write(c, "42")
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("", "one\n\n42")
        assert not Reply(chain(tags=None, untagged_answer="whole")).undecided

    def test_a_tag_is_ordinary_text(self):
        c = chain(tags=None)
        assert not write(c, "a</think>b").step_over
        assert c.context() == "a</think>b"

    def test_max_tokens_bounds_the_reply(self):
        c = chain(tags=None, max_tokens=2)
        write(c, "a", "b")
        assert (action(c), c.stop_reason, Reply(c).answer) == (Done(), "budget", "ab")

    def test_a_stop_string_ends_the_reply(self):
        c = chain(tags=None, stop=["\n\nUser:"])
        write(c, "42\n\n")
        write(c, "User:")
        assert (action(c), c.stop_reason, Reply(c).answer) == (Done(), "stop", "42")

    def test_behind_the_marker_the_answer_model_takes_over(self):
        c = chain(tags=None, answer_marker="Answer:")
        write(c, "one\n\n")
        write(c, "Ans", "wer:")
        assert (c.phase, c.stop_reason, action(c)) == ("answer", "think_end", Write("large"))
        assert c.context() == "one\n\nAnswer:"
        assert write(c, " 42", author="large").shown == "42"
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("one\n\n", "42")

    def test_with_a_marker_the_chain_has_the_thinking_budget(self):
        c = chain(tags=None, answer_marker="Answer:", max_tokens=2, max_thinking_tokens=4)
        assert c.room == 4
        write(c, "Answer:")
        assert c.room == 2

    def test_the_marker_in_front_of_everything_leaves_no_reasoning(self):
        c = chain(tags=None, answer_marker="Answer:")
        write(c, "Answer:")
        write(c, "42", author="large")
        c.ended("eos")
        assert (Reply(c).reasoning, Reply(c).answer) == ("", "42")


class TestFallBack:
    def test_one_model_writes_the_rest_without_glimpses(self):
        c = chain(threshold=1.0, answer_by="large")
        c.begin("large", 2.0)
        c.take(Token("half a "))
        assert c.fall_back("small", FREE).step_over
        assert ends(c) == ["error"]
        assert action(c) == Write("small")
        assert c.context() == "half a "
        write(c, "thought", "</think>")
        assert action(c) == Write("small")
        assert Reply(c).reasoning == "half a thought"

    def test_between_steps_it_adds_none(self):
        c = chain()
        assert c.fall_back("large", FREE) == StepUpdate("", step_over=True, truncated=False)
        assert c.steps == []
        assert action(c) == Write("large")

    def test_a_held_back_tag_is_still_found(self):
        c = chain()
        c.begin("large", 2.0)
        c.take(Token("a</th"))
        c.fall_back("small", FREE)
        write(c, "ink>")
        assert (Reply(c).reasoning, c.stop_reason) == ("a", "think_end")


def test_the_same_tokens_lead_to_the_same_decisions():
    def replay() -> list[object]:
        c, log = chain(max_step_tokens=3), []
        for entropy, texts in [(0.5, ["a", "\n\n"]), (1.5, ["b", "c", "d"]), (0.1, ["</think>"])]:
            log.append(action(c))
            c.begin(author(1.0, entropy), entropy)
            log.extend(c.take(Token(text)) for text in texts)
        return [*log, action(c), c.context(), c.steps]

    assert replay() == replay()
