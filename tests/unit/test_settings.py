"""Settings written down: nothing secret, everything else."""

from __future__ import annotations

import json

import pytest
from helpers import model

from glimp_integrations import RoutingSettings
from glimp_integrations.redact import public_model_string

PASSWORD = "hunter2"
CLEAN = "openai:M@http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("form", "public"),
    [
        (CLEAN, CLEAN),
        (f"openai:M@http://user:{PASSWORD}@127.0.0.1:9/v1", CLEAN),
        (f"openai:M@http://{PASSWORD}@127.0.0.1:9/v1", CLEAN),
        (f"openai:M@http://user:{PASSWORD}@x@127.0.0.1:9/v1", CLEAN),
        (f"openai:a@b@https://user:{PASSWORD}@host/v1?x=y", "openai:a@b@https://host/v1"),
        ("openai:org/model@v2@http://host/v1", "openai:org/model@v2@http://host/v1"),
        ("openai:M@http://host/v1/@x", "openai:M@http://host/v1/@x"),
        ("llamacpp:/models/a@b.gguf", "llamacpp:/models/a@b.gguf"),
        ("hf:Qwen/Qwen3-0.6B", "hf:Qwen/Qwen3-0.6B"),
    ],
)
def test_a_form_is_told_without_its_password(form: str, public: str) -> None:
    assert public_model_string(form) == public
    assert public_model_string(public) == public


@pytest.mark.parametrize("role", ["small", "large"])
def test_settings_are_written_down_without_passwords(role: str) -> None:
    secret = f"openai:M@http://user:{PASSWORD}@127.0.0.1:9/v1"
    settings = RoutingSettings(**{role: secret}, api_key="sk-hush")
    assert getattr(settings, role) == secret, "it is used as it was given"
    assert settings.model_dump()[role] == CLEAN
    assert settings.model_dump(mode="json")[role] == CLEAN
    written = settings.model_dump_json()
    assert json.loads(written)[role] == CLEAN
    for text in (written, repr(settings), str(settings), str(settings.model_dump())):
        assert PASSWORD not in text and "sk-hush" not in text
    assert settings.model_copy().model_dump()[role] == CLEAN


def test_objects_and_nothing_are_written_as_they_are() -> None:
    backend = model()
    settings = RoutingSettings(small=backend)
    assert settings.model_dump()["small"] is backend
    assert settings.model_dump()["large"] is None
