"""Build wheel and sdist, check them, install them into empty environments and ask a question.

::

    python tools/package.py

What is asked are scripted models: no weights and no server. The wheel alone must answer without
any framework, the wheel with the extras ``langchain`` and ``llamaindex`` through both adapters. The
wheel is built from the sdist, so that is complete, too. What is built stays in ``dist/``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ABSENT = ("langchain_core", "llama_index", "torch", "transformers", "xllamacpp", "pytest")

MODELS = """
from glimp_integrations.backends import ScriptedBackend

def models():
    think = [(b"First", 0.1), (b".\\n\\n", 0.0), (b"Then", 2.0), (b".\\n", 0.0), (b"</think>", 0.0)]
    script = [*think, (b"\\n\\n", 0.0), (b"Four", 0.0), (b".", 0.0), (b"", 0.0)]
    return {
        name: ScriptedBackend(script, name=name, generation_prompt="<assistant>\\n<think>\\n")
        for name in ("small", "large")
    }
"""

CORE = f"""
import importlib.util
absent = [name for name in {ABSENT!r} if importlib.util.find_spec(name)]
assert not absent, f"installed without an extra that asks for them: {{absent}}"
from glimp_integrations import GlimpRouter
with GlimpRouter(**models(), temperature=0) as router:
    result = router.run("What is 2 + 2?")
assert result.answer == "Four.", result.answer
assert [step.author for step in result.trace.steps][:2] == ["small", "large"]
assert "Then" in result.trace.to_html()
print("the core answers:", result.answer)
"""

ADAPTERS = """
import importlib.util
assert importlib.util.find_spec("torch") is None
from langchain_glimp import ChatGlimpRouter
message = ChatGlimpRouter(**models(), temperature=0).invoke("What is 2 + 2?")
assert message.content == "Four.", message.content
print("LangChain answers:", message.content)
from llamaindex_glimp import GlimpRouterLLM
response = GlimpRouterLLM(**models(), temperature=0).complete("What is 2 + 2?")
assert response.text == "Four.", response.text
print("LlamaIndex answers:", response.text)
"""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """What a command prints.

    Raises:
        SystemExit: It failed; what it printed is in the message.
    """
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:200]} failed:\n{done.stdout}")
    return done.stdout


def build(folder: Path) -> tuple[Path, Path]:
    """Wheel and sdist; the wheel is built from the sdist, as an index's users would."""
    for old in folder.glob("glimp_integrations-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def check(wheel: Path, sdist: Path) -> None:
    """Metadata and README as an index wants them; all packages are in it, and nothing else.

    Raises:
        SystemExit: They are not.
    """
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    packages = {"glimp_integrations", "langchain_glimp", "llamaindex_glimp"}
    others = {name for name in tops - packages if not name.endswith(".dist-info")}
    missing = [f"{name}/py.typed" for name in packages if f"{name}/py.typed" not in names]
    if others or missing:
        sys.exit(f"{wheel.name} holds {sorted(others)} besides and lacks {missing}")


def ask(what: Path, extras: str, question: str) -> str:
    """Install into an empty environment and run a question there, outside of this checkout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        run(python, "-m", "pip", "install", "--quiet", f"{what}{extras}", cwd=folder)
        version = run(python.with_name("glimp"), "--version", cwd=folder)
        return version + run(python, "-W", "error", "-c", MODELS + question, cwd=folder)


def main() -> None:
    wheel, sdist = build(ROOT / "dist")
    check(wheel, sdist)
    print(f"built and checked {wheel.name} and {sdist.name}", flush=True)
    print(ask(wheel, "", CORE), end="", flush=True)
    print(ask(wheel, "[langchain,llamaindex]", ADAPTERS), end="", flush=True)


if __name__ == "__main__":
    main()
