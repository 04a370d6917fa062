"""The same behaviour as without the guard, but for the choice; and nothing leaves by mistake."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from doors import DOORS, SCORER, Answer, quick, scripted, text_of
from langchain_core.exceptions import ContextOverflowError
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder, PromptTemplate
from langchain_core.runnables import RunnablePassthrough
from promises import promise
from pydantic import BaseModel

from srr_guard import (
    Conversation,
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


def decision_on(output: Any) -> dict[str, Any]:
    metadata = getattr(output, "response_metadata", None)
    return metadata["srr_guard"] if metadata else output.srr_guard


def usage_of(output: Any) -> int:
    usage = getattr(output, "usage_metadata", None)
    return usage["total_tokens"] if usage else output.usage.total_tokens


# ---- best ----


@promise("best")
def test_the_best_safe_answer_leaves(door, ask):
    answers = HARM, Answer("fine", thinking="hm"), FINE
    scorer = FakeScorer(lambda prompt, text: {"HARM": 0.1, "hm\nfine": 0.6}.get(text, 0.9))
    output = ask(door(*answers, scorer=scorer, sampling=quick(3)))
    assert text_of(output) == "a fine one"
    assert decision_on(output)["p_safe"] == 0.9
    assert decision_on(output)["sampled"] == 3
    assert usage_of(output) == 15


@promise("best")
def test_tool_calls_leave_whole(door, ask):
    output = ask(door(Answer("so", call=("f", {"x": [1, "a"]})), scorer=SCORER, sampling=quick(2)))
    calls = getattr(output, "tool_calls", None)
    if calls is None:
        (call,) = output.choices[0].message.tool_calls
        calls = [{"name": call.function.name, "args": json.loads(call.function.arguments)}]
    assert (calls[0]["name"], calls[0]["args"]) == ("f", {"x": [1, "a"]})


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


# ---- asked ----


class Listening(FakeScorer):
    """Keeps the conversations it is asked about."""

    def __init__(self) -> None:
        super().__init__(lambda prompt, text: 0.9)
        self.asked: list[Conversation] = []

    def _rank(self, conversation, candidates):
        self.asked.append(Conversation.of(conversation))
        return super()._rank(conversation, candidates)

    @property
    def turns(self) -> list[tuple[str, str]]:
        return [(turn.role, turn.text) for turn in self.asked[-1].turns]


TALK = [("system", "Be brief."), ("user", "one"), ("assistant", "two"), ("user", "three")]


@promise("asked")
def test_the_whole_conversation(door, ask):
    scorer = Listening()
    ask(door(FINE, scorer=scorer, sampling=quick(1)), TALK)
    assert scorer.turns == TALK


MODEL = ScriptedChatModel(answers=["a fine one"])
HISTORY = [("user", "one"), ("assistant", "two")]
WITH_HISTORY = ChatPromptTemplate.from_messages(
    [("system", "Be brief."), MessagesPlaceholder("chat_history"), ("human", "{input}")]
)


class TestChains:
    """What a chain is given is read as its own template prints it, else all of it."""

    def asked(self, chain, value, **options):
        scorer = Listening()
        SafetyRanker(chain, scorer=scorer, sampling=quick(1), **options).invoke(value)
        return scorer.turns

    def test_history_and_question(self):
        value = {"input": "three", "chat_history": HISTORY}
        assert self.asked(WITH_HISTORY | MODEL, value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_config(tags=["t"]), value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_retry(), value) == TALK
        assert self.asked((WITH_HISTORY | MODEL).with_fallbacks([MODEL]), value)[-1] == TALK[-1]

    def test_what_earlier_steps_add_is_left_blank(self):
        prompt = ChatPromptTemplate.from_messages(
            [
                ("system", "Context: {context}"),
                ("placeholder", "{chat_history}"),
                ("human", "{question}"),
            ]
        )
        chain = RunnablePassthrough.assign(context=lambda d: "found") | prompt | MODEL
        value = {"question": "three", "chat_history": HISTORY, "user": "Ada"}
        assert self.asked(chain, value) == [
            ("user", "Ada"),
            ("system", "Context: "),
            *HISTORY,
            ("user", "three"),
        ]

    def test_a_single_key_is_read_as_it_is_printed(self):
        prompt = ChatPromptTemplate.from_template("Tell me about {topic}.")
        assert self.asked(prompt | MODEL, {"topic": "tea"}) == [("user", "Tell me about tea.")]
        assert self.asked(prompt | MODEL, "tea") == [("user", "Tell me about tea.")]
        plain = PromptTemplate.from_template("{a}, then {b}") | (lambda p: p.to_string())
        assert self.asked(plain, {"b": "y", "a": "x"}) == [("user", "x, then y")]

    def test_what_a_template_does_not_print_reaches_no_model(self):
        value = {"input": "three", "chat_history": HISTORY, "trace_id": object()}
        assert self.asked(WITH_HISTORY | MODEL, value) == TALK

    def test_without_a_template_all_of_it_is_read(self):
        value = {"chat_history": HISTORY, "input": "three", "style": "brief", "k": 3, "no": None}
        assert self.asked(lambda value: "fine", value) == [
            *HISTORY,
            ("user", "style: brief\nk: 3"),
            ("user", "three"),
        ]

    @pytest.mark.parametrize("history", [HISTORY, [{"role": "user", "content": "one"}]])
    def test_histories_of_every_form(self, history):
        assert self.asked(lambda v: "fine", {"input": "q", "past": history})[0] == ("user", "one")

    def test_messages_and_more(self):
        value = {"messages": TALK, "documents": ["d1", "d2"]}
        assert self.asked(lambda v: "fine", value) == [("user", 'documents: ["d1", "d2"]'), *TALK]

    def test_parts_that_cannot_be_read_ask_for_prompt(self):
        value = {"input": "three", "session": object()}
        with pytest.raises(ConfigurationError, match=r"'session' of type 'object'.*prompt="):
            self.asked(lambda v: "fine", value)
        assert self.asked(lambda v: "fine", value, prompt=lambda v: v["input"]) == [TALK[-1]]

    def test_templates_that_differ_do_not_count(self):
        other = ChatPromptTemplate.from_template("{a}") | MODEL
        parallel = {"one": WITH_HISTORY | MODEL, "two": other}
        chain = RunnablePassthrough() | parallel | (lambda made: made["two"])
        value = {"a": "x", "input": "three", "chat_history": HISTORY}
        assert self.asked(chain, value) == [*HISTORY, ("user", "a: x"), ("user", "three")]


def test_histories_beside_a_functions_prompt():
    scorer = Listening()

    @srr_guard(scorer=scorer, sampling=quick(1))
    def answer(question: str, past: Any, k: int = 3) -> str:
        return "fine"

    answer("three", HISTORY)
    assert scorer.turns == [*HISTORY, ("user", "three")]
    answer({"question": "three", "past": HISTORY}, None)
    assert scorer.turns == [*HISTORY, ("user", "three")]


# ---- schema ----


class Recipe(BaseModel):
    name: str
    minutes: int


FITS = {"name": "tea", "minutes": 3}
MISFITS = [{"name": "tea", "minutes": "a while"}, {"name": "tea"}]


@promise("schema")
@pytest.mark.parametrize("bad", MISFITS)
class TestSchema:
    """The misfit is the safest, and is not chosen."""

    scorer = FakeScorer(lambda prompt, text: 0.95 if "a while" in text else 0.9)

    def agent(self, door, bad, strategy):
        from langchain.agents import create_agent
        from srr_guard_integrations.langchain import SafetyRankerMiddleware

        as_text = strategy.__name__ == "ProviderStrategy"
        answers = [
            Answer(json.dumps(args)) if as_text else Answer("", call=("Recipe", args))
            for args in (bad, FITS)
        ]
        model: Any = scripted(answers)
        options = {"scorer": self.scorer, "sampling": quick(2, attempts=1)}
        middleware = []
        if door.name == "SafetyRankerMiddleware":
            middleware = [SafetyRankerMiddleware(**options)]
        else:
            kinds = {"SafetyRanker": SafetyRanker, "SafetyRankedChatModel": SafetyRankedChatModel}
            model = kinds[door.name](model, **options)
        return create_agent(model, response_format=strategy(Recipe), middleware=middleware)

    @pytest.mark.needs("agents")
    @pytest.mark.parametrize("name", ["ToolStrategy", "ProviderStrategy"])
    def test_agents(self, door, ask, bad, name):
        import langchain.agents.structured_output as strategies

        agent = self.agent(door, bad, getattr(strategies, name))
        state = agent.invoke({"messages": [("user", "q")]})
        assert state["structured_response"] == Recipe(**FITS)

    @pytest.mark.needs("structured output")
    @pytest.mark.parametrize("raw", [False, True])
    def test_structured_output(self, door, ask, bad, raw):
        kinds = {"SafetyRanker": SafetyRanker, "SafetyRankedChatModel": SafetyRankedChatModel}
        model = scripted([Answer("", call=("Recipe", bad)), Answer("", call=("Recipe", FITS))])
        guarded = kinds[door.name](model, scorer=self.scorer, sampling=quick(2, attempts=1))
        structured = guarded.with_structured_output(Recipe, include_raw=raw)
        for output in (structured.invoke("q"), asyncio.run(structured.ainvoke("q"))):
            assert (output["parsed"] if raw else output) == Recipe(**FITS)

    @pytest.mark.needs("arguments of a call")
    @pytest.mark.parametrize("form", ["response_format", "tools"])
    def test_arguments_of_the_call(self, door, ask, bad, form):
        schema = Recipe.model_json_schema()
        if form == "tools":
            answers = [Answer("", call=("Recipe", args)) for args in (bad, FITS)]
            function = {"name": "Recipe", "parameters": schema}
            asked = {
                "tools": [{"type": "function", "function": function}],
                "tool_choice": "required",
            }
        else:
            answers = [Answer(json.dumps(args)) for args in (bad, FITS)]
            form_of = {"name": "Recipe", "schema": schema}
            asked = {"response_format": {"type": "json_schema", "json_schema": form_of}}
        asker = door(*answers, scorer=self.scorer, sampling=quick(2, attempts=1))
        output = ask(asker, "q", **asked)
        assert decision_on(output)["failed"] == 1
        assert "a while" not in repr(output)

    @pytest.mark.needs("arguments of a call")
    def test_misfits_alone(self, door, ask, bad):
        form_of = {"name": "Recipe", "schema": Recipe.model_json_schema()}
        asked = {"response_format": {"type": "json_schema", "json_schema": form_of}}
        asker = door(Answer(json.dumps(bad)), scorer=self.scorer, sampling=quick(2))
        with pytest.raises(AllCandidatesFailedError, match="schema was asked for"):
            ask(asker, "q", **asked)
        assert asker.calls == 4


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

    expected = openai.BadRequestError if door.name == "guard_chat_completions" else type(error)
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


@pytest.mark.parametrize("odd", ODD, ids=repr)
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
