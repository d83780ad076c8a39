"""Schemas that no grammar can express, through LangChain: the models are shown them in any case."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Annotated, Any

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, ValidationError, WithJsonSchema
from scripted_models import EITHER, ask, called, chat
from scripts import PARIS, answer, demanded, get_weather, of_own_accord

# As pydantic 2.12 and 2.13 write it.
Money = Annotated[
    Decimal,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number"},
                {"type": "string", "pattern": r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"},
            ]
        }
    ),
]


class Bill(BaseModel):
    """A bill."""

    total: Money
    tags: set[str]


def look(cities: set[str]) -> str:
    """Look at cities."""
    return str(cities)


@pytest.mark.parametrize("supports_schema", [True, False])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_sets_and_decimals(method: Any, supports_schema: bool) -> None:
    def reply(written: str) -> Any:
        whole = [written]
        if method == "function_calling":
            whole = demanded(
                [f'{{"name": "Bill", "arguments": {written}}}'], supports_schema=supports_schema
            )
        else:
            whole = answer(whole, supports_schema=supports_schema)
        return (
            chat(*whole, supports_schema=supports_schema)
            .with_structured_output(Bill, method=method)
            .invoke("hi")
        )

    result = reply('{"total": "1.50", "tags": ["a", "a"]}')
    assert result == Bill(total=Decimal("1.50"), tags={"a"})
    with pytest.raises(
        (ValidationError, OutputParserException)
    ):  # pydantic checks what the grammar could not
        reply('{"total": "-", "tags": ["a"]}')


@pytest.mark.parametrize("way", EITHER)
@pytest.mark.parametrize("choice", ["any", "auto", "look", "get_weather"])
@pytest.mark.parametrize("strict", [None, False])
async def test_a_tool_with_a_set_beside_another(way: str, choice: str, strict: Any) -> None:
    call = '{"name": "look", "arguments": {"cities": ["Graz", "Graz"]}}'
    expected: Any = ("look", {"cities": ["Graz", "Graz"]})
    if choice == "get_weather":
        call, expected = json.dumps({"name": PARIS[0], "arguments": PARIS[1]}), PARIS
    free = choice == "auto" and strict is False
    script = (
        of_own_accord([call], supports_schema=not free) if choice == "auto" else demanded([call])
    )
    llm = chat(*script).bind_tools([look, get_weather], tool_choice=choice, strict=strict)
    assert called(await ask(way, llm)) == [expected]


async def test_an_agent_with_such_a_tool_and_a_forced_answer() -> None:
    agents = pytest.importorskip("langchain.agents")
    from langchain.agents.structured_output import ToolStrategy

    call = '{"name": "Bill", "arguments": {"total": 2, "tags": ["a", "a"]}}'
    agent = agents.create_agent(
        chat(*demanded([call])), [look, get_weather], response_format=ToolStrategy(Bill)
    )
    state = await agent.ainvoke({"messages": [("user", "hi")]})
    assert state["structured_response"] == Bill(total=Decimal(2), tags={"a"})
