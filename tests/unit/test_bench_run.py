"""A bench over scripted models: every pair once, nothing finished is lost, nothing is mixed up."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from helpers import CHAIN, OPENED, model

from glimp_integrations import BackendError, ConfigError, GlimpRouter, UnsuitableEndpointError
from glimp_integrations.backends.base import Report, Request, Token
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.bench import BenchPlan, Grade, Item, Store, Task, parse_arms, run
from glimp_integrations.bench.formats import named_format
from glimp_integrations.bench.plan import SEEDS_APART
from glimp_integrations.bench.progress import ProgressObserver
from glimp_integrations.bench.run import manifest_of
from glimp_integrations.bench.schedule import rounds
from glimp_integrations.bench.summary import parse_prices, summarise
from glimp_integrations.runtime import speed


def task(n: int = 3, wrong: str = "") -> Task:
    items = [Item(f"q{i}", f"Question {i}?{wrong}", "4") for i in range(n)]
    return Task(
        "sums", items, named_format("plain"), lambda item, reply: Grade(float("4" in reply), reply)
    )


def pair(**options: Any) -> GlimpRouter:
    return GlimpRouter(model(name="S", **options), model(name="L", **options), temperature=0)


def plan(arms: str = "small,large,routed", n: int = 3, **options: Any) -> BenchPlan:
    options.setdefault("measure_every", 0)
    settings = options.pop("settings", {"temperature": 0.0})
    return BenchPlan(options.pop("task", task(n)), parse_arms(arms), settings, **options)


def bench(folder: Path, what: BenchPlan, router: GlimpRouter | None = None) -> list[dict[str, Any]]:
    router = router or pair()
    with Store(folder, manifest_of(what, router)) as store:
        run(what, router, store)
        return store.lines


def places(lines: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    return Counter((x["arm"], x["item"]) for x in lines if x["kind"] == "answer")


def test_every_arm_answers_every_item_once(tmp_path: Path) -> None:
    lines = bench(tmp_path, plan())
    counts = places(lines)
    assert set(counts.values()) == {1}
    assert set(counts) == {(a, f"q{i}") for a in ("small", "large", "routed@1") for i in range(3)}
    by_arm = {x["arm"]: x for x in lines}
    assert {s["author"] for s in by_arm["small"]["trace"]["steps"]} == {"small"}
    assert {s["author"] for s in by_arm["large"]["trace"]["steps"]} == {"large"}
    assert {s["author"] for s in by_arm["routed@1"]["trace"]["steps"]} == {"small", "large"}
    assert all(x["right"] and x["reply"] == "The answer is 4." for x in lines)
    assert bench(tmp_path, plan()) == lines  # nothing is left to do


@pytest.mark.parametrize("cut", range(1, 400, 37))
def test_a_killed_bench_goes_on_where_it_was(tmp_path: Path, cut: int) -> None:
    """The file is cut wherever a kill may have cut it."""
    whole = bench(tmp_path / "whole", plan("small,routed", 2))
    data = (tmp_path / "whole" / "results.jsonl").read_bytes()
    folder = tmp_path / "killed"
    folder.mkdir()
    (folder / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
    kept = data[: len(data) * cut // 400]
    (folder / "results.jsonl").write_bytes(kept)
    finished = kept.count(b"\n")
    lines = bench(folder, plan("small,routed", 2))
    assert lines[:finished] == whole[:finished]
    assert places(lines) == places(whole)
    stored = [json.loads(x) for x in (folder / "results.jsonl").read_text().splitlines()]
    assert stored == lines


def test_a_cut_line_is_reported_and_dropped(tmp_path: Path) -> None:
    bench(tmp_path, plan("small", 1))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "answer", "arm": "sm')
    sentences: list[str] = []
    with Store(tmp_path, manifest_of(plan("small", 1), pair()), sentences.append) as store:
        assert len(store.lines) == 1
    assert sentences == ["the last line of results.jsonl was cut off; it is dropped"]
    assert path.read_bytes().endswith(b"}\n")


def test_a_last_line_that_only_lost_its_end_of_line_is_kept(tmp_path: Path) -> None:
    bench(tmp_path, plan("small", 1))
    path = tmp_path / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert len(places(bench(tmp_path, plan("small", 2)))) == 2


def test_a_broken_line_in_the_middle_is_refused_with_its_number(tmp_path: Path) -> None:
    bench(tmp_path, plan("small", 2))
    path = tmp_path / "results.jsonl"
    path.write_text("{oh no\n" + path.read_text())
    with pytest.raises(ConfigError, match="line 1 is broken"):
        bench(tmp_path, plan("small", 2))


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (plan(settings={"temperature": 0.5}), "settings is"),
        (plan(task=Task("others", task().items, named_format("plain"), task().scorer)), "task is"),
        (plan(task=Task("sums", task().items, named_format("steps"), task().scorer)), "format"),
        (plan(task=task(3, wrong="?")), "questions have changed"),
    ],
)
def test_another_bench_in_the_folder_is_refused(
    tmp_path: Path, other: BenchPlan, named: str
) -> None:
    bench(tmp_path, plan())
    with pytest.raises(ConfigError, match=named):
        bench(tmp_path, other)


def test_other_models_are_refused_and_more_items_and_arms_are_not(tmp_path: Path) -> None:
    bench(tmp_path, plan("small", 2))
    with pytest.raises(ConfigError, match="small_model"):
        bench(tmp_path, plan("small", 2), GlimpRouter(model(name="X"), model(name="L")))
    assert len(places(bench(tmp_path, plan("small,large", 3)))) == 6


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    manifest = manifest_of(plan(), pair())
    with Store(tmp_path, manifest), pytest.raises(ConfigError, match="another glimp bench"):
        Store(tmp_path, manifest)


def test_a_failed_answer_is_stored_with_what_was_written_and_tried_again(tmp_path: Path) -> None:
    failing = GlimpRouter(
        model(name="S", fail_after=14, failures=1), model(name="L"), temperature=0
    )
    lines = bench(tmp_path, plan("small", 3, settings={"temperature": 0.0}), failing)
    errors = [x for x in lines if x["kind"] == "error"]
    assert len(errors) == 1 and "the script says: fail here" in errors[0]["error"]
    assert errors[0]["partial"]["reasoning"]
    assert len(places(lines)) == 2
    with Store(tmp_path, manifest_of(plan("small"), pair())) as store:
        assert summarise(store).arms[0].errors == 1
    assert len(places(bench(tmp_path, plan("small", 3)))) == 3
    assert summarise(Store(tmp_path)).arms[0].errors == 0


def test_a_server_that_is_gone_ends_the_bench(tmp_path: Path) -> None:
    gone = GlimpRouter(model(name="S", fail_after=8), model(name="L"), temperature=0)
    with pytest.raises(BackendError):
        bench(tmp_path, plan("small", 50), gone)
    assert len(Store(tmp_path).lines) == 5


class Unsuitable(ScriptedBackend):
    """Lacks its route from some request of a question on."""

    def __init__(self, after: int, times: int = 1_000_000) -> None:
        super().__init__(CHAIN, name="S", generation_prompt=OPENED)
        self.after, self.times, self.asked = after, times, 0

    async def generate(self, request: Request, report: Report) -> AsyncIterator[Token]:
        if "Question" in request.prompt:
            self.asked += 1
            if self.asked > self.after and self.times > 0:
                self.times -= 1
                raise UnsuitableEndpointError(
                    probe="P1 rawness", server="S", detail="has no such route", remedy="Add it"
                )
        async for token in super().generate(request, report):
            yield token


def test_a_route_that_is_missing_in_mid_call_fails_one_answer(tmp_path: Path) -> None:
    # Found after the first step of the first question: an answer of this arm had been begun.
    router = GlimpRouter(Unsuitable(1, times=1), model(name="L"), temperature=0)
    lines = bench(tmp_path, plan("routed", 3), router)
    errors = [x for x in lines if x["kind"] == "error"]
    assert len(errors) == 1 and "S: has no such route. Add it" in errors[0]["error"]
    assert errors[0]["partial"]["reasoning"] and len(places(lines)) == 2


def test_one_that_is_missing_in_a_later_answer_fails_that_one(tmp_path: Path) -> None:
    small = Unsuitable(0, times=0)
    router = GlimpRouter(small, model(name="L"), temperature=0)
    assert len(places(bench(tmp_path, plan("small", 1), router))) == 1
    small.times, small.after = 1, small.asked
    lines = bench(tmp_path, plan("small", 3), router)
    assert [x["kind"] for x in lines].count("error") == 1 and len(places(lines)) == 2


def test_one_that_is_always_missing_ends_the_bench_with_its_words(tmp_path: Path) -> None:
    router = GlimpRouter(Unsuitable(0), model(name="L"), temperature=0)
    with pytest.raises(UnsuitableEndpointError, match="S: has no such route"):
        bench(tmp_path, plan("small", 30), router)
    assert Store(tmp_path).lines == []


def test_a_reply_survives_its_grader(tmp_path: Path) -> None:
    def breaks(item: Item, reply: str) -> Grade:
        raise ConfigError("the grader is broken")

    items = task(1).items
    broken = Task("sums", items, named_format("plain"), breaks)
    with pytest.raises(ConfigError, match="grader is broken"):
        bench(tmp_path, plan("small", task=broken))
    router = pair()
    lines = bench(tmp_path, plan("small", 1), router)
    assert len(places(lines)) == 1 and lines[-1]["right"]
    requests = [r for r in router.small.requests if "Question" in r.prompt]
    assert requests == []  # the stored reply was graded, not requests for again


def test_ctrl_c_keeps_what_is_finished(tmp_path: Path) -> None:
    class Stops(ProgressObserver):
        def answered(self, arm: str, *, right: bool) -> None:
            raise KeyboardInterrupt

    what, router = plan("small", 3), pair()
    with Store(tmp_path, manifest_of(what, router)) as store, pytest.raises(KeyboardInterrupt):
        run(what, router, store, Stops())
    assert len(places(Store(tmp_path).lines)) == 1
    assert len(places(bench(tmp_path, what))) == 3


def test_many_at_a_time_give_the_same_answers(tmp_path: Path) -> None:
    one = bench(tmp_path / "one", plan(n=5))
    many = bench(tmp_path / "many", plan(n=5, concurrency=4))
    assert places(one) == places(many)
    assert {x["concurrency"] for x in many} == {4}


def test_a_failure_in_a_crowd_is_the_failure_itself(tmp_path: Path) -> None:
    gone = GlimpRouter(model(name="S", fail_after=8), model(name="L"), temperature=0)
    with pytest.raises(BackendError):
        bench(tmp_path, plan("small", 30, concurrency=3), gone)


def test_arms_take_turns_and_never_ask_what_was_just_asked() -> None:
    order = list(rounds(["a", "b", "c"], ["1", "2", "3", "4"]))
    assert len(set(order)) == len(order) == 12
    assert all(x[1] != y[1] for x, y in itertools.pairwise(order))


@pytest.fixture
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams of 6 tokens instead of 24: what comes of a measurement, not how exact it is."""
    monkeypatch.setattr(speed, "_TOKENS", 6)


@pytest.mark.usefixtures("short_measurements")
def test_speed_gives_rho_and_prices_give_costs(tmp_path: Path) -> None:
    def goes_on(ending: bytes) -> tuple[bytes, float]:
        return (b"4 ", 0.1)

    slow = [model(goes_on, delay=d, generation_prompt="<assistant>\n") for d in (0.001, 0.003)]
    what = plan("small,large", 2, settings={"temperature": 0.0, "max_tokens": 8}, measure_every=1)
    lines = bench(tmp_path, what, GlimpRouter(*slow, temperature=0))
    assert sum(x["kind"] == "speed" for x in lines) >= 2
    summary = summarise(Store(tmp_path), parse_prices("1,2,3,4"))
    assert all(arm.rho and arm.rho > 0 for arm in summary.arms)
    small = summary.arm("small")
    usage = small.answers[0].usage
    expected = sum(
        (a.usage.small.input_tokens * 1 + a.usage.small.output_tokens * 2) / 1e6
        for a in small.answers
    )
    assert usage.large.output_tokens == 0
    assert small.cost == pytest.approx(expected)


@pytest.mark.usefixtures("short_measurements")
def test_with_several_items_at_once_speed_is_measured_before_and_after(tmp_path: Path) -> None:
    def goes_on(ending: bytes) -> tuple[bytes, float]:
        return (b"4 ", 0.1)

    both = [model(goes_on, delay=0.001, generation_prompt="<assistant>\n") for _ in range(2)]
    settings = {"temperature": 0.0, "max_tokens": 4}
    what = plan("small,large", 3, settings=settings, measure_every=9, concurrency=2)
    kinds = [x["kind"] for x in bench(tmp_path, what, GlimpRouter(*both, temperature=0))]
    assert kinds == ["speed", *["answer"] * 6, "speed"]
    assert summarise(Store(tmp_path)).by_ideal


def test_the_control_takes_the_share_the_routed_arm_had(tmp_path: Path) -> None:
    lines = bench(tmp_path, plan("routed,random", 6))
    share = next(x for x in lines if x["kind"] == "share")
    assert share["arm"] == "random(routed@1)" and share["share"] == pytest.approx(1 / 3)
    assert sum(x["arm"] == "random(routed@1)" for x in lines if x["kind"] == "answer") == 6
    steps = [
        s
        for x in lines
        if x["kind"] == "answer" and x["arm"].startswith("random")
        for s in x["trace"]["steps"]
        if s["entropy"] is not None
    ]
    assert {s["author"] for s in steps} == {"small", "large"}


def test_without_large_steps_there_is_no_control(tmp_path: Path) -> None:
    sentences: list[str] = []

    class Listens(ProgressObserver):
        def say(self, text: str) -> None:
            sentences.append(text)

    what, router = plan("routed@2.9", 2), pair()
    arms = [*what.arms, *_controls("routed@2.9")]
    what = BenchPlan(what.task, arms, what.settings, measure_every=0)
    with Store(tmp_path, manifest_of(what, router)) as store:
        run(what, router, store, Listens())
        assert {x["arm"] for x in store.lines} == {"routed@2.9"}
    assert "random(routed@2.9) is left out" in sentences[0]


def _controls(routed: str) -> list[Any]:
    from glimp_integrations.bench import Arm

    return [Arm(f"random({routed})", "random", {"threshold": 2.9}, like=routed)]


def test_repeats_have_other_seeds_and_add_to_what_is_there(tmp_path: Path) -> None:
    seeded = {"temperature": 0.0, "seed": 7}
    once = bench(tmp_path, plan("small,routed", 2, settings=seeded))
    router = pair()
    lines = bench(tmp_path, plan("small,routed", 2, settings=seeded, repeats=3), router)
    assert lines[: len(once)] == once
    counts = Counter((x["arm"], x["item"], x["repeat"]) for x in lines)
    assert set(counts.values()) == {1}
    arms, items = ("small", "routed@1"), ("q0", "q1")
    assert set(counts) == set(itertools.product(arms, items, (1, 2, 3)))
    seeds = {r.seed for r in router.small.requests if "Question" in r.prompt}
    assert {s // SEEDS_APART for s in seeds} == {1, 2}, seeds
    assert {x["settings"] for x in lines if x["arm"] == "small"} == {once[0]["settings"]}
    # All of the second repeat of an arm before its third: a stopped bench has whole repeats.
    assert [x["repeat"] for x in lines if x["arm"] == "small"] == [1, 1, 2, 2, 3, 3]
    summary = summarise(Store(tmp_path))
    assert summary.repeats == 3 and [a.n for a in summary.arms] == [6, 6]
    comparison = summary.between("routed@1", "small")
    assert comparison is not None and comparison.n == 2


def test_lines_of_before_there_were_repeats_are_of_the_first(tmp_path: Path) -> None:
    lines = bench(tmp_path, plan("small", 2))
    path = tmp_path / "results.jsonl"
    old = [{k: v for k, v in line.items() if k != "repeat"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    again = bench(tmp_path, plan("small", 2, repeats=2))
    assert again[:2] == old and [x["repeat"] for x in again[2:]] == [2, 2]


def test_a_repeat_that_failed_is_tried_again(tmp_path: Path) -> None:
    settings = {"temperature": 0.0}
    failing = GlimpRouter(model(name="S", fail_after=14, failures=1), model(name="L"))
    lines = bench(tmp_path, plan("small", 2, settings=settings, repeats=2), failing)
    (failed,) = [x for x in lines if x["kind"] == "error"]
    assert summarise(Store(tmp_path)).arms[0].errors == 1
    again = bench(tmp_path, plan("small", 2, settings=settings, repeats=2))
    assert (again[-1]["item"], again[-1]["repeat"]) == (failed["item"], failed["repeat"])
    assert summarise(Store(tmp_path)).arms[0].errors == 0


def test_impossible_repeats_are_named() -> None:
    with pytest.raises(ConfigError, match="repeats are 0; at least 1"):
        plan(repeats=0)
