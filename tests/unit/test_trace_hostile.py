"""Traces that are huge, that hold what no file can, and files that are no traces."""

from __future__ import annotations

import cProfile
import gc
import io
import json
import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, Group
from rich.text import Text

from glimp_integrations import ConfigError, Trace
from glimp_integrations.cli.trace import run
from glimp_integrations.trace.files import load
from glimp_integrations.trace.records import CallProposal, StepRecord
from glimp_integrations.trace.step_lines import StepText
from glimp_integrations.trace.terminal import plain, print_trace

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
    words += ["×", "≤ ", "漢字", "\u00a0", "e\u0301", "👩\u200d👧", "\t", "\u2028", "\u2060"]
    for _ in range(600):
        text = "".join(chance.choices(words, k=chance.randrange(50))).rstrip("\n")
        width, shown = chance.choice([5, 20]), []
        for one in (StepText(text, "cyan"), Group(Text(text, style="cyan"), Text(""))):
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


def calls_of(function: Callable[[], object]) -> int:
    """How many functions are called, which is the same on every machine; seconds are not."""
    profile = cProfile.Profile()
    profile.runcall(function)
    return sum(entry.callcount for entry in profile.getstats())


# About twice what it takes; with rich's own table a text takes ten times as many.
@pytest.mark.parametrize(("show", "most"), [("text", 900), ("brief", 200), ("page", 150)])
def test_a_long_trace_costs_little_for_each_step(show: str, most: int) -> None:
    texts = ["We add 3 and 4, which gives 7.\n\n", "So 3 × 4 ≤ 12.\n\n", "word " * 60]
    long = trace([step(i, text=texts[i % 3]) for i in range(1000)])
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    trace([]).to_html()  # imports

    def shown() -> None:
        if show == "page":
            long.to_html()
        else:
            print_trace(long, console, brief=show == "brief")

    assert calls_of(shown) / 1000 < most


def test_checking_what_was_read_costs_little_for_each_step() -> None:
    data = trace([step(i) for i in range(1000)]).to_json()
    assert calls_of(lambda: Trace.from_json(data)) / 1000 < 20


@pytest.mark.parametrize("width", [30, 80, 600])
def test_brief_rows_fit_whatever_the_texts_are(width: int) -> None:
    texts = ["a\x1b[2Jb\tc\nd", "漢字" * 300, "x" * 900, "", "e\u0301 👩\u200d👧 " * 90, "[bold]b"]
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
    print_trace(trace([step(i, text=text) for i, text in enumerate(texts)]), console, brief=True)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    plain_rows = re.sub(r"\x1b\[[\d;]*m", "", printed).split("\n")[1:7]
    assert "\x1b[36m" in printed and "\x1b" not in "".join(plain_rows)
    before = len("   1 small  0.50 ███░░░░░░░     15 1.0 s ")
    assert all(cell_len(row) < max(width, before + 11) for row in plain_rows)
    assert [row[before - 6 : before] for row in plain_rows] == ["1.0 s "] * 6
    assert plain_rows[0].endswith("a␛[2Jb c d") and plain_rows[3].endswith("(nothing)")
    assert plain_rows[1].endswith("…") and plain_rows[2].endswith("x…")
    assert plain_rows[5].endswith("[bold]b")


@pytest.mark.parametrize("entropy", [float("inf"), float("nan"), -1.0])
def test_an_entropy_that_is_no_number_is_shown(entropy: float) -> None:
    data = json.dumps(json.loads(trace([step(0)]).to_json()) | {"steps": [vars(step(0))]})
    odd = Trace.from_json(data.replace('"entropy": 0.5', f'"entropy": {json.dumps(entropy)}'))
    assert f"H {entropy:.2f}" in plain(odd)
    assert "step 1" in odd.to_html()


def test_a_shown_file_leaves_garbage_collection_as_it_was(tmp_path: Path) -> None:
    trace([step(0)]).save(tmp_path / "t.json")
    for missing in (False, True):
        path = tmp_path / ("missing.json" if missing else "t.json")
        with pytest.raises(ConfigError) if missing else nullcontext():
            run(str(path), str(tmp_path / "p.html"), None, None, brief=False)
        assert gc.isenabled()
