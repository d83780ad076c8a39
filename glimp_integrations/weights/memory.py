"""Whether models fit the memory, which is said before they are fetched and loaded."""

from __future__ import annotations

from collections.abc import Mapping

from glimp_integrations import forks
from glimp_integrations.errors import ConfigError

__all__ = ["check_memory", "free_memory"]


def free_memory() -> int | None:
    """Bytes of memory that programs can have without swapping; ``None``: not known.

    It is not known where llama.cpp has a GPU, as models then lie in its memory, nor without psutil.
    """
    try:
        with forks.LOADING:
            import psutil
            import xllamacpp
    except ImportError:
        return None
    cpu = xllamacpp.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_CPU
    if any(device["type"] != cpu for device in xllamacpp.get_device_info()):
        return None
    return int(psutil.virtual_memory().available)


def check_memory(needed: Mapping[str, int]) -> None:
    """Refuse models that the free memory cannot hold.

    Args:
        needed: Bytes that each model takes, by its name.

    Raises:
        ConfigError: Less is free.
    """
    total, free = sum(needed.values()), free_memory()
    if free is None or total <= free:
        return
    each = ", ".join(f"{name} {size:,}" for name, size in needed.items())
    raise ConfigError(
        f"{' and '.join(needed)} need {total:,} bytes of memory ({each}), and {free:,} are free: "
        "close other programs, choose a smaller pair (`glimp pull --list`), or run the models on "
        "a server and name them by small=... and large=..."
    )
