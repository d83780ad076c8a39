"""Pairs by name: fetched from a hub over HTTP, listed, refused where they do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import ConfigError, GlimpRouter
from glimp_integrations.backends.model_strings import catalogue_models
from glimp_integrations.batch import BatchPlan
from glimp_integrations.cli import batch as cli_batch
from glimp_integrations.cli import bench as cli_bench
from glimp_integrations.cli import check as cli_check
from glimp_integrations.cli import pull as cli_pull
from glimp_integrations.cli.app import app
from glimp_integrations.weights import catalog, ensure, home, memory, pairs, wheels
from glimp_integrations.weights.pairs import ModelPair, PairModel
from wire.fake_hub import PINNED, FakeHub, made_up, point_to

SMALL, SMALL_DATA = made_up("Little", 3000)
LARGE, LARGE_DATA = made_up("Big", 5000)
PAIR = ModelPair(
    "little+big",
    PairModel(SMALL, "Apache-2.0", context=4096, cache_bytes=10),
    PairModel(LARGE, "Apache-2.0", context=4096, cache_bytes=20),
    sampling=MappingProxyType({"temperature": 0.7}),
)


@pytest.fixture(autouse=True)
def _made_up_pair(
    no_proxies: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    monkeypatch.setenv("GLIMP_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(pairs, "PAIRS", {**pairs.PAIRS, PAIR.name: PAIR})
    # No pair's file is ever looked for in the package index.
    monkeypatch.setattr(wheels, "_download", lambda *_: pytest.fail("pip was asked"))
    yield
    catalogue_models.cache_clear()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with both files at the pinned revision, and the library's addresses set to it."""
    with FakeHub() as fake:
        fake.files = {(PINNED, SMALL.filename): SMALL_DATA, (PINNED, LARGE.filename): LARGE_DATA}
        point_to(fake.root, monkeypatch)
        yield fake


def pull(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["pull", *arguments], catch_exceptions=False)


def in_models() -> list[str]:
    return sorted(
        path.name
        for path in (home() / "models").glob("*")
        if not path.name.endswith((".lock", ".sha256.json"))
    )


# -- fetching --------------------------------------------------------------------------------


def test_pull_fetches_both_files_and_says_where_they_are(hub: FakeHub) -> None:
    result = pull("little+big")
    assert result.exit_code == 0
    folder = home() / "models"
    assert result.stdout == f"Little: {folder}/Little.gguf\nBig: {folder}/Big.gguf\n"
    assert (folder / "Little.gguf").read_bytes() == SMALL_DATA
    assert (folder / "Big.gguf").read_bytes() == LARGE_DATA
    assert in_models() == ["Big.gguf", "Little.gguf"]
    assert {revision for _, revision, _, _ in hub.requests} == {PINNED}
    assert "--pair little+big" in result.stderr and "GLIMP_PAIR" in result.stderr


def test_the_environment_names_the_pair_to_fetch(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMP_PAIR", "little+big")
    assert pull().exit_code == 0
    assert hub.downloads() == ["Little.gguf", "Big.gguf"]


def test_without_a_name_the_bundled_pair_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []
    monkeypatch.setattr(cli_pull, "ensure", lambda file, command: fetched.append(file))
    monkeypatch.setattr(cli_pull, "check_room_for", lambda files: None)
    assert pull().exit_code == 0
    assert fetched == [catalog.SMALL, catalog.LARGE]


def test_files_that_are_there_need_no_network(hub: FakeHub) -> None:
    pull("little+big")
    hub.requests.clear()
    assert pull("little+big").exit_code == 0
    assert ensure(SMALL, quiet=True).is_file()
    assert hub.requests == []


def test_offline_asks_nobody(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"GLIMP_OFFLINE is set.*`glimp pull little\+big`"):
        pull("little+big")
    assert hub.requests == []


def test_a_disk_that_has_room_for_one_file_only_gets_neither(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=7999))
    with pytest.raises(ConfigError) as caught:
        pull("little+big")
    for part in ("8,000 bytes", "7,999 are free", "Little.gguf and Big.gguf", "GLIMP_HOME"):
        assert part in str(caught.value)
    assert hub.requests == []


def test_what_is_there_needs_no_more_room(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    ensure(SMALL, quiet=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5000))
    assert pull("little+big").exit_code == 0


# -- memory ----------------------------------------------------------------------------------


def test_too_little_memory_is_said_before_anything_is_fetched(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 1_000_000_000)
    with pytest.raises(ConfigError) as caught, GlimpRouter(pair="little+big") as router:
        router.run("Why?")
    needed = PAIR.memory
    small, large = (PAIR.memory_of(model) for model in PAIR.models)
    assert needed == small + large == 8000 + 16_384 * 30 + 2 * (512 << 20)
    for part in (f"{needed:,} bytes", f"Little-Q4_K_M {small:,}", f"{large:,}", "1,000,000,000"):
        assert part in str(caught.value)
    assert hub.requests == []


def test_once_one_model_runs_only_the_other_needs_memory(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = catalogue_models("little+big")
    monkeypatch.setattr(memory, "free_memory", lambda: PAIR.memory_of(PAIR.large))
    monkeypatch.setattr(large.partner, "_server", object())
    from glimp_integrations import io_loop

    assert io_loop.call(large._locate) == home() / "models" / "Big.gguf"
    monkeypatch.undo()
    assert small is not large


def test_a_pair_that_does_not_fit_here_may_be_fetched_all_the_same(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_pull, "free_memory", lambda: 1_000_000_000)
    result = pull("little+big")
    assert result.exit_code == 0 and "Big.gguf" in result.stdout
    assert f"{PAIR.memory:,} bytes of memory, and here 1,000,000,000 are free" in result.stderr


# -- other commands --------------------------------------------------------------------------


def test_a_bench_takes_the_pair_with_its_sampling_and_keeps_no_prompts(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: None)
    models, advised, opened = cli_bench._models(None, None, "little+big", 3)
    assert [model.name for model in models] == ["Little-Q4_K_M", "Big-Q4_K_M"]
    assert list(models) == opened and advised == {"temperature": 0.7}
    for model in opened:
        assert model._room["n_ctx"] == 3 * 16_384
        assert model._options["cache_ram_mib"] == 0
    bundled, advised, _ = cli_bench._models("hf:a", "hf:b", None, 1)
    assert (bundled, advised) == (("hf:a", "hf:b"), {})


def test_check_measures_the_models_of_a_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    monkeypatch.setattr(cli_check, "_measure", measured.append)
    result = CliRunner().invoke(app, ["check", "pair", "--pair", "little+big"])
    assert result.exit_code == 0 and result.stdout == "usable as pair\n"
    assert [(router.small.name, router.large.name) for router in measured] == [
        ("Little-Q4_K_M", "Big-Q4_K_M")
    ]


def test_a_batch_takes_the_pair_with_its_sampling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[BatchPlan] = []
    monkeypatch.setattr(cli_batch, "run", lambda plan, **_: plans.append(plan))
    files = [str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    command = ["batch", *files, "--pair", "little+big"]
    assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
    assert (plans[0].settings.pair, plans[0].settings.temperature) == ("little+big", 0.7)
    router = GlimpRouter(settings=plans[0].settings)
    assert (router.small.name, router.large.name) == ("Little-Q4_K_M", "Big-Q4_K_M")
    with pytest.raises(ConfigError, match="names both models"):
        CliRunner().invoke(app, [*command, "--small", "hf:a"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small", "--pair", "little+big"], r"write `glimp check pair --pair little\+big`"),
        (["pair", "hf:a", "hf:b", "--pair", "little+big"], "names both models"),
        (["pair"], "for pairs give --pair NAME"),
        (["small"], "no model to check as small"),
    ],
)
def test_check_says_how_a_pair_is_checked(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["check", *arguments], catch_exceptions=False)


# -- the list --------------------------------------------------------------------------------


def _row(name: str, shown: str) -> str:
    return next(line for line in shown.splitlines() if line.startswith(f" {name} "))


def test_the_list_shows_every_pair_at_80_columns(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    ensure(SMALL, quiet=True)
    shown = pull("--list").stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert _row("qwen3-0.6b+8b", shown).split() == (
        ["qwen3-0.6b+8b", "Qwen3-0.6B-Q8_0", "5.7", "GB", "11.0", "GB", "no"]
    )
    for text in (
        *("bundled", "qwen3-0.6b+4b", "qwen3-1.7b+8b", "r1-1.5b+7b", "Apache-2.0", "MIT"),
        *(model.file.name for pair in pairs.PAIRS.values() for model in pair.models),
        "16,384 of 32,768 tokens",
        "not",
    ):
        assert text in shown
    assert "37 %" in _row("little+big", shown)
    pull("little+big")
    assert _row("little+big", pull("--list").stdout).rstrip().endswith("yes")
    assert "found in public places" in " ".join(shown.split())


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match=r"PAIR is 'qwen4'.*qwen3-0\.6b\+8b"):
        pull("qwen4")
