"""Secrets of URLs, and every form in which a server can repeat them."""

from __future__ import annotations

import itertools
from base64 import b64encode
from urllib.parse import quote, unquote

import pytest

from glimp_integrations.backends.http.servers import MODEL_STRING_SERVERS
from glimp_integrations.redact import (
    bare_url,
    hide,
    public_model_string,
    public_url,
    redacted,
    secret_forms,
)

PASSWORDS = (
    "hunter2",
    "pa/ss",
    "pa?ss",
    "pa#ss",
    "pa ss",
    "pa@ss",
    "pa:ss",
    "pa//ss",
    "a://bcd",
    "pa\\ss",
    "pa%2Fss",
    "p%40ss",
    "pa\nss",
    "[pass",
    "pass]",
    "päss",
    "12/34",
    "/pass",
    "pass/",
    "?pass",
    "pa@ss/wo@rd",
    "http://x@y",
)
TAILS = ("", "/v1", "/v1?token=q-secret", "/v1#q-secret", "?next=http://q-secret@q-secret")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("user", ["user:", ""])
@pytest.mark.parametrize("scheme", ["http://", "https://", "", "//"])
def test_no_password_and_no_query_is_left_of_a_url(
    password: str, tail: str, user: str, scheme: str
) -> None:
    url = f"{scheme}{user}{password}@host{tail}"
    for shown in (public_url(url), public_model_string(f"openai:M@{url}")):
        assert password not in shown, shown
        assert "q-secret" not in shown, shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://u:p@h/?next=http://x", "http://h/"),
        ("http://u:pa/ss@h/v1", "http://h/v1"),
        ("http://u:pa?ss@h/v1", "http://h/v1"),
        ("https://user:hunter2@[::1]:8000/v1", "https://[::1]:8000/v1"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:80O0/v1", "http://localhost:80O0/v1"),
        ("localhost:8000/v1?x=y", "localhost:8000/v1"),
        ("http://host/v1/@org/model", "http://host/v1/@org/model"),
        ("http://host/v1?token=a@b", "http://host/v1"),
        ("/login?next=x", "/login"),
        ("//host/login?next=x", "//host/login"),
        ("http://u:12/34@h/v1", "http://***"),
        ("http://u:p@ss/wo@h/v1", "http://***"),
        ("http:///v1", "http://***"),
        ("http://?token=x", "http://***"),
        ("http://", "http://***"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert public_url(url) == shown
    assert public_url(shown) == shown


def test_requests_go_to_the_same_path() -> None:
    assert bare_url("http://u:p@gpu:8000/users/a@b/v1?x=y#z") == "http://gpu:8000/users/a@b/v1"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("openai:M@user:hunter2@host/v1", "openai:M@host/v1"),
        ("openai:user:hunter2@host/v1", "openai:host/v1"),
        ("user:hunter2@host/v1", "host/v1"),
        ("http://user:hunter2@host/v1", "http://host/v1"),
        ("openrouter:org/m:free@Provider", "openrouter:org/m:free@Provider"),
        ("openrouter:org/m@v2@Provider", "openrouter:org/m@v2@Provider"),
        ("ollama:qwen3:4b@http://host/v1?x=y", "ollama:qwen3:4b@http://host/v1"),
        ("llamacpp:/models/a@b@c.gguf", "llamacpp:/models/a@b@c.gguf"),
    ],
)
def test_a_model_string_is_shown_without_its_secrets(text: str, shown: str) -> None:
    assert public_model_string(text) == shown
    assert public_model_string(shown) == shown


@pytest.mark.parametrize("kind", ["openai", *MODEL_STRING_SERVERS])
def test_all_kinds_of_servers_are_known(kind: str) -> None:
    assert public_model_string(f"{kind}:M@u:pw@host") == f"{kind}:M@host"


SENT = ("hunter2", "pa ss", "p%2Fss", "päss", "a+b%2Fc", "x:y:z", "se.ret*", "ab cd  ef")


@pytest.mark.parametrize("password", SENT)
def test_every_form_of_a_password_is_hidden(password: str) -> None:
    forms = secret_forms(None, f"http://us%65r:{password}@host/v1")
    plain = unquote(password)
    pairs = (f"user:{plain}", f"us%65r:{password}")
    basics = [b64encode(pair.encode()).decode() for pair in pairs]
    for form in (password, plain, quote(plain, safe=""), *pairs, *basics, f"Basic {basics[0]}"):
        for text in (form, f"bad header {form}: no", f"'{form}'", " ".join(form.split())):
            hidden = hide(text, forms)
            assert plain not in hidden and password not in hidden, hidden
            assert not any(basic in hidden for basic in basics), hidden
            assert "***" in hidden


def test_key_query_and_headers_are_hidden() -> None:
    url = "https://host/v1?token=q%2Fval+ue&flagged&a=b"
    forms = secret_forms("sk-se/cret", url, ["Bearer h-secret-h", "plain-secret"])
    secrets = ("sk-se/cret", "sk-se%2Fcret", "q%2Fval+ue", "q/val ue", "flagged", "h-secret-h")
    for one, other in itertools.product((*secrets, "plain-secret"), repeat=2):
        hidden = hide(f"{one}{other} of {other}", forms)
        assert one not in hidden and other not in hidden, hidden
    assert hide("a=b, b and user stay", forms) == "a=b, b and user stay"


def test_short_passwords_leave_messages_readable() -> None:
    forms = secret_forms("k", "http://u:p@host/?a=1")
    assert hide("1 prompt, u and k", forms) == "1 prompt, u and k"
    assert hide("Basic dTpw for u:p", forms) == "*** for ***"


def test_the_longest_word_is_hidden_first() -> None:
    assert hide("secret-tail secret", ("secret", "secret-tail", "")) == "*** ***"
    assert hide("nothing", ()) == "nothing"


@pytest.mark.parametrize("url", ["", "http://[", "http://host", "nonsense"])
def test_without_secrets_there_is_nothing_to_hide(url: str) -> None:
    assert secret_forms(None, url) == ()


def test_an_error_is_shown_on_one_short_line_without_secrets() -> None:
    shown = redacted(OSError("no way\n  with pass word \x1b[2J\ud83d"), ["pass word"])
    assert shown == "no way with *** \ufffd[2J\ufffd"
    assert redacted(OSError(), []) == "OSError"
    long = redacted("x" * 598 + "secret", ["secret"])
    assert long == "x" * 598 + "**…"
    assert "pass" not in redacted("pass \n word", ["pass word"])
