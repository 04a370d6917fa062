# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""A user's code, read by pyright in strict mode (`make lint`), never run.

Every public class and setting is used as an editor shows it: no `Any`, nothing unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, assert_type

from langchain.agents.middleware import AgentMiddleware
from langchain_core.caches import BaseCache
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from srr_guard_integrations.langchain import SafetyRankerMiddleware
from srr_guard_integrations.openai_client import guard_chat_completions

from srr_guard import (
    AllCandidatesFailedError,
    BelowThresholdError,
    Candidate,
    Conversation,
    Decision,
    DecisionPolicy,
    Guard,
    LocalChatModel,
    Ranking,
    ResponseScorer,
    SafetyRankedChatModel,
    SafetyRanker,
    SamplingPolicy,
    ScoredCandidate,
    SRRGuardError,
    SRRScorer,
    Totals,
    srr_guard,
)
from srr_guard.audit import AuditLog
from srr_guard.errors import MissingExtraError
from srr_guard.observability import Telemetry, each_of, log_decision
from srr_guard.testing import FakeScorer, ScriptedChatModel
from srr_guard.training import Report, TrainingOptions, evaluate, train


def p_safe(prompt: str, answer: str) -> float:
    return 0.9 if prompt in answer else 0.1


class OwnScorer:
    def score(self, conversation: object, candidates: Sequence[str]) -> Ranking:
        return Ranking.from_scores(scores=[0.0] * len(candidates), p_safe=[0.5] * len(candidates))

    async def ascore(self, conversation: object, candidates: Sequence[str]) -> Ranking:
        return self.score(conversation, candidates)


def policies() -> None:
    sampling = SamplingPolicy(
        n=8, accept_at=0.5, retry_on=(ConnectionError,), temperatures=(0.2, 0.9), seed=1
    )
    assert_type(sampling.n, int)
    assert_type(sampling.accept_at, float | None)
    assert_type(sampling.deadline, float | None)
    assert_type(sampling.batched, Literal["auto", "never"])
    assert_type(sampling.retry_on, tuple[type[Exception], ...])
    decision = DecisionPolicy(threshold=0.7, prefer="safest", below_threshold="raise")
    assert_type(decision.threshold, float)
    assert_type(decision.refusal, str)
    DecisionPolicy(prefer=lambda candidates: candidates[0])


def ranker() -> None:
    prompt = ChatPromptTemplate.from_messages([("user", "{question}")])
    scorers: list[ResponseScorer] = [OwnScorer(), FakeScorer(p_safe), SRRScorer.from_pretrained()]
    ranker = SafetyRanker(
        prompt | ScriptedChatModel(answers=["fine", AIMessage("fine"), ValueError()]),
        scorer=scorers[0],
        sampling=SamplingPolicy(n=2),
        threshold=0.6,
        on_decision=each_of(log_decision, Telemetry()),
    )
    assert_type(ranker.sampling.n, int)
    assert_type(ranker.decision.threshold, float)
    assert_type(ranker.model, Runnable[Any, Any])
    assert_type(ranker.scorer, ResponseScorer | None)
    assert_type(ranker.totals, Totals)
    assert_type(ranker.totals.mean_candidates, float)
    assert_type(ranker.guard, Guard)
    assert_type(ranker.bypasses, int)
    try:
        decision = ranker.decide({"question": "Why?"})
    except BelowThresholdError as error:
        print(error.decision.reason)
    except AllCandidatesFailedError as error:
        assert_type(error.causes, tuple[BaseException, ...])
    except SRRGuardError as error:
        print(error)
    else:
        read(decision.ranking, decision.chosen)
    SafetyRanker([ScriptedChatModel(answers=["one"]), str.upper], n=2)
    ranker.samplings  # type: ignore[attr-defined]  # a typo stays an error


def read(ranking: Ranking | None, chosen: Candidate[object] | None) -> None:
    if ranking is not None:
        assert_type(ranking.best, int)
        assert_type(ranking.p_safe, tuple[float, ...])
        assert_type(ranking.p_help, tuple[float, ...] | None)
    if isinstance(chosen, ScoredCandidate):
        assert_type(chosen.p_safe, float)
        assert_type(chosen.text, str)


def fields(decision: Decision[str]) -> None:
    assert_type(decision.output, str | None)
    assert_type(decision.passed, bool)
    assert_type(decision.chosen, ScoredCandidate[str] | Candidate[str] | None)
    assert_type([c.text for c in decision.candidates], list[str])
    assert_type(decision.timings.total, float)
    assert_type(decision.failures, tuple[str, ...])
    if decision.usage is not None:
        assert_type(decision.usage["total_tokens"], int)
    print(decision.summary()["reason"])


class Colour(BaseModel):
    name: str


def chat_model() -> None:
    local = LocalChatModel(max_new_tokens=64, temperature=0.7, seed=1)
    assert_type(local.max_new_tokens, int)
    assert_type(local.seed, int | None)
    assert_type(local.sample_candidates("Hi", 2), list[AIMessage])
    model = SafetyRankedChatModel(local, scorer=FakeScorer(p_safe), n=3)
    assert_type(model.sampling.n, int)
    assert_type(model.decision.threshold, float)
    assert_type(model.invoke("Hi"), AIMessage)
    text: str = model.invoke("Hi").text
    assert_type(model.model_name, str)
    assert_type(model.model, Runnable[Any, Any])
    assert_type(model.cache, BaseCache | bool | None)
    print(text, model.with_structured_output(Colour), model.bind_tools([p_safe]))


@srr_guard(n=2, prompt="question", scorer=FakeScorer(p_safe))
def answer(question: str, *, tone: str = "kind") -> str:
    return f"{tone}: {question}"


@srr_guard
async def answer_async(question: str) -> AIMessage:
    return AIMessage(question)


@srr_guard(n=3)
def words(question: str) -> Iterator[str]:
    yield from question.split()


@srr_guard
async def words_async(question: str) -> AsyncIterator[str]:
    yield question


async def decorated() -> None:
    assert_type(answer("Hi", tone="dry"), str)
    assert_type(answer.decide("Hi"), Decision[str])
    assert_type(await answer_async("Hi"), AIMessage)
    assert_type((await answer_async.decide("Hi")).output, AIMessage | None)
    assert_type(list(words("Hi")), list[str])
    assert_type([word async for word in words_async("Hi")], list[str])
    assert_type(answer.totals.requests, int)
    assert_type(answer.guard, Guard)


def guard() -> None:
    guard = Guard(
        scorer=FakeScorer(p_safe), sampling=SamplingPolicy(n=2), decision=DecisionPolicy()
    )
    assert_type(guard.sampling.n, int)
    assert_type(guard.choose("Hi", ["one", "two"]), Decision[str])
    assert_type(guard.check("Hi", "one"), Decision[str])
    assert_type(guard.decide("Hi", lambda index: str(index)), Decision[str])
    assert_type(Conversation.of([("user", "Hi")]).turns[0].text, str)
    assert_type(SafetyRanker(str.upper, guard=guard).guard, Guard)


def agent() -> None:
    middleware = SafetyRankerMiddleware(guard=Guard(scorer=FakeScorer(p_safe)))
    assert_type(middleware.guard.sampling.n, int)
    assert_type(middleware.totals, Totals)
    for_an_agent: list[AgentMiddleware[Any, Any, Any]] = [middleware]
    print(for_an_agent)


async def clients() -> None:
    client = guard_chat_completions(OpenAI(), scorer=FakeScorer(p_safe), n=2)
    assert_type(client, OpenAI)
    completion = client.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "Hi"}]
    )
    assert_type(completion.choices[0].message.content, str | None)
    several = guard_chat_completions(AsyncOpenAI())
    answered = await several.chat.completions.create(
        model="gpt-5-mini", messages=[{"role": "user", "content": "Hi"}]
    )
    assert_type(answered.choices[0].message.content, str | None)


def watched() -> None:
    with AuditLog(Path("audit.jsonl"), redact=lambda text: text[:3]) as audit:
        SafetyRanker(ScriptedChatModel(answers=["fine"]), on_decision=each_of(audit, Telemetry()))


def scored() -> None:
    scorer = SRRScorer.from_pretrained(reference=Path("model"), dtype="bfloat16")
    try:
        scorer.warm_up()
    except MissingExtraError as error:
        assert_type(error.extra, str)
    ranking = scorer.score("Hi", ["one", "two"])
    assert_type(ranking, Ranking)
    assert_type(scorer.bundle.info.head.depths, tuple[int, ...])


def faked() -> None:
    scorer = FakeScorer(p_safe)
    assert_type(scorer.calls, list[tuple[str, ...]])
    model = ScriptedChatModel(answers=["one", AIMessage("two"), TimeoutError()], delay=0.1)
    assert_type(model.calls, int)


def trained() -> None:
    options = TrainingOptions(preset="published", source_weights={"mine": 2.0})
    assert_type(options.epochs, int)
    bundle = train("rows.jsonl", "my-scorer", options=options)
    report = evaluate(["test.jsonl"], [bundle.folder, None])
    assert_type(report, Report)
    assert_type(report.sets["test"]["my-scorer"]["auroc"].value, float)
