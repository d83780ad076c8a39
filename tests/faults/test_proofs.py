"""The campaign notices what it is there to notice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from glimp_integrations.errors import BackendError

from .cases import Case, draw_case
from .proofs import Outcome, Streamed, verdict
from .replies import Model
from .server import Fault
from .texts import in_case


@pytest.fixture
def case() -> Case:
    """A case whose small model has failed, and that neither streams nor goes on."""
    case = draw_case(1, 0)
    case.way, case.harmless, case.late = "run", False, ()
    case.options |= {"on_backend_error": "raise", "max_retries": 0}
    fault = Fault("status 500", None, "stream", fired=1)  # type: ignore[arg-type]
    case.faults = {"small": [fault], "large": []}
    for role in case.faults:
        server = SimpleNamespace(url=f"http://{role}", model=Model(role, "vllm", case.text))
        case.servers[role] = server  # type: ignore[assignment]
    return case


def answer(case: Case, **changes: Any) -> Any:
    """The right answer, otherwise as said."""
    parts = [*case.text.reasoning.splitlines(keepends=True)]
    steps = ["".join(parts[n : n + 2]) for n in range(0, len(parts), 2)] + [case.text.answer]
    written = [
        SimpleNamespace(index=n, author=author, text=in_case(text, author))
        for n, (author, text) in enumerate(zip(case.text.authors, steps, strict=True))
    ]
    trace = SimpleNamespace(steps=written, errors=[])
    right = {"reasoning": case.text.reasoning, "answer": case.text.answer, "trace": trace}
    return SimpleNamespace(**right | changes)


def failure(text: str = "small model: small-model failed: check the server", **fields: Any) -> Any:
    """An error that says all it has to, otherwise as said."""
    error = BackendError(text)
    error.role = "small"
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def judged(case: Case, result: Any) -> list[str]:
    outcome: Outcome = verdict(case, result, Streamed())
    return [what for what, _ in outcome.failures]


def test_what_is_right_passes(case: Case) -> None:
    case.faults["small"][0].fired = 0
    assert judged(case, answer(case)) == []


def test_a_letter_in_the_wrong_case_is_noticed(case: Case) -> None:
    result = answer(case)
    step = result.trace.steps[0]
    step.text = step.text[0].swapcase() + step.text[1:]

    assert judged(case, result) == ["wrong text"]


def test_a_lost_letter_is_noticed(case: Case) -> None:
    assert judged(case, answer(case, answer=case.text.answer[:-1])) == ["wrong text"]


def test_an_error_that_says_all_passes(case: Case) -> None:
    assert judged(case, failure()) == []


@pytest.mark.parametrize(
    ("error", "noticed"),
    [
        (ValueError("x"), "raw ValueError"),
        (TimeoutError("x"), "raw TimeoutError"),
        (failure("small model: small-model failed"), "no remedy"),
        (failure("small model failed: check it"), "no URL"),
        (failure("small-model failed: check the server", role=None), "wrong role"),
        (failure("small model: small-model: check \x1b[2J"), "control characters"),
        (failure("small model: small-model: check sk-secret-1-0-0123456789"), "secret"),
        (None, "no end"),
    ],
)
def test_what_an_error_lacks_is_noticed(case: Case, error: Any, noticed: str) -> None:
    assert noticed in judged(case, error)


def test_a_partial_that_is_no_beginning_is_noticed(case: Case) -> None:
    lost = answer(case, reasoning=case.text.reasoning[1:], answer="")

    assert judged(case, failure(partial=lost)) == ["partial is not a beginning"]


def test_a_model_that_should_have_gone_on_is_noticed(case: Case) -> None:
    case.options["on_backend_error"] = "large"

    assert judged(case, failure()) == ["did not go on: BackendError"]


def test_an_attempt_that_was_allowed_and_not_made_is_noticed(case: Case) -> None:
    case.options["max_retries"] = 1

    assert judged(case, failure()) == ["was not repeated"]
