"""Weights: what they are, where they come from, where they are kept."""

from __future__ import annotations

from glimp_integrations.weights.catalog import LARGE, SMALL, TINY, WeightFile
from glimp_integrations.weights.download import ensure, home

__all__ = ["LARGE", "SMALL", "TINY", "WeightFile", "ensure", "home"]
