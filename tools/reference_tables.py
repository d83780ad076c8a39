"""Write the tables of docs/reference from the code, so that they cannot differ from it.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; everything else on
those pages is written by hand. ``make docs`` runs this before it builds the site, and a test fails
where a page is not what this would write.

    python tools/reference_tables.py            # write
    python tools/reference_tables.py --check    # only compare; exit status 1 where a page differs
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "reference"
MARKER = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
# Settings whose default comes from the environment.
VARIABLES = {
    "small": "GLIMP_SMALL",
    "large": "GLIMP_LARGE",
    "pair": "GLIMP_PAIR",
    "api_key": "GLIMP_API_KEY",
}


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    header = list(columns)
    lines = [header, ["---"] * len(header), *([cell(c) for c in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def cell(text: str) -> str:
    """Text as it may stand in a cell: one line, and no bar that would end it."""
    return " ".join(text.split()).replace("|", "\\|")


def code(value: object) -> str:
    """A value as Python writes it, in code font."""
    return f"`{value!r}`".replace("'", '"')


def described(field: FieldInfo) -> str:
    """A field's description, with values such as 'auto' and None in code font."""
    parts = (field.description or "").split("`")  # what is between two of them is code already
    for index in range(0, len(parts), 2):
        text = re.sub(r"'([^'\s]+)'", r"`\1`", parts[index])
        parts[index] = re.sub(r"(?<!`)\b(None|True|False|inf|GLIMP_[A-Z_]+)\b(?!`)", r"`\1`", text)
    return "`".join(parts)


def values_of(annotation: Any) -> str:
    """What a field takes, in words; choices are listed."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values_of(arguments[0])
    if origin is Literal:
        return ", ".join(map(code, arguments))
    if origin in (Union, types.UnionType):
        return ", ".join(values_of(argument) for argument in arguments)
    names = {
        float: "number",
        int: "whole number",
        str: "text",
        bool: "`True`, `False`",
        type(None): "`None`",
    }
    if annotation in names:
        return names[annotation]
    if origin is list:
        return f"list of {values_of(arguments[0])}".replace("list of text", "list of texts")
    if origin is dict:
        return "dictionary"
    if origin is tuple:
        return "two texts"
    name = getattr(annotation, "__name__", "")
    # Anything else is a class of ours or of pydantic; what is left is said by the description.
    return {"Any": "backend, model string, `None`", "SecretStr": "text"}.get(name, f"`{name}`")


def limits_of(field: FieldInfo) -> str:
    """The bounds of a number: ``>= 0``, ``<= 1``."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in signs.items()
        if getattr(limit, name, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def fields(model: type[BaseModel]) -> str:
    """The fields of a pydantic model that users fill in: name, default, choices, description."""
    rows = []
    for name, field in model.model_fields.items():
        if name in VARIABLES and field.default_factory is not None:
            default = f"`{VARIABLES[name]}`, else `None`"
        elif field.is_required():
            default = "required"
        else:
            default = code(field.default)
        takes = values_of(field.annotation) + limits_of(field)
        rows.append([f"`{name}`", default, takes, described(field)])
    return table(["field", "default", "takes", "meaning"], rows)


def record(model: type[BaseModel]) -> str:
    """The fields of a pydantic model that users read: name, type, description."""
    rows = [
        [f"`{name}`", values_of(field.annotation), described(field)]
        for name, field in model.model_fields.items()
    ]
    return table(["field", "type", "meaning"], rows)


def public_record(name: str) -> Callable[[], str]:
    """A table of the fields of a record that ``glimp_integrations`` exports."""

    def make() -> str:
        import glimp_integrations

        return record(getattr(glimp_integrations, name))

    return make


def call_proposals() -> str:
    """The fields of the entries of ``Trace.call_proposals``."""
    from glimp_integrations import Trace

    (entry,) = get_args(Trace.model_fields["call_proposals"].annotation)
    return record(entry)


def attributes(owner: type) -> str:
    """The attributes a class describes in its docstring (Google style), with their defaults."""
    text = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
    described = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text, re.DOTALL | re.MULTILINE)
    parameters = inspect.signature(owner).parameters
    rows = [
        [f"`{name}`", code(parameters[name].default), plain_code(meaning)]
        for name, meaning in described
    ]
    return table(["field", "default", "meaning"], rows)


def plain_code(text: str) -> str:
    """Docstrings mark code with two backticks, Markdown with one."""
    return text.replace("``", "`")


def commands() -> str:
    """Every command of ``glimp`` with its arguments and options."""
    from glimp_integrations.cli.app import app

    group: Any = typer.main.get_command(app)
    texts = []
    for name, command in sorted(group.commands.items()):
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            is_option = parameter.param_type_name == "option"
            shown = ", ".join(parameter.opts) if is_option else parameter.name.upper()
            rows.append([f"`{shown}`", default_of(parameter), parameter.help or ""])
        texts.append(f"## glimp {name}\n\n{(command.help or '').strip()}\n")
        if rows:
            texts.append(table(["argument or option", "default", "meaning"], rows))
    return "\n" + "\n".join(texts) + "\n"


def default_of(parameter: Any) -> str:
    """The default of a command's parameter; an empty cell where there is none."""
    if parameter.required:
        return "required"
    if parameter.default is None or getattr(parameter, "is_flag", False):
        return ""
    return f"`{parameter.default}`"


def settings() -> str:
    """The fields of RoutingSettings."""
    from glimp_integrations import RoutingSettings

    return fields(RoutingSettings)


def prices() -> str:
    """The fields of a Price."""
    from glimp_integrations import Price

    return fields(Price)


def capabilities() -> str:
    """The fields of Capabilities."""
    from glimp_integrations.backends import Capabilities

    return attributes(Capabilities)


TABLES: dict[str, Callable[[], str]] = {
    "settings": settings,
    "prices": prices,
    "capabilities": capabilities,
    "commands": commands,
    "answer": public_record("RoutedAnswer"),
    "trace": public_record("Trace"),
    "step": public_record("StepRecord"),
    "call-proposal": call_proposals,
    "usage": public_record("Usage"),
    "model-usage": public_record("ModelUsage"),
    "tool-call": public_record("ToolCall"),
    "invalid-tool-call": public_record("InvalidToolCall"),
}


def filled(page: str) -> str:
    """A page with every table as the code has it now.

    Raises:
        KeyError: A marker names a table that does not exist.
    """
    return MARKER.sub(lambda m: m[1] + TABLES[m[2]]() + m[3], page)


def main() -> int:
    """Write the pages, or compare them; returns the exit status."""
    only_compare = "--check" in sys.argv[1:]
    stale = []
    for path in sorted(PAGES.rglob("*.md")):
        page = path.read_text(encoding="utf-8")
        now = filled(page)
        if now != page:
            stale.append(path.relative_to(ROOT))
            if not only_compare:
                path.write_text(now, encoding="utf-8")
    for path in stale:
        print(f"{path}: {'differs from the code' if only_compare else 'written'}")
    return 1 if stale and only_compare else 0


if __name__ == "__main__":
    sys.exit(main())
