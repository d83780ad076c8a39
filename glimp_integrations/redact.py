"""URLs and model strings without the secrets they may hold."""

from __future__ import annotations

import re

__all__ = ["public_model_string", "public_url"]


def public_url(url: str) -> str:
    """A URL without user name, password and query."""
    scheme, mark, rest = url.rpartition("://")
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def public_model_string(text: str) -> str:
    """A model string without the user name and password its URL may hold."""
    return re.sub(r"//[^/\s]*@", "//", text)
