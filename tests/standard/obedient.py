"""A scripted chat model that does what it is asked: it calls the tools that are bound to it."""

from __future__ import annotations

import json
import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool


class ObedientChatModel(BaseChatModel):
    """All answers have usage and a model name, and tool calls when there are tools."""

    model_name: str = "obedient-1"

    @property
    def _llm_type(self) -> str:
        return "obedient"

    def bind_tools(self, tools, *, tool_choice=None, **kwargs):
        return self.bind(
            tools=[convert_to_openai_tool(t) for t in tools], tool_choice=tool_choice, **kwargs
        )

    def with_structured_output(self, schema, *, method="function_calling", **kwargs):
        kwargs.pop("strict", None)
        return super().with_structured_output(schema, method=method, **kwargs)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs) -> ChatResult:
        tools, choice = kwargs.get("tools") or [], kwargs.get("tool_choice")
        text, calls = "a good answer", []
        wanted = [t["function"] for t in tools if choice in (None, "any", t["function"]["name"])]
        if wanted and not isinstance(messages[-1], ToolMessage):
            text = ""
            calls = [
                {"name": wanted[0]["name"], "args": _arguments(wanted[0], messages), "id": "call_1"}
            ]
        message = AIMessage(
            text,
            tool_calls=calls,
            usage_metadata={"input_tokens": 3, "output_tokens": 4, "total_tokens": 7},
            response_metadata={"model_name": kwargs.get("model", self.model_name)},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])


def _arguments(function: dict[str, Any], messages: list[Any]) -> dict[str, Any]:
    prompt = str(messages[-1].content)
    number = re.search(r"\((\d+)\)", prompt)
    quoted = re.search(r"'([^']+)'", prompt)
    values = {
        "integer": int(number[1]) if number else 1,
        "string": quoted[1] if quoted else json.dumps(prompt)[:20],
    }
    properties = function["parameters"].get("properties", {})
    return {name: values.get(spec.get("type")) for name, spec in properties.items()}
