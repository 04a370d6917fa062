"""`guard_anthropic`: the guard for Anthropic clients and whatever has their shape."""

from __future__ import annotations

import inspect
from functools import cached_property, partial
from typing import Any, TypeVar, Unpack, cast

from srr_guard.errors import ConfigurationError, MissingExtraError
from srr_guard.formats import anthropic
from srr_guard.formats.schemas import call_check, every, schema_check
from srr_guard.formats.shapes import as_sent
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.client_parts import (
    Creating,
    Proxy,
    Request,
    given_of,
    without_stream,
)

C = TypeVar("C")


def guard_anthropic(client: C, **settings: Unpack[GuardSettings]) -> C:
    """Wrap a client so that each message is the best safe one of several.

    `create` and `parse` of `client.messages` are called n times side by side, with your own
    arguments. The chosen message is returned with two changes: its `usage` is the sum over all
    candidates, and `srr_guard` on it is the decision as a dict (see `Decision.summary`;
    `chosen_usage` is the chosen candidate's own usage).

    A refusal is a message with one text block and the stop reason `refusal`. With
    `stream(output_format=...)` the client would parse its text, so BelowThresholdError is raised.

    With `stream=True` and `stream()` the candidates are not streamed: one is selected, then
    emitted as the API's own events. The message in the first event carries `srr_guard`.

    All blocks are scored: text with citations, thinking, tool calls, results of the provider's
    tools. Encrypted thinking is passed on unread. A message that does not fit the schema of
    `output_config`, or calls no tool where one must be called, is a failed candidate.

    `extra_body` is read like arguments, but for turns and `stream`, which are refused there.

    What would return a model's text unscored raises UnguardedError: `beta`, `completions`,
    `messages.batches`, `with_raw_response`, `with_streaming_response`, `get`, `get_api_list`,
    `post`, `request`. `client.unguarded("beta")` hands such a part out: a bypass, logged and
    counted.

    Args:
        client: An `Anthropic` or `AsyncAnthropic` client (or one for Bedrock or Vertex), or an
            object with `messages.create(**kwargs)`, sync or async, that returns what theirs do. It
            is not changed.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Returns:
        An object that is used like the client.

    Raises:
        ConfigurationError: The client has no `messages.create`, or a setting is of the wrong kind.

    Example:
        >>> from types import SimpleNamespace as Thing
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> def create(**kwargs):
        ...     return Thing(content=[{"type": "text", "text": next(answers)}])
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> client = guard_anthropic(Thing(messages=Thing(create=create)), n=2, scorer=scorer)
        >>> question = {"role": "user", "content": "How do magnets work?"}
        >>> message = client.messages.create(messages=[question])
        >>> message.content[0]["text"], message.srr_guard["reason"]
        ('a good answer', 'best_of_n')
    """
    if not callable(getattr(getattr(client, "messages", None), "create", None)):
        raise ConfigurationError(
            f"a client of type {type(client).__name__!r} has no `messages.create`: give an "
            "Anthropic client or an object of its shape"
        )
    return cast("C", _Client(client, guard_from(settings)))


class _Part(Proxy):
    instead = "`messages` with `create`, `parse` or `stream`"


class _Client(_Part):
    guarded = frozenset({"messages"})
    closed = Proxy.closed | {"beta", "completions", "get", "get_api_list", "post", "request"}

    @cached_property
    def messages(self) -> Any:
        """Messages, guarded."""
        return _Messages(self._wrapped.messages, self._guard)

    def with_options(self, **options: Any) -> _Client:
        """Copy the client with other options; the copy shares the guard."""
        return _Client(self._wrapped.with_options(**options), self._guard)

    def copy(self, **options: Any) -> _Client:
        """Copy the client with other options; the copy shares the guard."""
        return _Client(self._wrapped.copy(**options), self._guard)

    def with_middleware(self, *middleware: Any) -> _Client:
        """Copy the client with more middleware, which sees each candidate."""
        return _Client(self._wrapped.with_middleware(*middleware), self._guard)

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


class _Messages(Creating, _Part):
    path = "messages."
    closed = Proxy.closed | {"batches"}

    def stream(self, **kwargs: Any) -> Any:
        """Select one message; its events go through the client's own stream helper."""
        try:
            from anthropic import not_given
            from anthropic.lib.streaming import AsyncMessageStreamManager, MessageStreamManager
        except ImportError as error:
            raise MissingExtraError(
                package="anthropic", extra="anthropic", purpose="`messages.stream`"
            ) from error
        given = given_of(kwargs) | {"stream": True}
        form = given.get("output_format")
        method = self._wrapped.create if form is None else self._wrapped.parse
        answer = partial(self._answer, method, self._read(given))
        parsed_as: Any = not_given if form is None else form
        if inspect.iscoroutinefunction(inspect.unwrap(method)):
            return AsyncMessageStreamManager(answer(), output_format=parsed_as)
        return MessageStreamManager(cast("Any", answer), output_format=parsed_as)

    def _read(self, kwargs: dict[str, Any]) -> Request:
        as_sent(kwargs, direct=("messages", "system", "stream"))
        streamed = bool(kwargs.get("stream"))
        may_refuse = not (streamed and kwargs.get("output_format") is not None)
        return Request(
            anthropic.as_conversation(kwargs.get("system"), kwargs.get("messages")),
            without_stream(kwargs),
            anthropic.message_delivery(
                every(schema_check(kwargs), call_check(kwargs)), may_refuse=may_refuse
            ),
            anthropic.as_events if streamed else None,
        )
