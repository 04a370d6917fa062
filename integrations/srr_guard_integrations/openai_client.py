"""`guard_openai`: the guard for OpenAI clients and whatever has their shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from srr_guard import Decision, DecisionPolicy, Guard, ResponseScorer, SamplingPolicy
from srr_guard.core.calls import require_plain
from srr_guard.errors import ConfigurationError
from srr_guard.policy import GatePolicy
from srr_guard.protocols import PromptGate
from srr_guard.wrappers.settings import guard_of
from srr_guard_integrations.openai_parts import GuardedClient

C = TypeVar("C")


def guard_openai(
    client: C,
    *,
    scorer: ResponseScorer | None = None,
    sampling: SamplingPolicy | None = None,
    decision: DecisionPolicy | None = None,
    gating: GatePolicy | None = None,
    gate: PromptGate | None = None,
    on_decision: Callable[[Decision], object] | None = None,
    n: int | None = None,
    threshold: float | None = None,
    guard: Guard | None = None,
) -> C:
    """Wrap a client so that each answer is the best safe one of several.

    `create` and `parse` of `client.chat.completions` and `client.responses` are called n times
    side by side, with your own arguments. The chosen completion or response is returned with
    two changes: its `usage` is the sum over all candidates, and `srr_guard` on it is the
    decision as a dict (see `Decision.summary`; `chosen_usage` is the chosen candidate's own
    usage).

    A refusal is a completion or response too. In a completion its text is both `content` and
    `refusal`, its finish reason `content_filter`. In a response it is the `output_text`; where a
    schema or a tool call is asked for, it is a `refusal` part in its place.

    With `stream=True` and `stream()` the candidates are not streamed: one is selected, then
    emitted as the API's own chunks or events, the text in one of them. The last chunk carries
    `srr_guard`, and so does the response in the last event. `chat.completions.stream()` treats a
    refusal as the client treats filtered answers: `get_final_completion` raises
    `ContentFilterFinishReasonError`.

    Everything in a completion's message and in a response's output is scored: text, refusal,
    reasoning, audio transcript, tool calls, annotations, results of the provider's tools. Fields
    beside the message or the output are not.

    A response needs its whole conversation as `input=`: `previous_response_id`, `conversation`
    and `prompt` stand for turns that the scorer would not see, and raise, as `background=True`
    does. The API stores responses unless `store=False`, so it stores all n candidates, rejected
    ones too.

    What would return a model's text or media unscored raises `UnguardedError`: `beta`, the legacy
    `completions`, `realtime`, `live`, `batches`, `images`, `videos`, `audio.speech`; stored
    answers (`responses.retrieve`, `chat.completions.list`); `with_raw_response` and
    `with_streaming_response`; `post`, `get`, `get_api_list` and `request`.
    `client.unguarded("beta")` hands such a part out: a bypass, logged and counted in the guard's
    totals. All else (models, files, embeddings, ...) passes through.

    `extra_body` is read like arguments, but for turns and `stream`, which are refused there.

    Whatever traces the client sees each candidate where it is put inside the guard, and the
    chosen answer where it is put around it.

    Args:
        client: An `OpenAI` or `AsyncOpenAI` client, or an object with
            `chat.completions.create(**kwargs)` or `responses.create(**kwargs)`, sync or async,
            that return what OpenAI's do. It is not changed.
        scorer: Ranks the candidates; None: the shipped scorer, loaded on first use.
        sampling: How candidates are sampled.
        decision: What may be passed on.
        gating: What is decided from the prompt alone (see `Guard`).
        gate: Assesses prompts (see `Guard`).
        on_decision: Called with each Decision (see `Guard`); its outputs are completions or
            responses.
        n: Short for `sampling=SamplingPolicy(n=...)`.
        threshold: Short for `decision=DecisionPolicy(threshold=...)`.
        guard: A guard to share, in place of `scorer`, the policies, `gate` and `on_decision`.

    Returns:
        An object that is used like the client.

    Raises:
        ConfigurationError: The client has no `chat.completions.create` and no
            `responses.create`, or an argument is of the wrong kind.

    Example:
        >>> from types import SimpleNamespace as Thing
        >>> from srr_guard.testing import FakeScorer
        >>> answers = iter(["a bad answer", "a good answer", "a bad answer", "a bad answer"])
        >>> def create(**kwargs):
        ...     message = Thing(role="assistant", content=next(answers))
        ...     return Thing(choices=[Thing(message=message, finish_reason="stop")])
        >>> client = Thing(chat=Thing(completions=Thing(create=create)))
        >>> guarded = guard_openai(
        ...     client, scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)
        ... )
        >>> question = {"role": "user", "content": "How do magnets work?"}
        >>> completion = guarded.chat.completions.create(messages=[question])
        >>> completion.choices[0].message.content, completion.srr_guard["reason"]
        ('a good answer', 'best_of_n')
    """
    if not any(map(callable, _answers_of(client))):
        raise ConfigurationError(
            f"a client of type {type(client).__name__!r} has no `chat.completions.create` and no "
            "`responses.create`: give an OpenAI client or an object of its shape"
        )
    shared = guard_of(
        guard,
        scorer=scorer,
        sampling=sampling,
        decision=decision,
        gating=gating,
        gate=gate,
        on_decision=on_decision,
        n=n,
        threshold=threshold,
    )
    require_plain(shared.sampling, shared.gating)
    return cast("C", GuardedClient(client, shared))


def _answers_of(client: object) -> list[object]:
    chat = getattr(getattr(client, "chat", None), "completions", None)
    return [getattr(part, "create", None) for part in (chat, getattr(client, "responses", None))]


guard_chat_completions = guard_openai
"""The older name of `guard_openai`."""
