"""What a user wants to be sent along with every request, checked before anything is sent.

The HTTP library's own errors would quote the values, and some come only with the first request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from pydantic import SecretStr

from glimp_integrations.errors import ConfigError
from glimp_integrations.redact import has_user_info, public_url

__all__ = ["check_credentials", "check_key", "checked_headers"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2
# These belong to the connection or to the body, which the HTTP client takes care of.
_OF_THE_CLIENT = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def check_credentials(url: str, api_key: str | SecretStr | None) -> None:
    """Refuse a key beside a user name and password: a request carries only one of them.

    Args:
        url: The base URL.
        api_key: The key that was given for it.

    Raises:
        ConfigError: Both are given. The message names the host alone.
    """
    if api_key and has_user_info(url):
        host = urlsplit(public_url(url)).netloc
        raise ConfigError(
            f"base_url for {host or 'the server'} has a user name or password in front of its "
            "host, and api_key is given too, but a request carries only one of them: leave "
            "api_key out, or the part of base_url up to the '@'"
        )


def checked_headers(
    headers: Mapping[str, str | SecretStr], *, authorized: bool = False
) -> dict[str, SecretStr]:
    """Headers that can be sent.

    Args:
        headers: Values by names.
        authorized: Whether a key or a URL's password already takes the ``Authorization`` header.

    Returns:
        The headers under their names as given.

    Raises:
        ConfigError: A name or value that HTTP does not know, or a header that something else sets.
            Messages contain no values.
    """
    checked: dict[str, SecretStr] = {}
    seen: set[str] = set()
    for name, value in headers.items():
        _check_name(name)
        key = name.lower()
        if key in seen:
            raise ConfigError(f"headers has {name!r} twice, in different cases: give it once")
        if key == "authorization" and authorized:
            raise ConfigError(
                f"headers has {name!r}, and api_key or the user name in base_url sets it too: "
                "leave one of them out"
            )
        seen.add(key)
        checked[name] = _checked_value(name, value)
    return checked


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigError(
            f"headers has a name of {len(str(name))} characters that is no header's name: use "
            "letters, digits and hyphens, such as 'X-Tenant'"
        )
    if name.lower() in _OF_THE_CLIENT:
        raise ConfigError(
            f"headers has {name!r}, which belongs to the connection and is set by the HTTP "
            "client: leave it out"
        )


def _checked_value(name: str, value: object) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        raise ConfigError(f"headers[{name!r}] is a {type(text).__name__}; expected a text")
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]|[^\x00-\xff]", text) or text != text.strip():
        raise ConfigError(
            f"headers[{name!r}] has a line break or another control character, a blank at its "
            "beginning or end, or a character beyond Latin-1, which no HTTP header can carry: "
            "pass the value alone (from a file, read().strip())"
        )
    return SecretStr(text)


def check_key(key: SecretStr | None) -> None:
    """Refuse an unusable key before a request is made: the HTTP library's error would show it."""
    text = key.get_secret_value() if key is not None else ""
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise ConfigError(
            "api_key has a line break, a space at its beginning or end, or a character that is not "
            "ASCII, which no HTTP header can carry: pass the key alone (from a file, "
            "read().strip())"
        )
