"""How a model draws a token: settings that not every model has.

Settings, requests and backends read this, so it stands below all of them.
"""

from __future__ import annotations

__all__ = ["FURTHER_SAMPLING"]

FURTHER_SAMPLING = ("top_k", "min_p", "presence_penalty", "repetition_penalty")
"""Settings of sampling that not every model has."""
