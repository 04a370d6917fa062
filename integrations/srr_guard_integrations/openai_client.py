"""`guard_chat_completions`: the guard for OpenAI clients and whatever has their shape."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cached_property
from typing import Any, ClassVar, TypeVar, cast

from srr_guard import Decision, DecisionPolicy, Guard, ResponseScorer, SamplingPolicy
from srr_guard.core.calls import FunctionSource, require_plain
from srr_guard.errors import ConfigurationError
from srr_guard.formats.openai import CompletionDelivery, as_chunks, as_conversation
from srr_guard.formats.schemas import schema_check
from srr_guard.replay import listed
from srr_guard.wrappers.settings import guard_of

C = TypeVar("C")


def guard_chat_completions(
    client: C,
    *,
    scorer: ResponseScorer | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    n: int | None = None,
    threshold: float | None = None,
    guard: Guard | None = None,
) -> C:
    """Wrap a client so that each chat completion is the best safe one of several.

    `client.chat.completions.create` and `parse` are called n times side by side, with your own
    arguments. The chosen completion is returned with two changes: its `usage` is the sum over
    all candidates, and `completion.srr_guard` is the decision as a dict (see
    `Decision.summary`; `chosen_usage` is the chosen candidate's own usage). A refusal is a
    completion too: its text is both `content` and `refusal`, its finish reason
    `content_filter`.

    With `stream=True` the candidates are not streamed: one is selected, then emitted as
    chunks, the first of which holds the whole message. The last chunk carries `srr_guard`.

    Whatever traces the client sees each candidate where it is put inside the guard, and the
    chosen completion where it is put around it.

    `stream()`, `with_raw_response` and `with_streaming_response` raise, because nothing could
    be scored there. Everything else passes through unguarded, `client.responses` and
    `client.beta` included. The message's text, refusal, audio transcript, tool calls and
    reasoning (`reasoning_content`, `reasoning`) are scored; other fields of a provider are not.

    Args:
        client: An `OpenAI` or `AsyncOpenAI` client, or an object with
            `chat.completions.create(**kwargs)`, sync or async, that returns OpenAI-shaped
            completions. It is not changed.
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        on_decision: Called with each Decision (see `Guard`); its outputs are completions.
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of `scorer`, both policies and `on_decision`.

    Returns:
        An object that is used like the client.

    Raises:
        ConfigurationError: The client has no `chat.completions.create`, or an argument is of
            the wrong kind.

    Example:
        >>> from types import SimpleNamespace as Thing
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer", "a bad answer", "a bad answer"])
        >>> def create(**kwargs):
        ...     message = Thing(role="assistant", content=next(answers))
        ...     return Thing(choices=[Thing(message=message, finish_reason="stop")])
        >>> client = Thing(chat=Thing(completions=Thing(create=create)))
        >>> guarded = guard_chat_completions(
        ...     client, scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        ... )
        >>> question = {"role": "user", "content": "How do magnets work?"}
        >>> completion = guarded.chat.completions.create(messages=[question])
        >>> completion.choices[0].message.content, completion.srr_guard["reason"]
        ('a good answer', 'best_of_n')
    """
    chat = getattr(client, "chat", None)
    if not callable(getattr(getattr(chat, "completions", None), "create", None)):
        raise ConfigurationError(
            f"a client of type {type(client).__name__!r} has no `chat.completions.create`: give "
            "an OpenAI client or an object of its shape"
        )
    shared = guard_of(
        guard,
        scorer=scorer,
        sampling=sampling,
        decision=decision,
        on_decision=on_decision,
        n=n,
        threshold=threshold,
    )
    require_plain(shared.sampling)
    return cast("C", _Client(client, shared))


class _Proxy:
    """Stands for a part of a client: passes on every attribute, except what bypasses the guard.

    It is of the part's type for `isinstance`. Setting an attribute sets it on the part itself,
    but for the guarded ones: what stands in their place (a tracer's wrapper, say) is called
    outside the guard, and calls it.
    """

    closed: ClassVar[frozenset[str]] = frozenset({"with_raw_response", "with_streaming_response"})
    guarded: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, wrapped: Any, guard: Guard) -> None:
        vars(self).update(_wrapped=wrapped, _guard=guard)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return type(self._wrapped)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.closed:
            raise ConfigurationError(
                f"{name!r} of a guarded client is closed: set it on the client"
            )
        if name in self.guarded:
            vars(self)[name] = value
        else:
            setattr(self._wrapped, name, value)

    def __getattr__(self, name: str) -> Any:
        if name in self.closed:
            raise ConfigurationError(
                f"{name!r} of a guarded client would pass answers on unscored: use "
                "`chat.completions.create`, with `stream=True` where chunks are wanted, or the "
                "client itself"
            )
        if name == "_wrapped":  # not set yet, as in a copy in the making
            raise AttributeError(name)
        return getattr(self._wrapped, name)

    def __repr__(self) -> str:
        return f"guarded {self._wrapped!r}"


class _Client(_Proxy):
    guarded = frozenset({"chat"})

    @cached_property
    def chat(self) -> Any:
        return _Chat(self._wrapped.chat, self._guard)

    def with_options(self, **options: Any) -> _Client:
        return _Client(self._wrapped.with_options(**options), self._guard)

    def copy(self, **options: Any) -> _Client:
        return _Client(self._wrapped.copy(**options), self._guard)

    def __enter__(self) -> _Client:
        self._wrapped.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._wrapped.__exit__(*error)

    async def __aenter__(self) -> _Client:
        await self._wrapped.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> Any:
        return await self._wrapped.__aexit__(*error)


class _Chat(_Proxy):
    guarded = frozenset({"completions"})

    @cached_property
    def completions(self) -> Any:
        return _Completions(self._wrapped.completions, self._guard)


class _Completions(_Proxy):
    closed = _Proxy.closed | {"stream"}
    guarded = frozenset({"create", "parse"})

    def create(self, **kwargs: Any) -> Any:
        return self._answer(self._wrapped.create, kwargs)

    def parse(self, **kwargs: Any) -> Any:
        return self._answer(self._wrapped.parse, kwargs)

    def _answer(self, method: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """Answer for a sync client; return an awaitable for an async one."""
        kwargs = listed(kwargs)  # the client takes any iterable, and is called several times
        n = kwargs.get("n")
        if isinstance(n, int) and n != 1:
            raise ConfigurationError(
                f"n={n!r} asks a guarded client for several answers, and it returns the best one: "
                "leave n out, and set the candidates with `sampling=SamplingPolicy(n=...)`"
            )
        if _is_async(method):
            return self._acomplete(method, kwargs)
        return self._complete(method, kwargs)

    def _complete(self, method: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        arguments = _without_stream(kwargs)
        completion = self._guard.decide(
            as_conversation(kwargs.get("messages")),
            FunctionSource(lambda _: method(**arguments), isolated=False),
            delivery=CompletionDelivery(schema_check(kwargs)),
        ).output
        if kwargs.get("stream"):
            return ChunkStream(as_chunks(completion, usage=_wants_usage(kwargs)))
        return completion

    async def _acomplete(self, method: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        arguments = _without_stream(kwargs)

        async def call(_: int) -> Any:
            return await method(**arguments)

        asked = as_conversation(kwargs.get("messages"))
        form = CompletionDelivery(schema_check(kwargs))
        source = FunctionSource(call, isolated=False)
        completion = (await self._guard.adecide(asked, source, delivery=form)).output
        if kwargs.get("stream"):
            return AsyncChunkStream(as_chunks(completion, usage=_wants_usage(kwargs)))
        return completion


class ChunkStream:
    """The chunks of the chosen completion; used like `openai.Stream`.

    Example:
        >>> with ChunkStream(["a chunk", "another"]) as stream:
        ...     list(stream)
        ['a chunk', 'another']
    """

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def __enter__(self) -> ChunkStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the remaining chunks."""
        self._chunks = iter(())


class AsyncChunkStream:
    """The chunks of the chosen completion; used like `openai.AsyncStream`.

    Example:
        >>> import asyncio
        >>> async def read():
        ...     return [chunk async for chunk in AsyncChunkStream(["a chunk", "another"])]
        >>> asyncio.run(read())
        ['a chunk', 'another']
    """

    def __init__(self, chunks: list[Any]) -> None:
        self._chunks = iter(chunks)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration

    async def __aenter__(self) -> AsyncChunkStream:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the remaining chunks."""
        self._chunks = iter(())


def _is_async(method: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(inspect.unwrap(method))


def _without_stream(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("stream", "stream_options")}


def _wants_usage(kwargs: dict[str, Any]) -> bool:
    options = kwargs.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
