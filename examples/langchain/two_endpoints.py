"""The pair behind two servers: any two that speak OpenAI's raw completions will do.

One sees the addresses of the two servers and a question that both of them answer together, step
by step. As it stands it starts both itself, in this process: the bundled models' files on
llama.cpp. About half a minute on two cores. Are yours suited? Ask `glimp check small
openai:MODEL@URL`.

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
    """An OpenAI-compatible server on a free port; it stops when it is let go of."""
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
    # MODEL@URL; without a MODEL it is the only one that the server lists.
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
    parser = argparse.ArgumentParser(description="A pair behind two servers.")
    parser.add_argument("--small", metavar="URL", help="default: a server of this process")
    parser.add_argument("--large", metavar="URL", help="default: a server of this process")
    parser.add_argument("question", nargs="?", default=QUESTION)
    main(**vars(parser.parse_args()))
