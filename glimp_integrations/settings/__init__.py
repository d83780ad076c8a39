"""The routing settings, written once and shared by the core and every adapter.

::

    fields.py         every setting by itself: type, default, bounds, meaning: add one here
    checks.py         what the value of one setting has to be
    routing.py        RoutingSettings: what fits together, what follows, what is stored
    model_names.py    which models: by model strings, a pair, or the environment
    prices.py         what models cost
    mistakes.py       what is wrong, in words
"""

from __future__ import annotations

from glimp_integrations.settings.checks import stops_of
from glimp_integrations.settings.fields import KeepReasoning, Strategy
from glimp_integrations.settings.mistakes import nested
from glimp_integrations.settings.model_names import (
    PAIR_VARIABLE,
    PLACES,
    named_twice,
    with_passwords,
)
from glimp_integrations.settings.prices import Price, Prices
from glimp_integrations.settings.routing import RoutingSettings

__all__ = [
    "PAIR_VARIABLE",
    "PLACES",
    "KeepReasoning",
    "Price",
    "Prices",
    "RoutingSettings",
    "Strategy",
    "named_twice",
    "nested",
    "stops_of",
    "with_passwords",
]
