"""Prometheus metrics of one gateway. No label holds a text; names are those of the settings."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from srr_guard.decision import Decision
from srr_guard.serving.note import Note, note_of_request

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counts what happens in one gateway.

    Args:
        inside: Gives the requests being served now.
        waiting: Gives the requests that wait for the scorer; None where it does not say.
    """

    def __init__(self, *, inside: Callable[[], int], waiting: Callable[[], int | None]) -> None:
        self._registry = registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"srr_guard_{name}", text, labels, registry=registry)

        def seconds(name: str, text: str, *labels: str) -> Histogram:
            return Histogram(
                f"srr_guard_{name}_seconds", text, labels, buckets=_SECONDS, registry=registry
            )

        self._requests = counter("requests", "Requests.", "endpoint", "status", "key")
        self._duration = seconds("request", "From head to last byte.", "endpoint")
        self._decisions = counter("decisions", "Decisions.", "reason", "policy")
        self._candidates = counter("candidates", "Candidates.", "outcome")
        self._tokens = counter("tokens", "Tokens of candidates.", "type")
        self._saved = counter("tokens_saved", "Tokens that cut answers did not have, about.")
        self._phases = seconds("phase", "Parts of decisions.", "phase")
        self._scored = counter("scored_texts", "Texts that were scored.")
        self._characters = counter("scored_characters", "Characters that were scored.")
        self._scoring = counter("scoring_seconds", "Seconds spent waiting for scores.")
        self._upstream = counter("upstream_calls", "Calls of servers.", "upstream", "outcome")
        self._reloads = counter("reloads", "Settings read again.", "outcome")
        self._ready = Gauge("srr_guard_ready", "1 while scores can be made.", registry=registry)
        gauge = Gauge("srr_guard_in_flight", "Requests being served.", registry=registry)
        gauge.set_function(inside)
        gauge = Gauge("srr_guard_scorer_waiting", "Requests in the scorer.", registry=registry)
        gauge.set_function(lambda: waiting() or 0)

    def ended(self, note: Note, seconds: float) -> None:
        """Count a request that is over."""
        key = note.key.name if note.key else ""
        self._requests.labels(note.endpoint, str(note.status), key).inc()
        self._duration.labels(note.endpoint).observe(seconds)

    def decided(self, decision: Decision) -> None:
        """Count a decision."""
        note = note_of_request.get()
        self._decisions.labels(decision.reason, (note and note.policy) or "").inc()
        self._candidates.labels("returned").inc(len(decision.candidates) - decision.cut)
        self._candidates.labels("cut").inc(decision.cut)
        self._saved.inc(decision.tokens_saved)
        self._candidates.labels("failed").inc(decision.failed)
        for phase, seconds in decision.timings.model_dump().items():
            self._phases.labels(phase).observe(seconds)
        if decision.usage is not None:
            self._tokens.labels("input").inc(decision.usage["input_tokens"])
            self._tokens.labels("output").inc(decision.usage["output_tokens"])

    def scored(self, texts: int, characters: int, seconds: float) -> None:
        """Count a scoring."""
        self._scored.inc(texts)
        self._characters.inc(characters)
        self._scoring.inc(seconds)

    def called(self, upstream: str, outcome: str) -> None:
        """Count a call of a server."""
        self._upstream.labels(upstream, outcome).inc()

    def reloaded(self, outcome: str) -> None:
        """Count a reading of the settings."""
        self._reloads.labels(outcome).inc()

    def is_ready(self, ready: bool) -> None:
        """Tell whether scores can be made."""
        self._ready.set(int(ready))

    def text(self) -> bytes:
        """All metrics in the form that Prometheus reads."""
        return generate_latest(self._registry)
