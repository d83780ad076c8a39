"""The authors' loop, as the paper describes it: two requests a step.

One request for the first token, with its log-probabilities; one for the step, which stops at the
blank line. The glimpsed token is thrown away. Written from arXiv 2601.05110, section 3 and
appendix A, against raw completions.
"""

from __future__ import annotations

from dataclasses import dataclass

from openai import OpenAI

from benchmarks.lab.script import OPENED
from glimp_integrations.method.entropy import estimate

__all__ = ["Reply", "answer"]


@dataclass(frozen=True)
class Reply:
    """What the loop wrote."""

    text: str
    authors: tuple[str, ...]
    requests: int


def answer(small: OpenAI, large: OpenAI, question: str, threshold: float) -> Reply:
    """Answer one question."""
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n{OPENED}"
    text, authors, requests = "", [], 0
    while "</think>" not in text:
        first = small.completions.create(
            model="small", prompt=prompt + text, max_tokens=1, logprobs=20, temperature=0
        ).choices[0]
        assert first.logprobs is not None and first.logprobs.top_logprobs
        values = tuple(sorted(first.logprobs.top_logprobs[0].values(), reverse=True))
        author = "large" if estimate(values, "topk_renorm") > threshold else "small"
        client = large if author == "large" else small
        step = client.completions.create(
            model=author,
            prompt=prompt + text,
            max_tokens=512,
            temperature=0,
            stop=["\n\n", "</think>"],
        ).choices[0]
        # The server cuts the stop string off and tells which it was.
        text += step.text + str(step.stop_reason)  # type: ignore[attr-defined]
        authors.append(author)
        requests += 2
    rest = large.completions.create(
        model="large", prompt=prompt + text, max_tokens=2048, temperature=0
    )
    return Reply(text + rest.choices[0].text, tuple(authors), requests + 1)
