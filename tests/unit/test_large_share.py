"""A wanted share of large steps: reached whatever H looks like, always alike, kept in files."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import CHAIN, model, router, script, steps
from hypothesis import example, given, settings
from hypothesis import strategies as st

from glimp_integrations import GlimpRouter, LargeShare, load_share, save_share
from glimp_integrations.errors import ConfigError
from glimp_integrations.method.large_share import FIRST_GUESS, quantile
from glimp_integrations.method.policy import Glimpse, Glimpsed, Place, StepStart, Write
from glimp_integrations.method.priors import prior_of, scaled
from glimp_integrations.method.rule import Threshold
from glimp_integrations.weights import SMALL
from langchain_glimp import ChatGlimpRouter
from llamaindex_glimp import GlimpRouterLLM

SHARES = [0.1, 0.25, 0.5]


@dataclass
class Written:
    """A step that was written; what a policy looks back at."""

    author: str
    place: Place
    entropy: float | None
    text: str = "a step"
    tokens: int = 2
    sure_share: float | None = None


def decided(policy: LargeShare, place: Place, steps: list[Written], h: float) -> Write:
    start = StepStart(len(steps), place, steps)
    assert policy.decide(start) == Glimpse()
    decision = policy.decide(StepStart(len(steps), place, steps, Glimpsed((h,))))
    assert isinstance(decision, Write)
    return decision


def conversation(policy: LargeShare, values: Iterable[float], place: Place = "later") -> list[bool]:
    """One conversation's steps, learned at its end: which of them the large model wrote."""
    steps: list[Written] = []
    for h in values:
        steps.append(Written(decided(policy, place, steps, h).author, place, h))
    policy.learn(steps)
    return [step.author == "large" for step in steps]


def conversations(policy: LargeShare, values: list[float], length: int) -> list[bool]:
    given = iter(values)
    parts = iter(lambda: list(itertools.islice(given, length)), [])
    return [large for part in parts for large in conversation(policy, part)]


def drifting(rng: random.Random) -> Callable[[], float]:
    means = (0.3 + step / 150 for step in itertools.count())
    return lambda: rng.expovariate(1 / next(means))


DISTRIBUTIONS: dict[str, Callable[[random.Random], Callable[[], float]]] = {
    "bimodal": lambda rng: lambda: rng.gauss(*((0.05, 0.01) if rng.random() < 0.7 else (1.5, 0.2))),
    "nearly always sure": lambda rng: lambda: rng.random() * (1e-4 if rng.random() < 0.97 else 2),
    "heavy-tailed": lambda rng: lambda: min(10.0, 0.05 * rng.paretovariate(0.8)),
    "drifting": drifting,
    "always sure": lambda rng: lambda: 0.0,
    "always the same": lambda rng: lambda: 2.0,
    "two values": lambda rng: lambda: 0.7 if rng.random() < 0.25 else 0.0,
    "mostly exactly 0": lambda rng: lambda: 0.0 if rng.random() < 0.8 else rng.expovariate(1),
    "ten times the prior": lambda rng: lambda: rng.choice(FIRST_GUESS) * 10,
    "a tenth of the prior": lambda rng: lambda: rng.choice(FIRST_GUESS) / 10,
}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_share_is_reached_after_60_boundaries(name: str, share: float) -> None:
    errors = []
    for seed in range(7):
        draw = DISTRIBUTIONS[name](random.Random(f"{seed}"))
        values = [max(0.0, draw()) for _ in range(60)]
        authors = conversations(LargeShare(share), values, length=seed + 1)
        errors.append(sum(authors) / len(authors) - share)
    # Five points, in the mean of the seeds; one sequence of 60 is a throw of dice.
    assert abs(sum(errors) / len(errors)) <= 0.05, errors
    assert max(map(abs, errors)) <= (0.1 if name == "drifting" else 0.07), errors


@pytest.mark.parametrize("share", SHARES)
def test_the_share_holds_where_h_changes_at_once(share: float) -> None:
    rng = random.Random(5)
    values = [rng.expovariate(1 / (0.2 if i < 60 else 3)) for i in range(300)]
    authors = conversations(LargeShare(share), values, length=4)
    assert sum(authors[180:]) / 120 == pytest.approx(share, abs=0.05)


@given(
    st.lists(
        st.sampled_from([0.0, 0.001, 0.4, 0.41, 3.0]) | st.floats(0, 12), min_size=60, max_size=150
    )
)
@settings(max_examples=40)
@example([0.0] * 100)
@example([5.0] * 60)
def test_no_sequence_leads_far_from_the_share(values: list[float]) -> None:
    authors = conversations(LargeShare(0.25), values, length=7)
    # Even a sequence made to mislead: too many are followed by few, too few by many.
    assert abs(sum(authors) - 0.25 * len(authors)) <= max(8.0, 0.1 * len(authors))


@pytest.mark.parametrize("share", SHARES)
def test_values_that_are_all_the_same_go_to_the_large_model_in_turn(share: float) -> None:
    authors = conversation(LargeShare(share), [1.2] * 100)[20:]
    runs = [len(list(run)) for large, run in itertools.groupby(authors) if not large]
    assert max(runs) <= 2 / share, runs


def test_a_high_h_comes_before_a_low_one() -> None:
    rng = random.Random(3)
    values = [rng.expovariate(1) for _ in range(400)]
    policy = LargeShare(0.25)
    authors = conversations(policy, values, length=5)
    large = [h for h, is_large in zip(values, authors, strict=True) if is_large]
    small = [h for h, is_large in zip(values, authors, strict=True) if not is_large]
    pairs = [(a > b) for a in large for b in small]
    assert sum(pairs) / len(pairs) > 0.95


class TestPlaces:
    def test_each_has_its_own_bound(self) -> None:
        policy = LargeShare(0.25)
        conversations(policy, [0.01, 0.02, 0.03, 0.04] * 30, length=4)
        before = policy.bound("first")
        for _ in range(40):
            conversation(policy, [8.0, 9.0, 10.0, 11.0], "first")
        assert policy.bound("later") < 0.05 < 8 < policy.bound("first")
        assert policy.bound("answer") == policy.bound("after_tool") == before

    def test_each_has_its_own_prior(self) -> None:
        policy = LargeShare(0.5, {"first": [1.0] * 10 + [3.0] * 10})
        assert 1.0 < policy.bound("first") < 3.0
        assert policy.bound("later") == LargeShare(0.5).bound("later")

    def test_the_conversations_own_steps_count_at_once(self) -> None:
        policy = LargeShare(0.25)
        own = [Written("small", "later", 0.001) for _ in range(30)]
        assert policy.bound("later", own) < 0.01 < policy.bound("later")
        assert policy.seen == {}

    def test_steps_without_a_glimpse_teach_nothing(self) -> None:
        policy = LargeShare(0.25)
        policy.learn([Written("large", "later", None)] * 50)
        assert policy.seen == {}


class TestTheSameSequence:
    VALUES = tuple(random.Random(11).expovariate(1) for _ in range(150))

    def test_gets_the_same_decisions(self) -> None:
        once, twice = (conversations(LargeShare(0.25), self.VALUES, 6) for _ in range(2))
        assert once == twice

    def test_a_decision_can_be_asked_for_again(self) -> None:
        policy, steps = LargeShare(0.25), [Written("large", "later", 1.0)]
        assert len({decided(policy, "later", steps, 0.8) for _ in range(5)}) == 1

    @pytest.mark.parametrize("stored", ["file", "pickle", "deepcopy", "seen"])
    def test_goes_on_where_it_was_stored(self, stored: str, tmp_path: Path) -> None:
        policy = LargeShare(0.25, {"later": [0.5, 1.0, 2.0]})
        conversations(policy, self.VALUES[:13], 5)
        if stored == "file":
            save_share(policy, tmp_path / "share.json")
            again = load_share(tmp_path / "share.json")
        elif stored == "pickle":
            again = pickle.loads(pickle.dumps(policy))
        elif stored == "deepcopy":
            again = copy.deepcopy(policy)
        else:
            again = LargeShare(0.25, policy.prior)
            again.seen = policy.seen
        assert again.seen == policy.seen and again.seen["later"]
        rest = self.VALUES[13:]
        assert conversations(again, rest, 6) == conversations(policy, rest, 6)


def test_many_threads_decide_and_learn_at_once() -> None:
    policy, failures = LargeShare(0.25), []
    shares: list[float] = []

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            authors = conversations(policy, [rng.expovariate(1) for _ in range(120)], 3)
            shares.append(sum(authors) / len(authors))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(shares) / len(shares) == pytest.approx(0.25, abs=0.05)
    assert len(policy.seen["later"]) == 128


def test_nothing_that_was_learned_at_once_is_lost() -> None:
    policy = LargeShare(0.5)
    threads = [
        threading.Thread(target=policy.learn, args=([Written("small", "later", float(number))],))
        for number in range(60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(h for h, _ in policy.seen["later"]) == [float(number) for number in range(60)]


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_lies_between_0_and_1(share: float) -> None:
    with pytest.raises(ConfigError, match=f"is {share:g}: give a number between 0 and 1"):
        LargeShare(share)


@given(st.lists(st.floats(0, 12), min_size=1).map(sorted), st.floats(-1, 2))
def test_a_quantile_lies_among_the_values(ordered: list[float], level: float) -> None:
    found = quantile(ordered, level)
    assert ordered[0] <= found <= ordered[-1] or (level <= 0 and found < 0)
    assert quantile(ordered, 1) == ordered[-1]
    assert quantile(ordered, 0) < ordered[0]


class TestPriors:
    def test_an_unknown_model_has_none(self) -> None:
        assert prior_of("a model that nobody measured") == {}

    @pytest.mark.parametrize("share", SHARES)
    def test_the_bundled_small_model_begins_with_what_was_measured(self, share: float) -> None:
        prior = prior_of(SMALL.model)
        policy = LargeShare(share, prior)
        assert set(prior) == {"first", "later", "after_tool"}
        for place, values in prior.items():
            above = sum(h > policy.bound(place) for h in values)
            assert above / len(values) == pytest.approx(share, abs=0.05), place

    @pytest.mark.parametrize("share", SHARES)
    def test_a_calibration_says_where_routing_begins(self, share: float) -> None:
        prior = scaled({"first": [0.1, 0.2, 0.4, 0.9]}, share, threshold=0.7)
        policy = LargeShare(share, prior)
        for place in ("first", "later", "answer", "after_tool"):
            assert policy.bound(place) == pytest.approx(0.7, abs=0.12), place


class TestFiles:
    def test_are_json_that_people_can_read(self, tmp_path: Path) -> None:
        policy = LargeShare(0.25)
        policy.seen = {"first": [(0.5, True), (0.1, False)]}
        save_share(policy, tmp_path / "share.json")
        assert json.loads((tmp_path / "share.json").read_text()) == {
            "format": 1,
            "share": 0.25,
            "prior": {},
            "seen": {"first": [[0.5, True], [0.1, False]]},
        }

    def test_are_replaced_in_one_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "share.json"
        save_share(LargeShare(0.25), path)
        before = path.read_text()

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", full)
        with pytest.raises(ConfigError, match=r"share\.json: No space left on device"):
            save_share(LargeShare(0.5), path)
        assert path.read_text() == before
        assert [file.name for file in tmp_path.iterdir()] == ["share.json"]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("", "the file: "),
            ("{", "the file: "),
            ("[]", r"the file is \[\]: "),
            ('{"share": 0.25}', "seen: Field required"),
            ('{"share": 1.5, "seen": {}}', r"share is 1\.5: .*less than 1"),
            ('{"share": 0.25, "seen": {"middle": []}}', r"seen\.middle\S* is 'middle': "),
            ('{"share": 0.25, "seen": {"later": [[-1, true]]}}', r"seen\.later\.0\.0 is -1"),
            ('{"share": 0.25, "seen": {"later": [[1, "x"]]}}', r"seen\.later\.0\.1 is 'x'"),
            ('{"share": 0.25, "seen": {}, "format": 2}', "format is 2: "),
            ('{"share": 0.25, "seen": {}, "prior": {"first": [NaN]}}', r"first\.0 is nan: "),
        ],
    )
    def test_that_are_damaged_say_where(self, text: str, complaint: str, tmp_path: Path) -> None:
        path = tmp_path / "share.json"
        path.write_text(text)
        with pytest.raises(ConfigError, match=complaint) as error:
            load_share(path)
        assert "share.json' is not a file of save_share()" in str(error.value)
        assert "delete it and begin anew" in str(error.value)

    @pytest.mark.parametrize("raw", [None, b"\xff\xfe\x00"])
    def test_that_cannot_be_read(self, raw: bytes | None, tmp_path: Path) -> None:
        path = tmp_path / "share.json"
        if raw is not None:
            path.write_bytes(raw)
        with pytest.raises(ConfigError, match=r"share\.json.*make the file with save_share\(\)"):
            load_share(path)

    def test_go_into_a_folder_that_exists(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="Choose a file in a folder that exists"):
            save_share(LargeShare(0.25), tmp_path / "none" / "share.json")

    def test_are_for_what_learns(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="the policy 'threshold' learns nothing"):
            save_share(Threshold(1.0), tmp_path / "share.json")


class TestRouter:
    """Through a router with scripted models."""

    def test_learns_from_call_to_call(self) -> None:
        one = router(large_share=0.25)
        for _ in range(3):
            one.run("q")
        policy = one.policy_of()
        assert isinstance(policy, LargeShare)
        assert {place: len(seen) for place, seen in policy.seen.items()} == {"first": 3, "later": 6}

    def test_the_trace_says_what_decided(self) -> None:
        result = router(large_share=0.25).run("q")
        bound = LargeShare(0.25).bound("first")
        step = result.trace.steps[0]
        assert (step.policy, step.threshold, step.bound) == ("large_share", bound, bound)
        assert step.signal == step.entropy == pytest.approx(0.2, abs=1e-6)
        assert step.reason == f"H 0.20 <= {bound:.2f}, the bound for a share of 0.25"
        assert steps(result, "author")[:3] == [("small",), ("large",), ("small",)]

    def test_shares_are_kept_apart(self) -> None:
        one = router(large_share=0.25)
        one.run("q")
        one.run("q", large_share=0.5)
        assert len(one.policy_of().seen["first"]) == 1
        assert one.policy_of(one.settings.changed({"large_share": 0.5})).share == 0.5

    def test_goes_on_from_a_file(self, tmp_path: Path) -> None:
        one = router(large_share=0.25)
        for _ in range(5):
            one.run("q")
        save_share(one.policy_of(), tmp_path / "share.json")
        again = router(policy=load_share(tmp_path / "share.json"))
        assert steps(again.run("q"), "author", "bound") == steps(one.run("q"), "author", "bound")
        assert len(again.policy_of().seen["first"]) == 6

    def test_a_failed_call_teaches_its_steps(self) -> None:
        one = router(model(fail_after=3, name="S"), large_share=0.25, max_retries=0)
        with pytest.raises(Exception, match="fail here"):
            one.run("q")
        assert len(one.policy_of().seen["first"]) == 1

    def test_constant_h_is_shared_out(self) -> None:
        texts = [item for i in range(40) for item in ((f"Thought {i}", 0.0), ".\n\n")]
        long = script(*texts, "</think>", "4", "")
        result = router(model(long, name="S"), model(long, name="L"), large_share=0.25).run("q")
        assert len(result.trace.steps) == 42
        assert result.trace.large_step_share == pytest.approx(0.25, abs=0.03)


class Margin:
    """A policy of somebody else's."""

    name = "margin"

    def decide(self, start: StepStart) -> Glimpse | Write:
        return Write("small")


@pytest.mark.parametrize("options", [{"policy": LargeShare(0.25)}, {"policy": Margin()}])
@pytest.mark.parametrize("make", [GlimpRouter, ChatGlimpRouter, GlimpRouterLLM])
class TestPickles:
    def test_keep_the_policy(self, make: type, options: dict[str, object]) -> None:
        one = make(small=model(name="S"), large=model(name="L"), temperature=0, **options)
        policy = getattr(one, "settings", one).policy
        if isinstance(policy, LargeShare):
            policy.seen = {"first": [(0.5, True)]}
        # Scripts are functions, which no pickle has.
        settings = getattr(one, "settings", one)
        settings.small = settings.large = "openai:m@http://localhost:1/v1"
        again = pickle.loads(pickle.dumps(one))
        kept = getattr(again, "settings", again).policy
        assert type(kept) is type(policy) and kept is not policy
        assert getattr(kept, "seen", None) == getattr(policy, "seen", None)

    def test_copies_share_or_keep_it(self, make: type, options: dict[str, object]) -> None:
        one = make(small=model(CHAIN, name="S"), large=model(CHAIN, name="L"), **options)
        for copied in (copy.copy(one), copy.deepcopy(one)):
            kept = getattr(copied, "settings", copied).policy
            assert type(kept) is type(options["policy"])


def test_llamaindex_stores_a_share_and_refuses_to_store_a_policy() -> None:
    models = dict.fromkeys(("small", "large"), "openai:m@http://localhost:1/v1")
    one = GlimpRouterLLM(**models, large_share=0.25)
    for again in (GlimpRouterLLM.from_dict(one.to_dict()), pickle.loads(pickle.dumps(one))):
        assert (again.large_share, again.threshold, again.policy) == (0.25, 1.0, None)
    with pytest.raises(ConfigError, match=r"policy is the object LargeShare\(0\.25\).*from_dict"):
        GlimpRouterLLM(**models, policy=LargeShare(0.25)).to_dict()
    stored = GlimpRouterLLM(**models, threshold=2.0).to_dict()
    assert GlimpRouterLLM.from_dict(stored, policy=Margin()).policy.name == "margin"


@pytest.mark.parametrize("make", [ChatGlimpRouter, GlimpRouterLLM])
def test_an_adapters_identity_names_its_policy(make: type) -> None:
    def identity(policy: object) -> str:
        one = make(small=model(name="S"), large=model(name="L"), policy=policy)
        return json.dumps(one.identity, sort_keys=True)

    assert "large_share" in identity(LargeShare(0.25))
    assert identity(LargeShare(0.25)) == identity(LargeShare(0.25))
    assert identity(LargeShare(0.25)) != identity(LargeShare(0.5))
