"""What ``glimp serve`` is told: by options, by environment, by a TOML file, in this order."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from glimp_integrations.errors import ConfigError
from glimp_integrations.openai_api.allowed import DEFAULT_ALLOWED, Allowed, Bounds
from glimp_integrations.serve.keys import KeyEntry, Keys, read_keys
from glimp_integrations.settings import RoutingSettings

__all__ = ["ServeConfig"]

_MIB = 1024 * 1024
# Routing settings, and those of lower sources whose place they take: who decides, and who the
# models are, is said as a whole.
_REPLACED = {
    "large_share": ("threshold",),
    "threshold": ("large_share",),
    "pair": ("small", "large"),
    "small": ("pair",),
    "large": ("pair",),
}


class ServeConfig(BaseSettings):
    """Settings of the server.

    The environment has them as ``GLIMP_SERVE_<NAME>``, tables as JSON. Options win over the
    environment, which wins over the file; tables of several sources are merged.

    Raises:
        ConfigError: (of :meth:`load`) A value is impossible; no message holds a key.
    """

    model_config = SettingsConfigDict(
        env_prefix="GLIMP_SERVE_", extra="forbid", hide_input_in_errors=True, frozen=True
    )

    host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen at.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0: a free one.")
    model_name: str = Field(
        default="glimp", min_length=1, description="Name under which the pair is served."
    )
    routing: dict[str, Any] = Field(
        default={},
        repr=False,  # it may hold keys, and addresses with passwords
        description="Routing settings of every call: the models, the threshold, ...",
    )
    allow: dict[str, Bounds] = Field(
        default=DEFAULT_ALLOWED,
        description="Routing settings that a request may change, with bounds.",
    )
    api_keys: Annotated[list[KeyEntry], NoDecode] = Field(
        default=[], description="API keys. In the environment: keys with commas between them."
    )
    keys_file: Path | None = Field(default=None, description="TOML file with further API keys.")
    no_keys: bool = Field(
        default=False,
        description="Serve without keys at an address that other machines can reach.",
    )
    requests_per_minute: int | None = Field(
        default=None, ge=1, description="Most requests of a key per minute; None: no limit."
    )
    tokens_per_minute: int | None = Field(
        default=None,
        ge=1,
        description="Most tokens of a key per minute, prompts included, both models together; "
        "None: no limit.",
    )
    max_running: int = Field(default=16, ge=1, description="Conversations that run at a time.")
    max_waiting: int = Field(
        default=64, ge=0, description="Conversations that wait for a place; others get a 429."
    )
    queue_seconds: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Longest wait for a place, in seconds."
    )
    max_body_bytes: int = Field(default=4 * _MIB, ge=1024, description="Largest request, in bytes.")
    max_messages: int = Field(default=1000, ge=1, description="Most messages in a request.")
    grace_seconds: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that running answers have at the end (SIGTERM, Ctrl-C).",
    )
    keepalive_seconds: float = Field(
        default=15.0,
        gt=0,
        allow_inf_nan=False,
        description="A stream that is silent for so long sends a comment, so that no proxy ends "
        "the connection.",
    )
    access_log: str = Field(
        default="-", description="File of the access log; '-' is standard output, '' is none."
    )
    open_metrics: bool = Field(
        default=False, description="Show /metrics and the last hour without a key."
    )

    @classmethod
    def load(cls, file: Path | None = None, **options: Any) -> ServeConfig:
        """The configuration from all places.

        Args:
            file: A TOML file.
            **options: Fields; ``None``: not given.

        Raises:
            ConfigError: A value is impossible, or the file cannot be read.
        """
        given = {name: value for name, value in options.items() if value is not None}
        content = {} if file is None else _read(file)

        class Source(cls):  # type: ignore[misc, valid-type]
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],
                init_settings: PydanticBaseSettingsSource,
                env_settings: PydanticBaseSettingsSource,
                dotenv_settings: PydanticBaseSettingsSource,
                file_secret_settings: PydanticBaseSettingsSource,
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                environment = env_settings()
                lower = (
                    _beneath(environment, given),
                    _beneath(_beneath(content, environment), given),
                )
                return init_settings, *(InitSettingsSource(settings_cls, data) for data in lower)

        try:
            merged = Source(**given)
        except SettingsError as error:
            # Not the error's own text: it may quote the value.
            variable = re.search(r'field "(\w+)"', str(error))
            name = variable[1].upper() if variable else "<NAME>"
            raise ConfigError(
                f"glimp serve: the environment's GLIMP_SERVE_{name} is not JSON; tables are given "
                "as JSON there, such as GLIMP_SERVE_ROUTING='{\"large_share\": 0.25}'"
            ) from None
        except ValidationError as error:
            raise ConfigError(f"glimp serve: {_mistakes(error)}") from None
        values = {name: getattr(merged, name) for name in cls.model_fields}
        config = cls.model_construct(merged.model_fields_set, **values)
        config.check()
        return config

    @field_validator("api_keys", mode="before")
    @classmethod
    def _keys_of_the_environment(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        keys = [key.strip() for key in value.split(",") if key.strip()]
        return [{"name": f"key{number}", "key": key} for number, key in enumerate(keys, 1)]

    @field_validator("allow", mode="before")
    @classmethod
    def _true_is_without_bounds(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {name: {} for name in value}
        if isinstance(value, dict):
            return {n: {} if v is True else v for n, v in value.items() if v is not False}
        return value

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def check(self) -> None:
        """Refuse what is not safe.

        Raises:
            ConfigError: Others could reach the server, and there are no keys.
        """
        if not (self.is_local or self.no_keys or self.all_keys()):
            raise ConfigError(
                f"host {self.host!r} can be reached from other machines, and there are no API "
                "keys, so whoever finds it could use your models: give keys (--keys-file, "
                "GLIMP_SERVE_API_KEYS), or say --no-keys if something in front of it checks who "
                "asks"
            )

    def all_keys(self) -> list[KeyEntry]:
        """The keys of the configuration and of the keys file.

        Raises:
            ConfigError: The file cannot be read.
        """
        return [*self.api_keys, *([] if self.keys_file is None else read_keys(self.keys_file))]

    def make_keys(self) -> Keys:
        """Who may ask.

        Raises:
            ConfigError: The file cannot be read, or two keys are the same.
        """
        return Keys(
            self.all_keys(),
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )

    def settings(self) -> RoutingSettings:
        """The routing settings of every call.

        Raises:
            ConfigError: One has an unknown name or an impossible value.
        """
        return RoutingSettings(**self.routing)

    def allowed(self, settings: RoutingSettings) -> Allowed:
        """What a request may change.

        Raises:
            ConfigError: A name is no setting, or one that no request may change.
        """
        return Allowed(self.allow, settings)


def _beneath(lower: dict[str, Any], higher: dict[str, Any]) -> dict[str, Any]:
    """A source's settings without what another one, of higher rank, takes the place of."""
    routing, above = lower.get("routing"), higher.get("routing")
    if not isinstance(routing, dict) or not isinstance(above, dict):
        return lower
    said = [name for name, value in above.items() if value is not None]
    gone = {replaced for name in said for replaced in _REPLACED.get(name, ())}
    return {**lower, "routing": {k: v for k, v in routing.items() if k not in gone}}


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read ({type(error).__name__})") from None
    except ValueError as error:
        # The place, and not the line, which may hold a key.
        place = str(error).rpartition("(")[2].rstrip(")")
        raise ConfigError(f"--config {file} is not TOML ({place})") from None


def _mistakes(error: ValidationError) -> str:
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(
        f"unknown setting {'.'.join(map(str, item['loc']))!r}"
        if item["type"] == "extra_forbidden"
        else f"{'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']}"
        for item in found
    )
