"""Spans, metrics and log lines: every decision once, and no text where none belongs."""

from __future__ import annotations

import asyncio
import logging
import sys

import pytest
from langchain_core.messages import AIMessage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from srr_guard import DecisionPolicy, SafetyRanker, SamplingPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    ConfigurationError,
    MissingExtraError,
)
from srr_guard.observability import Telemetry, each_of, log_decision
from srr_guard.testing import FakeScorer, ScriptedChatModel

USAGE = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}


def guard(*answers, on_decision, **kwargs) -> SafetyRanker:
    return SafetyRanker(
        ScriptedChatModel(answers=list(answers), delay=0.01),
        scorer=FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1, delay=0.02),
        sampling=SamplingPolicy(n=2, backoff=0.0, attempts=1),
        on_decision=on_decision,
        **kwargs,
    )


@pytest.fixture(params=["sync", "async"])
def ask(request):
    def run(guard):
        if request.param == "async":
            return asyncio.run(guard.ainvoke("SECRET question"))
        return guard.invoke("SECRET question")

    return run


class Watched:
    """Telemetry whose spans and metrics stay in memory."""

    def __init__(self) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.hook = Telemetry(
            tracer_provider=self.tracers, meter_provider=MeterProvider([self.reader])
        )

    def spans(self):
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def metrics(self):
        data = self.reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
        return {
            (metric.name, *point.attributes.values()): getattr(point, "value", None)
            or getattr(point, "sum", 0)
            for metric in data
            for point in metric.data.data_points
        }


class TestSpans:
    def test_of_one_decision(self, ask):
        watched = Watched()
        ask(guard("SECRET bad", "SECRET good", on_decision=watched.hook))
        spans = watched.spans()
        assert set(spans) == {"srr_guard.decide", "srr_guard.generate", "srr_guard.score"}
        decide, score = spans["srr_guard.decide"], spans["srr_guard.score"]
        assert decide.attributes["srr_guard.reason"] == "best_of_n"
        assert decide.attributes["srr_guard.sampled"] == 2
        assert (score.end_time - score.start_time) / 1e9 >= 0.02
        for child in (score, spans["srr_guard.generate"]):
            assert child.parent.span_id == decide.context.span_id
            assert decide.start_time <= child.start_time <= child.end_time <= decide.end_time
        assert "SECRET" not in "".join(span.to_json() for span in spans.values())

    def test_join_the_caller(self, ask):
        watched = Watched()
        tracer = watched.tracers.get_tracer("caller")
        with tracer.start_as_current_span("request") as request:
            ask(guard("good", on_decision=watched.hook))
        parent = watched.spans()["srr_guard.decide"].parent
        assert parent.span_id == request.get_span_context().span_id


class TestMetrics:
    def test_of_several_decisions(self, ask):
        watched = Watched()
        good = AIMessage("good", usage_metadata=USAGE)
        ask(guard("bad", good, on_decision=watched.hook))
        ask(guard(good, ValueError("x"), on_decision=watched.hook))
        ask(guard("bad", on_decision=watched.hook))
        lax = DecisionPolicy(below_threshold="pass")
        ask(guard("bad", on_decision=watched.hook, decision=lax))
        found = watched.metrics()
        assert found["srr_guard.decisions", "best_of_n"] == 1
        assert found["srr_guard.decisions", "fallback"] == 1
        assert found["srr_guard.decisions", "refused"] == 1
        assert found["srr_guard.decisions", "passed_through"] == 1
        assert found["srr_guard.candidates", "returned", "plain"] == 7
        assert found["srr_guard.candidates", "failed"] == 1
        assert found["srr_guard.tokens", "input"] == 10
        assert found["srr_guard.tokens", "output"] == 4
        assert found["srr_guard.duration", "scoring"] >= 0.08
        assert found[("srr_guard.p_safe",)] == pytest.approx(1.9)

    def test_of_a_decision_that_raises(self, ask):
        watched = Watched()
        strict = DecisionPolicy(below_threshold="raise")
        with pytest.raises(BelowThresholdError):
            ask(guard("bad", on_decision=watched.hook, decision=strict))
        assert watched.metrics()["srr_guard.decisions", "refused"] == 1

    def test_of_a_request_without_candidates(self, ask):
        watched = Watched()
        with pytest.raises(AllCandidatesFailedError):
            ask(guard(ValueError("SECRET"), on_decision=watched.hook))
        found = watched.metrics()
        assert found["srr_guard.decisions", "failed"] == 1
        assert found["srr_guard.candidates", "failed"] == 2
        assert watched.spans()["srr_guard.decide"].attributes["srr_guard.reason"] == "failed"


def test_without_opentelemetry(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[otel\]"):
        Telemetry()


def test_global_providers_are_the_default(ask):
    assert ask(guard("good", on_decision=Telemetry())).text == "good"


class TestLogging:
    def test_no_text_above_debug(self, ask, caplog):
        with caplog.at_level(logging.INFO):
            ask(guard("SECRET bad", "SECRET good", on_decision=log_decision))
        assert "best_of_n: chosen=" in caplog.text
        assert "sampled=2 failed=0 distinct=2" in caplog.text
        assert "SECRET" not in caplog.text

    def test_texts_at_debug(self, ask, caplog):
        with caplog.at_level(logging.DEBUG, "srr_guard.decisions"):
            ask(guard("SECRET bad", "SECRET good", on_decision=log_decision))
        texts = [r for r in caplog.records if "SECRET" in r.getMessage()]
        assert {r.levelname for r in texts} == {"DEBUG"}
        assert len(texts) == 2

    def test_bypasses_are_warnings(self, ask, caplog):
        lax = DecisionPolicy(below_threshold="pass")
        ask(guard("SECRET bad", on_decision=log_decision, decision=lax))
        lines = [r for r in caplog.records if r.name == "srr_guard.decisions"]
        assert [r.levelname for r in lines] == ["WARNING"]
        assert "SECRET" not in caplog.text

    def test_failures_are_warnings(self, ask, caplog):
        with pytest.raises(AllCandidatesFailedError):
            ask(guard(ValueError("SECRET"), on_decision=log_decision))
        lines = [r for r in caplog.records if r.name == "srr_guard.decisions"]
        assert [(r.levelname, r.getMessage()[:7]) for r in lines] == [("WARNING", "failed:")]
        assert "SECRET" not in caplog.text

    def test_errors_too_hold_no_text(self, ask, caplog):
        with caplog.at_level(logging.INFO):
            ask(guard("SECRET good", ValueError("SECRET"), on_decision=log_decision))
        assert "SECRET" not in caplog.text


class TestEachOf:
    def test_in_order(self, ask):
        seen = []
        hook = each_of(lambda d: seen.append((1, d)), lambda d: seen.append((2, d)))
        ask(guard("good", on_decision=hook))
        assert [number for number, _ in seen] == [1, 2]
        assert seen[0][1] is seen[1][1]

    def test_what_one_raises_reaches_the_caller(self, ask):
        def full(decision):
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            ask(guard("good", on_decision=each_of(full, log_decision)))

    def test_not_callable(self):
        with pytest.raises(ConfigurationError, match="3 cannot be told of decisions"):
            each_of(log_decision, 3)

    def test_generators_would_never_run(self, ask):
        def audit(decision):
            yield decision

        async def later(decision):
            yield decision

        for hook in (audit, later):
            with pytest.raises(ConfigurationError, match="no generator"):
                each_of(log_decision, hook)
            hidden = each_of(log_decision, lambda decision, hook=hook: hook(decision))
            with pytest.raises(ConfigurationError, match="no generator"):
                ask(guard("good", on_decision=hidden))
