"""Put the guard on a plain function: it is called four times, the best safe answer returns.

    python examples/decorated_function.py "Why is the sky blue?"

It runs on SmolLM2 on this machine, without a key or a network. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/decorated_function.py
"""

import os
import sys

from langchain.chat_models import init_chat_model

from srr_guard import LocalChatModel, srr_guard

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
model = init_chat_model(name) if name else LocalChatModel(max_new_tokens=tokens)


@srr_guard(n=4, prompt="question")  # `prompt` names the parameter with what the user asked
def answer(question: str, style: str = "friendly") -> str:
    """Answer a question; any client, framework or HTTP call may stand here."""
    message = model.invoke([("system", f"Be {style} and brief."), ("user", question)])
    return message.text


def main() -> None:
    """Ask one question and show what was passed on, and why."""
    question = " ".join(sys.argv[1:]) or "Why is the sky blue?"

    print(f"question  {question}")
    print(f"answer    {answer(question, style='matter-of-fact')}")

    # the same call, with what was decided and why
    decision = answer.decide(question)
    print(f"reason    {decision.reason}")
    print(f"sampled   {decision.sampled}, {decision.distinct} of them distinct")
    print(f"seconds   {decision.timings.total:.1f}, {decision.timings.scoring:.2f} for scoring")


if __name__ == "__main__":
    main()
