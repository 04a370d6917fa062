"""The parts of a guarded OpenAI client: what is guarded, what passes through, what is closed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

from srr_guard.formats import openai, response_events, responses
from srr_guard.formats.schemas import call_check, schema_check
from srr_guard_integrations.client_parts import (
    Creating,
    Proxy,
    Request,
    closed_error,
    require_one_answer,
    without_stream,
)


class GuardedClient(Proxy):
    """A client whose chat completions and responses are guarded."""

    guarded = frozenset({"chat", "responses", "audio", "completions"})
    closed = Proxy.closed | {
        *("beta", "realtime", "live", "batches", "images", "videos"),
        *("get", "get_api_list", "post", "request"),  # by which any answer can be had
    }

    @cached_property
    def chat(self) -> Any:
        """Chat completions, guarded."""
        return _Chat(self._wrapped.chat, self._guard)

    @cached_property
    def responses(self) -> Any:
        """Responses, guarded."""
        return _Responses(self._wrapped.responses, self._guard)

    @cached_property
    def audio(self) -> Any:
        """Audio, without speech."""
        return _Audio(self._wrapped.audio, self._guard)

    @cached_property
    def completions(self) -> Any:
        """The legacy completions, closed."""
        return _LegacyCompletions(self._wrapped.completions, self._guard)

    def with_options(self, **options: Any) -> GuardedClient:
        """Copy the client with other options; the copy shares the guard."""
        return GuardedClient(self._wrapped.with_options(**options), self._guard)

    def copy(self, **options: Any) -> GuardedClient:
        """Copy the client with other options; the copy shares the guard."""
        return GuardedClient(self._wrapped.copy(**options), self._guard)

    def __enter__(self) -> GuardedClient:
        self._wrapped.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._wrapped.__exit__(*error)

    async def __aenter__(self) -> GuardedClient:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._wrapped.__aexit__(*error)


class _Chat(Proxy):
    path = "chat."
    guarded = frozenset({"completions"})

    @cached_property
    def completions(self) -> Any:
        return _Completions(self._wrapped.completions, self._guard)


class _Audio(Proxy):
    path = "audio."
    closed = Proxy.closed | {"speech"}


class _LegacyCompletions(Proxy):
    """Closed when it is called, not when it is looked at: tracers put a wrapper around it."""

    path = "completions."
    guarded = frozenset({"create"})

    def create(self, *_: Any, **__: Any) -> Any:
        raise closed_error("completions.create")


class _Answering(Creating):
    """A part whose streams are the client's own, on guarded answers."""

    def stream(self, **kwargs: Any) -> Any:
        """Run the client's own `stream` on guarded answers: it calls `create`, which is ours."""
        stream = self._wrapped.__class__.stream
        return stream(_CreateOnly(self.create, self.path), **kwargs)


class _Completions(_Answering):
    path = "chat.completions."
    closed = Proxy.closed | {"retrieve", "list", "update"}

    def _read(self, kwargs: dict[str, Any]) -> Request:
        require_one_answer(kwargs)
        options = kwargs.get("stream_options")
        usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        return Request(
            openai.as_conversation(kwargs.get("messages")),
            without_stream(kwargs),
            openai.CompletionDelivery(schema_check(kwargs), call_check(kwargs)),
            partial(openai.as_chunks, usage=usage) if kwargs.get("stream") else None,
        )


class _Responses(_Answering):
    path = "responses."
    closed = Proxy.closed | {"retrieve", "cancel", "compact", "connect"}

    def _read(self, kwargs: dict[str, Any]) -> Request:
        return Request(
            responses.as_conversation(kwargs),
            without_stream(kwargs),
            responses.ResponseDelivery(schema_check(kwargs), call_check(kwargs)),
            response_events.as_events if kwargs.get("stream") else None,
        )


class _CreateOnly:
    """What the client's own `stream` gets as the part it belongs to: nothing but `create`."""

    def __init__(self, create: Callable[..., Any], path: str) -> None:
        self.create = create
        self._path = path

    def __getattr__(self, name: str) -> Any:
        raise closed_error(self._path + name)
