"""The files of ``deploy/``, copies of them with a mistake, and what all checks need."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from glimp_integrations._version import __version__
from glimp_integrations.backends import model_strings
from glimp_integrations.errors import GlimpError
from glimp_integrations.serve.app import Application
from glimp_integrations.serve.config import ServeConfig

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OWN_IMAGE = f"glimp-serve:{__version__}"
PLACEHOLDER = "REPLACE-ME"
_PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?")


@dataclass(frozen=True)
class Mistake:
    """A change that makes a file wrong.

    Attributes:
        file: Relative to ``deploy/``.
        old: A text that stands there once.
        new: What stands there instead.
        told: What the check says.
    """

    file: str
    old: str
    new: str
    told: str

    def __str__(self) -> str:
        return f"{self.file}: {self.told}"

    def made(self, folder: Path) -> Path:
        """A copy of ``deploy/`` with the mistake."""
        copy = folder / "deploy"
        shutil.copytree(DEPLOY, copy)
        path = copy / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, f"{self.old!r} stands {text.count(self.old)} times there"
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        return copy


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def is_pinned(image: str) -> bool:
    """Whether an image's tag names a version to its last number."""
    return _PINNED.fullmatch(image) is not None


def image_problems(image: str) -> list[str]:
    """What is wrong with an image's name."""
    if not is_pinned(image):
        return [f"image {image} is not pinned"]
    if image.startswith("glimp-serve:") and image != OWN_IMAGE:
        return [f"image {image} is not of this version: {OWN_IMAGE}"]
    return []


def serve_config(path: Path, folder: Path, **options: Any) -> tuple[ServeConfig | None, list[str]]:
    """The configuration as ``glimp serve`` reads it, and what is wrong with it.

    Args:
        path: A TOML file.
        folder: For a file of keys, in place of one that is on another machine.
        **options: Fields.
    """
    if "keys_file" in path.read_text(encoding="utf-8"):
        example = (DEPLOY / "kubernetes" / "keys.example.toml").read_text(encoding="utf-8")
        keys = folder / "keys.toml"
        keys.write_text(example.replace(PLACEHOLDER, "k" * 48), encoding="utf-8")
        options["keys_file"] = keys
    try:
        config = ServeConfig.load(path, **options)
        config.make_keys()
        config.allowed(config.settings())
        for model in ("small", "large"):
            model_strings.parse(config.routing[model])
    except (GlimpError, KeyError) as error:
        return None, [f"{path.name}: {error}"]
    return config, []


def address(config: ServeConfig, model: str) -> tuple[str, str, int]:
    """Name, host and port of a model."""
    match = re.fullmatch(r"openai:(.+)@http://([\w.-]+):(\d+)/v1", config.routing[model])
    assert match is not None, config.routing[model]
    return match[1], match[2], int(match[3])


def seconds(text: str) -> float:
    """A duration such as ``80s``, ``30m`` or ``1h``."""
    match = re.fullmatch(r"(\d+)(s|m|h)", text)
    assert match is not None, text
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def routes() -> set[str]:
    """Paths that ``glimp serve`` has."""
    from scripts import pair

    from glimp_integrations import GlimpRouter

    application = Application(ServeConfig.load(access_log=""), GlimpRouter(**pair("A")))
    return {route.path for route in application.asgi.routes}  # type: ignore[attr-defined]
