"""Traces that are huge, that hold what no file can, and files that are no traces."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group
from rich.text import Text

from glimp_integrations import ConfigError, Trace
from glimp_integrations.trace.files import load
from glimp_integrations.trace.records import CallProposal, StepRecord
from glimp_integrations.trace.terminal import _StepText, plain

HALF = "a \ud83d b"


def step(index: int, **more: Any) -> StepRecord:
    fields: dict[str, Any] = {
        "index": index,
        "kind": "reasoning",
        "text": "We add 3 and 4, which gives 7.\n\n",
        "author": "small",
        "entropy": 0.5,
        "estimator": "topk_renorm@20",
        "threshold": 1.0,
        "tokens": 15,
        "discarded_tokens": 1,
        "requests": 1,
        "prefilled_tokens": 5,
        "cached_tokens": 5,
        "first_token_seconds": 0.1,
        "seconds": 1.0,
        "end": "delimiter",
    }
    return StepRecord(**{**fields, **more})


def trace(steps: list[StepRecord], **more: Any) -> Trace:
    fields = {"small_model": "S", "large_model": "L", "strategy": "fused", "strategy_reason": ""}
    return Trace(**{**fields, "steps": steps, **more})


def test_half_a_surrogate_pair_anywhere(tmp_path: Path) -> None:
    odd = trace(
        [step(0, text=HALF, end=HALF, estimator=HALF)],
        small_model=HALF,
        strategy=HALF,
        strategy_reason=HALF,
        stop_reason=HALF,
        answer_stop=HALF,
        errors=[HALF],
    )
    for text in (
        odd.to_json(),
        odd.model_dump_json(),
        json.dumps(odd.model_dump(mode="json"), ensure_ascii=False),
        odd.to_html(HALF),
        odd._repr_html_(),
        str(odd),
    ):
        assert "a \ufffd b" in text and text.encode()
    odd.save(tmp_path / "t.json")
    assert Trace.from_json((tmp_path / "t.json").read_bytes()).steps[0].text == "a \ufffd b"
    # A file that another program wrote with the escape of one half.
    (tmp_path / "other.json").write_text(json.dumps(json.loads(odd.to_json()) | {"errors": [HALF]}))
    found, _ = load(tmp_path / "other.json")
    assert Trace.model_validate(found[0].trace).to_html().encode()


@pytest.mark.parametrize("path", ["a\0b", "/none/such/file.json"])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    with pytest.raises(ConfigError, match="the trace cannot be written"):
        trace([]).save(path)


@pytest.mark.parametrize(
    ("field", "value"), [("tokens", -1), ("tokens", 10**400), ("requests", 10**16)]
)
def test_counts_that_no_call_can_have_are_refused(field: str, value: int) -> None:
    data = json.loads(trace([step(0)]).to_json())
    data["steps"][0][field] = value
    with pytest.raises(ConfigError, match=rf"steps\.0\.{field} is .* from 0 to 1e15"):
        Trace.from_json(json.dumps(data))


def test_texts_are_wrapped_as_rich_wraps_them() -> None:
    chance = random.Random(3)
    words = ["a", "bc", "def", "ghijkl", " ", " ", " ", "\n", ".", "x" * 12, " y", "é"]
    for _ in range(400):
        text = "".join(chance.choices(words, k=chance.randrange(50))).rstrip("\n")
        width, shown = chance.choice([5, 20]), []
        for one in (_StepText(text, "cyan"), Group(Text(text, style="cyan"), Text(""))):
            console = Console(file=io.StringIO(), width=width)
            console.print(one)
            shown.append(console.file.getvalue())  # type: ignore[attr-defined]
        assert shown[0] == shown[1], text


class Counted(list[Any]):
    """A list that counts how often it is gone through."""

    times = 0

    def __iter__(self) -> Any:
        self.times += 1
        return super().__iter__()


@pytest.mark.parametrize("kind", ["reasoning", "answer"])
def test_showing_a_trace_goes_through_its_steps_a_few_times_only(kind: str) -> None:
    # Once for each of 100,000 steps took a minute and a half.
    proposal = CallProposal(
        step=0, proposed_by="small", decided_in=1, decided_by="large", called=True, trigger="x"
    )
    steps, proposals = Counted(step(i, kind=kind) for i in range(300)), Counted([proposal] * 300)
    long = trace([]).model_copy(update={"steps": steps, "call_proposals": proposals})
    page = long.to_html()
    assert page.count("decides on the tool call") == plain(long).count("decides on the") == 1
    assert steps.times < 60 and proposals.times < 60
