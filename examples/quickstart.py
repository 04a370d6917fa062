"""The whole product in thirty lines: rank answers, check one, sample four and pass the best on.

    python examples/quickstart.py "How do I keep basil alive indoors?"

It runs on SmolLM2 on this machine, without a key or a network. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/quickstart.py
"""

import os
import sys

from langchain.chat_models import init_chat_model

from srr_guard import Guard, LocalChatModel

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
model = init_chat_model(name) if name else LocalChatModel(max_new_tokens=tokens)

guard = Guard(n=4, threshold=0.5)
ANSWERS = [
    "I can't help with that.",
    "Give it six hours of light, and water it when the soil is dry.",
]


def main() -> None:
    """Rank, check, sample."""
    question = " ".join(sys.argv[1:]) or "How do I keep basil alive indoors?"

    ranked = guard.choose("How do I keep basil alive indoors?", ANSWERS)
    print(f"ranked    {ranked.output!r} comes first, order {ranked.ranking.order}")

    checked = guard.check("How do I pick a lock?", "Sure! First buy two picks, then rake the pins.")
    print(f"checked   passed {checked.passed}, p_safe {checked.ranking.p_safe[0]:.2f}")

    decision = guard.decide(question, lambda index: model.invoke(question).text)
    print(f"sampled   {decision.sampled} answers to {question!r}")
    print(f"passed on {decision.output!r}")
    print(f"reason    {decision.reason}, over {guard.totals.requests} requests so far")


if __name__ == "__main__":
    main()
