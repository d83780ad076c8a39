"""The public names of the packages and their docstrings, read from the source without importing it.

Neither LangChain nor LlamaIndex has to be installed to check that everything is documented.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PACKAGES", "on_reference_pages", "public_names", "undocumented"]

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "glimp_integrations",
    "glimp_integrations.backends",
    "glimp_integrations.bench",
    "langchain_glimp",
    "llamaindex_glimp",
)
"""Import paths that users rely on; each says in ``__all__`` what is public."""

EXTRA = ("glimp_integrations.telemetry.GlimpInstrumentor",)
"""Public names outside these packages' ``__all__``."""

_DIRECTIVE = re.compile(r"^::: ([\w.]+)", re.MULTILINE)


def source_of(module: str) -> Path:
    """The file of a module or package."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def tree_of(module: str) -> ast.Module:
    """A module's syntax tree."""
    return ast.parse(source_of(module).read_text(encoding="utf-8"))


def public_names() -> list[str]:
    """Every public name with its import path, such as ``langchain_glimp.ChatGlimpRouter``."""
    names = []
    for package in PACKAGES:
        for node in tree_of(package).body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
                names += [f"{package}.{name}" for name in ast.literal_eval(node.value)]
    return [name for name in [*names, *EXTRA] if not name.endswith("__")]


def definition(name: str) -> tuple[ast.AST, str]:
    """Where a public name is defined: its node, and the docstring or comment text below it.

    Raises:
        LookupError: It is neither defined nor imported where it should be.
    """
    module, _, short = name.rpartition(".")
    body = tree_of(module).body
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name == short:
                return node, ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if getattr(target, "id", "") == short:
                # A constant or an alias is described by the text that follows it.
                return node, ast.unparse(following) if _is_text(following) else ""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == short:
                    return definition(f"{node.module}.{alias.name}")
    raise LookupError(f"{name} is neither defined nor imported in {source_of(module)}")


def undocumented() -> Iterator[str]:
    """Public names, and public methods of public classes, that have no docstring.

    Methods of the adapters' classes are left out: most override a framework's documented ones.
    """
    for name in public_names():
        node, text = definition(name)
        if not text:
            yield name
        if not isinstance(node, ast.ClassDef) or not name.startswith("glimp_integrations"):
            continue
        for member in node.body:
            if (
                isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
                and not member.name.startswith("_")
                and not ast.get_docstring(member)
                and not _overrides(node, member.name)
            ):
                yield f"{name}.{member.name}"


def on_reference_pages() -> set[str]:
    """Every name that a page under docs/reference shows the docstring of."""
    pages = (ROOT / "docs" / "reference").rglob("*.md")
    return {name for page in pages for name in _DIRECTIVE.findall(page.read_text(encoding="utf-8"))}


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _overrides(owner: ast.ClassDef, method: str) -> bool:
    """Whether a class has bases: what it overrides is documented with the base class."""
    return bool(owner.bases) and method in _INHERITED


# The contract of a backend, documented in Backend.
_INHERITED = frozenset(
    {
        "aclose",
        "capabilities",
        "close",
        "generate",
        "ask_again",
        "control_literals",
        "is_control",
        "label",
        "own_control_tokens",
        "render",
        "tokenize",
        "wait_idle",
    }
)
