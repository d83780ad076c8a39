"""``MODULE:NAME``: what users write in Python, and name on the command line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from glimp_integrations.errors import ConfigError
from glimp_integrations.method.policy import RoutingPolicy

__all__ = ["imported", "load_policy"]


def imported(owner: str, name: str, form: str) -> Any:
    """The object of a module, also of one in the current folder.

    Args:
        owner: What it is for, to begin an error with.
        name: ``MODULE:NAME``.
        form: How that is written, for an error.

    Raises:
        ConfigError: There is no such module, or it has no such name.
    """
    module, _, attribute = name.partition(":")
    if module.startswith("."):
        raise ConfigError(f"{owner} begins with a dot; write the module's whole name")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module in the current folder, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{owner}: {error}; write {form}, where `import MODULE` works here"
        ) from error


def load_policy(owner: str, name: Any, options: Mapping[str, Any]) -> RoutingPolicy:
    """A policy from a module of the user's.

    Args:
        owner: The arm, to begin an error with.
        name: ``MODULE:NAME`` of an object, or of a class or function that makes one.
        options: Keyword arguments of the class or function.

    Raises:
        ConfigError: It cannot be imported or made, or is no policy.
    """
    form = "policy=MODULE:NAME, and its options as policy.KEY=VALUE"
    if not isinstance(name, str) or not all(name.partition(":")):
        raise ConfigError(f"{owner}: policy is {name!r}; write {form}")
    found = imported(f"{owner}: policy {name!r}", name, form)
    if _is_policy(found):
        if options:
            raise ConfigError(
                f"{owner}: policy {name!r} is an object already, and takes no "
                f"policy.{next(iter(options))}; name its class"
            )
        return found  # type: ignore[no-any-return]
    if not callable(found):
        raise ConfigError(
            f"{owner}: policy {name!r} is a {type(found).__name__} without a method "
            "decide(start); name a policy, or a class or function that makes one"
        )
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
    try:
        made = found(**options)
    except Exception as error:
        raise ConfigError(
            f"{owner}: {call} raised {type(error).__name__}: {error}; write {form}"
        ) from error
    if not _is_policy(made):
        raise ConfigError(
            f"{owner}: {call} made a {type(made).__name__} without a method decide(start); "
            "name a class or function that makes a policy"
        )
    return made  # type: ignore[no-any-return]


def _is_policy(value: Any) -> bool:
    return not isinstance(value, type) and callable(getattr(value, "decide", None))
