"""Telemetry and log lines for operators.

Each is a function of a Decision: pass it as `on_decision`, several through `each_of`. None sees
the prompt, which is not part of a Decision. Texts of candidates go nowhere unless asked for. A
request that ends in an error because too few candidates came back is a decision with the reason
`failed`.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from srr_guard.decision import Decision
from srr_guard.errors import ConfigurationError, MissingExtraError
from srr_guard.threads import is_async_generator, is_generator
from srr_guard.visible import visible_line

logger = logging.getLogger("srr_guard.decisions")

_NAME = "srr_guard"


def each_of(
    *hooks: Callable[[Decision], object],
) -> Callable[[Decision], Awaitable[None] | None]:
    """Join several `on_decision` hooks into one, called in this order.

    Async hooks are awaited before the next one is called. What a hook raises reaches the
    caller, and those after it are not called.

    Raises:
        ConfigurationError: One of them cannot be called, or is a generator, which would never run.

    Example:
        >>> seen = []
        >>> hook = each_of(log_decision, seen.append)
    """
    for hook in hooks:
        if not callable(hook) or is_generator(hook) or is_async_generator(hook):
            raise _no_hook(hook)

    async def finish(
        told: Awaitable[object], rest: Iterator[Callable[[Decision], object]], decision: Decision
    ) -> None:
        await told
        for hook in rest:
            told_next = _told(hook, decision)
            if inspect.isawaitable(told_next):
                await told_next

    def call_each(decision: Decision) -> Awaitable[None] | None:
        rest = iter(hooks)
        for hook in rest:
            told = _told(hook, decision)
            if inspect.isawaitable(told):
                return finish(told, rest, decision)
        return None

    return call_each


def _told(hook: Callable[[Decision], object], decision: Decision) -> object:
    told = hook(decision)
    if inspect.isgenerator(told) or inspect.isasyncgen(told):
        raise _no_hook(hook)
    return told


def _no_hook(hook: object) -> ConfigurationError:
    return ConfigurationError(
        f"{hook!r} cannot be told of decisions: give a function that takes a Decision, async or "
        "not, no generator"
    )


def log_decision(decision: Decision) -> None:
    """Write a decision to the logger `srr_guard.decisions`.

    One line without any text: at warning level for bypasses, failures and answers that were only
    observed and would have been withheld, at info level otherwise. The texts of the candidates
    follow at debug level.

    Example:
        >>> from srr_guard import SafetyRanker
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> ranker = SafetyRanker(
        ...     ScriptedChatModel(answers=["fine"]),
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9),
        ...     on_decision=log_decision,
        ... )
        >>> ranker.invoke("a question").text
        'fine'
    """
    withheld = decision.would_have is not None and decision.would_have.chosen is None
    noteworthy = decision.reason in ("passed_through", "failed") or withheld
    level = logging.WARNING if noteworthy else logging.INFO
    if not logger.isEnabledFor(level):
        return
    summary = decision.summary()
    logger.log(
        level,
        "%s: chosen=%s p_safe=%s sampled=%d failed=%d distinct=%d seconds=%.3f",
        decision.reason,
        summary["chosen"],
        summary["p_safe"],
        decision.sampled,
        decision.failed,
        decision.distinct,
        decision.timings.total,
    )
    for candidate in decision.candidates:
        made_by = candidate.recipe or "no recipe"
        logger.debug(
            "candidate %d (%s): %s", candidate.index, made_by, visible_line(candidate.text)
        )


class Telemetry:
    """OpenTelemetry spans and metrics, one set per decision.

    A span `srr_guard.decide` with the children `srr_guard.generate` and `srr_guard.score`
    joins the caller's current span. Its attributes are `Decision.summary()`, no texts.
    Metrics:

    - `srr_guard.decisions`: counter, by `reason`, and by `would_have` where only observed
    - `srr_guard.candidates`: counter, by `outcome` (`returned`, `cut`, `failed`)
      and `recipe`
    - `srr_guard.tokens_saved`: counter, of candidates that were cut off; an estimate (see
      `Decision.tokens_saved`)
    - `srr_guard.tokens`: counter, by `type` (`input`, `output`), of all candidates together
    - `srr_guard.duration`: histogram in seconds, by `phase` (`generation`, `scoring`,
      `overhead`)
    - `srr_guard.p_safe`: histogram of the chosen candidates' `p_safe`

    Args:
        tracer_provider: None: the global one.
        meter_provider: None: the global one.

    Raises:
        MissingExtraError: opentelemetry-api is not installed.

    Example:
        >>> from srr_guard import SafetyRanker
        >>> from srr_guard.testing import FakeScorer, ScriptedChatModel
        >>> ranker = SafetyRanker(
        ...     ScriptedChatModel(answers=["fine"]),
        ...     scorer=FakeScorer(lambda prompt, answer: 0.9),
        ...     on_decision=Telemetry(),
        ... )
        >>> ranker.invoke("a question").text
        'fine'
    """

    def __init__(self, *, tracer_provider: Any = None, meter_provider: Any = None) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as error:
            raise MissingExtraError(
                package="opentelemetry-api", extra="otel", purpose="Telemetry"
            ) from error
        self._in_context = trace.set_span_in_context
        self._tracer = trace.get_tracer(_NAME, tracer_provider=tracer_provider)
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._decisions = meter.create_counter(f"{_NAME}.decisions", unit="{decision}")
        self._candidates = meter.create_counter(f"{_NAME}.candidates", unit="{candidate}")
        self._tokens = meter.create_counter(f"{_NAME}.tokens", unit="{token}")
        self._saved = meter.create_counter(f"{_NAME}.tokens_saved", unit="{token}")
        self._duration = meter.create_histogram(f"{_NAME}.duration", unit="s")
        self._p_safe = meter.create_histogram(f"{_NAME}.p_safe", unit="1")

    def __call__(self, decision: Decision) -> None:
        """Record one decision that was just made."""
        self._measure(decision)
        self._trace(decision)

    def _measure(self, decision: Decision) -> None:
        ended = {"reason": decision.reason}
        if decision.would_have is not None:
            ended["would_have"] = decision.would_have.reason
        self._decisions.add(1, ended)
        for (recipe, cut), count in Counter((c.recipe, c.cut) for c in decision.candidates).items():
            made_by = {} if recipe is None else {"recipe": recipe}
            self._candidates.add(count, {"outcome": "cut" if cut else "returned", **made_by})
        if decision.cut:
            self._saved.add(decision.tokens_saved)
        if decision.failed:
            self._candidates.add(decision.failed, {"outcome": "failed"})
        for phase, seconds in decision.timings.model_dump().items():
            self._duration.record(seconds, {"phase": phase})
        p_safe = decision.summary()["p_safe"]
        if p_safe is not None:
            self._p_safe.record(p_safe)
        if decision.usage is not None:
            self._tokens.add(decision.usage["input_tokens"], {"type": "input"})
            self._tokens.add(decision.usage["output_tokens"], {"type": "output"})

    def _trace(self, decision: Decision) -> None:
        end = time.time_ns()
        timings = decision.timings
        scoring = end - _nanoseconds(timings.scoring)
        generation = scoring - _nanoseconds(timings.generation)
        start = end - _nanoseconds(timings.total)
        span = self._tracer.start_span(
            f"{_NAME}.decide", start_time=start, attributes=_attributes(decision)
        )
        context = self._in_context(span)
        # Scoring is the last thing that is done, so its time is known; the candidates of later
        # rounds are sampled between two scorings and counted as generation.
        for name, begin, until in (
            ("generate", max(start, generation), scoring),
            ("score", scoring, end),
        ):
            child = self._tracer.start_span(f"{_NAME}.{name}", context, start_time=begin)
            child.end(end_time=until)
        span.end(end_time=end)


def _attributes(decision: Decision) -> dict[str, Any]:
    summary = decision.summary()
    del summary["timings"]
    for part in ("gate", "would_have"):
        summary |= {f"{part}.{k}": v for k, v in (summary.pop(part) or {}).items()}
    return {f"{_NAME}.{name}": v for name, v in summary.items() if v is not None}


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
