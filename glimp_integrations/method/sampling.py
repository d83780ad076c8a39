"""How a model draws a token: settings that not every model has, and how far one of them goes.

Settings, requests and backends read this, so it stands below all of them.
"""

from __future__ import annotations

__all__ = ["FURTHER_SAMPLING", "LEAST_REPETITION_PENALTY", "MOST_REPETITION_PENALTY"]

FURTHER_SAMPLING = ("top_k", "min_p", "presence_penalty", "repetition_penalty")
"""Settings of sampling that not every model has."""

LEAST_REPETITION_PENALTY, MOST_REPETITION_PENALTY = 0.01, 100.0
"""Bounds of a repetition penalty, a factor of logits. vLLM takes whatever is above 0; llama.cpp
calculates in 32 bits and refuses what is 0 there (below 1.2e-38). Long before such values the
penalty alone decides whether a token that is in the text already is written again."""
