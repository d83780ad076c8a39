"""Two models answer a question through LangChain, step by step, coloured by author.

Run: python examples/langchain/demo.py ["your question"]
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_glimp import ChatGlimpRouter, StepPrinter

QUESTION = (
    "A train travels 60 km in the first hour and 45 km in the second hour. How far does it still "
    "have to go if the whole trip is 180 km?"
)

question = " ".join(sys.argv[1:]) or QUESTION
llm = ChatGlimpRouter(temperature=0, step_events=True)  # no models named: the bundled models
chain = (
    ChatPromptTemplate.from_messages([("user", "{question} Think step by step.")])
    | llm
    | StrOutputParser()
)

print(f"{question}\n")
answer = chain.invoke({"question": question}, config={"callbacks": [StepPrinter(llm.threshold)]})
print(f"\nWhat the chain returned:\n{answer}")
