"""Arms that have no threshold: a policy of the user's, or a wanted share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers import model
from rich.console import Console

from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.bench import BenchPlan, Grade, Item, Store, Task, parse_arms, run
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.lines import check_line
from glimp_integrations.bench.plan import manifest_of, settings_hash
from glimp_integrations.bench.report import write_report
from glimp_integrations.bench.summary import summarise
from glimp_integrations.bench.verdict import verdict
from glimp_integrations.method.policy import StepStart, Write

MARGIN = "routed:policy=examples.policies.margin:Margin,policy.bound=0.7"


class Alternates:
    """Every second step is the large model's; makes no glimpse."""

    def decide(self, start: StepStart) -> Write:
        return Write("large" if start.index % 2 else "small", "in turn")


def broken(**options: int) -> Any:
    raise OSError("no such file")


@pytest.fixture(autouse=True)
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("my_policies")
    vars(module).update(
        Alternates=Alternates, ready=Alternates(), broken=broken, make=lambda: 3, number=4
    )
    monkeypatch.setitem(sys.modules, "my_policies", module)
    path = list(sys.path)
    yield
    sys.path[:] = path


def plan(arms: str, n: int = 4, **options: Any) -> BenchPlan:
    items = [Item(f"q{i}", f"Question {i}?", "4") for i in range(n)]
    task = Task("sums", items, named_format("plain"), lambda i, reply: Grade(1.0, reply))
    return BenchPlan(task, parse_arms(arms), {"temperature": 0.0}, measure_every=0, **options)


def pair() -> GlimpRouter:
    return GlimpRouter(model(name="S"), model(name="L"), temperature=0)


def bench(folder: Path, what: BenchPlan, router: GlimpRouter | None = None) -> list[dict[str, Any]]:
    router = router or pair()
    with Store(folder, manifest_of(what, router)) as store:
        run(what, router, store)
        return list(store.lines)


def of(lines: list[dict[str, Any]], arm: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["kind"] == "answer" and line["arm"] == arm]


class TestNames:
    def test_are_what_was_written_and_thresholds_make_no_more_of_them(self) -> None:
        text = f"large,{MARGIN},routed:large_share=0.25,routed:first_large_steps=2,random"
        assert [arm.name for arm in parse_arms(text, [0.5, 1.0])] == [
            "large",
            MARGIN,
            "routed:large_share=0.25",
            "routed@0.5:first_large_steps=2",
            "routed@1:first_large_steps=2",
            f"random({MARGIN})",
            "random(routed:large_share=0.25)",
            "random(routed@0.5:first_large_steps=2)",
            "random(routed@1:first_large_steps=2)",
        ]

    def test_what_decides_is_not_in_the_control_and_first_steps_are(self) -> None:
        share, policy, first = parse_arms(
            f"routed:large_share=0.25,first_large_steps=2,{MARGIN},routed:first_large_steps=1,random"
        )[3:]
        assert dict(share.settings) == {"first_large_steps": 2}
        assert dict(policy.settings) == {} and policy.threshold is None
        assert dict(first.settings) == {"first_large_steps": 1, "threshold": 1.0}

    def test_a_policy_is_an_object_a_class_or_a_function(self) -> None:
        (arm,) = parse_arms(MARGIN)
        assert arm.settings["policy"].bound == 0.7 and arm.threshold is None
        for name in ("ready", "Alternates"):
            (arm,) = parse_arms(f"routed:policy=my_policies:{name}")
            assert isinstance(arm.settings["policy"], Alternates)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("routed:policy=no_such_module:P", "No module named 'no_such_module'.*MODULE:NAME"),
            ("routed:policy=my_policies:P", "has no attribute 'P'.*policy.KEY=VALUE"),
            ("routed:policy=my_policies:Alternates(2)", r"no attribute 'Alternates\(2\)'"),
            ("routed:policy=my_policies", "policy is 'my_policies'; write policy=MODULE:NAME"),
            ("routed:policy=.policies:P", "begins with a dot"),
            ("routed:policy=3", "policy is 3; write"),
            ("routed:policy=my_policies:number", "is a int without a method decide"),
            ("routed:policy=my_policies:make", r"make\(\) made a int without a method decide"),
            (
                "routed:policy=my_policies:broken,policy.n=1",
                r"broken\(n=1\) raised OSError: no such",
            ),
            (
                "routed:policy=my_policies:Alternates,policy.n=1",
                r"Alternates\(n=1\) raised TypeError",
            ),
            ("routed:policy=my_policies:ready,policy.n=1", "is an object already.*policy.n"),
            ("routed:policy.n=1", "policy.n needs policy=MODULE:NAME"),
            ("routed@0.5:policy=my_policies:ready", "0.5 nats and policy=my_policies:ready both"),
            ("routed@0.5:large_share=0.2", "0.5 nats and large_share=0.2 both decide"),
            ("routed:large_share=0.2,policy=my_policies:ready", "each decides who writes"),
            ("routed:large_share=1.5", "large_share.*1.5"),
            ("routed:large_share=much", "large_share.*'much'"),
            ("routed:max_cost=0.1", "max_large_tokens instead"),
            ("large:large_share=0.2", "decides in routed arms only"),
            ("random@0.2:policy=my_policies:ready", "decides in routed arms only"),
        ],
    )
    def test_mistakes_are_named(self, text: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as caught:
            parse_arms(text)
        assert text in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["routed", "routed:", "random(routed)", "routed@:large_share=1"]
    )
    def test_of_stored_results_are_checked(self, name: str) -> None:
        share = {"kind": "share", "arm": MARGIN, "share": 0.5}
        for good in (MARGIN, f"random({MARGIN})", "random(routed:large_share=0.25)"):
            check_line({**share, "arm": good}, "line 1")
        with pytest.raises(ConfigError, match="name of an arm"):
            check_line({**share, "arm": name}, "line 1")


class TestRuns:
    def test_the_control_has_the_share_of_its_arm_whatever_decides(self, tmp_path: Path) -> None:
        arm = "routed:policy=my_policies:Alternates,first_large_steps=1"
        lines = bench(tmp_path, plan(f"{arm},random", n=12))
        # Of three steps the first is not the policy's, the second is large, the third small.
        (share,) = [line for line in lines if line["kind"] == "share"]
        assert (share["arm"], share["share"], share["steps"]) == (f"random({arm})", 0.5, 24)
        random = [line["trace"] for line in of(lines, f"random({arm})")]
        assert {trace["random_share"] for trace in random} == {0.5}
        assert {trace["steps"][0]["author"] for trace in random} == {"large"}
        assert len({tuple(s["author"] for s in trace["steps"]) for trace in random}) > 1

    def test_reports_cope_with_arms_that_have_no_threshold(self, tmp_path: Path) -> None:
        turns = "routed:policy=my_policies:Alternates"
        text = f"large,{turns},{MARGIN},routed:large_share=0.25,routed,random"
        bench(tmp_path, plan(text))
        store = Store(tmp_path)
        summary = write_report(store, None, Console(quiet=True))
        assert [arm.name for arm in summary.arms if arm.kind == "routed"] == [
            "routed@1",
            "routed:large_share=0.25",
            MARGIN,
            turns,
        ]
        assert {a.threshold for a in summary.arms if ":" in a.name} == {None}
        assert summary.arm(turns).step_share == pytest.approx(1 / 3)
        assert summary.between(turns, f"random({turns})").n == 4
        assert any("Several ways to route were tried" in text for text in verdict(summary))
        assert {"frontier.png", "entropy.png", "share.png"} <= {p.name for p in tmp_path.iterdir()}

    def test_arms_of_one_threshold_are_no_several_ways(self, tmp_path: Path) -> None:
        bench(tmp_path, plan("large,routed,routed@1:strategy=fused"))
        assert not any("Several" in text for text in verdict(summarise(Store(tmp_path))))

    def test_arms_do_not_learn_from_each_other(self, tmp_path: Path) -> None:
        share = "routed:large_share=0.4"
        together = bench(tmp_path / "both", plan(f"{share},{share},{share},max_step_tokens=500"))
        alone = bench(tmp_path / "one", plan(share))

        def bounds(lines: list[dict[str, Any]]) -> list[Any]:
            return [[s["bound"] for s in x["trace"]["steps"]] for x in of(lines, share)]

        assert len(bounds(alone)) == 4 and bounds(together) == bounds(alone)

    def test_calls_are_routed_unless_an_arm_says_otherwise(self, tmp_path: Path) -> None:
        router = GlimpRouter(model(name="S"), model(name="L"), route="when_it_pays")
        text = "routed,routed:route=when_it_pays"
        lines = bench(tmp_path, plan(text, n=1), router)
        reasons = {x["arm"]: x["trace"]["route_reason"] for x in lines}
        assert reasons["routed@1"] == ""
        assert "calls of this kind" in reasons["routed@1:route=when_it_pays"]


class TestGoingOn:
    def test_fingerprints_are_those_of_earlier_releases(self) -> None:
        small, routed = parse_arms("small,routed@0.8:strategy=fused")
        earlier = {"untagged_answer": "whole", "temperature": 0.0}
        for arm in (small, routed):
            assert plan("small").hash_of(arm) == settings_hash({**earlier, **arm.settings})

    def test_a_policy_is_known_again_in_another_process_by_its_name(self, tmp_path: Path) -> None:
        arm = "routed:policy=my_policies:Alternates"
        lines = bench(tmp_path, plan(arm, n=2))
        assert bench(tmp_path, plan(arm, n=3))[: len(lines)] == lines

    def test_other_options_are_other_settings(self) -> None:
        arms = [*parse_arms(MARGIN), *parse_arms(MARGIN.replace("0.7", "0.6"))]
        assert len({plan("small").hash_of(arm) for arm in arms}) == 2
