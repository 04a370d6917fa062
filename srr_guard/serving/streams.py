"""Answers that servers stream: read as one answer each, or cut off where their beginning is bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeGuard

import httpx2

from srr_guard.errors import UpstreamError
from srr_guard.protocols import AnswerWatch, CutOff
from srr_guard.reading import split_trace
from srr_guard.serving.problems import loads


class Watching(Protocol):
    """Makes what follows one streamed answer, or with `trace=True` its reasoning."""

    async def __call__(self, *, trace: bool = False) -> AnswerWatch:
        """Begin to follow."""
        ...


def is_stream(response: httpx2.Response) -> bool:
    """True if the server streams; some give the whole answer though a stream was asked for."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    return response.status_code == 200 and kind.strip().lower() == "text/event-stream"


Refusal = Callable[[int, Mapping[str, Any]], UpstreamError]


async def read_stream(
    response: httpx2.Response,
    path: str,
    watching: Watching,
    *,
    label: str,
    most: int,
    refusal: Refusal,
) -> dict[str, Any] | CutOff[dict[str, Any]]:
    """Read a streamed answer to its end, or until it is cut off.

    Args:
        response: Its body is a stream of events.
        path: `/chat/completions` or `/responses`.
        watching: Makes what follows the answer.
        label: Name of the server.
        most: Most characters of all events together.
        refusal: Makes the error of an event that holds one, from its status.

    Raises:
        UpstreamError: The stream ends too early, holds an error or no JSON, or is too large.
    """
    growing: _Growing = _Response() if path == "/responses" else _Completion()
    followed: dict[bool, AnswerWatch] = {False: await watching()}
    size = 0
    async for event in httpx2.EventSource(response, max_event_size=most):
        size += len(event.data)
        if size > most:
            raise _broken(label, "gave too large an answer")
        if event.data.strip() == "[DONE]":
            growing.ended = True
            break
        growing.add(_record(event, label, refusal), event.event)
        for trace, text in growing.texts():
            if trace not in followed:
                followed[trace] = await watching(trace=trace)
            followed[trace](text)
            if await followed[trace].acut(text):
                return CutOff(growing.cut())
    if not growing.ended:
        raise _broken(label, "broke its answer off")
    for trace, text in growing.texts():
        followed[trace](text, done=True)
    return growing.whole()


def _record(event: httpx2.ServerSentEvent, label: str, refusal: Refusal) -> Mapping[str, Any]:
    """The JSON object of an event; an empty one where there is none.

    Raises:
        UpstreamError: It is none, or it says that something went wrong.
    """
    if not event.data.strip():
        return {}
    try:
        found = loads(event.data)
    except (ValueError, RecursionError) as error:
        raise _broken(label, "gave no JSON in a stream") from error
    if not isinstance(found, Mapping):
        raise _broken(label, "gave no JSON object in a stream")
    wrong = "error" in (event.event, found.get("type"))
    if wrong or (found.get("error") is not None and "response" not in found):
        said = found.get("error")
        status = said.get("code") if isinstance(said, Mapping) else None
        if isinstance(status, int) and 400 <= status < 600:  # an answer's status, come too late
            raise refusal(status, found)
        raise _broken(label, "ended its answer with an error")
    return found


def _broken(label: str, what: str) -> UpstreamError:
    return UpstreamError(f"the server {label!r} {what}", status=502)


class _Growing(Protocol):
    ended: bool

    def add(self, record: Mapping[str, Any], event: str) -> None: ...

    def texts(self) -> list[tuple[bool, str]]:
        """What is written so far: of the reasoning (True) and of the answer (False)."""
        ...

    def whole(self) -> dict[str, Any]: ...

    def cut(self) -> dict[str, Any]:
        """The answer so far, as one that a filter ended."""
        ...


class _Completion:
    """A chat completion that grows by chunks. Choices after the first one are let be."""

    def __init__(self) -> None:
        self.ended = False
        self._common: dict[str, Any] = {}
        self._message: dict[str, Any] = {"role": "assistant", "content": None}
        self._calls: list[tuple[Any, dict[str, Any]]] = []
        self._logprobs: Any = None
        self._finish: Any = None

    def add(self, record: Mapping[str, Any], event: str) -> None:
        self._common |= {k: v for k, v in record.items() if k != "choices" and v is not None}
        choices = record.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if not isinstance(choice, Mapping) or choice.get("index") not in (0, None):
                continue
            delta = choice.get("delta")
            for name, value in delta.items() if isinstance(delta, Mapping) else ():
                if name == "tool_calls" and isinstance(value, list):
                    for call in value:
                        self._add_call(call)
                else:
                    self._message[name] = _joined(name, self._message.get(name), value)
            self._logprobs = _joined("logprobs", self._logprobs, choice.get("logprobs"))
            self._finish = choice.get("finish_reason") or self._finish
            self.ended = self.ended or self._finish is not None

    def _add_call(self, call: Any) -> None:
        """Add a piece of a call to its call: by index, else by id, else to the last one.

        Another id at a known index is another call: some servers count none. Some count late: a
        piece without id at a new index then belongs to the last call.
        """
        if not isinstance(call, Mapping):
            return
        index, ident = call.get("index"), call.get("id") or None
        seen = [known for known, _ in self._calls]
        if ident is None and index not in seen and len(seen) > 1 and seen[-1] == seen[-2]:
            index = None
        for known, whole in reversed(self._calls):
            if ident is None and index in (known, None):
                break
            if ident is not None and whole.get("id") in (ident, None) and index in (known, None):
                break
        else:
            whole = {}
            self._calls.append((index, whole))
        for name, value in call.items():
            if name != "index":
                whole[name] = _joined(name, whole.get(name), value)

    def texts(self) -> list[tuple[bool, str]]:
        said = [v for n in ("content", "refusal") if isinstance(v := self._message.get(n), str)]
        thought = [self._message.get(name) for name in ("reasoning_content", "reasoning")]
        text, tagged = split_trace("".join(said))
        trace = next((one for one in thought if isinstance(one, str) and one), tagged)
        return [(is_trace, one) for is_trace, one in ((True, trace), (False, text)) if one]

    def whole(self) -> dict[str, Any]:
        message = dict(self._message)
        if self._calls:
            by_index = all(isinstance(index, int) for index, _ in self._calls)
            calls = sorted(self._calls, key=lambda pair: pair[0] if by_index else 0)
            message["tool_calls"] = [{"type": "function", **call} for _, call in calls]
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        return {**self._common, "choices": [{**choice, "logprobs": self._logprobs}]}

    def cut(self) -> dict[str, Any]:
        self._finish = "content_filter"
        return self.whole()


def _joined(name: str, before: Any, more: Any) -> Any:
    """A value with a further piece of it."""
    if before is None or more is None:
        return more if before is None else before
    if isinstance(before, str) and isinstance(more, str):
        repeated = name in ("id", "type", "role") or (name == "name" and before == more)
        return before if repeated else before + more
    if name == "content" and isinstance(before, str | list) and isinstance(more, str | list):
        return _with_parts(before, more)
    if isinstance(before, Mapping) and isinstance(more, Mapping):
        return {k: _joined(k, before.get(k), more.get(k)) for k in {**before, **more}}
    if isinstance(before, list) and isinstance(more, list):
        return [*before, *more]
    return more


def _with_parts(before: str | list[Any], more: str | list[Any]) -> list[Any]:
    """The parts of both; texts that follow each other are one."""
    parts: list[Any] = []
    for part in [*_parts(before), *_parts(more)]:
        last = parts[-1] if parts else None
        if _is_text(last) and _is_text(part):
            parts[-1] = {**last, "text": last["text"] + part["text"]}
        else:
            parts.append(part)
    return parts


def _parts(content: str | list[Any]) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _is_text(part: Any) -> TypeGuard[Mapping[str, Any]]:
    return (
        isinstance(part, Mapping)
        and part.get("type") == "text"
        and isinstance(part.get("text"), str)
    )


class _Response:
    """A response that grows by events; the last one holds it whole."""

    def __init__(self) -> None:
        self.ended = False
        self._last: Mapping[str, Any] = {}
        self._text = self._trace = ""

    def add(self, record: Mapping[str, Any], event: str) -> None:
        kind = str(record.get("type") or event)
        response, delta = record.get("response"), record.get("delta")
        if isinstance(response, Mapping):
            self._last = response
            self.ended = kind.rpartition(".")[2] in ("completed", "incomplete", "failed")
        elif kind in ("response.output_text.delta", "response.refusal.delta"):
            self._text += delta if isinstance(delta, str) else ""
        elif kind.startswith("response.reasoning") and kind.endswith(".delta"):
            self._trace += delta if isinstance(delta, str) else ""

    def texts(self) -> list[tuple[bool, str]]:
        text, tagged = split_trace(self._text)
        pairs = ((True, self._trace or tagged), (False, text))
        return [(is_trace, one) for is_trace, one in pairs if one]

    def whole(self) -> dict[str, Any]:
        return dict(self._last)

    def cut(self) -> dict[str, Any]:
        part = {"type": "output_text", "text": self._text, "annotations": []}
        said = {"type": "message", "role": "assistant", "status": "incomplete", "content": [part]}
        thought = {"type": "summary_text", "text": self._trace}
        output = [{"type": "reasoning", "summary": [thought]}] if self._trace else []
        why = {"reason": "content_filter"}
        ended = {"status": "incomplete", "incomplete_details": why, "output": [*output, said]}
        return {**self._last, **ended}
