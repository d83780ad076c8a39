"""What ``glimp serve`` exports, from a real one on scripted models."""

from __future__ import annotations

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve.conftest import QUESTION, servers

PRICES = {"small": {"input": 1, "output": 2}, "large": {"input": 10, "output": 20}}


@pytest.fixture(scope="session")
def exported() -> dict[str, dict[str, set[str]]]:
    """Names of the metrics, of their labels, and the values that were seen of these."""
    found: dict[str, dict[str, set[str]]] = {}
    with servers() as start:
        served = start(open_metrics=True, routing={"prices": PRICES})
        for extra in ({}, {"n": 2}):
            body = {"model": "glimp", "messages": QUESTION, **extra}
            httpx.post(f"{served.url}/chat/completions", json=body, timeout=60)
        text = httpx.get(f"{served.root}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found
