"""Outputs that are read by the message that says the same."""

from __future__ import annotations

import doctest
from typing import Any

import pytest
from langchain_core.messages import AIMessage

import srr_guard.formats.converted as module
from srr_guard.errors import SamplingError
from srr_guard.formats.converted import ConvertedDelivery, usage_of


def form(**changes: Any) -> ConvertedDelivery[Any]:
    parts: dict[str, Any] = {
        "message": lambda output: AIMessage(
            output["said"],
            usage_metadata=usage_of(output.get("given"), output.get("written")),
            response_metadata={"finish_reason": output.get("reason")},
        ),
        "refuse": lambda text, output: {"said": text},
        "attach": lambda output, decision: {**output, "decided": decision},
    }
    return ConvertedDelivery(**{**parts, **changes})


def test_docstring():
    assert doctest.testmod(module).failed == 0


def test_refusals():
    assert form().refusal("no", {"said": "yes"}) == {"said": "no"}
    assert form(refuse=None).refusal("no", {"said": "yes"}) is None


def test_usage():
    counted = [{"said": "a", "given": 1, "written": 2}, {"said": "b", "given": 3}, {"said": "c"}]
    total = form().usage(counted)
    assert total == {"input_tokens": 4, "output_tokens": 2, "total_tokens": 6}
    assert form().usage([{"said": "c"}]) is None


def test_what_the_provider_took_away_is_not_checked():
    def check(message: Any) -> None:
        raise SamplingError("no fit")

    checked = form(check=check)
    with pytest.raises(SamplingError):
        checked.read({"said": "a"})
    filtered = {"said": "", "reason": "content_filter"}
    assert checked.declined(filtered)
    assert checked.read(filtered).text == ""
