"""From a caller's form to what one conversation needs: the prompt's part and the answer's part."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import regex

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.answer_plan import Constraint
from glimp_integrations.output import json_schema
from glimp_integrations.output.spec import OutputSpec
from glimp_integrations.output.tool_formats import (
    BLANKS,
    PLAIN,
    TAGS,
    ToolFormat,
    tool_format_of,
    trigger,
)
from glimp_integrations.output.tool_parser import ToolCallParser

__all__ = [
    "FREE",
    "Constraint",
    "Plan",
    "knows_tools",
    "make_plan",
    "show_schema",
    "write_tools_out",
]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the answer of one conversation is written and read.

    Attributes:
        names: Tools whose calls are looked for.
        trigger: What begins a call, or the JSON that was asked for, in text that is not bound
            yet; ``None``: nothing is looked for.
        proposal_trigger: As ``trigger``, or JSON shaped like a call of a tool that does not exist:
            what the small model begins is no call before the answer's author makes one. Also
            where no tool is left to call, but the conversation shows how earlier ones were
            called.
        forced: What the answer has to be; ``None``: text, and calls where the model begins one.
        tool_format: How the answer's author writes calls.
        tools: The tools that may be called, schemas checked; empty where a call is not bound.
        parallel: Whether text, and another call, may follow a call.
        parameters: Schemas of all tools' arguments, as the caller gave them.
    """

    names: tuple[str, ...] = ()
    trigger: regex.Pattern[str] | None = None
    proposal_trigger: regex.Pattern[str] | None = None
    forced: Constraint | None = None
    tool_format: ToolFormat = PLAIN
    tools: tuple[Mapping[str, Any], ...] = ()
    parallel: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def constraint_after(self, trigger: str) -> Constraint:
        """How the answer goes on after ``trigger`` began a call or JSON."""
        if self.forced is not None:
            return self.forced
        tag = trigger.strip()
        if self.tools and tag == self.tool_format.tag:
            schema = json_schema.calls_schema(self.tools, self.tool_format.keys, None)
            return Constraint(
                self.tool_format.prefix, self.tool_format.suffix, schema, last=not self.parallel
            )
        if self.tools and tag not in TAGS:
            # JSON up to the tool's name: the call is this tool's.
            name = tag.rpartition('"')[0].rpartition('"')[2]
            keys = PLAIN.keys if "```" in tag else self.tool_format.keys
            schema = json_schema.calls_schema(
                [t for t in self.tools if t["function"]["name"] == name], keys, None
            )
            if "```" in tag:
                return Constraint(PLAIN.prefix, PLAIN.suffix, schema, last=not self.parallel)
            return Constraint(schema=schema, last=not self.parallel)
        return Constraint(prefix=trigger)

    @property
    def has_tools(self) -> bool:
        """Whether there are tools whose calls can be constrained."""
        return bool(self.tools)

    def parser(self, new_id: Callable[[int], str]) -> ToolCallParser:
        """Splits the answer's text into visible text and calls."""
        most = None if self.parallel else 1
        return ToolCallParser(self.names, new_id, most=most, parameters=self.parameters)

    @property
    def trigger_kind(self) -> Literal["tool_call", "json"]:
        """What an opening begins."""
        return "tool_call" if self.names else "json"

    @property
    def watches_answer(self) -> bool:
        """Whether an answer that runs freely has to stop where a call begins."""
        return self.trigger is not None and self.forced is None and bool(self.tools)


_SAYS_WHAT = {"type", "$ref", "allOf", "anyOf", "oneOf", "const", "enum"}

FREE = Plan()
"""Nothing was asked for but text."""


def make_plan(
    spec: OutputSpec,
    texts: Sequence[str | None],
    *,
    supports_schema: bool,
    model: str,
    calls: bool = False,
) -> Plan:
    """The plan for one conversation.

    Args:
        spec: What the caller asks for.
        texts: Chat template and rendered prompt of the model that writes the answer.
        supports_schema: Whether that model's backend knows grammars.
        model: Its name, for messages.
        calls: Whether the conversation holds calls of tools.

    Raises:
        ConfigError: A schema is none, nothing can follow it, or it cannot be bound and has to be
            (``strict``); the message names the keyword.
    """
    if not spec.tools and spec.schema is None:
        return replace(FREE, proposal_trigger=trigger((), unknown=True)) if calls else FREE
    if spec.strict and not supports_schema:
        raise ConfigError(
            f"strict=True needs a backend that binds text to a schema, and {model} is behind none "
            "that is known to: name its kind with server=... (llama.cpp, vllm, "
            "sglang), or leave strict out"
        )
    tool_format = tool_format_of(*texts)
    schema = None
    if spec.schema is not None:
        what = "the answer's schema"
        schema = (
            json_schema.checked(spec.schema, what=what)
            if spec.strict
            else json_schema.constrainable(spec.schema, what=what, told=supports_schema)
        )
    tools = _constrainable(spec) if spec.tools and supports_schema else []
    plan = Plan(
        names=tuple(spec.names),
        trigger=trigger(spec.names) if spec.names else None,
        proposal_trigger=trigger(spec.names, unknown=True) if spec.names else None,
        tool_format=tool_format,
        tools=tuple(tools),
        parallel=spec.parallel_tool_calls,
        parameters={t["function"]["name"]: t["function"].get("parameters") for t in spec.tools},
    )
    if spec.forced is not None:
        forced = _forced_call(spec, tools, tool_format, supports_schema)
    elif schema is not None:
        forced = _forced_answer(schema, tools, tool_format, supports_schema)
    else:
        if tools:  # what a call is bound to is made when one begins, and judged before
            json_schema.calls_schema(tools, tool_format.keys, None)
        return plan
    return replace(plan, forced=forced, trigger=_json_begins(plan.trigger))


def _constrainable(spec: OutputSpec) -> list[Mapping[str, Any]]:
    """The tools that may be called, with schemas that can be bound; none if calls are free.

    A grammar that cannot keep one tool's schema as it is keeps what it can of it, and the others
    are bound as ever.
    """
    if spec.strict is False and spec.forced is None and spec.schema is None:
        return []
    judge = json_schema.checked if spec.strict else json_schema.constrainable
    found: list[Mapping[str, Any]] = []
    for tool in spec.chosen:
        function = tool["function"]
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        what = f"the arguments of tool {function['name']!r}"
        if isinstance(parameters, Mapping) and not _SAYS_WHAT & parameters.keys():
            parameters = {"type": "object", **parameters}  # arguments are nothing else
        checked = judge(parameters, what=what)
        found.append({**tool, "function": {**function, "parameters": checked}})
    return found


def _forced_call(
    spec: OutputSpec,
    tools: Sequence[Mapping[str, Any]],
    tool_format: ToolFormat,
    supports_schema: bool,
) -> Constraint:
    named = spec.forced != "any"
    if named and tool_format.prefix_of_one is not None:
        schema = tools[0]["function"]["parameters"] if supports_schema else None
        return Constraint(tool_format.prefix_of_one.format(name=spec.forced), "", schema)
    if not supports_schema:
        return Constraint(tool_format.prefix)
    return Constraint(
        tool_format.prefix,
        tool_format.suffix,
        json_schema.calls_schema(tools, tool_format.keys, None),
    )


def _forced_answer(
    schema: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]],
    tool_format: ToolFormat,
    supports_schema: bool,
) -> Constraint:
    if not supports_schema:
        return Constraint("```json\n", schema=None, visible=False, stop="\n```")
    if tools:
        # The answer is JSON or a call, and the model has not said which: both begin alike.
        schema = json_schema.calls_schema(tools, tool_format.keys, also=schema)
        return Constraint(schema=schema)
    return Constraint("```json\n", schema=schema, visible=False)


def _json_begins(calls: regex.Pattern[str] | None) -> regex.Pattern[str]:
    """Where text turns to the JSON that was asked for: a call's beginning, a fence, a brace."""
    json_text = rf"(?m:^){BLANKS}(?:```{BLANKS}(?:json|JSON){BLANKS}\n|\{{)"
    return regex.compile(json_text if calls is None else f"{calls.pattern}|{json_text}")


# -- what the models are shown ---------------------------------------------------------------


def show_schema(messages: Sequence[Mapping[str, Any]], spec: OutputSpec) -> list[dict[str, Any]]:
    """The conversation with the answer's schema told to the models.

    It stands behind the system message, or in front of the first user message where there is
    none: not every template takes a system message.
    """
    found = [dict(m) for m in messages]
    if spec.schema is None or spec.schema == json_schema.ANY_OBJECT:
        return found  # of any object there is nothing to tell
    text = (
        "First think step by step, in words. Then give the answer as JSON that follows this JSON "
        f"schema:\n{json.dumps(spec.schema, ensure_ascii=False)}"
    )
    return _add(found, text)


def write_tools_out(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Tools, calls and results as plain text, for templates that know nothing of tools."""
    found: list[dict[str, Any]] = []
    for message in messages:
        content, calls = message["content"], message.get("tool_calls") or ()
        if message["role"] == "tool":
            name = message.get("name") or message.get("tool_call_id") or "the tool"
            found.append({"role": "user", "content": f"Result of {name}:\n{content}"})
        elif calls:
            texts = [content] if content else []
            for call in calls:
                function = call["function"]
                texts.append(
                    f'```json\n{{"name": {json.dumps(function["name"])}, '
                    f'"arguments": {function["arguments"]}}}\n```'
                )
            found.append({"role": "assistant", "content": "\n\n".join(texts)})
        else:
            found.append(dict(message))
    if not tools:
        return found
    listed = "\n".join(json.dumps(t["function"], ensure_ascii=False) for t in tools)
    text = (
        f"You may call these tools:\n{listed}\nTo call one, write nothing but\n"
        '```json\n{"name": "<name of the tool>", "arguments": {...}}\n```'
    )
    return _add(found, text)


def knows_tools(template: str) -> bool:
    """Whether a chat template reads tools."""
    return re.search(r"\btools\b", template) is not None


def _add(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    for message in messages:
        if message["role"] in ("system", "developer"):
            message["content"] = f"{message['content']}\n\n{text}".lstrip()
            return messages
    for message in messages:
        if message["role"] == "user":
            message["content"] = f"{text}\n\n{message['content']}"
            return messages
    return [{"role": "user", "content": text}, *messages]
