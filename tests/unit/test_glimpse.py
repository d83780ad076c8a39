"""Which token is glimpsed, and the random router: named options beside the paper's way."""

from __future__ import annotations

import pytest
from helpers import model, router, script, steps

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.format_tokens import only_formats

LIST = script(
    ("- ", 0.1),
    ("**", 0.1),
    ("Then", 2.0),
    " add",
    ".\n\n",
    ("First", 0.3),
    "\n",
    "</think>",
    "\n\n",
    "4",
    "",
)


@pytest.mark.parametrize(
    "text",
    ["- ", "  ", "**", "1", "1.", "12) ", "- **", "1. **", "\\[", "$$", "### ", "> ", "• ", "`"],
)
def test_formatting_says_nothing_yet(text):
    assert only_formats(text, "\n\n")


@pytest.mark.parametrize(
    "text", ["", "So", "- So", "\n\n", "-5", "1.5", "2 + 2", "</think>", "**So", "1234", "x"]
)
def test_everything_else_is_the_step(text):
    assert not only_formats(text, "\n\n")


@pytest.mark.parametrize("strategy", ["two_request", "fused", "overlap"])
class TestSkippingFormat:
    def test_measures_the_first_token_that_says_something(self, strategy):
        result = router(
            model(LIST, name="S"), model(LIST, name="L"), strategy=strategy, glimpse="skip_format"
        ).run("q")
        assert steps(result, "author", "text", "discarded_tokens")[:2] == [
            ("large", "- **Then add.\n\n", 3),
            ("small", "First\n", 0),
        ]
        assert result.trace.steps[0].entropy == pytest.approx(2.0, abs=1e-6)
        assert result.trace.glimpse == "skip_format"

    def test_what_was_seen_is_written_when_the_small_model_goes_on(self, strategy):
        small = model(LIST, name="S")
        result = router(
            small, model(LIST, name="L"), strategy=strategy, glimpse="skip_format", threshold=2.5
        ).run("q")
        assert steps(result, "author", "text", "discarded_tokens")[0] == (
            "small",
            "- **Then add.\n\n",
            0,
        )
        assert result.reasoning == "- **Then add.\n\nFirst\n"

    def test_the_papers_way_measures_the_bullet(self, strategy):
        result = router(model(LIST, name="S"), model(LIST, name="L"), strategy=strategy).run("q")
        assert steps(result, "author")[0] == ("small",)
        assert result.trace.steps[0].entropy == pytest.approx(0.1, abs=1e-6)

    def test_looks_behind_three_tokens_at_most(self, strategy):
        deep = script("- ", "*", "*", ("`", 1.5), ("x", 0.1), "\n\n", "</think>", "4", "")
        result = router(
            model(deep, name="S"), model(deep, name="L"), strategy=strategy, glimpse="skip_format"
        ).run("q")
        assert result.trace.steps[0].entropy == pytest.approx(1.5, abs=1e-6)

    def test_an_end_behind_formatting_is_the_small_models(self, strategy):
        cut = script("So", "\n\n", "- ", "")
        result = router(
            model(cut, name="S"),
            model(cut, name="L"),
            strategy=strategy,
            glimpse="skip_format",
            think_tags=False,
        ).run("q")
        assert steps(result, "author", "text", "end")[1] == ("small", "- ", "eos")


class TestRandomRouter:
    def authors(self, question: str, **options: object) -> str:
        chain = script(*[(f"s{i}", 0.1) if j == 0 else "\n\n" for i in range(40) for j in (0, 1)])
        chain += script(("</think>", 0.1), "4", "")
        result = router(model(chain, name="S"), model(chain, name="L"), **options).run(question)
        glimpsed = [s for s in result.trace.steps if s.entropy is not None]
        assert all(step.entropy == pytest.approx(0.1, abs=1e-6) for step in glimpsed)
        return "".join(step.author[0] for step in glimpsed)

    def test_draws_the_share_and_not_by_entropy(self):
        drawn = "".join(self.authors(f"q{i}", random_share=0.25, seed=1) for i in range(40))
        assert drawn.count("l") / len(drawn) == pytest.approx(0.25, abs=0.04)

    @pytest.mark.parametrize("strategy", ["two_request", "fused", "overlap"])
    def test_a_question_draws_the_same_lots_whatever_the_strategy(self, strategy):
        again = self.authors("q", random_share=0.5, seed=1, strategy=strategy)
        assert again == self.authors("q", random_share=0.5, seed=1)

    def test_questions_and_seeds_draw_their_own(self):
        first = self.authors("q", random_share=0.5, seed=1)
        assert first != self.authors("another", random_share=0.5, seed=1)
        assert first != self.authors("q", random_share=0.5, seed=2)

    @pytest.mark.parametrize(("share", "author"), [(0.0, "s"), (1.0, "l")])
    def test_nothing_and_everything(self, share, author):
        assert set(self.authors("q", random_share=share)) == {author}

    def test_the_trace_says_so(self):
        result = router(random_share=0.5).run("q")
        assert result.trace.random_share == 0.5

    def test_a_threshold_that_decides_alone_is_refused(self):
        with pytest.raises(ConfigError, match=r"random_share decides at random.*threshold inf"):
            router(random_share=0.5, threshold=float("inf"))

    def test_no_share(self):
        with pytest.raises(ConfigError, match=r"random_share.*1\.5"):
            router(random_share=1.5)
