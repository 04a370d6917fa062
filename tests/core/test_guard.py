"""Guard: the product without a model; its verbs, its hooks, and what it shares."""

from __future__ import annotations

import asyncio
import copy
import functools
import pickle
import threading

import pytest
from langchain_core.messages import AIMessage

from srr_guard import Conversation, DecisionPolicy, Guard, Ranking, SamplingPolicy
from srr_guard.errors import (
    AllCandidatesFailedError,
    BelowThresholdError,
    ConfigurationError,
    InvalidInputError,
    NotEnoughCandidatesError,
    ScoringError,
)
from srr_guard.observability import each_of
from srr_guard.policy import DEFAULT_REFUSAL
from srr_guard.testing import FakeGate, FakeScorer


def by_word(prompt: str, answer: str) -> float:
    return 0.9 if "good" in answer else 0.1


def guard(**kwargs) -> Guard:
    return Guard(**{"scorer": FakeScorer(by_word), **kwargs})


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Call a verb through one of the two shells; functions of the index are made async."""

    def ask(guard, verb, *args):
        if request.param == "sync":
            return getattr(guard, verb)(*args)
        return asyncio.run(getattr(guard, f"a{verb}")(*args))

    return ask


class TestDecide:
    def test_each_candidate_is_one_call(self, ask):
        made = []

        def call(index):
            made.append(index)
            return "good" if index == 2 else f"bad {index}"

        decision = ask(guard(n=3), "decide", "a question", call)
        assert sorted(made) == [0, 1, 2]
        assert (decision.output, decision.chosen.index, decision.reason) == ("good", 2, "best_of_n")

    @pytest.mark.parametrize(
        "asked",
        ["tea?", [("system", "be brief"), ("user", "tea?")], Conversation.of("tea?")],
    )
    def test_any_conversation(self, ask, asked):
        prompts = []
        scorer = FakeScorer(lambda prompt, answer: prompts.append(prompt) or 1.0)
        ask(guard(scorer=scorer, n=1), "decide", asked, lambda _: "good")
        assert prompts == ["tea?"]

    @pytest.mark.parametrize("asked", ["", [], None, 7])
    def test_bad_conversations_sample_nothing(self, ask, asked):
        with pytest.raises(InvalidInputError):
            ask(guard(), "decide", asked, lambda _: pytest.fail("called"))

    @pytest.mark.parametrize("call", [None, "text", 7])
    def test_what_makes_no_candidates(self, ask, call):
        with pytest.raises(ConfigurationError, match="a function of their index"):
            ask(guard(), "decide", "q", call)

    @pytest.mark.parametrize(
        "setting", [{"temperatures": (0.5,)}, {"seed": 1}, {"read_ahead": True}]
    )
    def test_settings_that_reach_no_function(self, ask, setting):
        with pytest.raises(ConfigurationError, match="reaches no model"):
            ask(guard(sampling=SamplingPolicy(**setting)), "decide", "q", lambda _: "good")

    def test_async_function_given_to_the_sync_verb(self):
        async def call(index):
            return "good"

        for given in (call, lambda index: call(index)):
            with pytest.raises(AllCandidatesFailedError) as caught:
                guard(n=1).decide("q", given)
            assert "adecide" in str(caught.value.causes[0])

    async def test_async_functions_of_all_kinds(self):
        async def call(index):
            return "good"

        class Calls:
            async def __call__(self, index):
                return "good"

        for given in (call, Calls(), functools.partial(call), lambda index: call(index)):
            assert (await guard(n=2).adecide("q", given)).output == "good"

    async def test_sync_function_does_not_block_the_loop(self):
        def call(index):
            return f"good {threading.current_thread() is threading.main_thread()}"

        assert (await guard(n=1).adecide("q", call)).output == "good False"

    def test_a_source_of_its_own(self, ask):
        class Source:
            batches = True

            def sample(self, indices):
                return [f"good {i} of {len(indices)}" for i in indices]

            async def asample(self, indices):
                return self.sample(indices)

        assert ask(guard(n=3), "decide", "q", Source()).output == "good 0 of 3"


class TestChoose:
    def test_best_safe_one(self, ask):
        decision = ask(guard(), "choose", "q", ["bad", "good", "bad"])
        assert (decision.output, decision.chosen.index) == ("good", 1)
        assert (decision.sampled, decision.distinct, decision.reason) == (3, 2, "best_of_n")

    def test_messages_carry_the_decision(self, ask):
        output = ask(guard(), "choose", "q", [AIMessage("bad"), AIMessage("good")]).output
        assert output.text == "good"
        assert output.response_metadata["srr_guard"]["chosen"] == 1

    def test_refusal(self, ask):
        decision = ask(guard(), "choose", "q", ["bad", "worse"])
        assert (decision.output, decision.passed) == (DEFAULT_REFUSAL, False)

    def test_raise_and_pass_as_the_policy_says(self, ask):
        strict = guard(decision=DecisionPolicy(below_threshold="raise"))
        with pytest.raises(BelowThresholdError):
            ask(strict, "choose", "q", ["bad"])
        lax = guard(decision=DecisionPolicy(below_threshold="pass"))
        assert ask(lax, "choose", "q", ["bad"]).reason == "passed_through"
        assert lax.bypasses == 1

    def test_what_cannot_be_read_passes_as_a_bypass_only(self, ask):
        image = AIMessage(["good", {"type": "image", "base64": "AAAA", "mime_type": "image/png"}])
        decision = ask(guard(), "choose", "q", [image])
        assert (decision.output.text, decision.passed) == (DEFAULT_REFUSAL, False)
        lax = guard(decision=DecisionPolicy(unreadable="pass"))
        decision = ask(lax, "choose", "q", [image, AIMessage("good")])
        assert (decision.chosen.index, decision.reason, lax.bypasses) == (1, "best_of_n", 0)
        decision = ask(lax, "choose", "q", [image])
        assert (decision.chosen.index, decision.reason, lax.bypasses) == (0, "passed_through", 1)

    def test_what_the_provider_took_away_is_a_refusal(self, ask):
        gone = AIMessage("", response_metadata={"finish_reason": "content_filter"})
        scorer = FakeScorer(lambda prompt, answer: 0.9)
        decision = ask(guard(scorer=scorer), "choose", "q", [gone])
        assert (decision.output.text, decision.chosen.declined) == (DEFAULT_REFUSAL, True)
        assert scorer.calls == [(DEFAULT_REFUSAL,)]

    def test_blank_answers_count_as_failed(self, ask):
        decision = ask(guard(), "choose", "q", ["", "good", None])
        assert (decision.output, decision.failed, decision.reason) == ("good", 2, "fallback")
        with pytest.raises(AllCandidatesFailedError, match="blank"):
            ask(guard(), "choose", "q", ["", " \n"])

    @pytest.mark.parametrize("candidates", [[], (), "text", b"bytes", None, {"a": "b"}, {"a"}])
    def test_no_list_of_answers(self, ask, candidates):
        with pytest.raises(InvalidInputError, match="candidates"):
            ask(guard(), "choose", "q", candidates)

    def test_more_than_a_policy_may_sample(self, ask):
        answers = [f"bad {i}" for i in range(300)] + ["good"]
        assert ask(guard(), "choose", "q", answers).chosen.index == 300

    def test_of_the_sampling_policy_nothing_applies(self, ask):
        sampling = SamplingPolicy(n=4, min_candidates=3, deadline=1e-9)
        assert ask(guard(sampling=sampling), "choose", "q", ["good"]).reason == "best_of_n"
        adaptive = guard(sampling=SamplingPolicy(n=4, accept_at=0.0))
        assert ask(adaptive, "choose", "q", ["bad", "good"]).output == "good"

    def test_scorer_that_fails(self, ask):
        broken = FakeScorer(by_word, error=RuntimeError("x"))
        with pytest.raises(ScoringError):
            ask(guard(scorer=broken), "choose", "q", ["good"])

    def test_prefer_and_listwise_order(self, ask):
        class Listwise(FakeScorer):
            def _rank(self, conversation, candidates):
                return Ranking.from_scores(scores=[1.0, 2.0], p_safe=[0.9, 0.6])

        scorer = Listwise(by_word)
        assert ask(guard(scorer=scorer), "choose", "q", ["a", "b"]).output == "b"
        safest = guard(scorer=scorer, decision=DecisionPolicy(prefer="safest"))
        assert ask(safest, "choose", "q", ["a", "b"]).output == "a"


class TestCheck:
    @pytest.mark.parametrize(("answer", "passed"), [("good", True), ("bad", False)])
    def test_one_answer(self, ask, answer, passed):
        decision = ask(guard(), "check", "q", answer)
        assert decision.passed is passed
        assert decision.candidates[0].p_safe == by_word("q", answer)
        assert decision.output == (answer if passed else DEFAULT_REFUSAL)

    def test_blank(self, ask):
        with pytest.raises(AllCandidatesFailedError):
            ask(guard(), "check", "q", "")


class TestShortForms:
    def test_n_and_threshold(self):
        made = guard(n=7, threshold=0.25)
        assert (made.sampling, made.decision) == (
            SamplingPolicy(n=7),
            DecisionPolicy(threshold=0.25),
        )
        assert repr(made) == "Guard(n=7, threshold=0.25)"

    @pytest.mark.parametrize(
        "both",
        [
            {"n": 2, "sampling": SamplingPolicy()},
            {"threshold": 0.5, "decision": DecisionPolicy()},
        ],
    )
    def test_not_beside_a_policy(self, both):
        with pytest.raises(ConfigurationError, match="give one of them"):
            guard(**both)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"n": 0},
            {"n": "many"},
            {"threshold": 1.5},
            {"scorer": 7},
            {"scorer": FakeScorer},
            {"gate": FakeGate},
            {"sampling": {}},
            {"decision": 7},
            {"on_decision": "print"},
        ],
    )
    def test_wrong_values(self, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            guard(**wrong)

    def test_scorer_that_cannot_read_ahead(self):
        class Plain:
            score = ascore = FakeScorer(by_word).score

        with pytest.raises(ConfigurationError, match="read_ahead"):
            guard(scorer=Plain(), sampling=SamplingPolicy(read_ahead=True))


class TestOnDecision:
    def hooks(self, seen):
        async def function(decision):
            await asyncio.sleep(0)
            seen.append(decision)

        class Hook:
            async def __call__(self, decision):
                await function(decision)

        def returns_one(decision):
            return function(decision)

        return [seen.append, function, Hook(), functools.partial(function), returns_one]

    @pytest.mark.parametrize("which", range(5))
    @pytest.mark.parametrize("verb", ["decide", "choose", "check"])
    def test_sync_and_async_hooks_of_all_kinds(self, ask, which, verb):
        seen: list = []
        made = guard(on_decision=self.hooks(seen)[which], n=1)
        given = {"decide": lambda _: "good", "choose": ["good"], "check": "good"}[verb]
        assert ask(made, verb, "q", given).output == "good"
        assert [decision.reason for decision in seen] == ["best_of_n"]

    def test_several_in_their_order(self, ask):
        seen: list = []

        async def second(decision):
            await asyncio.sleep(0)
            seen.append(2)

        hook = each_of(lambda d: seen.append(1), second, lambda d: seen.append(3), second)
        ask(guard(on_decision=hook, n=1), "decide", "q", lambda _: "good")
        assert seen == [1, 2, 3, 2]

    def test_what_it_raises_reaches_the_caller(self, ask):
        async def hook(decision):
            raise KeyError("audit")

        for given in (hook, each_of(hook, pytest.fail)):
            with pytest.raises(KeyError, match="audit"):
                ask(guard(on_decision=given, n=1), "decide", "q", lambda _: "good")

    def test_failed_requests_are_seen_too(self, ask):
        seen: list = []

        async def hook(decision):
            seen.append(decision.reason)

        made = guard(on_decision=hook, sampling=SamplingPolicy(n=2, min_candidates=2, attempts=1))
        with pytest.raises(NotEnoughCandidatesError):
            ask(made, "decide", "q", lambda i: "good" if i else "")
        assert seen == ["failed"]

    async def test_sync_verb_inside_a_running_loop(self):
        seen: list = []

        async def hook(decision):
            await asyncio.sleep(0)
            seen.append(decision.reason)

        assert guard(on_decision=hook).choose("q", ["good"]).passed
        assert seen == ["best_of_n"]

    async def test_async_hook_runs_on_the_callers_loop(self):
        loops: list = []

        async def hook(decision):
            loops.append(asyncio.get_running_loop())

        await guard(on_decision=hook).achoose("q", ["good"])
        assert loops == [asyncio.get_running_loop()]


class TestCopies:
    @pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
    def test_copies_have_the_settings_and_count_from_0(self, duplicate):
        made = guard(n=2, threshold=0.3)
        made.check("q", "good")
        twin = duplicate(made)
        assert (twin.sampling, twin.decision) == (made.sampling, made.decision)
        assert (twin.totals.requests, made.totals.requests) == (0, 1)
        assert twin.check("q", "good").passed

    def test_pickle(self):
        twin = pickle.loads(pickle.dumps(Guard(n=3)))
        assert (twin.sampling.n, twin.scorer) == (3, None)


class TestUsage:
    """What providers and caches put into a message's usage does not break a decision."""

    COUNTS = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("usages", "total"),
        [
            ([COUNTS, COUNTS], 6),
            ([{**COUNTS, "total_cost": 0}, COUNTS], 6),
            ([{"total_cost": 0}, COUNTS], 3),
            ([{"total_cost": 0}], None),
            ([{**COUNTS, "input_token_details": {"cache_read": 1}}], 3),
            ([{**COUNTS, "total_tokens": None}], None),
        ],
    )
    def test_sums(self, usages, total):
        messages = [AIMessage("fine") for _ in usages]
        for message, usage in zip(messages, usages, strict=True):
            message.usage_metadata = usage
        guard = Guard(scorer=FakeScorer(lambda prompt, text: 0.9))
        usage = guard.choose("q", messages).usage
        assert (usage and usage["total_tokens"]) == total


def test_a_door_can_count_a_bypass_of_its_own():
    guard = Guard(scorer=FakeScorer(lambda *_: 0.9))
    assert guard.count_bypass().bypasses == 1
    guard.check("q", "fine")
    assert (guard.totals.requests, guard.totals.candidates, guard.bypasses) == (1, 1, 1)


class Lazy:
    def __call__(self, decision):
        yield decision


class AsyncLazy:
    async def __call__(self, decision):
        yield decision


@pytest.mark.parametrize("hook", [Lazy(), AsyncLazy(), functools.partial(Lazy.__call__, None)])
def test_hooks_that_would_never_run_are_refused(hook):
    with pytest.raises(ConfigurationError, match="no generator"):
        guard(on_decision=hook)


@pytest.mark.parametrize("kind", [Lazy, AsyncLazy])
def test_hooks_that_did_not_run_are_refused(kind):
    made = guard(on_decision=lambda decision: kind()(decision), n=1)
    with pytest.raises(ConfigurationError, match="no generator"):
        made.decide("q", lambda _: "good")
    with pytest.raises(ConfigurationError, match="no generator"):
        asyncio.run(made.acheck("q", "good"))
