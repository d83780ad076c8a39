"""Chat templates that fail, or never end: an error in words, and no other call waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from glimp_integrations import ConfigError, io_loop
from glimp_integrations.backends import chat_templates, rendering

MESSAGES = [{"role": "user", "content": "hi there"}]
ENDLESS = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}"
    "{% set x = a + b %}{% endfor %}{% endfor %}{% endfor %}"
)

BROKEN = {
    "TypeError": "a\n{{ 1 + 'a' }}",
    "ZeroDivisionError": "a\n{{ 1 / 0 }}",
    "OverflowError": "a\n{{ 1e308 | int ** 2.5 }}",
    "power": "a\n{{ 9 ** (9 ** 9) }}",
    "product": "a\n{{ 'word' * 10 ** 9 }}",
    "list": "a\n{{ 10 ** 9 * [1] }}",
    "RecursionError": "a\n{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "MemoryError": "a\n{{ '%*d' % (9223372036854775807, 1) }}",
    "LookupError": "a\n{{ {}.popitem() }}",
    "AttributeError": "a\n{{ undefined.name }}",
    "syntax": "a\n{% for %}",
    "refusal": "a\n{{ raise_exception('the system message comes first') }}",
    "too long": "a\n{% for i in range(9999) %}{{ 'word' * 9999 }}{% endfor %}",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_every_failure_of_a_template_is_in_words(kind: str) -> None:
    with pytest.raises(ConfigError, match="the chat template") as caught:
        chat_templates.render(BROKEN[kind], MESSAGES, {})
    text = str(caught.value)
    assert "pass another chat_template" in text
    if kind not in ("too long", "RecursionError"):
        assert "(line 2)" in text


@pytest.mark.parametrize("depth", [2_000])
def test_source_that_is_too_deep(depth: int) -> None:
    with pytest.raises(ConfigError, match="the chat template"):
        chat_templates.render("{{ " + "(" * depth + "1" + ")" * depth + " }}", MESSAGES, {})


def test_half_of_a_character() -> None:
    with pytest.raises(ConfigError, match="half of a character"):
        chat_templates.render("{{ '\\ud800' }}", MESSAGES, {})


def a_mistake(_: object) -> str:
    raise KeyError("content")


def test_functions_of_the_user() -> None:
    with pytest.raises(ConfigError, match=r"the function a_mistake.*KeyError: 'content'"):
        chat_templates.render(a_mistake, MESSAGES, {})
    with pytest.raises(ConfigError, match="returned NoneType: it has to return the prompt"):
        chat_templates.render(lambda _: None, MESSAGES, {})  # type: ignore[arg-type, return-value]


def endless(_: object) -> str:
    while True:
        try:
            time.sleep(0.001)
        except Exception:
            continue


def working() -> list[threading.Thread]:
    """The threads in which templates run."""
    return [t for t in threading.enumerate() if t.name == "glimp-template"]


@pytest.mark.parametrize("template", [ENDLESS, endless], ids=["jinja", "function"])
def test_a_template_without_end_is_ended_and_holds_up_nobody(
    template: str | Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rendering, "MAX_SECONDS", 0.5)
    turns = 0

    async def both() -> None:
        nonlocal turns
        task = asyncio.create_task(chat_templates.arender(template, MESSAGES, {}))
        while not task.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(ConfigError, match=r"took longer than 0\.5 seconds"):
            await task

    io_loop.call(both)
    assert turns > 10, "other calls went on"
    for thread in working():
        thread.join(5.0)
    assert not working(), "its thread has ended"


def test_a_cancelled_call_ends_its_template() -> None:
    async def cancel() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await chat_templates.arender(ENDLESS, MESSAGES, {})

    io_loop.call(cancel)
    for thread in working():
        thread.join(5.0)
    assert not working()


def test_a_backend_renders_off_the_loop(serve: Callable[..., Any], connect: Any) -> None:
    threads = []

    def template(messages: Any) -> str:
        threads.append(threading.current_thread().name)
        return str(messages[0]["content"])

    backend = connect(serve(), chat_template=template)
    assert io_loop.call(lambda: backend.render(MESSAGES)).text == "hi there"
    assert threads == ["glimp-template"]
