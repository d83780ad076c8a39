"""A question answered by two models through LangChain, step by step, coloured by author.

Run: python examples/langchain/demo.py ["your question"]
"""

import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from langchain_glimp import ChatGlimpRouter, StepPrinter

QUESTION = (
    "A bakery makes 48 rolls. In the morning it sells half of them, in the afternoon a third "
    "of the rest. How many rolls are left?"
)

question = " ".join(sys.argv[1:]) or QUESTION
llm = ChatGlimpRouter(temperature=0, step_events=True)  # no models named: the embedded pair
chain = (
    ChatPromptTemplate.from_messages([("user", "{question} Think step by step.")])
    | llm
    | StrOutputParser()
)

print(f"{question}\n")
answer = chain.invoke({"question": question}, config={"callbacks": [StepPrinter(llm.threshold)]})
print(f"\nWhat the chain returned:\n{answer}")
