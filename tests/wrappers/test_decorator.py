"""`@srr_guard` on functions, async functions and methods."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.runnables import RunnableLambda
from pydantic import BaseModel

from srr_guard import (
    AllCandidatesFailedError,
    BelowThresholdError,
    Decision,
    DecisionPolicy,
    InvalidInputError,
    SafetyRanker,
    SamplingPolicy,
    srr_guard,
)
from srr_guard.errors import ConfigurationError
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeScorer, ScriptedChatModel


class Script:
    """Gives its answers in turn, from any thread."""

    def __init__(self, *answers) -> None:
        self.answers = answers
        self.calls = 0
        self.lock = threading.Lock()

    def __call__(self):
        with self.lock:
            self.calls += 1
            return self.answers[(self.calls - 1) % len(self.answers)]


def scorer() -> FakeScorer:
    return FakeScorer(lambda prompt, answer: 0.9 if "good" in answer else 0.1)


def guard(**kwargs):
    return srr_guard(scorer=scorer(), **{"n": 2, **kwargs})


def test_sync_function():
    script = Script("bad", "good")

    @guard()
    def answer(question: str) -> str:
        """Answers."""
        return script()

    assert answer("q") == "good"
    assert answer(question="q") == "good"
    decision = answer.decide("q")
    assert isinstance(decision, Decision)
    assert decision.chosen.text == "good"


async def test_async_function():
    script = Script("bad", "good")

    @guard()
    async def answer(question: str) -> str:
        await asyncio.sleep(0)
        return script()

    assert await answer("q") == "good"
    assert (await answer.decide("q")).reason == "best_of_n"


def test_without_arguments(monkeypatch):
    class Shipped:
        from_pretrained = staticmethod(scorer)

    monkeypatch.setattr("srr_guard.scorer.SRRScorer", Shipped)

    @srr_guard
    def answer(question: str) -> str:
        return "good"

    assert answer.decide("q").sampled == SamplingPolicy().n


def test_signature_and_docstring_are_kept():
    def answer(question: str, *, depth: int = 3) -> str:
        """Answers a question."""
        return "good"

    async def aanswer(question: str) -> str:
        return "good"

    guarded = guard()(answer)
    assert guarded.__name__ == "answer"
    assert guarded.__doc__ == "Answers a question."
    assert guarded.__wrapped__ is answer
    assert inspect.signature(guarded) == inspect.signature(answer)
    assert asyncio.iscoroutinefunction(guard()(aanswer))
    assert inspect.iscoroutinefunction(guard()(aanswer).__call__)
    assert not asyncio.iscoroutinefunction(guarded)


class TestPrompt:
    def prompts(self, prompt, *args, **kwargs):
        seen = []
        recording = FakeScorer(lambda p, answer: seen.append(p) or 1.0)

        @srr_guard(scorer=recording, n=1, prompt=prompt)
        def answer(context: str, question: str = "the default", *rest, **options) -> str:
            return "good"

        answer(*args, **kwargs)
        return seen

    def test_first_parameter_is_the_default(self):
        assert self.prompts(None, "tea?", "milk?") == ["tea?"]

    def test_by_name(self):
        assert self.prompts("question", "tea?", "milk?") == ["milk?"]
        assert self.prompts("question", context="tea?", question="milk?") == ["milk?"]
        assert self.prompts("question", "tea?") == ["the default"]

    def test_by_function(self):
        both = lambda context, question, **_: [("system", context), ("user", question)]  # noqa: E731
        assert self.prompts(both, "be brief", "milk?") == ["milk?"]

    def test_unknown_name_fails_at_decoration(self):
        with pytest.raises(ConfigurationError, match=r"'query'.*\['question', 'k'\]"):

            @srr_guard(prompt="query")
            def answer(question: str, k: int) -> str:
                return ""

    def test_no_parameter_fails_at_decoration(self):
        with pytest.raises(ConfigurationError, match="no parameter"):

            @srr_guard
            def answer() -> str:
                return ""

    @pytest.mark.parametrize("value", ["", "  ", [], None, 7, b"x"])
    def test_bad_prompt_calls_nothing(self, value):
        script = Script("good")

        @guard()
        def answer(question) -> str:
            return script()

        with pytest.raises(InvalidInputError):
            answer(value)
        assert script.calls == 0

    def test_wrong_arguments_are_the_callers_type_error(self):
        @guard()
        def answer(question: str) -> str:
            return "good"

        with pytest.raises(TypeError, match="unexpected keyword"):
            answer("q", nonsense=1)


class TestMethods:
    def test_sync_async_class_and_static(self):
        class Bot:
            """Has all kinds of methods."""

            def __init__(self, name: str) -> None:
                self.name = name

            @guard()
            def answer(self, question: str) -> str:
                return f"good {self.name} {question}"

            @guard(prompt="question")
            async def aanswer(self, context: str, question: str) -> str:
                return f"good {self.name} {question}"

            @classmethod
            @guard()
            def of_class(cls, question: str) -> str:
                return f"good {cls.__name__}"

            @staticmethod
            @guard()
            def static(question: str) -> str:
                return "good static"

        one, two = Bot("one"), Bot("two")
        assert one.answer("q") == "good one q"
        assert two.answer(question="q") == "good two q"
        assert one.answer.decide("q").chosen.text == "good one q"
        assert asyncio.run(one.aanswer("c", "q")) == "good one q"
        assert asyncio.run(one.aanswer.decide("c", question="q")).output == "good one q"
        assert Bot.of_class("q") == "good Bot"
        assert Bot.static("q") == one.static("q") == "good static"
        assert list(inspect.signature(one.answer).parameters) == ["question"]
        assert Bot.answer(one, "q") == "good one q"


class TestOutputs:
    def test_message(self):
        @guard()
        def answer(question: str) -> AIMessage:
            return AIMessage("good")

        assert answer("q").response_metadata["srr_guard"]["p_safe"] == 0.9

    def test_objects_and_dicts(self):
        class Reply(BaseModel):
            text: str

        replies = Script(Reply(text="bad"), Reply(text="good"))
        guarded = guard()(lambda question: replies())
        assert guarded("q") == Reply(text="good")
        assert guard()(lambda question: {"text": "good"})("q") == {"text": "good"}
        with pytest.raises(BelowThresholdError):
            guard()(lambda question: {"text": "bad"})("q")

    def test_refusal(self):
        assert guard()(lambda question: "bad")("q") == DEFAULT_REFUSAL

    def test_none_fails(self):
        with pytest.raises(AllCandidatesFailedError):
            guard(sampling=SamplingPolicy(n=1, attempts=1), n=None)(lambda question: None)("q")

    def test_bypasses_are_counted(self):
        guarded = guard(decision=DecisionPolicy(below_threshold="pass"))(lambda question: "bad")
        assert guarded("q") == "bad"
        assert guarded.bypasses == 1
        assert guarded.decide("q").totals == guarded.totals
        assert guarded.totals.requests == guarded.bypasses == 2


def test_errors_count_as_failed_candidates():
    script = Script(ValueError("boom"), "good")

    @guard(sampling=SamplingPolicy(n=2, attempts=1), n=None)
    def answer(question: str) -> str:
        result = script()
        if isinstance(result, Exception):
            raise result
        return result

    assert answer.decide("q").reason == "fallback"


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"n": 0}, "n=0"),
        ({"n": 2, "sampling": SamplingPolicy()}, "give one of them"),
        ({"scorer": 7}, "scorer=7"),
        ({"decision": "refuse"}, "decision='refuse'"),
    ],
)
def test_bad_arguments(kwargs, match):
    with pytest.raises(ConfigurationError, match=match):
        srr_guard(**kwargs)


def test_not_for_values():
    with pytest.raises(ConfigurationError, match="put it on a function"):
        guard()(7)
    with pytest.raises(ConfigurationError, match="text='content'"):
        guard(text="content")


class TestGenerators:
    """Collected, ranked, then emitted."""

    def test_sync(self):
        script = Script("bad one two", "good three")

        @guard()
        def answer(question: str):
            yield from script().split(" ")

        assert list(answer("q")) == ["good", "three"]
        decision = answer.decide("q")
        assert (decision.output, decision.chosen.text) == (["good", "three"], "goodthree")
        assert script.calls == 4, "nothing is called before the first piece is asked for"
        answer("q")
        assert script.calls == 4

    async def test_async(self):
        script = Script("bad one two", "good three")

        @guard()
        async def answer(question: str):
            for word in script().split(" "):
                await asyncio.sleep(0)
                yield word

        assert [piece async for piece in answer("q")] == ["good", "three"]
        assert (await answer.decide("q")).chosen.text == "goodthree"

    async def test_method_and_adecide_of_a_sync_one(self):
        class Bot:
            @guard()
            def answer(self, question: str):
                yield "good"
                yield question

        assert list(Bot().answer("q")) == ["good", "q"]
        assert (await Bot().answer.adecide("q")).output == ["good", "q"]

    async def test_refusal_is_one_piece_in_the_form_of_the_others(self):
        @guard()
        def words(question: str):
            yield "bad"
            yield "words"

        @guard()
        async def chunks(question: str):
            yield AIMessageChunk(content="bad")

        @guard()
        def dicts(question: str):
            yield {"delta": "bad"}

        assert list(words("q")) == [DEFAULT_REFUSAL]
        (piece,) = [chunk async for chunk in chunks("q")]
        assert isinstance(piece, AIMessageChunk)
        assert piece.content == DEFAULT_REFUSAL
        with pytest.raises(BelowThresholdError):
            list(dicts("q"))

    def test_empty_or_broken_halfway(self):
        script = Script(0, 1, 2)

        @guard(sampling=SamplingPolicy(n=3, attempts=1), n=None)
        def answer(question: str):
            kind = script()
            if kind == 0:
                return
            yield "good"
            if kind == 1:
                raise ConnectionError
            yield " end"

        decision = answer.decide("q")
        assert sorted(decision.failures) == ["ConnectionError", "SamplingError"]
        assert "".join(answer("q")) == "good end"

    def test_text_reads_the_pieces(self):
        @guard(text=lambda pieces: pieces[-1]["text"])
        def answer(question: str):
            yield {"text": "go"}
            yield {"text": "good"}

        assert answer.decide("q").chosen.text == "good"

    def test_a_refusal_of_no_pieces_has_no_form(self):
        @guard(text=lambda pieces: "bad")
        def answer(question: str):
            yield from ()

        with pytest.raises(BelowThresholdError, match=r"p_safe=0\.100"):
            list(answer("q"))


class Reply:
    """An object that no rule can read."""

    def __init__(self, content: str) -> None:
        self.content = content


class TestText:
    def test_of_objects(self):
        script = Script(Reply("bad"), Reply("good"))

        @guard(text=lambda reply: reply.content)
        def answer(question: str) -> Reply:
            return script()

        decision = answer.decide("q")
        assert decision.chosen.text == "good"
        assert isinstance(answer("q"), Reply)

    def test_is_valid_unicode_for_the_scorer(self):
        scorer = FakeScorer(lambda prompt, text: 0.9)
        guarded = srr_guard(scorer=scorer, n=1, text=lambda reply: reply.content)
        assert guarded(lambda question: Reply("a\ud800b")).decide("q").chosen.text == "a\ufffdb"
        assert scorer.calls == [("a\ufffdb",)]

    def test_needed_for_them(self):
        with pytest.raises(AllCandidatesFailedError):
            guard()(lambda question: Reply("good"))("q")

    @pytest.mark.parametrize("text", [lambda reply: 7, lambda reply: reply.nonsense])
    def test_that_fails_is_a_failed_candidate(self, text):
        guarded = guard(text=text, sampling=SamplingPolicy(n=1, backoff=0), n=None)
        with pytest.raises(AllCandidatesFailedError):
            guarded(lambda question: Reply("good"))("q")


async def test_adecide_of_a_sync_function_does_not_block():
    @guard(n=4)
    def answer(question: str) -> str:
        time.sleep(0.4)  # longer than a loop may be blocked in a test
        return "good"

    assert (await answer.adecide("q")).output == "good"


async def test_adecide_of_an_async_function():
    @guard()
    async def answer(question: str) -> str:
        return "good"

    assert (await answer.adecide("q")).output == (await answer.decide("q")).output == "good"


def test_above_classmethod_and_staticmethod():
    class Bot:
        @guard()
        @classmethod
        def of_class(cls, question: str) -> str:
            return f"good {cls.__name__}"

        @guard()
        @staticmethod
        def static(question: str) -> str:
            return "good static"

    assert Bot.of_class("q") == Bot().of_class("q") == "good Bot"
    assert Bot.static("q") == Bot().static("q") == "good static"
    assert Bot.of_class.decide("q").output == "good Bot"


@guard()
def at_the_top(question: str) -> str:
    return "good"


class Deep:
    label = "deep"

    @guard()
    def method(self, question: str) -> str:
        return f"good {self.label}"

    @guard()
    @classmethod
    def of_class(cls, question: str) -> str:
        return f"good {cls.__name__}"

    @guard()
    @staticmethod
    def static(question: str) -> str:
        return "good static"


class TestCopies:
    """As with a plain function: copies are the function itself, pickles are its name."""

    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_copies(self, duplicate):
        assert duplicate(at_the_top) is at_the_top
        assert duplicate({"f": at_the_top})["f"] is at_the_top

    def test_pickle(self):
        for function in (at_the_top, Deep.method, Deep.static):
            assert pickle.loads(pickle.dumps(function)) is function
        assert pickle.loads(pickle.dumps(Deep.of_class))("q") == "good Deep"
        bound = pickle.loads(pickle.dumps(Deep().method))
        assert bound("q") == "good deep"

    def test_local_functions_do_not_pickle(self):
        @guard()
        def local(question: str) -> str:
            return "good"

        with pytest.raises(pickle.PicklingError, match="not found by its name"):
            pickle.dumps(local)


def test_partials_can_be_guarded():
    def answer(style: str, question: str) -> str:
        return f"good {style} {question}"

    assert guard(prompt="question")(functools.partial(answer, "brief"))("q") == "good brief q"


def test_candidates_run_side_by_side():
    meeting = threading.Barrier(8)  # broken unless all calls are under way at once

    @guard(n=8)
    def answer(question: str) -> str:
        meeting.wait(60)
        return "good"

    assert answer("q") == "good"


async def test_no_rejected_token_reaches_the_outer_run():
    model = ScriptedChatModel(answers=["REJECTED one two", "good three"])

    @guard()
    def answer(question: str) -> str:
        return model.invoke(question).text

    @guard()
    async def aanswer(question: str) -> str:
        return (await model.ainvoke(question)).text

    async def outer(question):
        return await aanswer(question)

    for top in (RunnableLambda(lambda q: answer(q)), RunnableLambda(outer)):
        events = [e async for e in top.astream_events("q", version="v2")]
        assert "REJECTED" not in repr(events)
        assert "good three" in repr(events)


def test_types_are_kept():
    """The file holds `assert_type` calls and errors that must stay errors."""
    file = Path(__file__).parents[1] / "typing" / "decorator_types.py"
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", str(file.with_name("mypy.ini")), str(file)],
        cwd=file.parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("builtin", [str, max])
def test_a_callable_that_does_not_say_its_parameters(builtin):
    with pytest.raises(ConfigurationError, match="what parameters"):
        srr_guard(builtin)


# ---- turns that a function adds ----

ASKED = {
    "list": ([{"role": "user", "content": "q"}], lambda given: given),
    "tuples": ([("user", "q")], lambda given: given),
    "messages": ([HumanMessage("q")], lambda given: given),
    "state": ({"messages": [HumanMessage("q")]}, lambda given: given["messages"]),
}


@pytest.mark.parametrize("kind", ASKED)
@pytest.mark.parametrize("door", ["sync", "async", "runnable", "async runnable"])
def test_turns_that_candidates_add_stay_with_them(door, kind):
    asked, turns_of = ASKED[kind]
    seen = []

    def answer(given):
        turns = turns_of(given)
        turns.append(AIMessage("rejected"))
        seen.append(len(turns))
        return "good"

    async def aanswer(given):
        return answer(given)

    scorer = FakeScorer(lambda prompt, text: 0.9)
    if door == "sync":
        srr_guard(scorer=scorer, n=3)(answer)(asked)
    elif door == "async":
        asyncio.run(srr_guard(scorer=scorer, n=3)(aanswer)(asked))
    elif door == "runnable":
        SafetyRanker(RunnableLambda(answer), scorer=scorer, n=3).invoke(asked)
    else:
        runnable = SafetyRanker(RunnableLambda(aanswer), scorer=scorer, n=3)
        asyncio.run(runnable.ainvoke(asked))
    assert seen == [2, 2, 2]
    assert len(turns_of(asked)) == 1


def test_other_arguments_are_shared():
    kept = []

    @srr_guard(scorer=FakeScorer(lambda prompt, text: 0.9), n=2)
    def answer(question, log):
        log.append(question)
        return "good"

    answer("q", kept)
    assert kept == ["q", "q"]
