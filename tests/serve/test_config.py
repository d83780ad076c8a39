"""Options, environment and file; the command line."""

from __future__ import annotations

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


def test_an_option_replaces_what_the_file_says_about_who_decides(file: Path) -> None:
    config = ServeConfig.load(file, routing={"large_share": 0.3})
    assert config.settings().large_share == 0.3


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


@pytest.mark.parametrize("name", ["small", "large", "api_key", "policy", "temperature", "nonsense"])
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
        assert all(p.help for p in command.commands["serve"].params)
