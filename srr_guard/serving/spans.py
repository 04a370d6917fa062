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
    name = f"{note.method} {note.endpoint}"
    with tracer.start_as_current_span(name, context=context, kind=kind) as span:
        span.set_attribute("http.request.method", note.method)
        try:
            yield
        finally:
            span.set_attribute("http.response.status_code", note.status)
            for field in ("request", "policy", "reason", "error"):
                if (value := note.record().get(field)) is not None:
                    span.set_attribute(f"srr_guard.{field}", value)


def trace_headers() -> dict[str, str]:
    """Headers by which the current trace goes on elsewhere."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
