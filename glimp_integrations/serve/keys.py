"""API keys: who may ask, and how much."""

from __future__ import annotations

import hashlib
import hmac
import time
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from glimp_integrations.errors import ConfigError
from glimp_integrations.openai_api.errors import ApiError, overloaded
from glimp_integrations.serve.limits import Rate

__all__ = ["Client", "KeyEntry", "Keys", "read_keys"]

_SHORTEST = 16  # characters; shorter ones can be tried out


class KeyEntry(BaseModel):
    """One key, as it stands in a file."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field(
        min_length=1, max_length=64, description="Name of the key, for logs and messages."
    )
    key: SecretStr | None = Field(default=None, description="The key itself; or its digest:")
    sha256: str | None = Field(
        default=None,
        pattern=r"^[0-9a-fA-F]{64}$",
        description="SHA-256 of the key in hexadecimal digits, so that the file holds no secret.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Most requests per minute; None: as for all keys."
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens of both models per minute, prompts included; None: as for all "
        "keys.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> KeyEntry:
        if (self.key is None) == (self.sha256 is None):
            raise ValueError(f"key {self.name!r}: give either key or sha256")
        if self.key is not None and len(self.key.get_secret_value()) < _SHORTEST:
            raise ValueError(
                f"key {self.name!r} has fewer than {_SHORTEST} characters and could be guessed"
            )
        return self

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key."""
        if self.key is None:
            return bytes.fromhex(self.sha256 or "")
        return _digest(self.key.get_secret_value())


def read_keys(path: Path) -> list[KeyEntry]:
    """The keys of a TOML file, one table ``[[api_keys]]`` each.

    Raises:
        ConfigError: The file cannot be read, or holds something else. No message holds a key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        # Not the text of the mistake: it may quote the line.
        raise ConfigError(f"keys file {path}: cannot be read ({type(error).__name__})") from None
    entries = data.get("api_keys")
    if not isinstance(entries, list) or set(data) != {"api_keys"}:
        raise ConfigError(
            f"keys file {path}: expected tables [[api_keys]], each with name = ... and key = ..."
        )
    try:
        return [KeyEntry.model_validate(entry) for entry in entries]
    except ValidationError as error:
        raise ConfigError(f"keys file {path}: {_mistakes(error)}") from None


class Client:
    """Who asks, and what is left of the limits.

    Args:
        name: Name of the key.
        requests: Requests per minute.
        tokens: Tokens per minute.
    """

    def __init__(self, name: str, requests: Rate, tokens: Rate) -> None:
        self.name = name
        self._requests = requests
        self._tokens = tokens

    def admit(self) -> None:
        """Count a request.

        Raises:
            ApiError: A limit is reached (429).
        """
        for rate, what in ((self._requests, "requests"), (self._tokens, "tokens")):
            if (wait := rate.wait()) > 0:
                raise overloaded(
                    f"the limit of {rate.per_minute} {what} per minute of the key "
                    f"{self.name!r} is reached: try again in {wait:.0f} s",
                    retry_after=wait,
                )
        self._requests.take()

    def charge(self, tokens: int) -> None:
        """Count the tokens that a conversation took."""
        self._tokens.take(tokens)


class Keys:
    """All keys. They are kept as digests only, and all are compared, each in constant time.

    Args:
        entries: The keys; none: whoever asks is let in.
        requests_per_minute: Limit of keys that have none of their own.
        tokens_per_minute: Likewise.
        clock: Seconds, from any beginning.

    Raises:
        ConfigError: Two keys are the same, or have the same name.
    """

    def __init__(
        self,
        entries: Sequence[KeyEntry] = (),
        *,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def client(name: str, entry: KeyEntry | None = None) -> Client:
            requests = entry.requests_per_minute if entry else None
            tokens = entry.tokens_per_minute if entry else None
            return Client(
                name,
                Rate(requests or requests_per_minute, clock),
                Rate(tokens or tokens_per_minute, clock),
            )

        self._clients: dict[bytes, Client] = {}
        names: set[str] = set()
        for entry in entries:
            if entry.name in names or entry.digest in self._clients:
                raise ConfigError(
                    f"two keys have the name {entry.name!r}, or are the same: give each person or "
                    "program a key of its own"
                )
            names.add(entry.name)
            self._clients[entry.digest] = client(entry.name, entry)
        self._anyone = None if entries else client("anyone")

    @property
    def required(self) -> bool:
        """Whether a key is needed."""
        return self._anyone is None

    def client(self, authorization: str | None) -> Client:
        """Who sent a request.

        Args:
            authorization: The header ``Authorization``.

        Raises:
            ApiError: The key is missing or wrong (401).
        """
        if self._anyone is not None:
            return self._anyone
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not given.strip():
            raise ApiError(
                401,
                "no API key was sent: send the header 'Authorization: Bearer KEY'",
                code="missing_api_key",
            )
        digest, found = _digest(given.strip()), None
        for known, client in self._clients.items():
            if hmac.compare_digest(known, digest):
                found = client
        if found is None:
            raise ApiError(401, "the API key is not one of this server's", code="invalid_api_key")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _mistakes(error: ValidationError) -> str:
    """What is wrong, without the values."""
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or 'a key'}: {item['msg']}" for item in found
    )
