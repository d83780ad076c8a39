"""Plans and constraints: how an answer with tools or a schema is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from schema_helpers import CITY, NAMED, TWO, UNSUPPORTED, accepts, plan_for, tool

from glimp_integrations.errors import ConfigError
from glimp_integrations.output.constraints import FREE, Constraint
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_formats import PLAIN, TAGS, TOOL_FORMATS, tool_format_of
from glimp_integrations.output.tool_parser import ToolCallParser

# -- families --------------------------------------------------------------------------------

# What shows a family in its own chat template.
TEMPLATES = {
    "hermes": '{%- if tools %}<tools>...</tools> within <tool_call></tool_call>\\n{"name": ',
    "xml": "{%- if tools %}<tool_call>\\n<function=example_function_name>\\n<parameter=x>",
    "mistral": '{{- "[AVAILABLE_TOOLS] [" }}{{ "[TOOL_CALLS] [" }}{{ tools }}',
    "mistral-args": '{{- "[AVAILABLE_TOOLS]" }}{{ "[TOOL_CALLS]" + name + "[ARGS]" }}{{ tools }}',
    "deepseek": "{{ '<｜tool▁calls▁begin｜>' + name + '<｜tool▁sep｜>' }}{{ tools }}",
    "llama": '{{- "Environment: ipython\\n" }}{{ tools }}',
    "plain": "{% for m in messages %}<start_of_turn>{{ m.content }}{% endfor %}",
}


@pytest.mark.parametrize("family", TEMPLATES)
def test_a_template_shows_its_family(family: str) -> None:
    assert tool_format_of(TEMPLATES[family]).name == family
    assert tool_format_of(None, TEMPLATES[family]).name == family, "so does a rendered prompt"


def test_the_newer_format_counts_where_a_template_mentions_both() -> None:
    assert tool_format_of(TEMPLATES["hermes"] + TEMPLATES["xml"]).name == "xml"
    assert tool_format_of(TEMPLATES["mistral"] + TEMPLATES["mistral-args"]).name == "mistral-args"


def test_nothing_known_is_plain() -> None:
    assert tool_format_of() is tool_format_of(None, "") is PLAIN


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral", "plain"])
def test_what_somebody_says_about_calls_does_not_change_a_models_family(family: str) -> None:
    question = "What do [ARGS] and <function=x> mean? And <|python_tag|>?"
    spec = OutputSpec(tools=[tool()], tool_choice="any")
    assert plan_for(spec, TEMPLATES[family], prompt=question).tool_format.name == family


@pytest.mark.parametrize("tool_format", [*TOOL_FORMATS, PLAIN], ids=lambda d: d.name)
def test_what_a_family_is_constrained_to_write_is_read_as_a_call(tool_format: Any) -> None:
    template = TEMPLATES[tool_format.name]
    for choice in ("any", "get_weather"):
        constraint = plan_for(
            OutputSpec(tools=[tool(), tool("b")], tool_choice=choice), template
        ).forced
        assert constraint is not None
        assert constraint.visible and constraint.last
        call = {tool_format.keys[0]: "get_weather", tool_format.keys[1]: {"city": "Paris"}}
        bodies = [json.dumps(call), '{"city": "Paris"}']
        (body,) = [text for text in bodies if accepts(constraint.schema, text)]
        reader = ToolCallParser(["get_weather", "b"], str).read(
            f"{constraint.prefix}{body}{constraint.suffix}"
        )
        assert [(c.name, c.arguments) for c in reader.calls] == [("get_weather", {"city": "Paris"})]
        assert (reader.content, reader.invalid) == ("", [])


# -- plans -----------------------------------------------------------------------------------

CALL_A, CALL_B = '{"name": "a", "arguments": {"city": "x"}}', '{"name": "b", "arguments": {}}'


def test_nothing_asked_for_is_no_plan() -> None:
    assert plan_for(OutputSpec()) is FREE
    assert plan_for(OutputSpec(tools=TWO, tool_choice="none")) is FREE


def test_after_the_familys_own_tag_any_tool_may_be_called() -> None:
    constraint = plan_for(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after(
        "<tool_call>"
    )
    assert (constraint.prefix, constraint.suffix) == ("<tool_call>\n", "\n</tool_call>")
    assert accepts(constraint.schema, CALL_A) and accepts(constraint.schema, CALL_B)
    assert constraint.visible and not constraint.last


@pytest.mark.parametrize(
    "text", ['{"name": "b"', '\n  { "name":"b"', '{"type": "function", "name": "b"']
)
def test_after_a_tools_name_it_is_that_tool(text: str) -> None:
    constraint = plan_for(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after(text)
    assert (constraint.prefix, constraint.suffix) == ("", "")
    assert accepts(constraint.schema, CALL_B) and not accepts(constraint.schema, CALL_A)


def test_a_bare_call_has_the_familys_keys_and_a_fenced_one_the_plain_ones() -> None:
    llama = plan_for(OutputSpec(tools=TWO), TEMPLATES["llama"])
    assert accepts(llama.constraint_after('{"name": "b"').schema, '{"name": "b", "parameters": {}}')
    fenced = llama.constraint_after('```json\n{"name": "b"')
    assert (fenced.prefix, fenced.suffix) == ("```json\n", "\n```")
    assert accepts(fenced.schema, CALL_B) and not accepts(fenced.schema, CALL_A)


@pytest.mark.parametrize("tag", TAGS)
def test_after_another_familys_tag_the_call_is_written_freely(tag: str) -> None:
    assert plan_for(OutputSpec(tools=TWO), TEMPLATES["llama"]).constraint_after(tag) == Constraint(
        prefix=tag
    )


def test_without_a_constraint_a_call_goes_on_freely_from_its_beginning() -> None:
    for spec, supports_schema in (
        (OutputSpec(tools=TWO, strict=False), True),
        (OutputSpec(tools=TWO), False),
    ):
        plan = plan_for(spec, TEMPLATES["hermes"], supports_schema=supports_schema)
        assert plan.constraint_after("<tool_call>") == Constraint(prefix="<tool_call>")
        assert plan.constraint_after('{"name": "b"') == Constraint(prefix='{"name": "b"')
        assert not plan.watches_answer


@pytest.mark.parametrize("text", ["<tool_call>", '{"name": "b"', '```json\n{"name": "a"'])
def test_without_parallel_calls_nothing_follows_one(text: str) -> None:
    spec = OutputSpec(tools=TWO, parallel_tool_calls=False)
    assert plan_for(spec, TEMPLATES["hermes"]).constraint_after(text).last
    assert not plan_for(OutputSpec(tools=TWO), TEMPLATES["hermes"]).constraint_after(text).last


@pytest.mark.parametrize("text", ["<tool_call>", '{"name": "b"', "{", "```json\n"])
def test_a_demand_holds_whatever_was_begun(text: str) -> None:
    for spec in (
        OutputSpec(tools=TWO, tool_choice="a"),
        OutputSpec(schema=CITY),
        OutputSpec(tools=TWO, schema=CITY),
    ):
        plan = plan_for(spec, TEMPLATES["hermes"])
        assert plan.constraint_after(text) is plan.forced


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("{", True),
        ("So:\n{", True),
        ("So:\n```json\n", True),
        ("``` JSON\n", True),
        ("So {", False),
        ("```python\n", False),
        ("[1]", False),
    ],
)
def test_where_json_begins_that_was_asked_for(text: str, begins: bool) -> None:
    trigger = plan_for(OutputSpec(schema=CITY)).trigger
    assert trigger is not None
    assert (trigger.search(text) is not None) is begins


def test_an_answer_with_a_schema_stands_in_a_fence_that_only_the_model_sees() -> None:
    constraint = plan_for(OutputSpec(schema=CITY)).forced
    assert constraint is not None
    assert (constraint.prefix, constraint.visible, constraint.stop) == ("```json\n", False, None)
    assert accepts(constraint.schema, '{"city": "x"}') and not accepts(
        constraint.schema, '{"town": "x"}'
    )


def test_without_a_grammar_the_fence_ends_the_answer() -> None:
    assert plan_for(OutputSpec(schema=CITY), supports_schema=False).forced == Constraint(
        "```json\n", visible=False, stop="\n```"
    )


def test_an_answer_with_a_schema_may_be_a_call_instead() -> None:
    constraint = plan_for(OutputSpec(tools=TWO, schema=NAMED), TEMPLATES["hermes"]).forced
    assert constraint is not None
    assert accepts(constraint.schema, CALL_A) and accepts(constraint.schema, '{"name": "x"}')


def test_a_tool_whose_schema_no_grammar_can_express_can_still_be_called() -> None:
    odd = tool("odd", {"type": "object", "properties": {"x": UNSUPPORTED[0][1]}})
    one, other = tool(), '{"name": "get_weather", "arguments": {"city": "x"}}'
    for spec in (
        OutputSpec(tools=[one, odd]),
        OutputSpec(tools=[one, odd], tool_choice="any"),
        OutputSpec(tools=[one, odd], tool_choice="any", strict=False),
        OutputSpec(tools=[one, odd], schema=NAMED),
    ):
        plan = plan_for(spec, TEMPLATES["hermes"])
        constraint = plan.constraint_after("<tool_call>")
        assert accepts(constraint.schema, '{"name": "odd", "arguments": {"x": "y"}}')
        assert accepts(constraint.schema, other), "the others can be called"
        assert not accepts(constraint.schema, other.replace("city", "town")), "and stay constrained"


def test_strict_needs_a_backend_that_supports_schemas() -> None:
    for spec in (OutputSpec(tools=TWO, strict=True), OutputSpec(schema=CITY, strict=True)):
        with pytest.raises(
            ConfigError, match=r"strict=True .*the model.*name its server.*leave strict"
        ):
            plan_for(spec, supports_schema=False)
        assert plan_for(spec) is not FREE


def test_only_the_demanded_tool_needs_a_schema_that_a_grammar_can_express() -> None:
    odd = tool("odd", {"type": "object", "properties": {"x": UNSUPPORTED[0][1]}})
    spec = OutputSpec(tools=[*TWO, odd], tool_choice="a")
    constraint = plan_for(spec, TEMPLATES["hermes"]).forced
    assert constraint is not None
    assert accepts(constraint.schema, CALL_A) and not accepts(constraint.schema, CALL_B)
    with pytest.raises(ConfigError, match="'odd'"):
        plan_for(OutputSpec(tools=[*TWO, odd], tool_choice="odd", strict=True))


@pytest.mark.parametrize("supports_schema", [True, False])
@pytest.mark.parametrize(
    ("family", "lead"),
    [
        ("mistral-args", "[TOOL_CALLS]a[ARGS]"),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>"),
    ],
)
def test_a_demanded_tools_name_may_stand_in_front_of_its_arguments(
    family: str, lead: str, supports_schema: bool
) -> None:
    constraint = plan_for(
        OutputSpec(tools=TWO, tool_choice="a"), TEMPLATES[family], supports_schema=supports_schema
    ).forced
    assert constraint is not None
    assert (constraint.prefix, constraint.suffix) == (lead, "")
    if supports_schema:
        assert accepts(constraint.schema, '{"city": "x"}') and not accepts(
            constraint.schema, CALL_A
        )
    else:
        assert constraint.schema is None
