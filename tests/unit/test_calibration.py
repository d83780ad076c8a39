"""Calibration: the record, the warning, and the fit on scripted models."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import warnings

import pytest
from helpers import OPENED, model, router

from glimp_integrations import GlimpRouter, RoutingSettings
from glimp_integrations.backends.scripted import ScriptedBackend
from glimp_integrations.calibration import (
    CalibratedThreshold,
    Calibration,
    CalibrationWarning,
    Conditions,
)
from glimp_integrations.calibration.fit import _RunsFile, calibrate, quantile
from glimp_integrations.errors import BackendError, ConfigError

CONDITIONS = Conditions(
    small_model="S", large_model="L", estimator="topk_renorm", k=20, template=None
)


def stored(path, **changes):
    record = Calibration(
        threshold=0.7,
        threshold_interval=(0.6, 0.8),
        large_share=0.25,
        share=0.25,
        share_interval=(0.2, 0.3),
        boundaries=300,
        prompts=40,
        rounds=2,
        conditions=CONDITIONS,
        date="2026-11-26T00:00:00+00:00",
        version="0",
    ).model_copy(update=changes)
    record.save(path)
    return record


class TestThreshold:
    def test_is_read_from_the_file(self, tmp_path):
        stored(tmp_path / "c.json")
        settings = RoutingSettings(threshold=f"calibrated:{tmp_path}/c.json")
        assert settings.threshold == 0.7
        assert isinstance(settings.threshold, CalibratedThreshold)

    def test_keeps_what_it_knows_when_settings_are_copied(self, tmp_path):
        stored(tmp_path / "c.json")
        settings = RoutingSettings(threshold=f"calibrated:{tmp_path}/c.json")
        remade = RoutingSettings(**{n: getattr(settings, n) for n in RoutingSettings.model_fields})
        copies = [remade, settings.model_copy(), copy.deepcopy(settings)]
        for one in [*copies, pickle.loads(pickle.dumps(settings))]:
            assert one.threshold.calibration == settings.threshold.calibration

    def test_is_a_number_in_json(self, tmp_path):
        stored(tmp_path / "c.json")
        settings = RoutingSettings(threshold=f"calibrated:{tmp_path}/c.json")
        assert json.loads(settings.model_dump_json())["threshold"] == 0.7

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no calibration can be read from"),
            ("no json", "is not a calibration file: the file"),
            ('{"steps": []}', r"is not a calibration file: threshold: Field required"),
            (b"\xff\xfe", "no calibration can be read from"),
        ],
    )
    def test_a_file_that_is_none(self, tmp_path, content, message):
        path = tmp_path / "c.json"
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError, match=f"{message}.*glimp calibrate"):
            RoutingSettings(threshold=f"calibrated:{path}")

    def test_a_newer_format(self, tmp_path):
        stored(tmp_path / "c.json")
        text = (tmp_path / "c.json").read_text().replace('"format": 1', '"format": 2')
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(ConfigError, match="is not a calibration file: format"):
            RoutingSettings(threshold=f"calibrated:{tmp_path}/c.json")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("threshold", "1e999"),
            ("threshold", "NaN"),
            ("threshold", "-0.5"),
            ("threshold", "1e300"),
            ("threshold_interval", "[0.8, 0.6]"),
            ("threshold_interval.1", "[0.6, 1e999]"),
            ("large_share", "1"),
            ("share", "1.5"),
            ("share", "NaN"),
            ("share_interval.0", "[-0.1, 0.3]"),
            ("held_out_share", "1e999"),
            ("held_out_interval.1", "[0.1, 2]"),
            ("boundaries", "0"),
            ("prompts", "-4"),
            ("rounds", "0"),
            ("conditions.k", "0"),
        ],
    )
    def test_numbers_that_no_calibration_has(self, tmp_path, field, value):
        path = tmp_path / "c.json"
        stored(path)
        data = json.loads(path.read_text())
        owner = data["conditions"] if field == "conditions.k" else data
        owner[field.removeprefix("conditions.").split(".")[0]] = "HERE"
        path.write_text(json.dumps(data).replace('"HERE"', value))
        message = f"'{path}' is not a calibration file: {field} is .*glimp calibrate"
        with pytest.raises(ConfigError, match=message):
            RoutingSettings(threshold=f"calibrated:{path}")

    def test_paths_that_cannot_be(self, tmp_path):
        with pytest.raises(ConfigError, match="no calibration can be read from"):
            Calibration.load("a\0b")
        with pytest.raises(ConfigError, match="the calibration cannot be written to"):
            stored(tmp_path / "none" / "c.json")
        stored(tmp_path / "c.json", version="0 \ud800")
        assert Calibration.load(tmp_path / "c.json").version == "0 \ufffd"

    def test_no_file_named(self):
        with pytest.raises(ConfigError, match="name the file after the colon"):
            RoutingSettings(threshold="calibrated:")


class TestWarning:
    def ask(self, tmp_path, small="S", **options):
        path = tmp_path / "c.json"
        stored(path)
        pair = router(model(name=small), model(name="L"), threshold=f"calibrated:{path}", **options)
        return pair.run("q")

    def test_none_for_its_own_pair(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert self.ask(tmp_path).trace.steps[1].author == "large"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"small": "T"}, "small model 'S', here 'T'"),
            ({"entropy_estimator": "topk_other"}, "estimator 'topk_renorm', here 'topk_other'"),
            ({"glimpse": "skip_format"}, "glimpse 'first_token', here 'skip_format'"),
            ({"step_delimiter": "\n"}, "step delimiter"),
        ],
    )
    def test_another_pair_or_way_to_measure(self, tmp_path, changes, message):
        with pytest.warns(CalibrationWarning, match=message):
            self.ask(tmp_path, **changes)

    def test_quantisation_is_found_in_names(self):
        for name, quantisation in [
            ("qwen2.5-0.5b-instruct-q4_k_m", "q4_k_m"),
            ("Qwen3-4B-AWQ", "awq"),
            ("model-fp8", "fp8"),
            ("Qwen2.5-Q4-B", "q4"),
            ("Qwen3-32B", None),
        ]:
            pair = GlimpRouter(model(name=name), model(name="L"))
            assert pair.conditions().quantisation == quantisation


def test_the_quantile_has_the_share_above_it():
    entropies = [i / 100 for i in range(100)]
    for share in (0.01, 0.1, 0.25, 0.5, 0.99):
        threshold = quantile(entropies, share)
        assert sum(h > threshold for h in entropies) == round(100 * share)
    assert quantile([0.5], 0.25) == 0.5


def drawn(text: bytes) -> float:
    """A number from 0 to 1 that belongs to a text."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big") / 2**32


class Talker(ScriptedBackend):
    """See :func:`talker`: what it says depends on the question too."""

    def __init__(self, name: str, scale: float, fail_on: bytes | None) -> None:
        super().__init__([""], name=name, generation_prompt=OPENED)
        self._word, self._scale, self._fail_on = name.encode(), scale, fail_on

    def generate(self, request, report):
        question = request.prompt.partition(OPENED)[0].encode()
        if self._fail_on is not None and self._fail_on in question:
            raise BackendError("scripted failure", model=self.name)
        scripted = ScriptedBackend(
            lambda text: self._follow(question, text), name=self.name, generation_prompt=OPENED
        )
        self.requests.append(request)
        return scripted.generate(request, report)

    def _follow(self, question: bytes, text: bytes) -> tuple[bytes, float]:
        if text.count(b"\n\n") >= 10:
            return (b"</think>", 0.0) if b"</think>" not in text else (b"", 0.0)
        if text and not text.endswith(b"\n\n"):
            return b"\n\n", 0.0
        calmed = 0.3 if b"L" in text.rsplit(b"\n\n", 2)[-2:][0] else 1.0
        return self._word + f"{text.count(b'.')}.".encode(), min(
            2.9, self._scale * drawn(question + text) * calmed
        )


def talker(name: str, scale: float, fail_on: bytes | None = None) -> ScriptedBackend:
    """Writes 10 steps; H of a step depends on who wrote the last one (closed loop)."""
    return Talker(name, scale, fail_on)


def pair(**options) -> GlimpRouter:
    return router(talker("S", 2.0), talker("L", 2.0), **options)


PROMPTS = [f"question {i}" for i in range(60)]


class TestFit:
    def test_closed_loop_hits_the_share_on_held_out_prompts(self):
        others = [f"other {i}" for i in range(60)]
        calibration = calibrate(pair(), PROMPTS, 0.25, held_out=others)
        assert calibration.share == pytest.approx(0.25, abs=0.01)
        assert calibration.held_out_share == pytest.approx(0.25, abs=0.05)
        low, high = calibration.share_interval
        assert low < 0.25 < high and high - low < 0.1
        assert (
            calibration.threshold_interval[0]
            < calibration.threshold
            < calibration.threshold_interval[1]
        )
        assert (calibration.boundaries, calibration.prompts) == (660, 60)

    def test_one_round_would_not_have_hit_it(self):
        # The large model calms the next step down: H seen under another threshold misleads.
        start = pair(threshold=0.05)
        traces = [start.run(p).trace for p in PROMPTS]
        open_loop = quantile(
            [s.entropy for t in traces for s in t.steps if s.entropy is not None], 0.25
        )
        assert abs(open_loop - calibrate(start, PROMPTS, 0.25).threshold) > 0.1

    def test_the_file_works_with_the_pair(self, tmp_path):
        calibration = calibrate(pair(), PROMPTS, 0.25)
        calibration.save(tmp_path / "c.json")
        assert Calibration.load(tmp_path / "c.json") == calibration
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pair(threshold=f"calibrated:{tmp_path}/c.json").run("q")

    def test_the_threshold_decides_whatever_the_router_is_set_to(self):
        some = PROMPTS[:8]
        plain = calibrate(pair(), some, 0.25, precision=0.2)
        for options in ({}, {"large_share": 0.6}):
            other = pair(route="when_it_pays", **options)
            assert calibrate(other, some, 0.25, precision=0.2).threshold == plain.threshold
            assert other.accounts._accounts == {}

    def test_concurrency_changes_nothing_but_the_time(self):
        one, many = (calibrate(pair(), PROMPTS, 0.25, concurrency=n) for n in (1, 8))
        assert many == one.model_copy(update={"date": many.date})

    def test_too_few_boundaries_say_how_many_more(self):
        with pytest.raises(ConfigError, match=r"110 boundaries of 10 prompts.*±0\.\d+, and ±0\.05"):
            calibrate(pair(), PROMPTS[:10], 0.25)
        with pytest.raises(
            ConfigError, match=r"give about \d+ more boundaries \(\d+ more prompts\)"
        ):
            calibrate(pair(), PROMPTS[:10], 0.25)

    def test_what_was_asked_for_is_enough(self):
        with pytest.raises(ConfigError) as failure:
            calibrate(pair(), PROMPTS[:10], 0.25)
        more = int(str(failure.value).split("(")[1].split(" more prompts")[0])
        prompts = [f"question {i}" for i in range(10 + round(1.3 * more))]
        assert calibrate(pair(), prompts, 0.25).prompts == len(prompts)

    def test_no_steps(self):
        with pytest.raises(ConfigError, match="1 prompts had 1 glimpsed steps, too few"):
            calibrate(router(model(["", ""]), model(["", ""])), ["q"])

    @pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 25, float("nan")])
    def test_a_share_outside_0_to_1(self, share):
        with pytest.raises(ConfigError, match="large_share is"):
            calibrate(pair(), PROMPTS, share)

    def test_no_prompts(self):
        with pytest.raises(ConfigError, match="there are no prompts"):
            calibrate(pair(), [])

    @pytest.mark.parametrize("threshold", [float("inf"), -1.0])
    def test_a_threshold_that_decides_nothing(self, threshold):
        with pytest.raises(ConfigError, match="H decides nothing"):
            calibrate(pair(threshold=threshold), PROMPTS)


class TestInterruption:
    def test_finished_prompts_are_not_asked_again(self, tmp_path):
        runs = tmp_path / "runs.jsonl"
        broken = router(talker("S", 2.0, fail_on=b"question 30"), talker("L", 2.0))
        with pytest.raises(BackendError, match="scripted failure"):
            calibrate(broken, PROMPTS, 0.25, runs=runs)
        assert len(runs.read_text().splitlines()) == 30
        whole = pair()
        calibration = calibrate(whole, PROMPTS, 0.25, runs=runs)
        questions = {r.prompt.partition("\n")[0] for r in whole.small.requests[:1]}
        assert questions == {"<user>question 30"}
        assert calibration == calibrate(pair(), PROMPTS, 0.25).model_copy(
            update={"date": calibration.date}
        )

    def test_damaged_lines_are_left_out(self, tmp_path):
        good = json.dumps({"key": "g", "entropies": [0.5]}).encode()
        damaged = [
            b'{"key": "a", "entropies": [1e999]}',
            b'{"key": "b", "entropies": [NaN]}',
            b'{"key": "c", "entropies": [-2]}',
            b'{"key": ["d"], "entropies": [1]}',
            b'{"key": "e", "entropies": 5}',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"key": "f", "entr',
        ]
        (tmp_path / "runs.jsonl").write_bytes(b"\n".join([*damaged[:3], good, *damaged[3:]]))
        file = _RunsFile(tmp_path / "runs.jsonl")
        assert file.entropies == {"g": [0.5]}
        file.add("h", [0.25])
        assert _RunsFile(file.path).entropies == {"g": [0.5], "h": [0.25]}
        with pytest.raises(ConfigError, match="finished prompts cannot be kept in"):
            _RunsFile(tmp_path)

    def test_a_line_that_was_cut_off_is_asked_again(self, tmp_path):
        runs = tmp_path / "runs.jsonl"
        calibrate(pair(), PROMPTS, 0.25, runs=runs)
        lines = runs.read_text().splitlines()
        runs.write_text("\n".join([*lines[:-1], lines[-1][:20]]))
        again = pair()
        calibrate(again, PROMPTS, 0.25, runs=runs)
        assert len({r.prompt.partition(OPENED)[0] for r in again.small.requests}) == 1
        calibrate(last := pair(), PROMPTS, 0.25, runs=runs)
        assert last.small.requests == []

    def test_other_settings_are_asked_again(self, tmp_path):
        runs = tmp_path / "runs.jsonl"
        calibrate(pair(), PROMPTS, 0.25, runs=runs)
        other = pair(max_step_tokens=100)
        calibrate(other, PROMPTS, 0.25, runs=runs)
        assert other.small.requests
