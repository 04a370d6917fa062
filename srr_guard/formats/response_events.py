"""A response as the events by which the Responses API streams it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from srr_guard.errors import MissingExtraError
from srr_guard.formats.shapes import field_of, plain, replaced

_CLASSES = {
    "response.created": "ResponseCreatedEvent",
    "response.in_progress": "ResponseInProgressEvent",
    "response.completed": "ResponseCompletedEvent",
    "response.incomplete": "ResponseIncompleteEvent",
    "response.output_item.added": "ResponseOutputItemAddedEvent",
    "response.output_item.done": "ResponseOutputItemDoneEvent",
    "response.content_part.added": "ResponseContentPartAddedEvent",
    "response.content_part.done": "ResponseContentPartDoneEvent",
    "response.output_text.delta": "ResponseTextDeltaEvent",
    "response.output_text.annotation.added": "ResponseOutputTextAnnotationAddedEvent",
    "response.output_text.done": "ResponseTextDoneEvent",
    "response.refusal.delta": "ResponseRefusalDeltaEvent",
    "response.refusal.done": "ResponseRefusalDoneEvent",
    "response.function_call_arguments.delta": "ResponseFunctionCallArgumentsDeltaEvent",
    "response.function_call_arguments.done": "ResponseFunctionCallArgumentsDoneEvent",
    "response.custom_tool_call_input.delta": "ResponseCustomToolCallInputDeltaEvent",
    "response.custom_tool_call_input.done": "ResponseCustomToolCallInputDoneEvent",
    "response.reasoning_summary_part.added": "ResponseReasoningSummaryPartAddedEvent",
    "response.reasoning_summary_text.delta": "ResponseReasoningSummaryTextDeltaEvent",
    "response.reasoning_summary_text.done": "ResponseReasoningSummaryTextDoneEvent",
    "response.reasoning_summary_part.done": "ResponseReasoningSummaryPartDoneEvent",
    "response.reasoning_text.delta": "ResponseReasoningTextDeltaEvent",
    "response.reasoning_text.done": "ResponseReasoningTextDoneEvent",
}


def as_events(response: Any) -> list[Any]:
    """Split a response into the API's events: each text and each call's arguments in one delta.

    Items of the provider's own tools are added and done, without events between.

    Raises:
        MissingExtraError: The package `openai` is not installed.
    """
    try:
        from openai.types import responses as types
    except ImportError as error:
        raise MissingExtraError(
            package="openai", extra="openai", purpose="streaming a guarded response"
        ) from error
    whole = response
    if not isinstance(response, types.Response):
        whole = types.Response.model_construct(**plain(response))
    found = {kind: getattr(types, name, None) for kind, name in _CLASSES.items()}
    classes: dict[str, Any] = {kind: cls for kind, cls in found.items() if cls is not None}
    records = event_records(whole, known=classes)
    made: list[Any] = [classes[record["type"]].model_construct(**record) for record in records]
    return made


def event_records(
    response: Any, *, known: Collection[str] = frozenset(_CLASSES)
) -> list[dict[str, Any]]:
    """Split a response into the API's events, as dicts that hold its items unchanged.

    Args:
        response: A response of the `openai` package, or a dict.
        known: Types of the events that are made; others are left out.
    """
    begun: dict[str, Any] = {
        "status": "in_progress",
        "output": [],
        "usage": None,
        "incomplete_details": None,
    }
    extra = dict.fromkeys(getattr(response, "model_extra", None) or {})
    if isinstance(response, Mapping):
        extra = dict.fromkeys(response.keys() & {"output_text", "srr_guard"})
    snapshot = replaced(response, **begun | extra)
    events = _Events(known)
    events.add("response.created", response=snapshot)
    events.add("response.in_progress", response=replaced(snapshot))
    for index, item in enumerate(field_of(response, "output")):
        events.add_item(item, index)
    end = "incomplete" if field_of(response, "status") == "incomplete" else "completed"
    events.add(f"response.{end}", response=response)
    return events.made


class _Events:
    """Makes events one by one.

    Attributes:
        made: The events so far.
    """

    def __init__(self, known: Collection[str]) -> None:
        self.made: list[dict[str, Any]] = []
        self._known = known

    def add(self, kind: str, **fields: Any) -> None:
        """Add an event, unless it is not known."""
        if kind in self._known:
            self.made.append({"type": kind, "sequence_number": len(self.made), **fields})

    def add_item(self, item: Any, index: int) -> None:
        """Add the events of an item of the output."""
        place = {"item_id": field_of(item, "id") or "", "output_index": index}
        self.add("response.output_item.added", item=_begun(item), output_index=index)
        match field_of(item, "type"):
            case "message":
                for number, part in enumerate(_listed(item, "content")):
                    self._add_part(part, {**place, "content_index": number})
            case "reasoning":
                self._add_reasoning(item, place)
            case "function_call":
                self._add_text("function_call_arguments", item, "arguments", place)
            case "custom_tool_call":
                self._add_text("custom_tool_call_input", item, "input", place)
        self.add("response.output_item.done", item=item, output_index=index)

    def _add_part(self, part: Any, place: dict[str, Any]) -> None:
        self.add("response.content_part.added", part=_begun(part), **place)
        match field_of(part, "type"):
            case "output_text":
                text = field_of(part, "text")
                logprobs = {"logprobs": field_of(part, "logprobs") or []}
                self.add("response.output_text.delta", delta=text, **place, **logprobs)
                for number, annotation in enumerate(_listed(part, "annotations")):
                    self.add(
                        "response.output_text.annotation.added",
                        annotation=plain(annotation),
                        annotation_index=number,
                        **place,
                    )
                self.add("response.output_text.done", text=text, **place, **logprobs)
            case "refusal":
                self._add_text("refusal", part, "refusal", place)
        self.add("response.content_part.done", part=part, **place)

    def _add_reasoning(self, item: Any, place: dict[str, Any]) -> None:
        for number, part in enumerate(_listed(item, "summary")):
            where = {**place, "summary_index": number}
            self.add("response.reasoning_summary_part.added", part=_begun(part), **where)
            self._add_text("reasoning_summary_text", part, "text", where)
            self.add("response.reasoning_summary_part.done", part=part, **where)
        for number, part in enumerate(_listed(item, "content")):
            self._add_text("reasoning_text", part, "text", {**place, "content_index": number})

    def _add_text(self, kind: str, thing: Any, field: str, place: dict[str, Any]) -> None:
        text = field_of(thing, field)
        self.add(f"response.{kind}.delta", delta=text, **place)
        self.add(f"response.{kind}.done", **{field: text}, **place)


_EMPTY: dict[str, dict[str, Any]] = {
    "message": {"content": [], "status": "in_progress"},
    "reasoning": {"summary": [], "content": None},
    "function_call": {"arguments": "", "status": "in_progress"},
    "custom_tool_call": {"input": ""},
    "output_text": {"text": "", "annotations": [], "logprobs": []},
    "refusal": {"refusal": ""},
    "summary_text": {"text": ""},
}


def _listed(thing: Any, name: str) -> Sequence[Any]:
    """The parts in a field; none where it holds something else."""
    found = field_of(thing, name)
    return found if isinstance(found, (list, tuple)) else ()


def _begun(thing: Any) -> Any:
    """An item or part as it is when it begins; other kinds come whole."""
    kind = field_of(thing, "type")
    empty = _EMPTY.get(kind) if isinstance(kind, str) else None
    known = isinstance(thing, (BaseModel, Mapping))
    return replaced(thing, **empty) if empty and known else thing
