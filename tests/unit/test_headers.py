"""Headers and credentials that are refused before a request, without showing their values."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from glimp_integrations import ConfigError
from glimp_integrations.backends.base import HEADERS
from glimp_integrations.backends.http.headers import check_credentials, checked_headers
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.model_strings import parse

SECRET = "do-not-show"


@pytest.mark.parametrize("value", [SECRET, SecretStr(SECRET), f"two {SECRET}", f"é{SECRET}"])
def test_good_headers_are_kept_and_hidden(value: Any) -> None:
    headers = checked_headers({"X-Tenant": value, "authorization": "Bearer x"})
    given = value.get_secret_value() if isinstance(value, SecretStr) else value
    assert headers["X-Tenant"].get_secret_value() == given
    assert SECRET not in repr(headers)
    assert checked_headers({}) == {}


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X Tenant": SECRET}, "no header's name"),
        ({"": SECRET}, "no header's name"),
        ({"X:Y": SECRET}, "no header's name"),
        ({"X\r\nY": SECRET}, "no header's name"),
        ({"Xé": SECRET}, "no header's name"),
        ({5: SECRET}, "no header's name"),
        ({"Host": SECRET}, "belongs to the connection"),
        ({"content-length": SECRET}, "belongs to the connection"),
        ({"Transfer-Encoding": SECRET}, "belongs to the connection"),
        ({"X-a": SECRET, "x-A": SECRET}, "twice"),
        ({"X-a": f"{SECRET}\r\nX-b: c"}, "line break"),
        ({"X-a": f"{SECRET}\x00"}, "line break"),
        ({"X-a": f"{SECRET}\n"}, "line break"),
        ({"X-a": f"{SECRET}€"}, "Latin-1"),
        ({"X-a": f" {SECRET}"}, "blank"),
        ({"X-a": 5}, "is a int; expected a text"),
        ({"X-a": None}, "expected a text"),
        ({"AUTHORIZATION": f"Bearer {SECRET}"}, "leave one of them out"),
    ],
)
def test_bad_headers_are_refused(headers: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        checked_headers(headers, authorized=True)
    assert SECRET not in str(caught.value)


def test_a_calls_headers_replace_those_of_the_backend() -> None:
    backend = OpenAIBackend("m", base_url="http://host/v1", headers={"X-A": SECRET, "X-B": "b"})
    assert SECRET not in repr(backend) and SECRET not in str(vars(backend))
    token = HEADERS.set({"x-a": SecretStr("of the call")})
    try:
        sent = {name: value.get_secret_value() for name, value in backend._headers().items()}
    finally:
        HEADERS.reset(token)
    assert sent == {"x-a": "of the call", "X-B": "b"}
    assert backend._headers()["X-A"].get_secret_value() == SECRET
    assert SECRET in backend._secret_words()


@pytest.mark.parametrize("more", [{"api_key": "sk-key"}, {"base_url": "http://u:p@host/v1"}])
def test_one_authorization_is_enough(more: Any) -> None:
    headers = {"authorization": f"Bearer {SECRET}"}
    with pytest.raises(ConfigError, match="leave one of them out"):
        OpenAIBackend("m", **{"base_url": "http://host/v1", "headers": headers, **more})


@pytest.mark.parametrize("user_info", [f"jane:{SECRET}", SECRET, f":{SECRET}", ""])
def test_key_and_password_together_are_refused(user_info: str) -> None:
    url = f"http://{user_info}@gpu1:8000/v1?token={SECRET}"
    for key in ("sk-key", SecretStr("sk-key")):
        for attempt in (check_credentials, lambda u, k: OpenAIBackend("m", base_url=u, api_key=k)):
            with pytest.raises(
                ConfigError, match=r"gpu1:8000 has a user name .*leave api_k"
            ) as caught:
                attempt(url, key)
            assert SECRET not in str(caught.value) and "sk-key" not in str(caught.value)


@pytest.mark.parametrize("key", [None, "", SecretStr("")])
def test_one_of_them_alone_is_fine(key: Any) -> None:
    check_credentials("http://jane:pw@host/v1", key)
    check_credentials("http://host/v1/@x?a=b@c", "sk-key")
    check_credentials("http://[", "sk-key")


def test_the_key_of_two_models_is_not_for_one_with_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLIMP_API_KEY", "sk-env")
    for key in (None, SecretStr("sk-env"), SecretStr("sk-key")):
        parse("openai:M@http://jane:pw@host/v1", api_key=key)
