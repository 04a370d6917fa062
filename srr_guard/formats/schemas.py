"""Tells answers that fit the schema they were asked for from those that do not.

The schema is read from the arguments of the model call, in the forms of OpenAI, Anthropic,
Bedrock, Google, Ollama and those who follow them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.utils.function_calling import convert_to_json_schema
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from srr_guard.characters import is_blank
from srr_guard.errors import SamplingError
from srr_guard.formats.fitting import misfit_of
from srr_guard.formats.shapes import as_sent, field_of, plain

Check = Callable[[Any], None]
"""Raises SamplingError for an answer that does not fit."""


def schema_check(
    options: Mapping[str, Any],
    *,
    lax: bool = False,
    lax_calls: bool | None = None,
    types: Mapping[str, Any] | None = None,
) -> Check | None:
    """The check for answers to a model call; None where no schema is asked for.

    A schema is asked for by a response format, or by tools of which one must be called. What
    declines, calls a tool in place of an answer, or is no message is not checked.

    Args:
        options: Keyword arguments of the call; what `extra_body` holds counts like them.
        lax: Whoever asks takes what pydantic converts, such as "3" for an integer.
        lax_calls: The same of the arguments of tools; None: as `lax` says.
        types: What whoever asks will make of the arguments of a tool, by its name, and of the whole
            answer, by "": types decide by themselves what fits, schemas strictly.

    Raises:
        ConfigurationError: `extra_body` is no dict.
    """
    sent = as_sent(options)
    schema = _response_schema(sent)
    tools = _forced_tools(sent)
    if schema is None and tools is None:
        return None
    exact = types or {}
    lax_calls = lax if lax_calls is None else lax_calls
    wanted = {**(tools or {}), **exact}

    def check(output: Any) -> None:
        if not isinstance(output, AIMessage) or _declines(output.additional_kwargs.get("refusal")):
            return
        calls = [*output.tool_calls, *output.invalid_tool_calls]
        if calls:
            _require_objects(output)
            for name, args in ((call["name"], call["args"]) for call in output.tool_calls):
                converts = lax_calls and name not in exact
                _check_value(args, wanted.get(name), f"arguments of {name!r}", converts)
        elif tools is not None:
            raise _misfit("calls none of the tools, one of which must be called")
        elif schema is not None:
            _check_text(output.text, exact.get("", schema), lax and "" not in exact)

    return check


def call_check(options: Mapping[str, Any]) -> Check | None:
    """The check that only tools that were given are called; None where others may be, too.

    The provider's own tools may bring more, as those that search for tools do. A tool that is not
    given is a name that the model made up: whoever calls it has nothing to call.

    Args:
        options: Keyword arguments of the call; what `extra_body` holds counts like them.

    Raises:
        ConfigurationError: `extra_body` is no dict.
    """
    sent = as_sent(options)
    given, items = sent.get("tools"), sent.get("input")
    if sent.get("functions") or not isinstance(given, Iterable) or isinstance(given, (str, bytes)):
        return None
    names = [_tool_name(tool) for tool in given]
    # items of OpenAI's responses may bring tools too
    kinds = [field_of(item, "type") for item in items] if isinstance(items, (list, tuple)) else []
    if None in names or "additional_tools" in kinds:
        return None

    def check(output: Any) -> None:
        if not isinstance(output, AIMessage):
            return
        calls = [*output.tool_calls, *output.invalid_tool_calls]
        if any(call["name"] and call["name"] not in names for call in calls):
            raise SamplingError(
                "the candidate cannot be used: it calls a tool that was not given; there are "
                f"{', '.join(map(repr, names)) or 'none'}"
            )

    return check


def structured_check(schema: Any) -> Check | None:
    """The check for what LangChain's `with_structured_output(schema)` gives.

    Returns:
        None for a pydantic class, which checks by itself, and for what has no JSON schema.
    """
    if isinstance(schema, type) and is_basemodel_subclass(schema):  # of either version
        return None
    try:
        wanted = convert_to_json_schema(schema)
    except Exception:  # noqa: BLE001 (the model's own method says what is wrong with it)
        return None

    def check(output: Any) -> None:
        whole = isinstance(output, dict) and output.keys() == {"raw", "parsed", "parsing_error"}
        value = output["parsed"] if whole else output
        if value is not None:
            _check_value(value, wanted, "answer", lax=False)

    return check


def every(*checks: Check | None) -> Check | None:
    """One check for several; None for none."""
    found = [check for check in checks if check is not None]
    if not found:
        return None

    def check(output: Any) -> None:
        for one in found:
            one(output)

    return check


def _tool_name(tool: Any) -> str | None:
    """The name of a tool of the app's own; None for any other."""
    if callable(tool) and not isinstance(tool, type):  # Ollama
        return getattr(tool, "__name__", None)
    match plain(tool) if isinstance(tool, BaseModel) else tool:
        case {"type": "function" | "custom" as kind, **rest}:
            named = rest.get(kind, rest)
        case {"type": _}:
            return None
        case {"function": named} | {"toolSpec": named} | named:
            pass
    name = named.get("name") if isinstance(named, Mapping) else None
    return name if isinstance(name, str) else None


def _declines(refusal: Any) -> bool:
    return not is_blank(refusal) if isinstance(refusal, str) else bool(refusal)


def _require_objects(message: AIMessage) -> None:
    if message.invalid_tool_calls:
        raise _misfit(
            f"calls {message.invalid_tool_calls[0]['name']!r} with arguments that are "
            "no JSON object"
        )


def _check_text(text: str, schema: Any, lax: bool) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _misfit("is no JSON") from error
    _check_value(value, schema, "answer", lax)


def _check_value(value: Any, schema: Any, name: str, lax: bool) -> None:
    if (found := misfit_of(value, schema, lax=lax)) is not None:
        raise _misfit(f"does not fit: {name}, {found}")


def _misfit(why: str) -> SamplingError:
    return SamplingError(f"the candidate cannot be used, for a schema was asked for: it {why}")


def _response_schema(options: Mapping[str, Any]) -> Any:
    """The schema of the whole answer: a dict, a pydantic class, `{}` for any JSON; None."""
    names = ("response_format", "text_format", "output_format", "format")
    text = options.get("text")  # of OpenAI's responses
    formats = [*map(options.get, names), text.get("format") if isinstance(text, Mapping) else None]
    for wanted in formats:
        if isinstance(wanted, type) and issubclass(wanted, BaseModel):
            return wanted
        if wanted == "json":
            return {}
        if isinstance(wanted, Mapping):
            return _schema_in(wanted)
    if isinstance(output := options.get("output_config"), Mapping):
        wanted = output.get("format")
        return _schema_in(wanted) if isinstance(wanted, Mapping) else None
    if options.get("response_mime_type") == "application/json":
        schema = options.get("response_json_schema") or options.get("response_schema")
        return schema if isinstance(schema, Mapping) else {}
    return None


def _schema_in(wanted: Mapping[str, Any]) -> Any:
    """The schema in a response format; one that asks for text has none."""
    match wanted:
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"json_schema": {"schema": schema}} | {"schema": schema}:
            return schema
        case {"type": "json_schema"}:
            return {}
    return wanted  # Ollama: the schema itself


def _forced_tools(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Schemas of the tools by name where one must be called; None where none must."""
    given, choice = options.get("tools"), options.get("tool_choice")
    tools = list(given) if isinstance(given, Iterable) else None
    if tools is None or not _is_forced(choice):
        return None
    names_one = isinstance(choice, Mapping) and choice.get("type") in ("function", "custom")
    if not names_one and any(map(_is_hosted, tools)):
        return None  # the provider's own tool may be the one
    return dict(found for tool in tools if (found := _tool_schema(tool)) is not None)


def _is_forced(choice: Any) -> bool:
    match choice:
        case {"type": "allowed_tools", "allowed_tools": {"mode": mode}}:
            choice = mode
        case {"type": "allowed_tools", "mode": mode}:
            choice = mode
        case {"type": kind}:
            choice = kind
    return choice not in (None, False, "auto", "none", "")


def _is_hosted(tool: Any) -> bool:
    """True for a tool that OpenAI's responses run themselves."""
    match tool:
        case {"type": "function" | "custom"}:
            return False
        case {"type": str()}:
            return _tool_schema(tool) is None
    return False


def _tool_schema(tool: Any) -> tuple[str, Any] | None:
    match tool:
        case {"function": {"name": str(name), **rest}}:  # OpenAI
            return name, rest.get("parameters") or {}
        case {"toolSpec": {"name": str(name), "inputSchema": {"json": schema}}}:  # Bedrock
            return name, schema
        case {"name": str(name), "input_schema": schema}:  # Anthropic
            return name, schema
        case {"name": str(name), **rest}:  # OpenAI's responses, Google
            return name, rest.get("parameters") or {}
    return None
