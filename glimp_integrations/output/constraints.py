"""From what a caller asks for to how one conversation's answer is written and read.

:class:`OutputSpec` says what the caller wants; :func:`make_plan` turns it, once the answer model's
chat template is known, into a :class:`Plan`; a plan gives the :class:`Constraint` of each answer,
or part of one, that must have a certain form.
"""

from __future__ import annotations

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

__all__ = ["FREE", "Constraint", "Plan", "make_plan"]

_FENCE = "```json\n"
_FENCE_END = "\n```"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the answer of one conversation is written and read.

    The chain looks for ``trigger`` in free text. Where it is found, :meth:`constraint_after` gives
    the constraint with which the answer goes on.

    Attributes:
        names: The tools whose calls are looked for in the answer.
        trigger: Matches the beginning of a call, or of the requested JSON, in text that is not
            constrained; ``None``: nothing is looked for.
        proposal_trigger: What is looked for in the small model's steps where the large model
            writes the answer: a call that the small model begins there is only a proposal. Matches
            what ``trigger`` matches, and also JSON that looks like a call of a tool that does not
            exist. It is set too where there is no tool left to call, but the conversation shows
            how earlier ones were called.
        forced: The constraint that the answer has from its start; ``None``: the answer is text,
            with calls where the model begins one.
        tool_format: How the answer's model was taught to write calls.
        tools: The tools that may be called, with checked schemas; empty where calls are written
            freely.
        parallel: Whether more text, or another call, may follow a call.
        parameters: By a tool's name, the schema of its arguments as the caller gave it.
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
        """The constraint with which the answer goes on after a trigger.

        Args:
            trigger: The text that began a call or JSON. It is replaced by the constraint's prefix.
        """
        if self.forced is not None:
            return self.forced
        tag = trigger.strip()
        if self.tools and tag == self.tool_format.tag:
            # The family's own tag: what follows is JSON of any of the tools.
            return self._call(self.tool_format, self.tools)
        if self.tools and tag not in TAGS:
            # The trigger is JSON up to the tool's name: the call is this tool's.
            name = tag.rpartition('"')[0].rpartition('"')[2]
            named = [tool for tool in self.tools if tool["function"]["name"] == name]
            if "```" in tag:
                return self._call(PLAIN, named)
            return replace(self._call(self.tool_format, named), prefix="", suffix="")
        # Another family's tag, or calls that are written freely.
        return Constraint(prefix=trigger)

    def _call(self, tool_format: ToolFormat, tools: Sequence[Mapping[str, Any]]) -> Constraint:
        schema = json_schema.calls_schema(tools, tool_format.keys, None)
        return Constraint(tool_format.prefix, tool_format.suffix, schema, last=not self.parallel)

    @property
    def has_tools(self) -> bool:
        """Whether there are tools whose calls can be constrained."""
        return bool(self.tools)

    def parser(self, new_id: Callable[[int], str]) -> ToolCallParser:
        """A parser that splits the answer into visible text and tool calls.

        Args:
            new_id: From a call's number to its id.
        """
        most = None if self.parallel else 1
        return ToolCallParser(self.names, new_id, most=most, parameters=self.parameters)

    @property
    def trigger_kind(self) -> Literal["tool_call", "json"]:
        """Why a step ends at the trigger."""
        return "tool_call" if self.names else "json"

    @property
    def watches_answer(self) -> bool:
        """Whether an answer without a constraint has to stop where a call begins."""
        return self.trigger is not None and self.forced is None and bool(self.tools)


# Keywords of JSON Schema, one of which says what kind of value a schema describes.
_KIND_KEYWORDS = {"type", "$ref", "allOf", "anyOf", "oneOf", "const", "enum"}

FREE = Plan()
"""The plan where nothing but text is asked for."""


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
        supports_schema: Whether that model's backend takes a JSON schema with a request.
        model: The model's name, for messages.
        calls: Whether the conversation holds tool calls.

    Raises:
        ConfigError: A schema is not a JSON schema, or no value can follow it; or ``strict`` is set
            and a grammar cannot express it. The message names the keyword.
    """
    if not spec.tools and spec.schema is None:
        return replace(FREE, proposal_trigger=trigger((), unknown=True)) if calls else FREE
    if spec.strict and not supports_schema:
        raise ConfigError(
            f"strict=True needs a backend that supports JSON schemas, and that of {model} is not "
            "known to: name its server (llama.cpp, vllm, sglang), or leave strict out"
        )
    tool_format = tool_format_of(*texts)
    schema = None
    if spec.schema is not None:
        what = "the answer's schema"
        schema = (
            json_schema.checked(spec.schema, what=what)
            if spec.strict
            else json_schema.constrainable(spec.schema, what=what, warn=supports_schema)
        )
    tools = _constrainable_tools(spec) if spec.tools and supports_schema else []
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
        if tools:
            # A call's schema is made when the call begins. Made here too, a schema that cannot be
            # expressed fails before anything is generated.
            json_schema.calls_schema(tools, tool_format.keys, None)
        return plan
    return replace(plan, forced=forced, trigger=_json_trigger(plan.trigger))


def _constrainable_tools(spec: OutputSpec) -> list[Mapping[str, Any]]:
    """The tools that may be called, with schemas that a grammar can express.

    Empty where calls are written freely. A grammar that cannot keep one tool's schema keeps what
    it can of it; the other tools' schemas stay complete.
    """
    if spec.strict is False and spec.forced is None and spec.schema is None:
        return []
    check = json_schema.checked if spec.strict else json_schema.constrainable
    tools: list[Mapping[str, Any]] = []
    for tool in spec.chosen:
        function = tool["function"]
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        what = f"the arguments of tool {function['name']!r}"
        if isinstance(parameters, Mapping) and not _KIND_KEYWORDS & parameters.keys():
            parameters = {"type": "object", **parameters}  # arguments are always an object
        checked = check(parameters, what=what)
        tools.append({**tool, "function": {**function, "parameters": checked}})
    return tools


def _forced_call(
    spec: OutputSpec,
    tools: Sequence[Mapping[str, Any]],
    tool_format: ToolFormat,
    supports_schema: bool,
) -> Constraint:
    """The answer is a call, of one named tool or of any."""
    named = spec.forced != "any"
    if named and tool_format.prefix_of_one is not None:
        # The name is part of the prefix, so that the schema covers the arguments only.
        schema = tools[0]["function"]["parameters"] if supports_schema else None
        return Constraint(tool_format.prefix_of_one.format(name=spec.forced), "", schema)
    if not supports_schema:
        return Constraint(tool_format.prefix)
    schema = json_schema.calls_schema(tools, tool_format.keys, None)
    return Constraint(tool_format.prefix, tool_format.suffix, schema)


def _forced_answer(
    schema: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]],
    tool_format: ToolFormat,
    supports_schema: bool,
) -> Constraint:
    """The answer is JSON that follows a schema, or a call of a tool where there are tools."""
    if not supports_schema:
        return Constraint(_FENCE, visible=False, stop=_FENCE_END)
    if tools:
        # The first character is the same for the answer and for a call: one schema allows both.
        schema = json_schema.calls_schema(tools, tool_format.keys, also=schema)
        return Constraint(schema=schema)
    return Constraint(_FENCE, schema=schema, visible=False)


def _json_trigger(calls: regex.Pattern[str] | None) -> regex.Pattern[str]:
    """Matches the beginning of the requested JSON: a fence or a brace at a line's start.

    Args:
        calls: Matches the beginning of a call, which is looked for as well.
    """
    json_text = rf"(?m:^){BLANKS}(?:```{BLANKS}(?:json|JSON){BLANKS}\n|\{{)"
    return regex.compile(json_text if calls is None else f"{calls.pattern}|{json_text}")
