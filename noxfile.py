"""The fast tests on each Python version (``make test-pythons``), and other clients.

``make test-clients`` runs the latter, and clients of older majors.
``nox -s fast-3.12`` runs one alone. Nothing here needs torch or weights. A Python that is not
installed is skipped, and nox says so.
"""

import glob

import nox

nox.options.default_venv_backend = "venv"  # pip, with the index and certificates it is set to
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["fast"]
nox.options.reuse_existing_virtualenvs = True

FAST = ["tests/unit", "tests/langchain", "tests/llamaindex", *sorted(glob.glob("tests/test_*.py"))]

GIVEN_CLIENTS = ["tests/wire/test_given_clients.py", "tests/wire/test_given_client_mistakes.py"]


@nox.session(python=["3.11", "3.12", "3.13"])
def fast(session: nox.Session) -> None:
    """What needs no model and no server."""
    session.install("--quiet", "--editable", ".[langchain,llamaindex,bench,otel,prices,test]")
    marks = "not bundled and not serial and not slow"
    session.run("pytest", "--quiet", "--numprocesses=auto", "-m", marks, *FAST, *session.posargs)


@nox.session
def clients(session: nox.Session) -> None:
    """``glimp serve`` and other people's clients, with OpenAI's package of the second major."""
    session.install("--quiet", "--editable", ".[serve,llamacpp,test]")
    session.install("--quiet", "langchain-openai", "litellm", "llama-index-llms-openai-like")
    session.run("pytest", "--quiet", "--numprocesses=auto", "tests/serve", *session.posargs)
    session.run("glimp", "pull", "bundled")
    # Alone: the bundled models use all cores themselves.
    real = ["tests/bundled/test_clients_bundled.py", "tests/bundled/test_serve_bundled.py"]
    session.run("pytest", "--quiet", *real, *session.posargs)


@nox.session
@nox.parametrize("major", [1, 2])
def openai(session: nox.Session, major: int) -> None:
    """Given clients of older majors of the openai package; the newest is in .venv."""
    session.install("--quiet", "--editable", ".[test]")
    session.install("--quiet", f"openai=={major}.*")
    session.run("pytest", "--quiet", *GIVEN_CLIENTS, *session.posargs)
