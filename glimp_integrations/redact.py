"""Texts without the secrets they may hold: URLs, model strings, and what a server sent back.

A URL holds secrets in two places: before the ``@`` (RFC 3986 calls it user info), and in its query.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies

__all__ = [
    "bare_url",
    "has_user_info",
    "hide",
    "proxy_secrets",
    "public_model_string",
    "public_url",
    "redacted",
    "secret_forms",
]

_HIDDEN = "***"
_SHOWN = 600  # characters of an error's text
# Shorter ones may be ordinary words or numbers, and hiding them would make messages unreadable.
_MIN_CHARACTERS = 4
_MIN_HEADER_CHARACTERS = 8  # of a word in a header, such as "Bearer"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ADDRESS = re.compile(r"(?:^|@)([A-Za-z][A-Za-z0-9+.-]*://)")  # in a model string
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+(%\w+)?\]|[^\s:/?#@\[\]\\]+)(:[0-9]*)?")
# What a model string can begin with: a path follows, or a name and an address.
_FILES = ("hf", "llamacpp")
_SERVERS = ("openai", "ollama", "tgi", "together", "fireworks", "deepseek", "mistral", "openrouter")


def bare_url(url: str) -> str:
    """A valid URL without user info, query and fragment, for requests."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def has_user_info(url: str) -> bool:
    """Whether a URL names a user or password, which become a Basic ``Authorization`` header."""
    try:
        return "@" in urlsplit(url).netloc
    except ValueError:  # no request goes there
        return False


def public_url(url: str) -> str:
    """A URL without user info, query and fragment, to show to people.

    It need not be valid: a password with a slash in it is a common reason why it is not. Where
    user info and path cannot be told apart, neither is shown.
    """
    match = _SCHEME.match(url)
    scheme = match.group() if match else "//" if url.startswith("//") else ""
    rest = url[len(scheme) :]
    if not rest:
        return scheme and scheme + _HIDDEN
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    host = authority.rpartition("@")[2]
    if _HOST.fullmatch(host) or (not scheme and rest.startswith("/")):
        path = re.split(r"[?#]", rest[len(authority) :], maxsplit=1)[0]
        if _is_path(path, after_user_info=host != authority):
            return f"{scheme}{host}{path}"
    elif "@" not in authority and rest.count("@") == 1:
        # Not a host, so it is the beginning of a password with a slash or the like in it.
        tail = re.split(r"[?#]", rest.partition("@")[2], maxsplit=1)[0]
        if _HOST.fullmatch(tail.partition("/")[0]):
            return scheme + tail
    elif "@" not in rest and authority:
        return scheme + re.split(r"[?#]", rest, maxsplit=1)[0]
    return scheme + _HIDDEN


def _is_path(path: str, *, after_user_info: bool) -> bool:
    """Whether this can only be a path, and not the second half of a password with a slash."""
    if "@" not in path:
        return True
    # Some services name models in paths: /v1/@org/model.
    names = path[1:].replace("/@", "/")
    return not after_user_info and "@" not in names


def public_model_string(text: str) -> str:
    """A model string without user info, query and fragment of its URL."""
    kind, _, rest = text.partition(":")
    if kind not in (*_FILES, *_SERVERS):
        kind, rest = "", text
    match = _ADDRESS.search(rest)
    if match and not re.search("[?#]", rest[: match.start(1)]):
        begin = match.start(1) + len(text) - len(rest)
        return text[:begin] + public_url(text[begin:])
    if "@" not in text or kind in _FILES:
        return text
    # The scheme was forgotten: MODEL@USER:PASSWORD@HOST.
    first, _, address = rest.partition("@")
    if not kind or (kind == "openai" and ":" in first and "@" not in address):
        return f"{kind}:{public_url(rest)}".lstrip(":")
    if "@" in address and (kind != "openrouter" or ":" in address.rpartition("@")[0]):
        return f"{kind}:{first}@{public_url(address)}"
    return text


def secret_forms(key: str | None, url: str, headers: Iterable[str] = ()) -> tuple[str, ...]:
    """All forms in which a server can repeat the secrets that a request was sent with.

    Args:
        key: The API key.
        url: The base URL, with user info and query.
        headers: Values of further headers that are secret.

    Returns:
        Texts for :func:`hide`: the key; the password as it is written in the URL, decoded and
        encoded; what a Basic ``Authorization`` header makes of it; the values of the query; the
        headers, and their longer words.
    """
    user_info, query = _secret_parts(url)
    words = [*_words_of_query(query), *(() if key is None else (key, quote(key, safe="")))]
    for value in headers:
        words += [value, *(word for word in value.split() if len(word) >= _MIN_HEADER_CHARACTERS)]
    forms = dict.fromkeys(word for word in words if len(word) >= _MIN_CHARACTERS)
    forms |= dict.fromkeys(_forms_of_user_info(user_info))
    # Texts of servers are shown on one line, with single spaces.
    return tuple(forms | dict.fromkeys(" ".join(word.split()) for word in forms if word.split()))


def proxy_secrets() -> tuple[str, ...]:
    """All forms of the passwords of proxies that the environment names (``HTTPS_PROXY``, ...).

    Returns:
        Texts for :func:`hide`. Of a proxy that is no valid URL, for example because its password
        has a slash in it, also every part that may be one of the password.
    """
    forms: dict[str, None] = {}
    for proxy in getproxies().values():
        forms |= dict.fromkeys(secret_forms(None, proxy))
        user_info = _SCHEME.sub("", proxy, count=1).rpartition("@")[0]
        password = user_info.partition(":")[2] or user_info
        parts = (password, *re.split(r"[/?#@:\[\]\\]", password))
        forms |= dict.fromkeys(part for part in parts if len(part) >= _MIN_CHARACTERS)
    return tuple(forms)


def _secret_parts(url: str) -> tuple[str, str]:
    """User info and query, as they are written."""
    try:
        parts = urlsplit(url)
    except ValueError:  # no request goes there
        return "", ""
    return parts.netloc.rpartition("@")[0], parts.query


def _forms_of_user_info(user_info: str) -> Iterator[str]:
    for text in dict.fromkeys((user_info, unquote(user_info))):
        user, colon, password = text.partition(":")
        if user_info != text:  # an encoded colon belongs to the name
            user, password = (unquote(part) for part in user_info.partition(":")[::2])
        if not user and not password:
            continue
        pair = f"{user}:{password}"
        basic = b64encode(pair.encode(errors="surrogatepass")).decode()
        yield from (f"Basic {basic}", basic, basic.rstrip("="))
        if colon and password:
            yield pair
        # A token is sometimes given as the name, without a password.
        secret = password or user
        for word in (secret, quote(secret, safe="", errors="surrogatepass")):
            if len(word) >= _MIN_CHARACTERS:
                yield word


def _words_of_query(query: str) -> Iterator[str]:
    if query:
        yield query
    for field in re.split("[&;]", query):
        name, equals, value = field.partition("=")
        written = value if equals else name
        decoded = unquote(written.replace("+", " "))
        yield from (written, unquote(written), decoded, quote(decoded, safe=""))


def hide(text: str, words: Iterable[str]) -> str:
    """A text with every one of some words replaced by ``***``.

    Args:
        text: Any text, as a server sent it: before white space is merged and it is shortened, so
            that no part of a word is left.
        words: From :func:`secret_forms`.
    """
    # The longest first, so that nothing is left of a word that begins with another one.
    found = sorted({word for word in words if word}, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, found)), _HIDDEN, text) if found else text


def redacted(error: object, secrets: Iterable[str]) -> str:
    """An error's text on one line, without secrets and control characters.

    Args:
        error: An exception, or a text that a server sent.
        secrets: From :func:`secret_forms` and :func:`proxy_secrets`.

    Returns:
        At most 600 characters; the name of the exception's class where it has no text.
    """
    # Before it is merged and shortened, and after: a secret may have blanks in it.
    secrets = tuple(secrets)
    text = hide(str(error), secrets)
    text = hide(" ".join(text.split()), secrets) or type(error).__name__
    # A lone surrogate cannot even be written to a log, and control characters can take over a
    # terminal.
    text = "".join(c if c.isprintable() else "\ufffd" for c in text[: _SHOWN + 1])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
