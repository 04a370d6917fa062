"""`guard_ollama`: the guard for Ollama clients and whatever has their shape."""

from __future__ import annotations

from typing import Any, TypeVar, Unpack, cast

from srr_guard import Conversation
from srr_guard.errors import ConfigurationError
from srr_guard.formats import ollama
from srr_guard.wrappers.settings import GuardSettings, guard_from
from srr_guard_integrations.client_parts import (
    Answering,
    Proxy,
    Request,
    given_of,
    without_stream,
)

C = TypeVar("C")


def guard_ollama(client: C, **settings: Unpack[GuardSettings]) -> C:
    """Wrap a client so that each answer is the best safe one of several.

    `chat` and `generate` are called n times side by side, with your own arguments. The chosen
    response is returned with two changes: `prompt_eval_count` and `eval_count` are sums over all
    candidates, and `srr_guard` on it is the decision as a dict (see `Decision.summary`;
    `chosen_usage` holds the chosen candidate's own counts).

    A server that samples with a fixed `seed`, or at temperature 0, gives n equal candidates.

    With `stream=True` the candidates are not streamed: one is selected, then emitted in two
    chunks, the answer and the end, which carries `srr_guard`.

    Text, thinking and tool calls are scored; images are unreadable. With a `format`, an answer
    that does not fit it is a failed candidate, and a refusal has no form: BelowThresholdError is
    raised.

    `context=`, which stands for turns that only the server knows, and `template=`, which puts text
    around the prompt, are refused. `systemone`, and the classes of clients in the module `ollama`,
    raise UnguardedError, unless asked for by `client.unguarded("systemone")`: a bypass, logged and
    counted. All else (models, embeddings, web
    search, ...) passes through.

    Args:
        client: A `Client` or `AsyncClient`, the module `ollama`, or an object with `chat` or
            `generate`, sync or async, that return what theirs do. It is not changed.
        settings: Those of `Guard`, or `guard=`, a guard to share (see `GuardSettings`).

    Returns:
        An object that is used like the client.

    Raises:
        ConfigurationError: The client has no `chat` and no `generate`, or a setting is of the
            wrong kind.

    Example:
        >>> from types import SimpleNamespace as Thing
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer"])
        >>> def chat(**kwargs):
        ...     return {"message": {"role": "assistant", "content": next(answers)}}
        >>> scorer = FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        >>> client = guard_ollama(Thing(chat=chat), n=2, scorer=scorer)
        >>> question = {"role": "user", "content": "How do magnets work?"}
        >>> response = client.chat("smollm2", [question])
        >>> response["message"]["content"], response["srr_guard"]["reason"]
        ('a good answer', 'best_of_n')
    """
    if not any(callable(getattr(client, name, None)) for name in ("chat", "generate")):
        raise ConfigurationError(
            f"a client of type {type(client).__name__!r} has no `chat` and no `generate`: give an "
            "Ollama client or an object of its shape"
        )
    return cast("C", _Client(client, guard_from(settings)))


class _Client(Answering):
    guarded = frozenset({"chat", "generate"})
    closed = Proxy.closed | {"systemone", "Client", "AsyncClient"}
    instead = "`chat` or `generate`"

    def chat(self, model: Any = "", messages: Any = None, **kwargs: Any) -> Any:
        """Chat, guarded."""
        given = given_of({"model": model, "messages": messages, **kwargs})
        request = _request("chat", ollama.chat_conversation(given), given)
        return self._answer(self._wrapped.chat, request)

    def generate(
        self, model: Any = "", prompt: Any = None, suffix: Any = None, **kwargs: Any
    ) -> Any:
        """Complete a prompt, guarded."""
        given = given_of({"model": model, "prompt": prompt, "suffix": suffix, **kwargs})
        request = _request("generate", ollama.prompt_conversation(given), given)
        return self._answer(self._wrapped.generate, request)


def _request(kind: str, asked: Conversation, given: dict[str, Any]) -> Request:
    return Request(
        asked,
        without_stream(given),
        ollama.delivery(kind, given),
        ollama.as_chunks if given.get("stream") else None,
    )
