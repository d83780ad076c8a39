"""The two models on two servers; any two with OpenAI's raw completions will do.

It prints the addresses of the servers, and a question that both answer together, step by step.
Without arguments it starts both servers itself: the bundled models on llama.cpp, in this process.
It takes about half a minute on two cores. `glimp check small openai:MODEL@URL` tells whether a
server of yours meets the requirements.

Run: python examples/langchain/two_endpoints.py
     python examples/langchain/two_endpoints.py --small http://gpu1:8000/v1 --large http://gpu2:8000/v1
"""

import argparse

import xllamacpp
from langchain_core.messages import BaseMessage
from langchain_core.prompts import ChatPromptTemplate
from rich.console import Console

from glimp_integrations.weights import LARGE, SMALL, WeightFile, ensure
from langchain_glimp import ChatGlimpRouter, StepPrinter

QUESTION = "A bus has 50 seats. 3 buses are full and a fourth one carries 17. How many people ride?"
PROMPT = ChatPromptTemplate.from_template("{question}\nThink step by step, without code.")


def serve(file: WeightFile) -> xllamacpp.Server:
    """An OpenAI-compatible server on a free port. It stops when nothing refers to it any more."""
    params = xllamacpp.CommonParams()
    params.model.path = str(ensure(file))
    params.model_alias = {file.model}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 4096
    params.n_parallel = 1
    params.verbosity = 0
    return xllamacpp.Server(params)


def main(
    small: str | None = None,
    large: str | None = None,
    question: str = QUESTION,
    max_tokens: int = 384,
) -> BaseMessage:
    servers = [serve(file) for url, file in ((small, SMALL), (large, LARGE)) if url is None]
    addresses = iter(f"{server.listening_address}/v1" for server in servers)
    # The model string is openai:MODEL@URL. Without MODEL it is the only one the server lists.
    llm = ChatGlimpRouter(
        small=f"openai:@{small or next(addresses)}",
        large=f"openai:@{large or next(addresses)}",
        temperature=0,
        max_tokens=max_tokens,
        step_events=True,
    )
    console = Console(highlight=False, markup=False)
    for role, backend in (("small", llm.router.small), ("large", llm.router.large)):
        console.print(f"{role}: {backend.label}")
    console.print(f"\n{question}\n")
    chain = PROMPT | llm
    return chain.invoke(
        {"question": question}, config={"callbacks": [StepPrinter(llm.threshold, console)]}
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Two models on two servers.")
    parser.add_argument("--small", metavar="URL", help="default: a server in this process")
    parser.add_argument("--large", metavar="URL", help="default: a server in this process")
    parser.add_argument("question", nargs="?", default=QUESTION)
    main(**vars(parser.parse_args()))
