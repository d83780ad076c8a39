"""The bundled models, loaded once for all tests of this folder."""

from collections.abc import Iterator

import pytest

from glimp_integrations import GlimpRouter
from glimp_integrations.backends import LlamaCppBackend
from glimp_integrations.backends.model_strings import bundled_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/bundled/" in item.path.as_posix():
            item.add_marker(pytest.mark.bundled)
            # Tests that a module inherits from another package's suite cannot be marked there.
            if item.name in getattr(getattr(item, "module", None), "LONGER", ()):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def small() -> LlamaCppBackend:
    return bundled_models()[0]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def large() -> LlamaCppBackend:
    return bundled_models()[1]  # type: ignore[return-value]


@pytest.fixture(scope="session")
def router() -> Iterator[GlimpRouter]:
    # Routed however long the machine takes: the tests compare texts of several calls.
    with GlimpRouter(temperature=0, max_tokens=96, route="always") as router:
        yield router
