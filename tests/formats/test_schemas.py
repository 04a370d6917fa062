"""Schemas in the forms of the providers, and answers that fit them or not."""

from __future__ import annotations

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import BaseModel

from srr_guard.errors import SamplingError
from srr_guard.formats.schemas import call_check, schema_check


class Recipe(BaseModel):
    name: str
    minutes: int


SCHEMA = Recipe.model_json_schema()
OPENAI = {"type": "function", "function": {"name": "Recipe", "parameters": SCHEMA}}
RESPONSES = {"type": "function", "name": "Recipe", "parameters": SCHEMA}
ANTHROPIC = {"name": "Recipe", "input_schema": SCHEMA}
BEDROCK = {"toolSpec": {"name": "Recipe", "inputSchema": {"json": SCHEMA}}}

TEXTS = {
    "json_schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "R", "schema": SCHEMA}}
    },
    "flat json_schema": {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    "class": {"response_format": Recipe},
    "Anthropic": {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    "Anthropic, old": {"output_format": {"type": "json_schema", "schema": SCHEMA}},
    "Google": {"response_mime_type": "application/json", "response_json_schema": SCHEMA},
    "Google, old": {"response_mime_type": "application/json", "response_schema": SCHEMA},
    "Ollama": {"format": SCHEMA},
    "Responses": {"text": {"format": {"type": "json_schema", "name": "R", "schema": SCHEMA}}},
    "Responses, class": {"text_format": Recipe},
}
ANY_JSON = {
    "json_object": {"response_format": {"type": "json_object"}},
    "json_schema without one": {"response_format": {"type": "json_schema"}},
    "Ollama": {"format": "json"},
    "Google": {"response_mime_type": "application/json"},
    "Responses": {"text": {"format": {"type": "json_object"}, "verbosity": "low"}},
}
CALLS = {
    "any": {"tools": [OPENAI], "tool_choice": "any"},
    "required": {"tools": [RESPONSES], "tool_choice": "required"},
    "by name": {"tools": [ANTHROPIC], "tool_choice": {"type": "tool", "name": "Recipe"}},
    "by function": {
        "tools": [OPENAI],
        "tool_choice": {"type": "function", "function": {"name": "Recipe"}},
    },
    "true": {"tools": [BEDROCK], "tool_choice": True},
    "one of some": {
        "tools": [RESPONSES],
        "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []},
    },
    "beside the provider's": {
        "tools": [RESPONSES, {"type": "web_search"}],
        "tool_choice": {"type": "function", "name": "Recipe"},
    },
}
NOTHING = [
    {},
    {"response_format": {"type": "text"}},
    {"output_config": {"effort": "high"}},
    {"tools": [OPENAI]},
    {"tools": [OPENAI], "tool_choice": "auto"},
    {"tools": [OPENAI], "tool_choice": {"type": "none"}},
    {"tool_choice": "any"},
    {"response_mime_type": "text/plain"},
    {"text": {"verbosity": "low"}},
    {"text": {"format": {"type": "text"}}},
    {"tools": [RESPONSES, {"type": "web_search"}], "tool_choice": "required"},
    {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
    {"tools": [RESPONSES], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    {
        "tools": [OPENAI],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}},
    },
]
GOOD, BAD = '{"name": "tea", "minutes": 3}', '{"name": "tea", "minutes": "a while"}'


def fits(options, message) -> bool:
    check = schema_check(options)
    assert check is not None
    try:
        check(message)
    except SamplingError as error:
        return "a while" in str(error)  # nothing of the answer may be in the error
    return True


def call(args, name="Recipe") -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": "1"}])


@pytest.mark.parametrize("form", TEXTS)
def test_texts(form):
    options = TEXTS[form]
    assert fits(options, AIMessage(GOOD))
    assert fits(options, AIMessage([{"type": "text", "text": GOOD}]))
    for bad in (BAD, "{}", "tea, 3 minutes", GOOD + "}"):
        assert not fits(options, AIMessage(bad))


@pytest.mark.parametrize("form", [*TEXTS, *ANY_JSON])
def test_a_form_in_extra_body(form):
    options = {**TEXTS, **ANY_JSON}[form]
    assert not fits({"extra_body": options}, AIMessage("tea, 3 minutes"))
    assert fits({**options, "extra_body": {"temperature": 1}}, AIMessage(GOOD))


@pytest.mark.parametrize("form", CALLS)
def test_a_call_in_extra_body(form):
    tools, choice = CALLS[form]["tools"], CALLS[form]["tool_choice"]
    for options in (
        {"extra_body": CALLS[form]},
        {"tools": tools, "extra_body": {"tool_choice": choice}},
        {"tool_choice": "auto", "extra_body": CALLS[form]},
    ):
        assert not fits(options, AIMessage("tea, 3 minutes"))


@pytest.mark.parametrize("form", ANY_JSON)
def test_any_json(form):
    assert fits(ANY_JSON[form], AIMessage("[1, 2]"))
    assert not fits(ANY_JSON[form], AIMessage("tea"))


@pytest.mark.parametrize("form", CALLS)
def test_calls(form):
    options = CALLS[form]
    assert fits(options, call({"name": "tea", "minutes": 3}))
    assert fits(options, call({"x": 1}, name="another tool"))
    assert not fits(options, call({"name": "tea", "minutes": "a while"}))
    assert not fits(options, call({}))
    assert not fits(options, AIMessage("tea, 3 minutes"))
    broken = [{"name": "Recipe", "args": "{a while", "id": "1", "error": None}]
    assert not fits(options, AIMessage("", invalid_tool_calls=broken))


@pytest.mark.parametrize("options", NOTHING)
def test_no_schema_is_asked_for(options):
    assert schema_check(options) is None


def test_what_is_not_checked():
    options = TEXTS["json_schema"]
    assert fits(options, call({"x": 1}, name="look_up"))  # an agent looks something up first
    assert fits(options, AIMessage("", additional_kwargs={"refusal": "No."}))
    assert fits(options, HumanMessage("tea"))
    assert fits(options, "tea")


@pytest.mark.parametrize("refusal", ["", "\u200b", " \ufeff"])
def test_a_refusal_that_shows_nothing_refuses_nothing(refusal):
    message = AIMessage("tea, 3 minutes", additional_kwargs={"refusal": refusal})
    assert not fits(TEXTS["json_schema"], message)


@pytest.mark.parametrize("options", [*TEXTS.values(), *CALLS.values()])
def test_what_pydantic_converts_fits_where_it_is_asked(options):
    check, lax = schema_check(options), schema_check(options, lax=True)
    assert check is not None
    assert lax is not None
    message = call({"name": "tea", "minutes": "3"})
    if "tools" not in options:
        message = AIMessage('{"name": "tea", "minutes": "3"}')
    lax(message)
    if Recipe not in options.values():  # a class decides by itself
        with pytest.raises(SamplingError, match="minutes"):
            check(message)


HOSTED = {"type": "web_search"}
NAMED = {
    "OpenAI": OPENAI,
    "Responses": RESPONSES,
    "Anthropic": ANTHROPIC,
    "Anthropic, custom": {"type": "custom", **ANTHROPIC},
    "Bedrock": BEDROCK,
    "OpenAI, custom": {"type": "custom", "custom": {"name": "Recipe"}},
    "Responses, custom": {"type": "custom", "name": "Recipe"},
}


@pytest.mark.parametrize("form", NAMED)
def test_calls_of_tools_that_were_not_given(form):
    broken = [{"name": "look_up", "args": "{", "id": "1", "error": None}]
    for options in ({"tools": [NAMED[form]]}, {"extra_body": {"tools": [NAMED[form]]}}):
        check = call_check(options)
        assert check is not None
        for message in (call({"x": 1}), AIMessage("tea"), HumanMessage("q"), "tea"):
            check(message)
        for message in (call({}, "look_up"), AIMessage("", invalid_tool_calls=broken)):
            with pytest.raises(SamplingError, match="not given; there are 'Recipe'") as caught:
                check(message)
            assert "look_up" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tools": None},
        {"tools": "Recipe"},
        {"tools": [RESPONSES, HOSTED]},
        {"tools": [ANTHROPIC, {"type": "bash_20250124", "name": "bash"}]},
        {"tools": [{"function_declarations": [{"name": "Recipe"}]}]},
        {"tools": [OPENAI], "functions": [{"name": "look_up"}]},
        {"tools": [RESPONSES], "input": [{"type": "additional_tools", "tools": [RESPONSES]}]},
        {"tools": [object()]},
    ],
)
def test_where_more_tools_may_be_called(options):
    assert call_check(options) is None


def test_schemas_that_cannot_be_used_allow_anything():
    broken = {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}
    assert fits({"response_format": broken}, AIMessage("[]"))
    google = {"tools": [{"function_declarations": []}], "tool_choice": "any"}
    assert fits(google, call({"x": 1}))
    assert fits({"tools": [{"name": "f", "input_schema": 7}], "tool_choice": "any"}, call({}, "f"))


def test_deeply_nested_text_is_no_json():
    assert not fits(ANY_JSON["Ollama"], AIMessage("[" * 100_000))
