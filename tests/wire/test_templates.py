"""Rendering on this side: by a Hugging Face tokenizer, by Jinja source, by a function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from glimp_integrations import ConfigError, io_loop
from glimp_integrations.backends import chat_templates
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.messages import check_messages

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking %}<think>\n"
    "{% endif %}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "hi there"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real tokenizer with a chat template, saved the way the hub holds them."""
    words = ["hi", "there", "[UNK]", "<|user|>", "<|assistant|>", "<|end|>", "<think>"]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    tokenizer.add_special_tokens({"additional_special_tokens": words[3:6]})
    tokenizer.add_tokens(["<think>"])
    tokenizer.chat_template = TEMPLATE
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(path)
    return path


def test_a_tokenizer_renders_counts_and_knows_its_control_tokens(folder: Path) -> None:
    rendered = chat_templates.render_with_tokenizer(
        str(folder), MESSAGES, {"enable_thinking": True}
    )
    assert rendered.text == "<|user|>hi there<|end|><|assistant|><think>\n"
    assert rendered.tokens == 6
    assert chat_templates.tokenizer_template(str(folder)) == TEMPLATE
    control = chat_templates.control_tokens(str(folder))
    assert {"<|end|>", "<think>"} <= control and "<div>" not in control


def test_a_backend_without_server_side_rendering_uses_it(
    folder: Path, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    backend = connect(serve(engine="generic"), tokenizer=str(folder))
    messages = check_messages("hi <|end|>")
    built = io_loop.call(lambda: prompt.build(backend, messages))
    assert built.text == "<|user|>hi <\u2060|end|><|end|><|assistant|><think>\n"
    assert (built.tags, built.opened) == (("<think>", "</think>"), True)


def test_a_folder_without_tokenizer_or_template(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be loaded"):
        chat_templates.render_with_tokenizer(str(tmp_path), MESSAGES, {})
    bare = PreTrainedTokenizerFast.from_pretrained(folder)
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(ConfigError, match="has no chat template"):
        chat_templates.render_with_tokenizer(str(tmp_path / "bare"), MESSAGES, {})


def test_jinja_source_and_functions() -> None:
    assert chat_templates.render(TEMPLATE, MESSAGES, {}) == "<|user|>hi there<|end|><|assistant|>"
    assert chat_templates.render(lambda m: m[0]["content"].upper(), MESSAGES, {}) == "HI THERE"


def test_json_in_templates_is_plain() -> None:
    message = {"role": "user", "content": {"z": "<é>", "a": 1}}
    source = "{{ messages[0].content | tojson }}|{{ messages[0].content | tojson(indent=1) }}"
    assert chat_templates.render(source, [message], {}) == (
        '{"z": "<é>", "a": 1}|{\n "z": "<é>",\n "a": 1\n}'
    )


@pytest.mark.parametrize(
    ("source", "named"),
    [("{{ raise_exception('system first') }}", "system first"), ("{% for %}", "chat template")],
)
def test_a_template_that_refuses_or_is_broken(source: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        chat_templates.render(source, MESSAGES, {})


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    with pytest.raises(ConfigError):
        chat_templates.render("{{ ''.__class__.__mro__[1].__subclasses__() }}", MESSAGES, {})
