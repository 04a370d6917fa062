"""Objects in a provider's shape: its client's own, look-alikes, and plain dicts."""

from __future__ import annotations

import copy
import functools
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from pydantic import BaseModel

from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError


def field_of(thing: Any, name: str) -> Any:
    """A field of an object or dict; None where there is none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def as_sent(request: Mapping[str, Any], *, direct: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of a call as the client sends them: `extra_body` goes over all others.

    Args:
        request: Keyword arguments of the call.
        direct: Names that must not stand in `extra_body`.

    Raises:
        ConfigurationError: One of them does, or `extra_body` is no dict.
    """
    sent = {name: value for name, value in request.items() if name != "extra_body"}
    body = request.get("extra_body")
    if body is None:
        return sent
    if not isinstance(body, Mapping):
        raise ConfigurationError(f"extra_body={body!r:.80} is not read: give a dict")
    for name in direct:
        if name in body:
            raise ConfigurationError(f"{name!r} in extra_body is not read: give it as `{name}=`")
    return sent | dict(body)


def replaced(thing: Any, **changes: Any) -> Any:
    """Copy an object or dict, with some fields changed or added."""
    if isinstance(thing, BaseModel):
        return thing.model_copy(update=changes)
    if isinstance(thing, Mapping):
        return {**thing, **changes}
    changed = copy.copy(thing)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def plain(thing: Any) -> Any:
    """Convert a pydantic object, a dict, or an object with attributes to JSON-like values."""
    if isinstance(thing, BaseModel):
        # no warnings: providers fill the fields of these classes with what they like
        return thing.model_dump(mode="json", exclude_none=True, warnings=False)
    if isinstance(thing, Mapping):
        return {name: plain(value) for name, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [plain(value) for value in thing]
    if not hasattr(thing, "__dict__"):
        return thing
    return {name: plain(value) for name, value in vars(thing).items() if name[0] != "_"}


def build(kind: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Make an object of this class; a client's own are made unchecked, as it does itself."""
    clients = (sys.modules.get(name) for name in ("openai", "anthropic"))
    if any(client is not None and issubclass(kind, client.BaseModel) for client in clients):
        return kind.model_construct(**values)
    return kind.model_validate(values)


def total_usage(outputs: Sequence[Any]) -> Any:
    """The usage of these outputs, summed field by field, as a dict; None if none has one."""
    found = (field_of(output, "usage") for output in outputs)
    usages = [plain(usage) for usage in found if usage is not None]
    return functools.reduce(_sum, usages) if usages else None


def count_of(usage: Any, name: str) -> int:
    """A count of tokens; 0 where it is not given, or makes no sense."""
    value = field_of(usage, name)
    return value if isinstance(value, int) and value > 0 else 0


def with_decision(output: Any, decision: Decision[Any]) -> Any:
    """Copy an output, with the decision and the usage of all candidates on it."""
    summary, own = decision.summary(), field_of(output, "usage")
    if own is None:
        return replaced(output, srr_guard=summary)
    if decision.passed:
        summary["chosen_usage"] = plain(own)
    total = total_usage([candidate.output for candidate in decision.candidates])
    if isinstance(own, BaseModel):
        total = build(type(own), total)
    return replaced(output, srr_guard=summary, usage=total)


def add_call(
    message: AIMessage, name: Any, *, id: Any, arguments: Any = None, custom: Any = None
) -> None:
    """Add a tool call to a message; one that cannot be read becomes an invalid one.

    Args:
        message: Is changed.
        name: Of the tool.
        id: Of the call.
        arguments: JSON of the arguments.
        custom: Input of a custom tool, which is text, in place of arguments.
    """
    if custom is not None:
        message.tool_calls.append(tool_call(name=name, args={"input": custom}, id=id))
        return
    try:
        args = json.loads(arguments or "{}", strict=False)
    except (ValueError, TypeError, RecursionError):
        args = None
    if isinstance(args, dict) and isinstance(name, str):
        message.tool_calls.append(tool_call(name=name, args=args, id=id))
    else:
        message.invalid_tool_calls.append(
            invalid_tool_call(name=name, args=arguments, id=id, error="not a JSON object")
        )


def _sum(a: Any, b: Any) -> Any:
    """Add numbers, and dicts of them, field by field; keep the first of other values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return {k: _sum(a[k], b[k]) if k in a and k in b else a.get(k, b.get(k)) for k in a | b}
    both_numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    return a + b if both_numbers else a
