"""The programs in ``examples/`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_example", "module_name"]

_FOLDER = Path(__file__).parents[1] / "examples"


def module_name(framework: str, name: str) -> str:
    """The name of an example's module."""
    return f"{framework}_example_{name}"


def load_example(framework: str, name: str) -> ModuleType:
    """The module of an example, without running its ``main``.

    Args:
        framework: The folder inside ``examples/``.
        name: The file, without ``.py``.
    """
    path = _FOLDER / framework / f"{name}.py"
    spec = importlib.util.spec_from_file_location(module_name(framework, name), path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Annotations are looked up by module name (tools, TypedDict, pydantic).
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
