"""Models of random weights, loaded once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from random_weights.pairs import Models, models


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads only wait for each other on matrices this small."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llamacpp() -> Iterator[Models]:
    with models("llamacpp") as made:
        yield made


@pytest.fixture(scope="session")
def transformers() -> Iterator[Models]:
    with models("hf") as made:
        yield made
