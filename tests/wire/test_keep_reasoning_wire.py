"""Earlier reasoning where servers and tokenizers render: it arrives under the name they take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from real_templates import Templated, source
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from glimp_integrations import io_loop
from glimp_integrations.backends import chat_templates
from glimp_integrations.backends.http.protocols.chat import header
from glimp_integrations.cli.app import app
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.earlier_reasoning import NAMES, PROBE
from glimp_integrations.conversation.messages import check_messages

QWEN3 = "Qwen-Qwen3-0.6B"
THOUGHT = "I look at Linz."
CALL = {
    "id": "call00001",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"city": "Linz"}'},
}
LOOP: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather in Linz?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": THOUGHT},
    {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": "rain"},
]


def build(backend: Any) -> prompt.Prompt:
    return io_loop.call(lambda: prompt.build(backend, check_messages(LOOP)))


def renders(server: Any, name: str, takes: str) -> None:
    """Let a fake server render with a real template, and take thoughts under one name only."""

    def render(messages: Sequence[dict[str, Any]]) -> str:
        passed = [
            {k: v for k, v in m.items() if k not in NAMES}
            | ({"reasoning_content": m[takes]} if takes in m else {})
            for m in messages
        ]
        return chat_templates.render(source(name), passed, chat_templates.THINKING)

    server.render, server.template = render, source(name)


@pytest.mark.parametrize(
    ("engine", "name", "takes"),
    [
        ("llama.cpp", QWEN3, "reasoning_content"),
        # Its template is hidden: Qwen3.5's opens the think block, by which the tags are found.
        ("vllm", "Qwen3.5-4B", "reasoning_content"),  # older
        ("vllm", "Qwen3.5-4B", "reasoning"),  # newer
    ],
)
def test_a_server_that_renders_gets_the_thought_under_its_own_name(
    serve: Callable[..., Any], connect: Callable[..., Any], engine: str, name: str, takes: str
) -> None:
    server = serve(engine=engine)
    renders(server, name, takes)
    backend = connect(server)
    backend.shows_tools = True  # the fake server passes no tools to its template
    built = build(backend)
    assert f"<|im_start|>assistant\n<think>\n{THOUGHT}\n</think>\n\n<tool_call>" in built.text
    assert built.tags == ("<think>", "</think>")
    assert backend.reasoning_name == takes


def test_a_tokenizers_template_reads_it_as_transformers_renders_it(
    tmp_path: Path, serve: Callable[..., Any], connect: Callable[..., Any]
) -> None:
    core = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="[UNK]")
    tokenizer.chat_template = source(QWEN3)
    tokenizer.save_pretrained(tmp_path)
    built = build(connect(serve(engine="generic"), tokenizer=str(tmp_path)))
    assert built.text == build(Templated(template=source(QWEN3))).text
    assert f"<think>\n{THOUGHT}\n</think>\n\n<tool_call>" in built.text


def test_services_that_continue_a_chat_are_given_none() -> None:
    for messages in (LOOP, PROBE):
        line = header(messages, thinks=True)
        assert not any(word in line for word in (THOUGHT, "thought", *NAMES))


@pytest.mark.parametrize(
    ("name", "takes", "told"),
    [
        ("Qwen3.5-4B", "reasoning", "earlier reasoning: read as reasoning (see keep_reasoning)"),
        ("Qwen3.5-4B", "thoughts", "earlier reasoning: not read, so keep_reasoning has no effect"),
    ],
)
def test_glimp_check_says_whether_the_model_reads_it(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, takes: str, told: str
) -> None:
    async def shows_tools(_: Any) -> bool:  # the fake server passes no tools to its template
        return True

    monkeypatch.setattr(prompt, "shows_tools", shows_tools)
    server = serve(engine="vllm")
    renders(server, name, takes)
    result = CliRunner().invoke(app, ["check", "large", server.model_string])
    assert told in result.output.splitlines(), result.output


def test_glimp_check_asks_no_server_that_was_not_reached(unused_tcp_port: int) -> None:
    result = CliRunner().invoke(
        app, ["check", "large", f"openai:m@http://127.0.0.1:{unused_tcp_port}/v1"]
    )
    assert "earlier reasoning" not in result.output
