"""``prices="auto"``: what hosted services charge, from the package ``genai-prices``.

The package brings its data along, and is never asked to fetch newer ones; a program that has set
other data for it (``genai_prices.data_snapshot.set_custom_snapshot``) gets those.
Source: https://github.com/pydantic/genai-prices (``calc_price``, ``ModelPrice``, ``TieredPrices``).
"""

from __future__ import annotations

import functools
import ipaddress
import logging
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from glimp_integrations.backends.base import Backend
from glimp_integrations.backends.hf.backend import HuggingFaceBackend
from glimp_integrations.backends.http.openai import OpenAIBackend
from glimp_integrations.backends.llamacpp import LlamaCppBackend
from glimp_integrations.errors import ConfigError
from glimp_integrations.runtime.call import Call
from glimp_integrations.settings import Price, Prices

__all__ = ["list_price", "with_list_prices"]

_log = logging.getLogger(__name__)

# Servers that compute on the machine they run on. A gateway on this machine may lead anywhere.
_COMPUTING = ("llama.cpp", "lmstudio", "ollama", "sglang", "tgi", "vllm")
_CLOUD = "cloud"  # at the end of the names of models that Ollama runs elsewhere
_FREE = Price(input=0, output=0)
_GIVE = "give prices=Prices(small=Price(...), large=Price(...)), per million tokens"


def with_list_prices(call: Call) -> Call:
    """The call with prices in its settings where it has ``"auto"``; ``None`` if one is unknown.

    What is missing is logged once. To be called when the models are known.

    Raises:
        ConfigError: ``max_cost`` is set, and a price is unknown.
    """
    settings = call.settings
    if settings.prices != "auto":
        return call
    unknown, prices = "", None
    own = {author: _runs_here(backend) for author, backend in call.models.items()}
    if all(own.values()):
        unknown = (
            f"neither {call.small.label} nor {call.large.label} is at a hosted service, so nobody "
            "charges for tokens"
        )
    else:
        found = {
            author: _FREE if own[author] else list_price(backend)
            for author, backend in call.models.items()
        }
        missing = [call.models[author].label for author, price in found.items() if price is None]
        if missing:
            unknown = f"no price is known for {' and '.join(missing)}"
        else:
            prices = Prices(small=found["small"], large=found["large"])
    if unknown and settings.max_cost is not None:
        raise ConfigError(f"max_cost={settings.max_cost:g} with prices='auto': {unknown}; {_GIVE}")
    if unknown:
        _log_once(f"prices='auto': {unknown}, and no cost is recorded; {_GIVE}")
    return replace(call, settings=settings.changed({"prices": prices}))


def list_price(backend: Backend) -> Price | None:
    """What a hosted service charges for a model now; ``None`` if that is not known.

    Of prices that rise with the length of a prompt, the lowest.
    """
    if backend.url is None:
        return None
    hosts = backend.server.hosts if isinstance(backend, OpenAIBackend) else ()
    if isinstance(backend, OpenAIBackend) and urlsplit(backend.url).hostname in hosts:
        return _listed(backend.name, "provider_id", backend.server.name)
    return _listed(backend.name, "provider_api_url", backend.url)


@functools.cache  # also of prices that change by the hour: a program reckons with one
def _listed(model: str, place: str, where: str) -> Price | None:
    from genai_prices import Usage, calc_price  # the settings looked whether it is there

    try:
        key: dict[str, Any] = {place: where}
        listed = calc_price(Usage(input_tokens=1, output_tokens=1), model, **key).model_price
    except LookupError:
        return None
    read, written, cached = (
        _lowest(getattr(listed, name, None))
        for name in ("input_mtok", "output_mtok", "cache_read_mtok")
    )
    if read is None or written is None:
        return None
    return Price(input=read, output=written, cached=cached)


def _lowest(price: Any) -> float | None:
    base = getattr(price, "base", price)  # of several tiers
    return None if base is None else float(base)


def _runs_here(backend: Backend) -> bool:
    """Whether a model runs in this process, or on a server of this machine."""
    if isinstance(backend, HuggingFaceBackend | LlamaCppBackend):
        return True
    if not isinstance(backend, OpenAIBackend) or backend.server.name not in _COMPUTING:
        return False
    return _is_loopback(backend.url or "") and not backend.name.endswith(_CLOUD)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


@functools.cache
def _log_once(text: str) -> None:
    _log.warning(text)
