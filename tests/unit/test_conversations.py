"""Conversations as their senders write them: blocks, roles, calls and results of any provider."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from scripts import Listening, model

from glimp_integrations import ConfigError, GlimpRouter, OutputSpec, io_loop
from glimp_integrations.backends import OpenAIBackend, chat_templates
from glimp_integrations.backends.base import Capabilities, Message, Rendered
from glimp_integrations.conversation import prompt
from glimp_integrations.conversation.messages import check_messages

USER = {"role": "user", "content": "hi"}


def text(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": one} for one in texts]


def checked(role: str, content: Any, **more: Any) -> list[dict[str, Any]]:
    return check_messages([USER, {"role": role, "content": content, **more}])[1:]


def content_of(role: str, content: Any) -> str:
    (message,) = checked(role, content)
    return message["content"]


# -- blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["system", "developer", "user", "tool"])
def test_blocks_stand_on_lines_of_their_own(role: str) -> None:
    assert content_of(role, text("1", "2", "30")) == "1\n2\n30"
    assert content_of(role, ["1", *text("2"), "30"]) == "1\n2\n30"
    assert content_of(role, tuple(text("1", "2"))) == "1\n2"


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["a\n", "b"], "a\nb"),
        (["a", "\nb"], "a\nb"),
        (["a\n\n", "b"], "a\n\nb"),
        (["", "a", "", "b", ""], "a\nb"),
        ([], ""),
        ([""], ""),
        ([" a ", "b "], " a \nb "),
    ],
)
def test_a_line_that_ended_is_not_ended_twice(texts: list[str], joined: str) -> None:
    assert content_of("user", text(*texts)) == joined


def test_what_an_assistant_wrote_in_pieces_is_one_text() -> None:
    assert content_of("assistant", text("It is 12", "30 euros", ".")) == "It is 1230 euros."
    cited = [*text("The grass is "), {**text("green")[0], "citations": [{}]}, *text(".")]
    assert content_of("assistant", cited) == "The grass is green."


def test_texts_that_an_assistant_wrote_apart_stay_apart() -> None:
    search = {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {}}
    assert content_of("assistant", [*text("I look."), search, *text("It", " rains.")]) == (
        "I look.\nIt rains."
    )
    two = [{**block, "id": f"msg_{i}"} for i, block in enumerate(text("1", "2"))]
    assert content_of("assistant", two) == "1\n2"
    same = [{**block, "id": "msg_1"} for block in text("1", "2")]
    assert content_of("assistant", same) == "12"


@pytest.mark.parametrize(
    "block",
    [
        {"type": "thinking", "thinking": "secret", "signature": "x"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret"}]},
        {"type": "reasoning_content", "reasoning_content": {"text": "secret"}},
        {"reasoningContent": {"reasoningText": {"text": "secret"}}},
        {"type": "server_tool_call", "name": "web_search", "args": {"q": "secret"}},
        {"type": "server_tool_result", "tool_call_id": "1", "output": "secret"},
        {"type": "web_search_call", "id": "ws", "action": {"query": "secret"}},
        {"type": "file_search_call", "id": "fs", "queries": ["secret"]},
        {"type": "code_interpreter_call", "id": "ci", "code": "secret"},
        {"type": "mcp_call", "id": "m", "arguments": "secret"},
        {"type": "web_search_tool_result", "content": [{"title": "secret"}]},
        {"type": "executable_code", "executable_code": "secret"},
        {"type": "non_standard", "value": {"type": "brand_new", "text": "secret"}},
        {"type": "cachePoint"},
        {"cachePoint": {"type": "default"}},
    ],
)
def test_what_a_provider_wrote_for_itself_is_passed_over(block: dict[str, Any]) -> None:
    assert content_of("assistant", [block, *text("Fine.")]) == "Fine."


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"type": "refusal", "refusal": "I cannot."}, "I cannot."),
        ({"type": "output_text", "text": "Fine."}, "Fine."),
        ({"type": "input_text", "text": "Fine."}, "Fine."),
        ({"text": "Fine."}, "Fine."),
        ({"type": "text-plain", "text": "Fine.", "mime_type": "text/plain"}, "Fine."),
        ({"type": "json", "json": {"a": "é"}}, '{"a": "é"}'),
        ({"type": "guard_content", "guard_content": {"text": "Fine."}}, "Fine."),
        ({"guardContent": {"text": {"text": "Fine."}}}, "Fine."),
        ({"type": "non_standard", "value": {"type": "text", "text": "Fine."}}, "Fine."),
        (
            {"type": "search_result", "title": "T", "source": "S", "content": text("a", "b")},
            "T\nS\na\nb",
        ),
        ({"type": "document", "source": {"type": "text", "data": "a"}, "title": "T"}, "T\na"),
        ({"type": "document", "source": {"type": "content", "content": text("a", "b")}}, "a\nb"),
    ],
)
def test_text_is_read_whatever_its_block_is_called(block: dict[str, Any], said: str) -> None:
    assert content_of("tool", [block, *text("end")]) == f"{said}\nend"


@pytest.mark.parametrize("refusal", [None, ""])
def test_a_refusal_without_words_says_nothing(refusal: Any) -> None:
    assert content_of("assistant", [{"type": "refusal", "refusal": refusal}]) == ""
    assert content_of("assistant", [{"type": "refusal"}, *text("a")]) == "a"


@pytest.mark.parametrize("content", [None, "", []])
def test_a_refusal_beside_the_content_is_what_the_model_said(content: Any) -> None:
    (message,) = checked("assistant", content, refusal="I cannot.")
    assert message == {"role": "assistant", "content": "I cannot."}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image_url", "image_url": {"url": "data:"}},
        {"type": "image", "base64": "AAAA"},
        {"type": "input_audio", "input_audio": {}},
        {"type": "audio", "base64": "AAAA"},
        {"type": "video", "url": "https://x"},
        {"type": "file", "file_id": "1"},
        {"type": "document", "source": {"type": "base64", "data": "AAAA"}},
        {"type": "image_generation_call", "result": "AAAA"},
        {"type": "text-plain", "file_id": "1"},
        {"type": "brand_new", "text": "?"},
        {"type": "non_standard", "value": {"type": "image", "base64": "AAAA"}},
    ],
)
def test_what_is_no_text_is_refused_by_name(block: dict[str, Any]) -> None:
    kind = block.get("value", block)["type"]
    with pytest.raises(ConfigError, match=f"message 1 holds a block of type '{kind}'.*text only"):
        checked("user", [*text("see"), block])


@pytest.mark.parametrize("block", [{}, {"image": {"format": "png"}}, 7, None])
def test_a_block_without_a_type_is_refused(block: Any) -> None:
    with pytest.raises(ConfigError, match="message 1 holds a block of type"):
        checked("user", [block])


# -- calls and results -----------------------------------------------------------------------

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "look", "arguments": '{"city": "Graz"}'},
}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Graz"}},
        {"type": "tool_call", "id": "c1", "name": "look", "args": {"city": "Graz"}},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c1",
            "name": "look",
            "arguments": '{"city": "Graz"}',
        },
        {"type": "function_call", "id": "c1", "name": "look", "args": {"city": "Graz"}},
        {
            "type": "non_standard",
            "value": {"type": "tool_use", "id": "c1", "name": "look", "input": {"city": "Graz"}},
        },
    ],
)
def test_a_call_in_a_block_is_a_call_and_told_twice_it_is_one(block: dict[str, Any]) -> None:
    for told in ([CALL], [], None):
        (message,) = checked("assistant", [*text("I look."), block], tool_calls=told)
        assert message["content"] == "I look."
        assert message["tool_calls"] == [CALL]


def test_results_in_a_users_blocks_are_results() -> None:
    blocks = [
        {"type": "tool_result", "tool_use_id": "c1", "content": text("1", "2")},
        {"type": "tool_result", "tool_use_id": "c2", "content": "3"},
    ]
    results = [
        {"role": "tool", "content": "1\n2", "tool_call_id": "c1"},
        {"role": "tool", "content": "3", "tool_call_id": "c2"},
    ]
    assert checked("user", blocks) == results
    assert checked("user", [*blocks, *text("and?")]) == [
        *results,
        {"role": "user", "content": "and?"},
    ]


@pytest.mark.parametrize("calls", [None, [], ()])
@pytest.mark.parametrize("content", [None, "", [], ()])
def test_what_is_empty_is_left_out(calls: Any, content: Any) -> None:
    assert checked("assistant", content, tool_calls=calls) == [{"role": "assistant", "content": ""}]


@pytest.mark.parametrize("arguments", [None, "", "null", {}, "{}"])
def test_no_arguments_are_an_empty_object(arguments: Any) -> None:
    call = {"id": "1", "function": {"name": "look", "arguments": arguments}}
    (message,) = checked("assistant", None, tool_calls=[call])
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_arguments_that_json_cannot_write_are_named() -> None:
    call = {"id": "1", "function": {"name": "look", "arguments": {"when": object()}}}
    with pytest.raises(ConfigError, match="message 1 holds a call of 'look' whose arguments JSON"):
        checked("assistant", None, tool_calls=[call])


# -- templates -------------------------------------------------------------------------------

# Of Qwen2.5's kind: the first system message is a case of its own, unknown roles are left out.
QWEN = (
    "{% if messages[0]['role'] == 'system' %}<|im_start|>system\n{{ messages[0]['content'] }}"
    "<|im_end|>\n{% endif %}{% for message in messages %}"
    "{% if message.role == 'user' or (message.role == 'system' and not loop.first) or "
    "(message.role == 'assistant' and not message.tool_calls) %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% elif message.role == 'assistant' %}<|im_start|>assistant\n{{ message.content }}"
    "{% for call in message.tool_calls %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n"
    "{% elif message.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ message.content }}\n"
    "</tool_response><|im_end|>\n{% endif %}{% endfor %}"
    "{% if tools %}{% endif %}<|im_start|>assistant\n"
)
# Of Mistral's and Gemma's kind: turns change, and nobody but these two speaks.
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user') }}{% endif %}"
    "[{{ m.role }}]{{ m.content | trim }}{% endfor %}[assistant]"
)
# Of Llama 2's kind: instructions in front, or not at all.
FIRST = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('System message must be at the beginning.') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
)
DROPS = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}"
    "[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}[assistant]"
)
HARMONY = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{# developer #}"
ITEMS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or () %}"
    "{% for key, value in c.function.arguments | items %}({{ key }}={{ value }}){% endfor %}"
    "{% endfor %}{% endfor %}{% if tools %}{% endif %}"
)


def server(template: Any) -> OpenAIBackend:
    return OpenAIBackend(
        "m",
        base_url="http://127.0.0.1:9/v1",
        server="together",
        chat_template=template,
        verify="off",
    )


class Local(Listening):
    """Renders with Jinja source on this side."""

    async def render(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
    ) -> Rendered:
        self.conversations.append([dict(m) for m in messages])
        return Rendered(chat_templates.render(self._template, messages, {}, tools))


def shown(template: Any, *messages: dict[str, Any], form: OutputSpec | None = None) -> str:
    backend = Local([], template=template)
    told = check_messages(messages)
    return io_loop.call(lambda: prompt.build(backend, told, form or OutputSpec())).text


SCHEMA = OutputSpec(schema={"type": "object", "properties": {"city": {"type": "string"}}})


def test_a_developer_speaks_as_system_where_the_template_knows_none() -> None:
    said = shown(QWEN, {"role": "developer", "content": "Be brief."}, USER, form=SCHEMA)
    assert said.startswith("<|im_start|>system\nBe brief.\n\nFirst think step by step")
    assert '"city"' in said
    assert "<|developer|>Be brief." in shown(
        HARMONY, {"role": "developer", "content": "Be brief."}, USER
    )


def test_a_function_gets_a_developer_as_system() -> None:
    told = [{"role": "developer", "content": "Be brief."}, USER]
    seen: list[Any] = []
    chat_templates.render(lambda messages: str(seen.extend(messages)), told, {})
    assert seen == [{"role": "system", "content": "Be brief."}, USER]
    assert told[0]["role"] == "developer", "and the conversation stays as it was"


MIDDLE = [
    {"role": "system", "content": "One."},
    {"role": "system", "content": "Two."},
    USER,
    {"role": "assistant", "content": "Hello."},
    {"role": "developer", "content": "Three."},
    {"role": "user", "content": "go"},
]


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (FIRST, "[system]One.\n\nTwo.[user]hi[assistant]Hello.[user]Three.\n\ngo[assistant]"),
        (DROPS, "[system]One.\n\nTwo.[user]hi[assistant]Hello.[user]Three.\n\ngo[assistant]"),
        (STRICT, "[user]One.\n\nTwo.\n\nhi[assistant]Hello.[user]Three.\n\ngo[assistant]"),
    ],
)
def test_instructions_arrive_wherever_the_template_wants_them(template: str, said: str) -> None:
    assert shown(template, *MIDDLE) == said


def test_a_template_that_takes_all_instructions_gets_them_as_they_are() -> None:
    said = shown(QWEN, *MIDDLE)
    places = [said.index(f"<|im_start|>system\n{word}") for word in ("One.", "Two.", "Three.")]
    assert places == sorted(places)


def test_a_message_that_no_change_brings_through_is_refused() -> None:
    deaf = "{% for m in messages if m.role == 'assistant' %}{{ m.content }}{% endfor %}"
    told = {"role": "system", "content": "One."}, {"role": "assistant", "content": "x"}
    with pytest.raises(ConfigError, match=r"leaves out message 0, of role 'system'.*chat_template"):
        shown(deaf, *told)


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m.content | tojson }}{% endfor %}",
        "{% for m in messages %}{{ m.content | trim }}{% endfor %}",
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    ],
)
def test_text_that_is_written_otherwise_is_not_missing(template: str) -> None:
    said = shown(template, {"role": "system", "content": ' "a"\n\té '}, USER)
    assert "HI" in said.upper() and "A" in said.upper()


def test_a_conversation_that_arrives_is_rendered_once() -> None:
    backend = Local([], template=QWEN)
    told = check_messages([{"role": "system", "content": "Be brief."}, USER])
    io_loop.call(lambda: prompt.build(backend, told))
    assert len(backend.conversations) == 1


def test_a_server_that_hides_its_template_gets_a_developer_as_system() -> None:
    backend, sent = server(None), []

    class Renders:
        async def render(self, _: Any, messages: Any, *__: Any) -> Rendered:
            sent.extend(messages)
            return Rendered("x")

    backend._capabilities = Capabilities()
    backend.__class__ = type("Hidden", (OpenAIBackend,), {"protocol": Renders()})
    broken = {**CALL, "function": {"name": "look", "arguments": '{"city": Gr'}}
    asked = {"role": "assistant", "content": "", "tool_calls": [broken]}
    told = check_messages([{"role": "developer", "content": "a"}, USER, asked])
    io_loop.call(lambda: backend.render(told))
    assert [m["role"] for m in sent] == ["system", "user", "assistant"]
    assert "tool_calls" not in sent[2] and '"arguments": {"city": Gr' in sent[2]["content"]


# -- broken calls, orphans -------------------------------------------------------------------


def broken(*more: dict[str, Any]) -> list[dict[str, Any]]:
    call = {
        "id": "b1",
        "type": "function",
        "function": {"name": "look", "arguments": '{"city": Graz'},
    }
    return [
        USER,
        {"role": "assistant", "content": "I look.", "tool_calls": [*more, call]},
        {"role": "tool", "tool_call_id": "b1", "content": "Error: no JSON"},
    ]


@pytest.mark.parametrize("more", [[], [CALL]])
@pytest.mark.parametrize("template", [QWEN, ITEMS, STRICT])
def test_a_broken_call_and_its_error_are_both_seen(template: str, more: list[Any]) -> None:
    said = shown(template, *broken(*more))
    assert "I look." in said and "Error: no JSON" in said
    assert '{"city": Graz' in said or json.dumps('{"city": Graz') in said
    assert ("Graz" in said.replace('{"city": Graz', "")) == bool(more) or template == QWEN


@pytest.mark.parametrize("arguments", ["[1]", '"x"', "7", '{"a"'])
def test_arguments_that_are_no_object_crash_no_template(arguments: str) -> None:
    call = {"id": "1", "function": {"name": "look", "arguments": arguments}}
    said = shown(ITEMS, USER, {"role": "assistant", "content": "", "tool_calls": [call]}, USER)
    assert f'"arguments": {arguments}' in said


@pytest.mark.parametrize("name", [{}, {"name": "look"}, {"tool_call_id": "gone"}])
@pytest.mark.parametrize("template", [QWEN, STRICT, "{# tools #}" + STRICT])
def test_a_result_whose_call_is_gone_is_seen(template: str, name: dict[str, str]) -> None:
    said = shown(template, USER, {"role": "tool", "content": "20 C", **name})
    assert "20 C" in said


def test_a_template_that_leaves_lonely_results_out_gets_them_from_the_user() -> None:
    leaves_out = "{# tools #}{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}"
    said = shown(leaves_out, USER, {"role": "tool", "name": "look", "content": "20 C"})
    assert said == "hi\n\nResult of look:\n20 C"


def test_a_whole_call_on_the_way_reaches_both_models() -> None:
    small, large = model("Fine.", kind=Listening), model("Fine.", kind=Listening)
    with GlimpRouter(small, large, temperature=0) as router:
        assert router.run([*broken(), USER]).answer == "Fine."
    for backend in (small, large):
        (told,) = backend.conversations
        assert told[1]["tool_calls"][0]["function"]["arguments"] == '{"city": Graz'
        assert told[2]["content"] == "Error: no JSON"


# Of Mistral's kind: ids of nine letters and digits, in the call and in its result.
NINE = (
    "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or () %}"
    "{% if c.id | length != 9 %}{{ raise_exception('Tool call IDs should be alphanumeric strings "
    "with length 9!') }}{% endif %}<{{ c.id }}>{% endfor %}"
    "{% if m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}{{ raise_exception('9!') }}"
    "{% endif %}</{{ m.tool_call_id }}>{% endif %}{% endfor %}{% if tools %}{% endif %}"
)


@pytest.mark.parametrize("id", ["toolu_01A09q90qw90lq917835lq9", "functions.look:0", "1", "ä" * 9])
def test_ids_of_other_models_are_made_what_the_template_wants(id: str) -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": id}]}
    said = shown(NINE, USER, asked, {"role": "tool", "tool_call_id": id, "content": "20 C"})
    begun, _, rest = said.removeprefix("hi<").partition(">")
    assert rest == f"20 C</{begun}>" and len(begun) == 9


def test_ids_that_fit_stay_as_they_are() -> None:
    asked = {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "abcdefgh0"}]}
    result = {"role": "tool", "tool_call_id": "abcdefgh0", "content": "20 C"}
    assert shown(NINE, USER, asked, result) == "hi<abcdefgh0>20 C</abcdefgh0>"
