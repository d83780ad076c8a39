"""Options, environment and file; the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glimp_integrations import serve as package
from glimp_integrations.cli.app import app
from glimp_integrations.errors import ConfigError
from glimp_integrations.openai_api.allowed import DEFAULT_ALLOWED, Allowed, Bounds
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.settings import RoutingSettings

TOML = """
port = 1
max_running = 3

[routing]
threshold = 0.5
temperature = 0

[allow]
threshold = { min = 1, max = 2 }
deadline = true
route = false

[[api_keys]]
name = "a"
key = "secret-secret-secret"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serve.toml"
    path.write_text(TOML)
    return path


def test_options_win_over_the_environment_over_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ServeConfig.load(file).port == 1
    monkeypatch.setenv("GLIMP_SERVE_PORT", "2")
    monkeypatch.setenv("GLIMP_SERVE_ROUTING", '{"top_p": 0.5}')
    assert ServeConfig.load(file).port == 2
    config = ServeConfig.load(file, port=3, routing={"threshold": 0.7}, max_waiting=None)
    assert (config.port, config.max_running, config.max_waiting) == (3, 3, 64)
    settings = config.settings()
    assert (settings.threshold, settings.temperature, settings.top_p) == (0.7, 0, 0.5)
    assert config.allow == {"threshold": Bounds(min=1, max=2), "deadline": Bounds()}
    assert "secret-secret" not in repr(config)


def test_a_source_replaces_what_lower_ones_say_about_who_decides(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServeConfig.load(file, routing={"large_share": 0.3})
    assert config.settings().large_share == 0.3
    monkeypatch.setenv("GLIMP_SERVE_ROUTING", '{"large_share": 0.4}')
    assert ServeConfig.load(file).settings().large_share == 0.4
    assert ServeConfig.load(file, routing={"threshold": 2}).settings().threshold == 2


PAIR, MODELS = {"pair": "bundled"}, {"small": "hf:a", "large": "hf:b"}


@pytest.mark.parametrize("higher", [PAIR, MODELS], ids=["pair", "models"])
def test_a_source_replaces_what_lower_ones_say_about_the_models(
    higher: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower = MODELS if higher is PAIR else PAIR
    path = tmp_path / "serve.toml"
    path.write_text(
        "[routing]\ntop_p = 0.5\n" + "".join(f"{n} = '{v}'\n" for n, v in lower.items())
    )

    def models(**options: Any) -> dict[str, str]:
        settings = ServeConfig.load(path, **options).settings()
        assert settings.top_p == 0.5, "the rest of the file holds"
        named = {name: getattr(settings, name) for name in ("pair", "small", "large")}
        return {name: value for name, value in named.items() if value is not None}

    assert models() == lower
    assert models(routing=higher) == higher
    monkeypatch.setenv("GLIMP_SERVE_ROUTING", json.dumps(higher))
    assert models() == higher
    monkeypatch.setenv("GLIMP_SERVE_ROUTING", json.dumps(lower))
    assert models(routing=higher) == higher
    monkeypatch.delenv("GLIMP_SERVE_ROUTING")
    monkeypatch.setenv("GLIMP_SMALL", "hf:c")  # the environment of all commands ranks below
    assert models(routing=PAIR) == PAIR


def test_one_model_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text("[routing]\nsmall = 'hf:a'\nlarge = 'hf:b'\n")
    settings = ServeConfig.load(path, routing={"large": "hf:c"}).settings()
    assert (settings.small, settings.large) == ("hf:a", "hf:c")


def test_an_environment_that_is_not_json_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_SERVE_ROUTING", "{'small': 'openai:x@http://me:secret@h/v1'}")
    with pytest.raises(ConfigError, match="GLIMP_SERVE_ROUTING is not JSON") as raised:
        ServeConfig.load()
    assert "secret" not in str(raised.value) and raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 'abc'", "port"),
        ("prot = 3", "unknown setting 'prot'"),
        ("max_running = 0", "max_running"),
        ("port = ", "not TOML"),
        ("[allow]\nthreshold = { min = 3, max = 2 }", "greater than max"),
        ("[allow]\nthreshold = { least = 3 }", "least"),
        ("api_keys = 'short-secret'", "fewer than 16"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "serve.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        ServeConfig.load(path)
    assert "short-secret" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        ServeConfig.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "name", ["small", "large", "api_key", "policy", "temperature", "top_k", "nonsense"]
)
def test_what_no_operator_can_allow(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Allowed({name: Bounds()}, RoutingSettings())


def test_the_usual_ones_are_settings() -> None:
    assert set(DEFAULT_ALLOWED) <= set(RoutingSettings.model_fields)
    Allowed(DEFAULT_ALLOWED, RoutingSettings())


class TestCommandLine:
    @pytest.fixture
    def started(self, monkeypatch: pytest.MonkeyPatch) -> list[ServeConfig]:
        configs: list[ServeConfig] = []
        monkeypatch.setattr(package, "run", configs.append)
        return configs

    def test_options(self, started: list[ServeConfig], file: Path) -> None:
        given: list[Any] = ["serve", "--config", file, "--port", 0, "--small", "a", "--large", "b"]
        given += ["--large-share", "0.2", "--prices", "1,2,3,4", "--open-metrics"]
        given += [
            "--allow",
            "threshold=0.5..2",
            "--allow",
            "large_share=..0.4",
            "--allow",
            "deadline",
        ]
        given += ["--allow", "route=always", "--access-log", ""]
        result = CliRunner().invoke(app, [str(argument) for argument in given])
        assert result.exit_code == 0, result.output
        (config,) = started
        assert config.port == 0 and config.open_metrics and config.access_log == ""
        assert config.routing["large_share"] == "0.2" and config.routing["small"] == "a"
        assert config.routing["prices"]["large"]["output"] == 4
        assert config.allow["threshold"] == Bounds(min=0.5, max=2)
        assert config.allow["large_share"] == Bounds(max=0.4)
        assert config.allow["route"] == Bounds(values=("always",))

    def test_a_pair_by_name(self, started: list[ServeConfig], file: Path) -> None:
        assert CliRunner().invoke(app, ["serve", "--pair", "qwen3-0.6b+8b"]).exit_code == 0
        settings = started[0].settings()
        assert settings.pair == "qwen3-0.6b+8b" and settings.top_k == 20, "as its makers advise"
        with pytest.raises(ConfigError, match="is no pair; there are bundled"):
            started[0].model_copy(update={"routing": {"pair": "none"}}).settings()

    def test_nothing_said_is_the_bundled_pair(self, started: list[ServeConfig]) -> None:
        assert CliRunner().invoke(app, ["serve"]).exit_code == 0
        assert started[0].routing == {} and started[0].host == "127.0.0.1"

    def test_mistakes(self, started: list[ServeConfig]) -> None:
        for given in (["--allow", "threshold=a..b"], ["--host", "0.0.0.0"], ["--port", "99999"]):
            result = CliRunner().invoke(app, ["serve", *given])
            assert isinstance(result.exception, ConfigError)
        assert not started

    def test_help_explains_every_option(self) -> None:
        import typer

        command: Any = typer.main.get_command(app)
        for name in ("serve", "batch"):
            assert all(p.help for p in command.commands[name].params)
            assert "--pair" in {opt for p in command.commands[name].params for opt in p.opts}
