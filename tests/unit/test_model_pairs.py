"""Pairs by name: who names the models, what their makers advise, what the catalogue says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import model

from glimp_integrations import ConfigError, GlimpRouter, RoutingSettings
from glimp_integrations.backends.model_strings import resolve
from glimp_integrations.settings import PAIR_VARIABLE, PLACES
from glimp_integrations.weights.pairs import BUNDLED, PAIRS, ModelPair

ROOT = Path(__file__).parents[2]
NAME = "qwen3-0.6b+8b"
PAIR_NAMES = ("Qwen3-0.6B-Q8_0", "Qwen3-8B-Q4_K_M")
S, L = "openai:S@http://127.0.0.1:9/v1", "openai:L@http://127.0.0.1:9/v1"
BUNDLED_NAMES = ("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M", "Qwen2.5-Coder-1.5B-Instruct-Q4_K_M")


@pytest.fixture(autouse=True)
def _no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*PLACES.values(), PAIR_VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def names(**options: Any) -> tuple[str, str]:
    router = GlimpRouter(**options)
    return router.small.name, router.large.name


# -- who names the models --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "given", "used"),
    [
        ({}, {}, BUNDLED_NAMES),
        ({}, {"pair": NAME}, PAIR_NAMES),
        ({}, {"pair": "bundled"}, BUNDLED_NAMES),
        ({}, {"pair": NAME, "small": None, "large": None}, PAIR_NAMES),
        ({"GLIMP_PAIR": NAME}, {}, PAIR_NAMES),
        ({"GLIMP_PAIR": ""}, {}, BUNDLED_NAMES),
        ({"GLIMP_PAIR": NAME}, {"pair": "bundled"}, BUNDLED_NAMES),
        ({"GLIMP_PAIR": NAME}, {"pair": None}, BUNDLED_NAMES),
        ({"GLIMP_PAIR": NAME}, {"small": S, "large": L}, ("S", "L")),
        ({"GLIMP_PAIR": NAME, "GLIMP_LARGE": L}, {"small": S}, ("S", "L")),
        ({"GLIMP_PAIR": "nonsense"}, {"small": S, "large": L}, ("S", "L")),
        ({"GLIMP_SMALL": S, "GLIMP_LARGE": L}, {}, ("S", "L")),
        ({"GLIMP_SMALL": S, "GLIMP_LARGE": L}, {"pair": NAME}, PAIR_NAMES),
        ({"GLIMP_SMALL": S, "GLIMP_LARGE": L}, {"pair": "bundled"}, BUNDLED_NAMES),
    ],
)
def test_an_argument_comes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    given: dict[str, Any],
    used: tuple[str, str],
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert names(**given) == used


@pytest.mark.parametrize(
    ("environment", "given", "message"),
    [
        ({}, {"pair": NAME, "small": S}, r"pair='qwen3-0\.6b\+8b' names both models, and small as"),
        ({}, {"pair": NAME, "small": S, "large": L}, "and small and large as well"),
        ({}, {"pair": NAME, "large": model()}, "and large as well"),
        ({"GLIMP_PAIR": NAME, "GLIMP_SMALL": S}, {}, "GLIMP_PAIR is 'qwen3.*GLIMP_SMALL is set"),
        ({}, {"pair": "qwen4"}, r"pair is 'qwen4', which is no pair; there are bundled, qwen3-0"),
        ({"GLIMP_PAIR": "qwen4"}, {}, "GLIMP_PAIR is 'qwen4', which is no pair"),
        ({}, {"pair": 7}, "pair: .*got 7"),
    ],
)
def test_two_names_of_one_rank_are_a_mistake(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    given: dict[str, Any],
    message: str,
) -> None:
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=message):
        RoutingSettings(**given)


def test_a_pair_beside_models_is_a_mistake_where_it_was_assigned() -> None:
    with pytest.raises(ConfigError, match="names both models, and small as well"):
        resolve(S, None, None, NAME)


def test_routers_of_one_pair_share_its_models_and_close_them() -> None:
    one, other = GlimpRouter(pair=NAME), GlimpRouter(pair=NAME)
    assert one.small is other.small and one.large is other.large
    assert GlimpRouter(pair="r1-1.5b+7b").small is not one.small
    assert one._pair.owned == [one.small, one.large]
    assert GlimpRouter(pair="bundled")._pair.owned == []
    assert GlimpRouter(pair="bundled").small is GlimpRouter().small
    one.close()


def test_a_pair_belongs_to_the_router() -> None:
    with pytest.raises(ConfigError, match="pair: belongs to the router"):
        GlimpRouter(pair=NAME).run("Why?", pair="bundled")


# -- what the makers advise ------------------------------------------------------------------


def test_what_the_makers_advise_is_the_default() -> None:
    settings = RoutingSettings(pair=NAME)
    assert (settings.temperature, settings.top_p) == (0.6, 0.95)
    assert (settings.top_k, settings.presence_penalty) == (20, 1.5)
    assert settings.model_fields_set == {"pair"}
    assert RoutingSettings().top_k is None
    assert RoutingSettings(pair="bundled").presence_penalty is None


def test_what_the_user_says_wins() -> None:
    settings = RoutingSettings(pair=NAME, top_k=5, temperature=0, presence_penalty=None)
    assert (settings.temperature, settings.top_p) == (0, 0.95)
    assert (settings.top_k, settings.presence_penalty) == (5, None)


def test_advice_that_no_setting_takes_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    advice = {"temperature": 0.3, "not_a_setting": 1}
    monkeypatch.setattr(
        "glimp_integrations.weights.pairs.PAIRS",
        {"mine": ModelPair("mine", BUNDLED.small, BUNDLED.large, sampling=advice)},
    )
    settings = RoutingSettings(pair="mine")
    assert settings.temperature == 0.3
    assert not hasattr(settings, "not_a_setting")


def test_a_pair_of_the_environment_brings_its_advice_unless_models_are_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLIMP_PAIR", NAME)
    assert RoutingSettings().top_k == 20
    given = RoutingSettings(small=S, large=L)
    assert (given.pair, given.top_k) == (None, None)


def test_changes_for_a_call_keep_what_was_said_and_what_is_advised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "glimp_integrations.weights.pairs.PAIRS",
        {"mine": ModelPair("mine", BUNDLED.small, BUNDLED.large, sampling={"temperature": 0.3})},
    )
    # The environment of a later moment changes nothing.
    settings = RoutingSettings(pair="mine", top_p=0.5)
    monkeypatch.setenv("GLIMP_SMALL", S)
    changed = settings.changed({"max_tokens": 7})
    assert (changed.pair, changed.small, changed.max_tokens) == ("mine", None, 7)
    assert (changed.temperature, changed.top_p) == (0.3, 0.5)
    assert settings.changed({"temperature": 0}).temperature == 0


# -- what the catalogue says -----------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_every_file_is_pinned(pair: ModelPair) -> None:
    for each in pair.models:
        file = each.file
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.repo and re.fullmatch(r"[0-9a-f]{40}|main", str(file.revision))
        assert file.quantisation.lower() in file.filename.lower()
        assert 0 < file.size < pair.memory_of(each)
        assert each.licence in ("Apache-2.0", "MIT")
        assert pair.context_window <= each.context
        assert (file.wheels is None) != (pair is BUNDLED)
    assert pair.small.file.size < pair.large.file.size
    assert pair.verified == (pair is BUNDLED), "no other hash was computed by this project yet"
    assert bool(pair.sampling) == bool(pair.think_tags) == bool(pair.advised_in)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=list(PAIRS))
def test_the_page_says_what_the_catalogue_says(pair: ModelPair) -> None:
    page = (ROOT / "docs" / "how-to" / "local-models.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{pair.name}` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[3:5] == [f"{pair.size / 1e9:.1f} GB", f"{pair.memory / 1e9:.1f} GB"]
    assert {cells[5]} == {each.licence for each in pair.models}
    assert pair.small.file.quantisation in cells[1] and f"{pair.context_window:,}" in page


def test_no_two_files_share_a_name() -> None:
    files = {each.file for pair in PAIRS.values() for each in pair.models}
    assert len({file.filename for file in files}) == len({file.sha256 for file in files})
    assert len(files) == 8
