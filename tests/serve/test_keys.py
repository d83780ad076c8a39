"""API keys, and the limits of each."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from glimp_integrations.errors import ConfigError
from glimp_integrations.serve.config import ServeConfig
from glimp_integrations.serve.keys import KeyEntry, Keys, read_keys
from glimp_integrations.serve.limits import Rate
from serve.conftest import QUESTION, Serve

ANNA, BERT = "anna-anna-anna-anna", "bert-bert-bert-bert"
FILE = f"""
[[api_keys]]
name = "anna"
key = "{ANNA}"
requests_per_minute = 2

[[api_keys]]
name = "bert"
sha256 = "{sha256(BERT.encode()).hexdigest()}"
tokens_per_minute = 100
"""


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(FILE)
    return path


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_holds_a_minutes_worth() -> None:
    clock = Clock()
    rate = Rate(60, clock)
    for _ in range(60):
        assert rate.wait() == 0
        rate.take()
    assert rate.wait() == pytest.approx(1)
    clock.now += 1
    assert rate.wait() == 0
    clock.now += 1000
    rate.take(60)
    assert rate.wait() == pytest.approx(1), "no more than a minute's worth is kept"


def test_a_rate_can_go_into_debt() -> None:
    clock = Clock()
    rate = Rate(60, clock)
    rate.take(120)
    assert rate.wait() == pytest.approx(61)
    clock.now += 61
    assert rate.wait() == 0
    assert Rate(None, clock).wait() == 0


def test_who_has_no_key_is_sent_away(serve: Serve, keys_file: Path) -> None:
    served = serve(keys_file=keys_file)
    for key in ("wrong-wrong-wrong-wrong", ANNA[:-1], sha256(BERT.encode()).hexdigest()):
        with pytest.raises(openai.AuthenticationError) as raised:
            served.client(api_key=key).models.list()
        assert raised.value.code == "invalid_api_key" and key not in raised.value.message
    for headers in ({}, {"authorization": ANNA}, {"authorization": f"Basic {ANNA}"}):
        response = httpx.post(
            f"{served.url}/chat/completions",
            json={"model": "glimp", "messages": QUESTION},
            headers=headers,
        )
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    for open_route in ("/health", "/ready", "/"):
        assert httpx.get(served.root + open_route).status_code == 200
    for closed in ("/metrics", "/status", "/v1/models", "/v1/models/glimp"):
        assert httpx.get(served.root + closed).status_code == 401
        allowed = httpx.get(served.root + closed, headers={"authorization": f"Bearer {BERT}"})
        assert allowed.status_code == 200


def test_each_key_has_its_own_limits(serve: Serve, keys_file: Path) -> None:
    served = serve(keys_file=keys_file, open_metrics=True)

    def ask(key: str) -> Any:
        return served.client(api_key=key).chat.completions.create(
            model="glimp",
            messages=QUESTION,  # type: ignore[arg-type]
        )

    ask(ANNA)
    ask(ANNA)
    with pytest.raises(openai.RateLimitError, match="2 requests per minute"):
        ask(ANNA)
    assert ask(BERT).usage.total_tokens > 100
    with pytest.raises(openai.RateLimitError, match="100 tokens per minute") as raised:
        ask(BERT)
    assert raised.value.code == "rate_limit_exceeded"
    assert int(raised.value.response.headers["retry-after"]) > 1
    assert httpx.get(served.root + "/metrics").status_code == 200


def test_limits_of_all_keys(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMP_SERVE_API_KEYS", f"{ANNA}, {BERT}")
    served = serve(requests_per_minute=1)
    for key in (ANNA, BERT):
        create = served.client(api_key=key).chat.completions.create
        create(model="glimp", messages=QUESTION)  # type: ignore[call-overload]
        with pytest.raises(openai.RateLimitError):
            create(model="glimp", messages=QUESTION)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("keys = [", "cannot be read"),
        ("", "expected tables"),
        ("api_keys = 3", "expected tables"),
        ('[[api_keys]]\nname = "a"\nkey = "short-secret"', "fewer than 16"),
        (f'[[api_keys]]\nname = "a"\nkey = "{ANNA}"\nrate = 3', "rate"),
        (f'[[api_keys]]\nkey = "{ANNA}"', "name"),
        ('[[api_keys]]\nname = "a"', "either key or sha256"),
        ('[[api_keys]]\nname = "a"\nsha256 = "xyz"', "sha256"),
        (f'[[api_keys]]\nname = "a"\nkey = "{ANNA}"\nrequests_per_minute = 0', "requests_per"),
    ],
)
def test_a_broken_keys_file(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as raised:
        read_keys(path)
    assert ANNA not in str(raised.value) and "short-secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "none.toml")


def test_keys_differ() -> None:
    anna = KeyEntry(name="anna", key=ANNA)  # type: ignore[arg-type]
    for name, key in (("anna", BERT), ("bert", ANNA)):
        with pytest.raises(ConfigError, match="two keys"):
            Keys([anna, KeyEntry(name=name, key=key)])  # type: ignore[arg-type]


def test_other_machines_need_a_key(keys_file: Path) -> None:
    with pytest.raises(ConfigError, match="--no-keys"):
        ServeConfig.load(host="0.0.0.0")
    with pytest.raises(ConfigError, match="--no-keys"):
        ServeConfig.load(host="gpu1.example")
    ServeConfig.load(host="0.0.0.0", no_keys=True)
    assert ANNA not in repr(ServeConfig.load(host="::", keys_file=keys_file))
    for local in ("127.0.0.1", "127.0.0.2", "::1", "localhost"):
        ServeConfig.load(host=local)
