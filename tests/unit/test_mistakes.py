"""Every mistake of a caller is a ConfigError that names the value."""

from __future__ import annotations

import math

import pytest
from helpers import model, router

from glimp_integrations import ConfigError, GlimpRouter, Trace


class TestConversations:
    def test_empty(self):
        with pytest.raises(ConfigError, match="empty"):
            router().run([])

    @pytest.mark.parametrize("messages", ["", " \n", [{"role": "user", "content": None}]])
    def test_blank(self, messages):
        with pytest.raises(ConfigError, match="blank"):
            router().run(messages)

    def test_unknown_role(self):
        with pytest.raises(ConfigError, match=r"message 1 has role 'wizard'.*assistant"):
            router().run(
                [
                    {"role": "user", "content": "a"},
                    {"role": "wizard", "content": "b"},
                ]
            )

    def test_no_role(self):
        with pytest.raises(ConfigError, match=r"message 0.*'role'"):
            router().run([{"content": "a"}])

    def test_image_block(self):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
        content = [{"type": "text", "text": "What is this?"}, image]
        with pytest.raises(ConfigError, match=r"message 0.*'image_url'.*text only"):
            router().run([{"role": "user", "content": content}])

    def test_text_block_without_text(self):
        with pytest.raises(ConfigError, match="message 0"):
            router().run([{"role": "user", "content": [{"type": "text"}]}])

    def test_content_of_a_wrong_type(self):
        with pytest.raises(ConfigError, match="message 0 has content of type int"):
            router().run([{"role": "user", "content": 7}])

    @pytest.mark.parametrize("role", ["small", "large"])
    def test_too_long_for_a_model(self, role):
        tight = model(name="tight", context_window=1200)
        with pytest.raises(ConfigError, match=r"1,5\d\d tokens, but tight .* 1,200"):
            router(**{role: tight}).run("x" * 1500)
        assert tight.requests == []

    def test_mistakes_show_before_any_request_in_a_stream(self):
        small = model()
        with pytest.raises(ConfigError):
            next(router(small).stream([]))
        assert small.requests == []

    def test_text_blocks_are_lines(self):
        small = model()
        content = [{"type": "text", "text": "a"}, "b"]
        router(small).run([{"role": "user", "content": content}])
        assert small.requests[0].prompt.startswith("<user>a\nb\n")


class TestSettings:
    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("threshold", "abc", "threshold.*'abc'"),
            ("threshold", math.nan, "threshold is NaN"),
            ("treshold", 1.0, "unknown setting 'treshold'"),
            ("entropy_estimator", "full_vocabulary", "entropy_estimator.*'full_vocabulary'"),
            ("max_step_tokens", 0, r"max_step_tokens.*got 0"),
            ("step_delimiter", "", "step_delimiter.*''"),
            ("answer_by", "both", "answer_by.*'both'"),
            ("temperature", -0.5, r"temperature.*-0\.5"),
            ("top_p", 0.0, r"top_p.*0\.0"),
            ("stop", [""], "empty stop string"),
            ("think_tags", ("<think>", ""), "two non-empty texts"),
            ("strategy", "fast", "strategy.*'fast'"),
            ("on_backend_error", "ignore", "on_backend_error.*'ignore'"),
            ("prices", {"small": {"input": 1, "output": 1}}, "prices.large"),
        ],
    )
    def test_impossible_values_are_named(self, name, value, said):
        with pytest.raises(ConfigError, match=said):
            router(**{name: value})
        with pytest.raises(ConfigError, match=said):
            router().run("?", **{name: value})

    def test_several_mistakes_are_told_at_once(self):
        with pytest.raises(ConfigError) as caught:
            router(threshold="abc", max_tokens=-1)
        assert "'abc'" in str(caught.value)
        assert "-1" in str(caught.value)

    def test_a_key_is_not_shown(self):
        with pytest.raises(ConfigError) as caught:
            router(api_key=["sk-secret"])
        assert "sk-secret" not in str(caught.value)


class TestModels:
    def test_only_one_is_named(self):
        with pytest.raises(ConfigError, match=r"give large=\.\.\."):
            GlimpRouter(small=model())
        with pytest.raises(ConfigError, match=r"give small=\.\.\."):
            GlimpRouter(large=model())

    @pytest.mark.parametrize("text", ["gpt-4", "", "openai:model", "llamacpp:", "hf"])
    def test_unknown_short_form(self, text):
        with pytest.raises(ConfigError, match=f"large is {text!r}.*openai:MODEL@"):
            GlimpRouter(small=model(), large=text)

    def test_something_else(self):
        with pytest.raises(ConfigError, match="small is a int"):
            GlimpRouter(small=7, large=model())


class TestTraces:
    def test_no_trace(self):
        with pytest.raises(ConfigError, match="is not a trace"):
            Trace.from_json("{}")
        with pytest.raises(ConfigError, match="is not a trace"):
            Trace.from_json("not json")

    def test_a_newer_format(self):
        newer = router().run("?").trace.to_json().replace('"format": 1', '"format": 2')
        with pytest.raises(ConfigError, match="format 2, newer than 1"):
            Trace.from_json(newer)
