"""OpenTelemetry: the span of a request, and the trace that servers behind the gateway join."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate, trace

from srr_guard.serving.note import Note


@contextmanager
def request_span(note: Note) -> Iterator[None]:
    """Serve a request in a span of its own, in the trace that its headers name."""
    tracer = trace.get_tracer("srr_guard")
    context = propagate.extract(dict(note.headers))
    kind = trace.SpanKind.SERVER
    with tracer.start_as_current_span(f"POST {note.endpoint}", context=context, kind=kind) as span:
        try:
            yield
        finally:
            span.set_attribute("http.response.status_code", note.status)
            for name in ("request", "policy", "reason", "error"):
                if (value := note.record().get(name)) is not None:
                    span.set_attribute(f"srr_guard.{name}", value)


def trace_headers() -> dict[str, str]:
    """Headers by which the current trace goes on elsewhere."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
