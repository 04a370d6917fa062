"""The same behaviour as without the guard, but for the choice; and nothing leaves by mistake."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from doors import DOORS, SCORER, Answer, calls_of, decision_on, quick, text_of
from langchain_core.exceptions import ContextOverflowError
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from promises import promise

from srr_guard import (
    DecisionPolicy,
    Guard,
    SafetyRankedChatModel,
    SafetyRanker,
    srr_guard,
)
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    ConfigurationError,
    InvalidInputError,
    SamplingError,
    ScoringError,
)
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel

FINE, HARM = Answer("a fine one"), Answer("HARM")


def usage_of(output: Any) -> int:
    usage = getattr(output, "usage_metadata", None)
    return usage["total_tokens"] if usage else output.usage.total_tokens


# ---- best ----


@promise("best")
def test_the_best_safe_answer_leaves(door, ask):
    answers = HARM, Answer("fine", thinking="hm"), FINE
    scorer = FakeScorer(lambda prompt, text: {"HARM": 0.1, "hm": 0.6}.get(text, 0.9))
    output = ask(door(*answers, scorer=scorer, sampling=quick(3)))
    assert text_of(output) == "a fine one"
    assert decision_on(output)["p_safe"] == 0.9
    assert decision_on(output)["sampled"] == 3
    assert usage_of(output) == 15


@promise("best")
def test_what_the_filter_took_away_counts_in_the_usage(door, ask):
    asker = door(Answer("", filtered=True), FINE, scorer=SCORER, sampling=quick(2))
    assert usage_of(ask(asker)) == 10


@promise("best")
def test_tool_calls_leave_whole(door, ask):
    output = ask(door(Answer("so", call=("f", {"x": [1, "a"]})), scorer=SCORER, sampling=quick(2)))
    assert calls_of(output) == [("f", {"x": [1, "a"]})]


# ---- closed ----


@promise("closed")
def test_below_the_threshold_nothing_leaves(door, ask):
    asker = door(HARM, scorer=SCORER, sampling=quick(2))
    assert text_of(ask(asker)) == DEFAULT_REFUSAL
    assert (asker.guard.totals.requests, asker.guard.bypasses) == (1, 0)


@promise("closed")
def test_below_the_threshold_raises(door, ask):
    strict = DecisionPolicy(below_threshold="raise")
    with pytest.raises(BelowThresholdError) as caught:
        ask(door(HARM, scorer=SCORER, sampling=quick(2), decision=strict))
    assert "HARM" not in str(caught.value)


BROKEN = [
    FakeScorer(lambda prompt, text: 0.9, error=RuntimeError("broken")),
    FakeScorer(lambda prompt, text: float("nan")),
    FakeScorer(lambda prompt, text: 7.0),
]


@promise("closed")
@pytest.mark.parametrize("scorer", BROKEN, ids=["raises", "nan", "out of range"])
def test_when_scoring_fails_nothing_leaves(door, ask, scorer):
    with pytest.raises(ScoringError):
        ask(door(FINE, scorer=scorer, sampling=quick(2)))
    refuses = DecisionPolicy(scorer_error="refuse")
    asker = door(FINE, scorer=scorer, sampling=quick(2), decision=refuses)
    assert text_of(ask(asker)) == DEFAULT_REFUSAL


@promise("closed")
@pytest.mark.parametrize(
    ("answer", "scorer", "policy"),
    [
        (HARM, SCORER, DecisionPolicy(below_threshold="pass")),
        (FINE, BROKEN[0], DecisionPolicy(scorer_error="pass")),
    ],
)
def test_bypasses_are_logged_and_counted(door, ask, caplog, answer, scorer, policy):
    asker = door(answer, scorer=scorer, sampling=quick(2), decision=policy)
    with caplog.at_level(logging.WARNING, logger="srr_guard"):
        output = ask(asker)
    assert text_of(output) == answer.text
    assert decision_on(output)["reason"] == "passed_through"
    assert asker.guard.bypasses == 1
    assert "bypass" in caplog.text


# ---- errors ----


class RateLimitedError(Exception):
    """A provider's error."""


class HopelessError(Exception):
    """A provider's error that another attempt does not mend."""

    is_retryable = False


@promise("errors")
@pytest.mark.parametrize("error", [RateLimitedError("slow down"), ValueError("no")])
def test_all_failing_alike(door, ask, error):
    import openai

    over_http = door.name in ("guard_chat_completions", "responses")
    expected = openai.BadRequestError if over_http else type(error)
    asker = door(error, scorer=SCORER, sampling=quick(3, attempts=2))
    with pytest.raises(expected) as caught:
        ask(asker)
    assert isinstance(caught.value, AllCandidatesFailedError)
    assert len(caught.value.causes) == 3
    assert asker.calls == 6


@promise("errors")
@pytest.mark.needs("callbacks")
@pytest.mark.parametrize("error", [HopelessError("no"), ContextOverflowError("too long")])
def test_hopeless_errors_cost_one_call_each(door, ask, error):
    asker = door(error, scorer=SCORER, sampling=quick(3, attempts=5))
    with pytest.raises(type(error)):
        ask(asker)
    assert asker.calls == 3


@promise("errors")
def test_one_failure_does_not_take_the_others_away(door, ask):
    asker = door(RateLimitedError("no"), FINE, scorer=SCORER, sampling=quick(2, attempts=1))
    output = ask(asker)
    assert text_of(output) == "a fine one"
    assert (decision_on(output)["failed"], decision_on(output)["reason"]) == (1, "fallback")


ODD = [b"bytes", {1: "a", "b": "c"}, object(), {(1, 2): "x"}]


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: type(odd).__name__)
@pytest.mark.parametrize("wrap", ["decorated", "ranker", "guard"])
def test_odd_outputs_are_refused_by_name_after_one_call(odd, wrap):
    calls = []

    def answer(question: Any) -> Any:
        calls.append(question)
        return odd

    options = {"scorer": SCORER, "sampling": quick(2, attempts=5)}
    guarded = {
        "decorated": lambda: srr_guard(**options)(answer)("q"),
        "ranker": lambda: SafetyRanker(answer, **options).invoke("q"),
        "guard": lambda: Guard(**options).decide("q", answer),
    }
    with pytest.raises(SamplingError) as caught:
        guarded[wrap]()
    assert all(isinstance(cause, InvalidInputError) for cause in caught.value.causes)
    assert len(calls) == 2


# ---- hooks ----


class Hook:
    """Counts its calls; async by its `__call__`."""

    def __init__(self) -> None:
        self.decisions: list[Any] = []

    async def __call__(self, decision: Any) -> None:
        await asyncio.sleep(0)
        self.decisions.append(decision)


@promise("hooks")
def test_hooks_of_every_kind_are_called_once(door, ask):
    plain: list[Any] = []
    hook = Hook()

    async def later(decision: Any) -> None:
        await hook(decision)

    for given in (plain.append, hook, later, lambda decision: hook(decision)):
        ask(door(FINE, scorer=SCORER, sampling=quick(2), on_decision=given))
    assert (len(plain), len(hook.decisions)) == (1, 3)
    assert {decision.reason for decision in (*plain, *hook.decisions)} == {"best_of_n"}


@promise("hooks")
def test_a_hooks_error_is_the_callers(door, ask):
    class AuditError(Exception):
        pass

    async def fail(decision: Any) -> None:
        raise AuditError

    def fail_at_once(decision: Any) -> None:
        raise AuditError

    for hook in (fail, fail_at_once):
        with pytest.raises(AuditError):
            ask(door(FINE, scorer=SCORER, sampling=quick(2), on_decision=hook))


@promise("hooks")
def test_refusals_and_failures_are_told_too(door, ask):
    told: list[str] = []

    def hook(decision: Any) -> None:
        told.append(decision.reason)

    ask(door(HARM, scorer=SCORER, sampling=quick(2), on_decision=hook))
    with pytest.raises(SamplingError):
        ask(door(Answer(""), scorer=SCORER, sampling=quick(1), on_decision=hook))
    assert told == ["refused", "failed"]


# ---- limits ----


@promise("limits")
def test_calls_in_flight_stay_within_the_limit(door):
    peak = {"now": 0, "most": 0}
    lock = threading.Lock()

    def count(by: int) -> None:
        with lock:
            peak["now"] += by
            peak["most"] = max(peak["most"], peak["now"])

    guard = Guard(scorer=SCORER, sampling=quick(4, max_in_flight=2))
    decide = guard.decide

    def counted(asked: Any, call: Any, **kwargs: Any) -> Any:
        class Source:
            batches = False

            def sample(self, indices: range) -> Any:
                count(1)
                try:
                    return source.sample(indices)
                finally:
                    count(-1)

        from srr_guard.core.calls import FunctionSource

        source = call if hasattr(call, "sample") else FunctionSource(call)
        return decide(asked, Source(), **kwargs)

    guard.decide = counted  # type: ignore[method-assign]
    asker = door(FINE, guard=guard)
    threads = [threading.Thread(target=asker.ask, args=("q",)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert asker.calls == 20
    assert 1 <= peak["most"] <= 2


# ---- modes ----


@promise("modes")
@pytest.mark.parametrize(
    "answers",
    [
        (HARM, FINE),
        (Answer("", refusal="No, thank you."), HARM),
        (Answer("fine", thinking="HARM"), FINE),
        (Answer("", filtered=True), HARM),
        (Answer("so", call=("f", {"x": 1})), HARM),
    ],
)
def test_every_mode_gives_the_same(door, ask, answers):
    plain = ask(door(*answers, scorer=SCORER, sampling=quick(2)))
    seen = [plain]
    modes: list[dict[str, Any]] = [{"batched": "never"}]
    if "reading ahead" not in door.lacks:
        modes.append({"read_ahead": True})
    seen += [ask(door(*answers, scorer=SCORER, sampling=quick(2, **mode))) for mode in modes]
    assert len({text_of(output) for output in seen}) == 1
    counts = [(decision_on(o)["sampled"], decision_on(o)["failed"]) for o in seen]
    assert set(counts) == {(2, 0)}


# ---- model answers ----


class Odd(ScriptedChatModel):
    """A model that answers in its own way."""

    model_name: str = "gpt-odd"
    deployment: str = "here"

    @property
    def _llm_type(self):
        return "odd"

    def get_token_ids(self, text):
        return [7] * len(text)

    def get_num_tokens_from_messages(self, messages, tools=None):
        return 70 + len(messages)

    def complete(self, text):
        raise AssertionError("an answer past the guard")


MODEL = ScriptedChatModel(answers=["a fine one"])
ODD_MODEL = Odd(
    answers=["a fine one"],
    profile={"max_input_tokens": 5, "structured_output": True},
    tags=["t"],
    metadata={"k": 1},
)


@promise("model answers")
@pytest.mark.parametrize("bound", [False, True])
def test_what_code_asks_of_a_model(door, bound):
    kinds = {"SafetyRanker": SafetyRanker, "SafetyRankedChatModel": SafetyRankedChatModel}
    inner = ODD_MODEL.bind(stop=["x"]) if bound else ODD_MODEL
    guarded = kinds[door.name](inner, scorer=SCORER)
    for name in ("model_name", "profile", "deployment", "_llm_type", "tags", "rate_limiter"):
        assert getattr(guarded, name) == getattr(ODD_MODEL, name), name
    assert guarded.metadata["k"] == 1
    assert guarded.get_num_tokens("abc") == 3
    assert guarded.get_token_ids("ab") == [7, 7]
    assert guarded.get_num_tokens_from_messages([]) == 70
    assert guarded._get_ls_params()["ls_model_name"] == "gpt-odd"
    assert not hasattr(guarded, "complete")
    assert not hasattr(guarded, "nothing")
    assert guarded.InputType == ODD_MODEL.InputType
    assert guarded.OutputType == ODD_MODEL.OutputType


def test_what_code_asks_of_a_chain():
    prompt = ChatPromptTemplate.from_template("{topic}")
    guarded = SafetyRanker(prompt | MODEL, scorer=SCORER)
    assert guarded.get_prompts() == [prompt]
    assert not hasattr(guarded, "steps")
    assert guarded.get_input_jsonschema() == (prompt | MODEL).get_input_jsonschema()
    with pytest.raises(ConfigurationError, match="no language model is found"):
        SafetyRankedChatModel(ODD_MODEL | (lambda m: m)).around(
            RunnablePassthrough() | (lambda m: m)
        ).get_num_tokens("x")


# ---- shared ----


@promise("shared")
def test_settings_and_counts(door, ask):
    guard = Guard(scorer=SCORER, sampling=quick(3), decision=DecisionPolicy(threshold=0.95))
    asker = door(FINE, guard=guard)
    assert asker.guard is guard
    assert text_of(ask(asker)) == DEFAULT_REFUSAL
    assert (guard.totals.requests, guard.totals.candidates, asker.calls) == (1, 3, 3)


def test_all_doors_behind_one_guard():
    guard = Guard(scorer=SCORER, sampling=quick(2))
    for door in DOORS:
        assert text_of(door(FINE, guard=guard).ask("q")) == "a fine one"
    assert guard.totals.requests == len(DOORS)
