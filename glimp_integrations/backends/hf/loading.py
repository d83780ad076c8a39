"""From a hub id, a folder, a GGUF file or loaded objects to a model and its tokenizer."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from pydantic import SecretStr
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.hub import cached_file

from glimp_integrations.backends.gguf import is_gguf
from glimp_integrations.errors import BackendError, ConfigError, GlimpError
from glimp_integrations.redact import hide, proxy_secrets, secret_forms
from glimp_integrations.weights.gguf_tokenizer import split_as_named

__all__ = ["Loaded", "Source", "free_bytes", "load"]

_log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model comes from. Fields mean what they mean in ``from_pretrained``.

    Attributes:
        model: A hub id, a folder, or the path of a GGUF file.
        tokenizer: The same, or a loaded tokenizer; ``None``: the model's own.
        gguf_file: The name of a GGUF file inside ``model``.
        options: Further arguments that only the model gets.
    """

    model: str
    tokenizer: Any = None
    gguf_file: str | None = None
    dtype: Any = "auto"
    device_map: Any = None
    quantization_config: Any = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    local_files_only: bool = False
    token: SecretStr | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode and its tokenizer."""

    model: Any
    tokenizer: Any


def load(source: Source, name: str) -> Loaded:
    """Load a model and its tokenizer, with two lines about it on the terminal's error stream.

    Args:
        source: Where they come from.
        name: The model's name, for messages.

    Raises:
        ConfigError: The source is not a model, or there is not enough memory for it.
        BackendError: Loading failed for another reason.
    """
    place, gguf = _locate(source)
    common: dict[str, Any] = {
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "local_files_only": source.local_files_only,
        "token": source.token.get_secret_value() if source.token else None,
    }
    common = {key: value for key, value in common.items() if value is not None}
    file = {"gguf_file": gguf} if gguf else {}
    try:
        return _load(source, name, place, common, file)
    except ConfigError:
        raise
    except Exception as error:
        failure = _explained(error, source, name)
    # Raised outside of the handler, because the library's error may hold the token and would be
    # shown as the context of this one.
    raise failure


def _load(
    source: Source, name: str, place: str, common: dict[str, Any], file: dict[str, str]
) -> Loaded:
    config = AutoConfig.from_pretrained(place, **common, **file)
    dtype = _dtype(source.dtype, config, gguf=bool(file))
    needed = _needed_bytes(config, dtype, source)
    _check_memory(name, needed, dtype, source)
    console = Console(stderr=True, highlight=False)
    size = f"{needed / 1e9:.1f} GB, " if needed else ""
    console.print(f"loading {name} ({size}{str(dtype).removeprefix('torch.')})", style="dim")
    started = time.perf_counter()
    tokenizer = _tokenizer(source, place, common, file)
    model: Any = AutoModelForCausalLM.from_pretrained(
        place, dtype=dtype, **common, **file, **_model_options(source)
    )
    console.print(
        f"loaded {name} in {time.perf_counter() - started:.0f} s on {model.device}", style="dim"
    )
    return Loaded(model.eval(), tokenizer)


def _explained(error: Exception, source: Source, name: str) -> GlimpError:
    """The error of a library as one of this package, without the token and proxies' passwords."""
    token = source.token.get_secret_value() if source.token else None
    secrets = (*secret_forms(token, ""), *proxy_secrets())
    # Hidden before it is shortened, so that no part of a secret is left.
    message = hide(str(error), secrets).strip().split("\n", 1)[0][:300]
    failure: GlimpError
    if isinstance(error, torch.OutOfMemoryError):
        failure = ConfigError(
            f"{name} does not fit the device ({message}): choose a smaller model or dtype, a "
            "quantization_config, or device_map='auto'"
        )
    elif isinstance(error, RuntimeError):
        failure = BackendError(f"loading {name} failed: {message}", model=name)
    else:
        failure = ConfigError(
            f"{source.model!r} cannot be loaded as a causal language model "
            f"({type(error).__name__}: {message}): give a Hugging Face id, a folder saved by "
            "save_pretrained, or a GGUF file, and check that it is complete"
        )
    shown = "".join(traceback.format_exception(error))
    if not any(secret in shown for secret in secrets):
        failure.__cause__ = error
    return failure


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device in bytes; ``None``: not known."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    return None


def _locate(source: Source) -> tuple[str, str | None]:
    """The first argument of ``from_pretrained``, and the name of the GGUF file in it, if any."""
    path = Path(os.path.expanduser(source.model))
    if path.is_file():
        if not is_gguf(path):
            raise ConfigError(
                f"{path} is a file but not a GGUF file (it does not begin with 'GGUF'): give a "
                "folder saved by save_pretrained, a GGUF file or a Hugging Face id"
            )
        return str(path.parent), path.name
    if path.is_dir():
        if source.gguf_file is not None:
            if not (path / source.gguf_file).is_file():
                raise ConfigError(f"there is no {source.gguf_file} in {path}")
        elif not (path / "config.json").is_file():
            gguf_names = ", ".join(sorted(p.name for p in path.glob("*.gguf"))[:3])
            raise ConfigError(
                f"the folder {path} holds no model (no config.json)"
                + (f"; name its GGUF file with gguf_file=... ({gguf_names})" if gguf_names else "")
            )
        return str(path), source.gguf_file
    repo, _, file_name = source.model.rpartition("/")
    if source.model.endswith(".gguf") and _HUB_ID.fullmatch(repo) and "/" in repo:
        return repo, file_name  # ORG/REPO/FILE.gguf
    if not _HUB_ID.fullmatch(source.model):
        raise ConfigError(
            f"there is no model at {source.model!r}: no such file or folder, and it is not "
            "a Hugging Face id (ORG/NAME)"
        )
    return source.model, source.gguf_file


def _tokenizer(source: Source, place: str, common: dict[str, Any], file: dict[str, str]) -> Any:
    if source.tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(place, **common, **file)
        if file:
            split_as_named(tokenizer, _gguf_path(place, file["gguf_file"], common))
        return tokenizer
    if isinstance(source.tokenizer, str | os.PathLike):
        other = {key: value for key, value in common.items() if key != "revision"}
        return AutoTokenizer.from_pretrained(os.fspath(source.tokenizer), **other)
    return source.tokenizer


def _gguf_path(place: str, name: str, common: dict[str, Any]) -> Path:
    """Where a GGUF file of a folder or of a repository lies; the tokenizer came out of it."""
    of_hub = {key: value for key, value in common.items() if key != "trust_remote_code"}
    return Path(str(cached_file(place, name, **of_hub)))


def _model_options(source: Source) -> dict[str, Any]:
    options = {
        "device_map": _device_map(source.device_map),
        "quantization_config": source.quantization_config,
        "attn_implementation": source.attn_implementation,
    }
    return {key: value for key, value in options.items() if value is not None} | dict(
        source.options
    )


def _device_map(device_map: Any) -> Any:
    if device_map is not None or _default_device().type == "cpu":
        return device_map
    return str(_default_device())


def _dtype(choice: Any, config: Any, *, gguf: bool) -> torch.dtype:
    if isinstance(choice, torch.dtype):
        return choice
    if choice == "auto":
        if gguf:  # its values are dequantised, and its config does not say how
            return torch.float32
        named = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
        return named if isinstance(named, torch.dtype) else torch.float32
    dtype = getattr(torch, str(choice).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype):
        raise ConfigError(
            f"dtype is {choice!r}; expected 'auto', 'bfloat16', 'float16', 'float32' or a "
            "torch.dtype"
        )
    return dtype


def _needed_bytes(config: Any, dtype: torch.dtype, source: Source) -> int | None:
    """Bytes of the weights, counted on a model without storage; ``None``: not known beforehand."""
    if source.quantization_config is not None or _quantised(config, source):
        return None
    try:
        with torch.device("meta"):
            factory: Any = AutoModelForCausalLM
            empty = factory.from_config(config, trust_remote_code=source.trust_remote_code)
    except Exception as error:  # remote code may raise anything; loading will show the error
        _log.debug("the size of %s is not known: %s", source.model, type(error).__name__)
        return None
    return sum(int(p.numel()) for p in empty.parameters()) * dtype.itemsize


def _quantised(config: Any, source: Source) -> bool:
    stored = getattr(config, "quantization_config", None)
    kind = stored.get("quant_method") if isinstance(stored, dict) else stored
    return stored is not None and str(kind) not in ("gguf", "None") and source.gguf_file is None


def _check_memory(name: str, needed: int | None, dtype: torch.dtype, source: Source) -> None:
    device = _target(source.device_map)
    free = free_bytes(device) if device is not None else None
    if needed is None or free is None or needed <= free:
        return
    raise ConfigError(
        f"{name} needs {needed:,} bytes for its weights in {str(dtype).removeprefix('torch.')}, "
        f"and {device} has {free:,} bytes free: choose a smaller model or dtype, a "
        "quantization_config, or device_map='auto' to spread it"
    )


def _default_device() -> torch.device:
    """The accelerator of this machine, if it has one."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _target(device_map: Any) -> torch.device | None:
    """The one device that the whole model goes to; ``None``: it is spread over several."""
    if device_map is None:
        return _default_device()
    if isinstance(device_map, Mapping):
        if set(device_map) != {""}:
            return None
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        return None
    return torch.device(device_map)
