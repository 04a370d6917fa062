"""Wrap a LangChain chain: four answers to each question, the best safe one is passed on.

    python examples/wrapped_chain.py "How do I keep my knives sharp?"

It runs on SmolLM2 on this machine, without a key or a network. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/wrapped_chain.py
"""

import os
import sys

from langchain.chat_models import init_chat_model
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from srr_guard import LocalChatModel, SafetyRanker, SamplingPolicy

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
model = init_chat_model(name) if name else LocalChatModel(max_new_tokens=tokens)

prompt = ChatPromptTemplate.from_messages(
    [("system", "You are a helpful assistant. Answer in two sentences."), ("user", "{question}")]
)
chain = prompt | model | StrOutputParser()  # any chain will do: all of it runs once per candidate
guarded = SafetyRanker(chain, sampling=SamplingPolicy(n=4))


def main() -> None:
    """Ask one question and show what was passed on, and why."""
    question = " ".join(sys.argv[1:]) or "How do I keep my kitchen knives sharp?"

    # `guarded` is a Runnable like the chain: invoke, ainvoke, batch, stream. `decide` tells more.
    decision = guarded.decide({"question": question})

    print(f"question  {question}")
    print(f"answer    {decision.output}")
    print(f"reason    {decision.reason}")
    for candidate in decision.candidates:
        mark = "*" if decision.chosen and candidate.index == decision.chosen.index else " "
        print(f"{mark} p_safe {candidate.p_safe:.2f}  {candidate.text[:70]!r}")


if __name__ == "__main__":
    main()
