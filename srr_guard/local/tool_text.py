"""Tool calls as plain text, for chat models that were trained without them.

The tools stand in the system turn as JSON schemas; the model is asked to answer with
`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, the form that Hermes, Qwen and
SmolLM2 use.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.messages.tool import invalid_tool_call, tool_call

from srr_guard.errors import ConfigurationError

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
_ARGUMENTS = ("arguments", "parameters", "args")


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer taken apart: text outside the calls, calls, and calls that make no sense."""

    text: str
    tool_calls: list[ToolCall]
    invalid_tool_calls: list[InvalidToolCall]


def tool_names(tools: Sequence[dict[str, Any]]) -> list[str]:
    """Names of tools in OpenAI's form."""
    return [str(tool["function"]["name"]) for tool in tools]


def forced_prefix(tools: Sequence[dict[str, Any]], choice: str | dict[str, Any] | None) -> str:
    """The text an answer has to begin with so that it is a call of the tool chosen.

    Args:
        tools: Tools in OpenAI's form.
        choice: None, `auto`, `none`, `any`, `required`, a tool's name, or OpenAI's dict.

    Raises:
        ConfigurationError: There is no such tool.
    """
    if isinstance(choice, dict):
        choice = str(choice.get("function", choice).get("name"))
    if choice in (None, "auto", "none", False):
        return ""
    names = tool_names(tools)
    if choice in ("any", "required", True):
        if len(names) != 1:
            return '<tool_call>{"name": "'
        choice = names[0]
    if choice not in names:
        raise ConfigurationError(
            f"tool_choice={choice!r} names no bound tool: choose one of {names!r}, 'auto', "
            "'any' or 'none'"
        )
    return f'<tool_call>{{"name": "{choice}", "arguments": {{'


def ends_of_calls(tools: Sequence[dict[str, Any]], prefix: str) -> list[str]:
    """Texts that end an answer.

    A result is not for the model to write, nor is a second call where one was asked for.
    """
    if not tools:
        return []
    return ["<tool_response>", "</tool_call>"] if prefix else ["<tool_response>"]


def with_tool_text(
    messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]
) -> list[BaseMessage]:
    """Write the tools into the system turn, earlier calls and their results as text."""
    turns = [_as_text(message, tagged=bool(tools)) for message in messages]
    if not tools:
        return turns
    if turns and isinstance(turns[0], SystemMessage):
        first = turns[0]
        return [SystemMessage(f"{first.text}\n\n{_instructions(tools)}"), *turns[1:]]
    return [SystemMessage(_instructions(tools)), *turns]


def parse_answer(text: str, tools: Sequence[dict[str, Any]]) -> ParsedAnswer:
    """Find the tool calls in an answer.

    A call is what stands between the tags, or an answer that is nothing but a JSON object
    with a bound tool's name. One that cannot be read, or that names no bound tool, becomes
    an invalid tool call; text without tags is left as it is.
    """
    if not tools:
        return ParsedAnswer(text, [], [])
    names = tool_names(tools)
    tagged = _CALL.findall(text)
    if not tagged:
        value = _first_json(text.strip())
        if isinstance(value, dict) and value.get("name") in names and _arguments(value) is not None:
            return ParsedAnswer("", [_call(value)], [])
        return ParsedAnswer(text, [], [])
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for raw in tagged:
        value = _first_json(raw)
        for item in value if isinstance(value, list) else [value]:
            problem = _problem(item, names)
            if problem is None:
                calls.append(_call(item))
            else:
                invalid.append(_invalid(item, raw, problem))
    return ParsedAnswer(_CALL.sub("", text).strip(), calls, invalid)


def _instructions(tools: Sequence[dict[str, Any]]) -> str:
    """The schemas, and the line that calls each tool: small models copy lines, not grammars."""
    functions = [tool["function"] for tool in tools]
    schemas = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    lines = "\n".join(_blank_call(function) for function in functions)
    return (
        f"Tools:\n<tools>\n{schemas}\n</tools>\n"
        f"To use one, answer with one of these lines, its values filled in:\n{lines}\n"
        "After a <tool_response>, or where no tool helps, answer in plain text."
    )


def _blank_call(function: dict[str, Any]) -> str:
    names = function.get("parameters", {}).get("properties", {})
    call = {"name": function["name"], "arguments": {name: f"<{name}>" for name in names}}
    return f"<tool_call>{json.dumps(call, ensure_ascii=False)}</tool_call>"


def _as_text(message: BaseMessage, *, tagged: bool) -> BaseMessage:
    """Write calls and results in tags where tools are at hand, and in plain words where not.

    A small model that sees tags writes tags.
    """
    if isinstance(message, AIMessage) and message.tool_calls:
        lines = [_call_line(call, tagged=tagged) for call in message.tool_calls]
        return AIMessage("\n".join([*([message.text] if message.text else []), *lines]))
    if isinstance(message, ToolMessage):
        result = f"<tool_response>\n{message.text}\n</tool_response>"
        return HumanMessage(result if tagged else f"The tool's result: {message.text}")
    return message


def _call_line(call: ToolCall, *, tagged: bool) -> str:
    if not tagged:
        arguments = json.dumps(call["args"], ensure_ascii=False, default=str)
        return f"I call {call['name']} with {arguments}."
    named = {"name": call["name"], "arguments": call["args"]}
    return f"<tool_call>{json.dumps(named, ensure_ascii=False, default=str)}</tool_call>"


def _first_json(text: str) -> Any:
    """The JSON value that the text begins with; what follows it does not count."""
    try:
        return json.JSONDecoder().raw_decode(text)[0]
    except (ValueError, RecursionError):
        return None


def _arguments(value: dict[str, Any]) -> dict[str, Any] | None:
    found: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    return found if isinstance(found, dict) else None


def _problem(item: Any, names: Sequence[str]) -> str | None:
    if not isinstance(item, dict):
        return "not a JSON object"
    if item.get("name") not in names:
        return f"no tool is named {item.get('name')!r}; there are {list(names)!r}"
    return None if _arguments(item) is not None else "its arguments are not a JSON object"


def _call(item: dict[str, Any]) -> ToolCall:
    return tool_call(name=item["name"], args=_arguments(item) or {}, id=_new_id())


def _invalid(item: Any, raw: str, problem: str) -> InvalidToolCall:
    name = item.get("name") if isinstance(item, dict) else None
    return invalid_tool_call(
        name=name if isinstance(name, str) else None, args=raw, id=_new_id(), error=problem
    )


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
