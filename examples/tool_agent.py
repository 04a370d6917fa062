"""An agent whose every step is the best safe one of four: answers and tool calls alike.

    python examples/tool_agent.py "What is the weather in Oslo?"

It runs on SmolLM2 on this machine, without a key or a network; that model is so small that
`look_first` has to tell it when to use the tool. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/tool_agent.py
"""

import os
import sys

from langchain.agents import create_agent
from langchain.agents.middleware import wrap_model_call
from langchain.chat_models import init_chat_model
from langchain_core.tools import tool

from srr_guard import LocalChatModel, SafetyRanker, SamplingPolicy

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
local = LocalChatModel(max_new_tokens=tokens, temperature=0.2)
model = init_chat_model(name) if name else local


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is 21 degrees and sunny in {city}."


@wrap_model_call
def look_first(request, handler):
    """Have the first step call the tool, and the second one answer."""
    if len(request.messages) == 1:
        return handler(request.override(tool_choice="get_weather"))
    return handler(request.override(tools=[]))


agent = create_agent(
    model=SafetyRanker(model, sampling=SamplingPolicy(n=4)),
    tools=[get_weather],
    system_prompt="You are a weather assistant. Say what get_weather found.",
    middleware=[look_first],
)


def main() -> None:
    """Ask one question and show what was passed on, and why."""
    question = " ".join(sys.argv[1:]) or "What is the weather in Oslo?"
    state = agent.invoke({"messages": [("user", question)]})
    for message in state["messages"]:
        print(f"{message.type:<6} {message.text}")
        for call in getattr(message, "tool_calls", ()):
            print(f"       calls {call['name']}({call['args']})")
        if decided := message.response_metadata.get("srr_guard"):
            print(f"       {decided['reason']}, p_safe {decided['p_safe']}")


if __name__ == "__main__":
    main()
