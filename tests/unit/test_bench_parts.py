"""Arms, tasks, grading and statistics of a bench; every mistake is named."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from glimp_integrations import ConfigError, GlimpRouter, Price
from glimp_integrations.bench import load_task, parse_arms
from glimp_integrations.bench.arms import Arm
from glimp_integrations.bench.formats import boxed
from glimp_integrations.bench.question_files import LONGEST_LINE
from glimp_integrations.bench.stats import (
    compare_repeated,
    compare_right,
    difference,
    pass_rate,
    ratio,
    wilson,
)
from glimp_integrations.bench.summary import parse_prices
from glimp_integrations.bench.tasks import Grade
from glimp_integrations.calibration.prompts import read


def test_arms_have_stable_names() -> None:
    arms = parse_arms(
        "small,large,routed,routed@1.0:strategy=fused,max_step_tokens=9,random,random@0.25",
        [0.5, 1.0],
    )
    assert [arm.name for arm in arms] == [
        "small",
        "large",
        "routed@0.5",
        "routed@1",
        "routed@1:strategy=fused,max_step_tokens=9",
        "random@0.25",
        "random(routed@0.5)",
        "random(routed@1)",
        "random(routed@1:strategy=fused,max_step_tokens=9)",
    ]
    settings = {arm.name: dict(arm.settings) for arm in arms}
    assert settings["small"] == {"threshold": math.inf, "answer_by": "small"}
    assert settings["routed@1:strategy=fused,max_step_tokens=9"] == {
        "threshold": 1.0,
        "strategy": "fused",
        "max_step_tokens": 9,
    }
    assert settings["random@0.25"] == {"random_share": 0.25}
    assert arms[-1].with_share(0.3).settings["random_share"] == 0.3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tiny", "'tiny' is not one of small"),
        ("small@2", "takes no '@'"),
        ("routed@much", "'much' after '@' is not a number"),
        ("routed@-1", "routes nothing"),
        ("routed@nan", "routes nothing"),
        ("routed@inf", "routes nothing"),
        ("random@0", "outside \\(0, 1\\)"),
        ("random@1", "outside \\(0, 1\\)"),
        ("random@1.5", "outside \\(0, 1\\)"),
        ("random@nan", "outside \\(0, 1\\)"),
        ("random", "there is none"),
        ("routed,random:seed=1", "random takes the settings"),
        ("routed:strategy", "not KEY=VALUE"),
        ("routed:stratgy=fused", "unknown setting 'stratgy'"),
        ("routed:strategy=fast", "strategy"),
        ("routed:threshold=2", "not set here"),
        ("strategy=fused", "without an arm"),
        (" , ", "no arms"),
    ],
)
def test_impossible_arms_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_arms(text)


@pytest.mark.parametrize("text", ["1,2,3", "a,b,c,d", "1,2,3,-4", '{"small": 1}'])
def test_impossible_prices_are_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"prices|Prices"):
        parse_prices(text)


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "1e10", "-inf"])
@pytest.mark.parametrize("field", ["input", "output", "cached"])
def test_a_price_that_cannot_be_is_named_with_what_to_give(value: str, field: str) -> None:
    fine: dict[str, Any] = {"input": 0, "output": 1e9, "cached": None}
    assert Price(**fine).output == 1e9
    with pytest.raises(ConfigError) as caught:
        GlimpRouter(prices={"small": fine, "large": {**fine, field: float(value)}})
    text = str(caught.value)
    assert f"prices.large.{field}" in text and f"(got {float(value)!r})" in text
    assert "give a number from 0 to 1,000,000,000" in text
    with pytest.raises(ConfigError, match=f"'1,2,3,{value}'; give four numbers from 0 to 1e9"):
        parse_prices(f"1,2,3,{value}")
    with pytest.raises(ConfigError, match=rf"large\.{field} is .*give numbers from 0 to 1e9"):
        parse_prices(json.dumps({"small": fine, "large": {**fine, field: float(value)}}))


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_a_question_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "q.jsonl",
        "\ufeff" + json.dumps({"question": "1+1?", "answer": 2, "id": "sum"}),
        "",
        "   ",
        json.dumps({"question": "Half?", "answer": "\\frac{1}{2}"}),
        json.dumps({"question": "Capital?", "answer": "Paris"}),
    )
    task = load_task(file)
    assert [item.id for item in task.items] == ["sum", "4", "5"]
    assert task.notes == ["q.jsonl: 2 blank lines skipped"]
    grades = [
        task.grade(item, reply).right
        for item, reply in zip(
            task.items, ["so \\boxed{2.0}", "\\boxed{0.5}", "\\boxed{ paris. }"], strict=True
        )
    ]
    assert grades == [True, True, True]
    wrong = [task.grade(item, "\\boxed{3}").right for item in task.items]
    assert wrong == [False, False, False]
    unmarked = task.grade(task.items[0], "It is 2.")
    assert unmarked.right and not unmarked.marked
    assert "\\boxed" in task.messages(task.items[0])[-1]["content"]
    assert len(load_task(file, n=2).items) == 2
    assert "fewer than the 9" in load_task(file, n=9).notes[-1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "x", "answer": 1}', "no column 'question' but 'prompt', 'answer'; name it"),
        ('{"question": "x", "gold": 1}', "--answer-column"),
        ("{}", "but none"),
        ('{"question": " ", "answer": 1}', "'question' is ' '"),
        ('{"question": "x", "answer": null}', "'answer' is None"),
        ('{"question": "x", "answer": true}', "'answer' is True"),
        ('{"question": "x", "answer": ""}', "blank"),
        ('["x", 1]', "is a JSON list"),
        ('{"question": "x', "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = write(tmp_path / "q.jsonl", '{"question": "1+1?", "answer": 2}', line)
    with pytest.raises(ConfigError, match=message) as caught:
        load_task(file)
    assert "line 2" in str(caught.value)


def test_a_line_of_ten_megabytes_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "q.jsonl", '{"question": "' + "x" * 10_000_000 + '", "answer": 2}')
    with pytest.raises(ConfigError, match=f"line 1 is longer than {LONGEST_LINE:,}"):
        load_task(file)


def test_bad_files_and_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no question file"):
        load_task(str(tmp_path / "none.jsonl"))
    with pytest.raises(ConfigError, match="holds no questions"):
        load_task(write(tmp_path / "empty.jsonl", ""))
    twice = '{"id": 1, "question": "x", "answer": 1}'
    with pytest.raises(ConfigError, match="'1' twice"):
        load_task(write(tmp_path / "twice.jsonl", twice, twice))
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ConfigError, match="not JSON"):
        load_task(str(tmp_path / "bytes.jsonl"))
    with pytest.raises(ConfigError, match="gsm_symbolic"):
        load_task("gsm_symbolik")
    for spec, problem in {
        "chain_sum:max_term=3": "no option max_term; it has .*max_terms",
        "chain_sum:max_terms=3,seed=1": "no option seed",  # has a place of its own
        "chain_sum:max_terms=3,": "'' is not KEY=VALUE",
        "chain_sum:max_terms=": "'max_terms=' is not KEY=VALUE",
        "chain_sum:max_terms=0": "max_terms must be",
        "chain_summ:max_terms=3": "did you mean chain_sum",
        'composite:datasets=[{"name":"no_such"}]': "'no_such' not registered",
    }.items():
        with pytest.raises(ConfigError, match=problem):
            load_task(spec)
    with pytest.raises(ConfigError, match="known formats"):
        load_task("gsm_symbolic", format="yaml")
    with pytest.raises(ConfigError, match="n is 0"):
        load_task("gsm_symbolic", n=0)
    with pytest.raises(ConfigError, match="MODULE:FUNCTION"):
        load_task("no_such_module_here:items")


def test_families_are_graded_by_their_own_verifier() -> None:
    pytest.importorskip("reasoning_gym")
    task = load_task("gsm_symbolic", n=3, seed=7)
    item = task.items[0]
    assert task.grade(item, f"Thus \\boxed{{{item.answer}}}").right
    assert task.grade(item, f"Thus \\boxed{{\\${item.answer} \\text{{ in all}}}}").right
    assert not task.grade(item, f"Thus \\boxed{{{item.answer}1}}").right
    assert not task.grade(item, "I do not know").right
    again = load_task("rg:gsm_symbolic", n=3, seed=7)
    assert [i.digest for i in again.items] == [i.digest for i in task.items]
    assert load_task("gsm_symbolic", n=3, seed=8).items[0].digest != item.digest
    easy = load_task("rg:chain_sum:max_terms=2,max_digits=1", n=9, seed=7)
    assert easy.name == "chain_sum:max_terms=2,max_digits=1"
    assert easy.identity["family"] == easy.name  # another difficulty is another task
    # The installed release; the module's own __version__ has stood still since 0.1.19.
    assert easy.identity["reasoning_gym"] == version("reasoning-gym")
    assert all(item.metadata["num_terms"] == 2 for item in easy.items)
    parts = '[{"name":"products","weight":3,"config":{"max_digits":1}},{"name":"gcd"}]'
    mixed = load_task(f"composite:datasets={parts}", n=9, seed=7)
    assert mixed.name == "3 products(max_digits=1) + 1 gcd()"
    longest = f'composite:datasets={parts[:-1]},{{{" " * 300}"name":"lcm"}}]'
    assert len(load_task(longest, n=2).items) == len(read(longest, n=2, column="question")) == 2
    assert {"multiplication" in item.question for item in mixed.items} == {True, False}
    assert all(mixed.grade(item, f"\\boxed{{{item.answer}}}").right for item in mixed.items)
    sums = load_task('basic_arithmetic:operators=["+", "-"],max_terms=3', n=9, seed=7)
    assert not any("*" in item.question or "/" in item.question for item in sums.items)
    short = load_task("chain_sum:max_terms=2", n=1, format="short")
    assert short.grade(short.items[0], f" {short.items[0].answer}\n") == Grade(
        1.0, short.items[0].answer
    )
    gym = load_task("chain_sum", n=1, format="gym")
    assert gym.messages(gym.items[0])[0]["role"] == "system"
    assert gym.grade(gym.items[0], f"<answer>{gym.items[0].answer}</answer>").right


def test_boxes_nest() -> None:
    assert boxed("a \\boxed{1} b \\boxed{\\frac{1}{2}}") == "\\frac{1}{2}"
    assert boxed("\\boxed{1") is None


def test_statistics_against_published_values() -> None:
    # Newcombe (1998a), Statistics in Medicine 17, 857-872, table I, method 3.
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        interval = wilson(right, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    # Fagerland, Lydersen and Laake (2014), Statistics in Medicine 33, 2850-2875: 1, 1, 7, 12.
    interval = difference(1, 1, 7, 12)
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (-0.286, -0.507, -0.026), abs=1e-3
    )
    # Data of Altman et al. (2000), Statistics with Confidence, table 6.2: correlated outcomes.
    interval = difference(14, 5, 0, 22)
    assert (interval.value, interval.low, interval.high) == pytest.approx(
        (0.122, 0.011, 0.226), abs=1e-3
    )
    first = [True] * 2 + [False] * 19
    second = [True, False] + [True] * 7 + [False] * 12
    test = compare_right(first, second)
    assert (test.only_first, test.only_second) == (1, 7)
    assert test.p == pytest.approx(2 * (1 + 8) / 2**8)
    assert compare_right([True], [True]).p == 1.0
    assert math.isnan(wilson(0, 0).value)


def test_time_ratios_are_paired() -> None:
    second = [float(i) for i in range(1, 21)]
    interval = ratio([0.8 * x + 0.01 * (i % 2) for i, x in enumerate(second)], second)
    assert interval.value == pytest.approx(0.8, abs=0.01)
    assert (
        interval.low <= interval.value <= interval.high < 0.81
    )  # though the items differ twentyfold
    assert math.isnan(ratio([1.0], [2.0]).low) and ratio([1.0], [2.0]).value == 0.5
    assert math.isnan(ratio([], []).value)


def test_an_arm_is_what_it_says() -> None:
    assert Arm("routed@1", "routed", {"threshold": 1.0}).threshold == 1.0
    assert parse_arms("small")[0].threshold is None


def test_repeats_of_an_item_tell_less_than_other_items() -> None:
    # One answer an item: Wilson's interval as it is.
    assert pass_rate([[True]] * 81 + [[False]] * 182) == wilson(81, 263)
    # Repeats that are all alike: what the items tell. Repeats that are independent: all answers.
    alike = pass_rate([[True] * 4] * 12 + [[False] * 4] * 18)
    items = wilson(12, 30)
    assert (alike.value, alike.low, alike.high) == pytest.approx((0.4, items.low, items.high))
    mixed = pass_rate([[True, False, True, False]] * 30)
    answers = wilson(60, 120)
    assert (mixed.low, mixed.high) == pytest.approx((answers.low, answers.high))
    between = pass_rate([[True] * 4] * 10 + [[True, False, False, True]] * 10 + [[False] * 4] * 10)
    # By hand: MSB = 20/29, MSW = 10/90, so the correlation is 0.5655 and 120 answers are 44.5.
    assert between.high - between.low == pytest.approx(0.2819, abs=1e-4)
    # Where nothing varies, nothing is known of the correlation: as few as possible.
    assert pass_rate([[True] * 4] * 5).low == pytest.approx(wilson(5, 5).low)
    uneven = pass_rate([[True], [False, False], [True, True]])
    assert uneven.value == 3 / 5 and 0 < uneven.low < 3 / 5 < uneven.high < 1
    assert math.isnan(pass_rate([]).value)
    assert pass_rate([[True, False]]).value == 0.5


def test_repeated_items_are_compared_by_their_shares() -> None:
    # One answer an item: McNemar's exact test.
    first = [[True]] * 2 + [[False]] * 19
    second = [[True], [False]] + [[True]] * 7 + [[False]] * 12
    test = compare_repeated(first, second)
    assert (test.only_first, test.only_second) == (1, 7)
    assert test.p == pytest.approx(2 * (1 + 8) / 2**8)
    few = compare_repeated([[True, True], [True, False], [True, True]], [[False, True]] * 3)
    # Differences 1/2, 0, 1/2: of the 8 ways, 2 have a sum as large and 2 one as small.
    assert few.p == pytest.approx(0.5)
    assert (few.only_first, few.only_second, few.difference.value) == (2, 0, pytest.approx(1 / 3))
    assert few.difference.low < 0 < few.difference.high
    same = compare_repeated([[True, False]] * 3, [[False, True]] * 3)
    assert same.p == 1.0 and same.difference.value == 0.0
    # Four times the same answers are no more evidence than once.
    once = [True] * 9 + [False] * 5, [True] * 3 + [False] * 11
    often = compare_repeated(*([[one] * 4 for one in side] for side in once))
    assert often.p == pytest.approx(compare_right(*once).p)
