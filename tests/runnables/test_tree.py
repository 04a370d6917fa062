"""The visitor reaches the models of every kind of node, with every setting, in both shells."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import (
    ConfigurableField,
    RouterRunnable,
    Runnable,
    RunnableBranch,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    RunnableSerializable,
    RunnableWithFallbacks,
    chain,
)
from pydantic import ConfigDict

from srr_guard import SafetyRanker, SamplingPolicy
from srr_guard.errors import ConfigurationError
from srr_guard.runnables.tree import (
    entries,
    is_sync_only,
    language_models,
    takes_messages,
    unbind,
    with_entries,
    with_models,
)
from srr_guard.testing import FakeScorer, ScriptedChatModel

NUMBERS = count(1)  # several threads draw them


class Tunable(BaseChatModel):
    """Says what it was sampled with, and how many answers were made before."""

    temperature: float = 0.7
    seed: int | None = None

    @property
    def _llm_type(self):
        return "tunable"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = f"{self.temperature} {self.seed} #{next(NUMBERS)}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class Asking(BaseChatModel):
    """A model that asks another one."""

    inner: BaseChatModel

    @property
    def _llm_type(self):
        return "asking"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        return ChatResult(generations=[ChatGeneration(message=self.inner.invoke(messages))])


PROMPT = ChatPromptTemplate.from_template("{question}")
ASKED = {"question": "q"}
MODEL = Tunable()
TEXT = MODEL | StrOutputParser()
last = RunnableLambda(
    lambda found: next(iter(found.values())) if isinstance(found, dict) else found
)


def named(question):
    return TEXT


async def anamed(question):
    return TEXT


def one_of_two(question):
    if question:
        return TEXT
    return MODEL


@chain
def decorated_chain(question):
    return TEXT


class Holder(RunnableSerializable):
    """A runnable of another package: it holds others in a list and in a dict."""

    steps: list
    more: dict

    model_config = ConfigDict(arbitrary_types_allowed=True)

    def invoke(self, input, config=None, **kwargs):
        return self.more["inner"][0].invoke(self.steps[0].invoke(input, config), config)


class Rewriting(BaseRetriever):
    """A retriever that asks a model."""

    model: Runnable

    def _get_relevant_documents(self, query, *, run_manager):
        return [self.model.invoke(query)]


def question_of(value):
    return value["question"]


Q = RunnableLambda(question_of)
NODES = {
    "model": Q | MODEL,
    "sequence": PROMPT | MODEL | StrOutputParser(),
    "long sequence": PROMPT | MODEL | StrOutputParser() | RunnableLambda(str),
    "binding": PROMPT | MODEL.bind(stop=["x"]),
    "binding of a sequence": (PROMPT | MODEL | StrOutputParser()).bind(),
    "config": PROMPT | MODEL.with_config(tags=["t"]),
    "retry": PROMPT | MODEL.with_retry(),
    "listeners": PROMPT | MODEL.with_listeners(on_end=lambda run: None),
    "types": PROMPT | MODEL.with_types(output_type=AIMessage),
    "parallel": RunnableParallel(a=PROMPT | TEXT) | last,
    "dict in a sequence": RunnablePassthrough() | {"a": PROMPT | TEXT} | last,
    "assign": RunnablePassthrough.assign(answer=PROMPT | TEXT) | (lambda found: found["answer"]),
    "assign method": RunnableParallel(question=Q).assign(answer=Q | TEXT) | (lambda f: f["answer"]),
    "pick": RunnablePassthrough.assign(answer=PROMPT | TEXT).pick("answer"),
    "branch": RunnableBranch((lambda x: True, PROMPT | TEXT), lambda x: "no"),
    "branch default": RunnableBranch((lambda x: False, lambda x: "no"), PROMPT | TEXT),
    "branch condition": RunnableBranch(
        (Q | TEXT | (lambda text: bool(text)), Q | TEXT), lambda x: "no"
    ),
    "each": RunnableLambda(lambda x: [x["question"]]) | TEXT.map() | (lambda found: found[0]),
    "fallbacks": PROMPT | MODEL.with_fallbacks([Tunable()]),
    "fallback itself": PROMPT
    | RunnableWithFallbacks(runnable=RunnableLambda(lambda x: 1 // 0), fallbacks=[MODEL]),
    "alternatives": PROMPT
    | MODEL.configurable_alternatives(ConfigurableField(id="m"), b=Tunable()),
    "alternative chosen": PROMPT
    | FakeListLLM(responses=["no"])
    .configurable_alternatives(ConfigurableField(id="m"), b=MODEL)
    .with_config(configurable={"m": "b"}),
    "alternative made on demand": PROMPT
    | FakeListLLM(responses=["no"])
    .configurable_alternatives(ConfigurableField(id="m"), b=lambda: MODEL)
    .with_config(configurable={"m": "b"}),
    "configurable fields": PROMPT
    | MODEL.configurable_fields(cache=ConfigurableField(id="a_cache")),
    "router": RunnableLambda(lambda x: {"key": "a", "input": x["question"]})
    | RouterRunnable(runnables={"a": TEXT}),
    "lambda": Q | RunnableLambda(lambda question: TEXT),
    "named function": Q | named,
    "function with two returns": Q | one_of_two,
    "chain decorator": Q | decorated_chain,
    "local name": Q | (lambda question, inner=TEXT: inner),
    "other packages": Q | Holder(steps=[RunnableLambda(str)], more={"inner": (MODEL,)}),
    "model in a model": PROMPT | Asking(inner=Asking(inner=MODEL)),
    "retriever": Q | Rewriting(model=MODEL) | (lambda documents: documents[0]),
    "nested": RunnablePassthrough.assign(
        answer=RunnableBranch(
            (lambda x: True, RunnableParallel(a=(Q | TEXT.with_retry()).with_fallbacks([TEXT]))),
            lambda x: "no",
        )
    )
    | (lambda found: found["answer"]["a"]),
}
# Where the function makes its model known only when it is called.
UNKNOWN = ("local name", "alternative made on demand")


@pytest.fixture(params=["sync", "async"])
def texts(request):
    def texts(guard):
        decide = guard.decide if request.param == "sync" else guard.adecide
        decision = decide(ASKED)
        decision = asyncio.run(decision) if request.param == "async" else decision
        return [str(getattr(c.output, "content", c.output)) for c in decision.candidates]

    return texts


def ranker(model, **policy) -> SafetyRanker:
    return SafetyRanker(
        model,
        scorer=FakeScorer(lambda prompt, answer: 0.9),
        sampling=SamplingPolicy(**{"n": 3, "attempts": 1, **policy}),
    )


@pytest.fixture
def cache():
    cache = InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(None)


@pytest.mark.parametrize("node", NODES)
class TestEveryNode:
    def test_past_the_cache(self, node, texts, cache):
        assert len(set(texts(ranker(NODES[node])))) == 3
        assert not cache._cache

    def test_temperatures_and_seeds(self, node, texts):
        if node in UNKNOWN:
            with pytest.raises(ConfigurationError, match="reaches no model"):
                ranker(NODES[node], temperatures=(0.1, 0.9))
            return
        found = texts(ranker(NODES[node], temperatures=(0.1, 0.9), seed=5))
        assert [text.split(" #")[0] for text in found] == ["0.1 5", "0.9 6", "0.1 7"]

    def test_models_inside_are_found(self, node):
        assert bool(list(language_models(NODES[node]))) is (node not in UNKNOWN[:1])

    def test_the_wrapped_thing_itself_is_not_changed(self, node, texts):
        before = [m.model_copy() for m in language_models(NODES[node])]
        texts(ranker(NODES[node]))
        assert list(language_models(NODES[node])) == before
        assert (MODEL.temperature, MODEL.cache) == (0.7, None)


async def test_async_functions_that_return_runnables(cache):
    for inner in (RunnableLambda(named, anamed), RunnableLambda(anamed)):
        decision = await ranker(Q | inner, temperatures=(0.2,)).adecide(ASKED)
        texts = [c.text for c in decision.candidates]
        assert len(set(texts)) == 3
        assert all(text.startswith("0.2") for text in texts)


def test_generator_functions_and_odd_callables_are_left_alone():
    def pieces(question):
        yield from ("a", "b")

    class Callable:
        def __call__(self, question):
            return "c"

    assert ranker(Q | RunnableLambda(pieces)).invoke(ASKED) == "ab"
    assert ranker(Q | RunnableLambda(Callable())).invoke(ASKED) == "c"
    assert ranker(Q | RunnableLambda(str.upper)).invoke(ASKED) == "Q"


def test_functions_may_return_themselves_and_each_other():
    shout = RunnableLambda(lambda question: ask)
    ask = RunnableLambda(lambda question: MODEL if question else shout)
    alone = RunnableLambda(lambda question: alone)
    assert list(language_models(ask)) == list(language_models(shout)) == [MODEL]
    assert list(language_models(alone)) == []
    decision = ranker(Q | shout, temperatures=(0.3,)).decide(ASKED)
    assert all(c.text.startswith("0.3") for c in decision.candidates)


def test_functions_that_call_a_model_themselves_are_not_taken_for_reached():
    with pytest.raises(ConfigurationError, match="reaches no model"):
        ranker(RunnableLambda(lambda q: MODEL.invoke(q)), temperatures=(0.1,))


def test_a_guard_inside_a_guard_takes_the_settings():
    inner = SafetyRanker(MODEL, scorer=FakeScorer(lambda p, a: 0.9), n=1)
    found = [c.text for c in ranker(Q | inner, temperatures=(0.3,)).decide(ASKED).candidates]
    assert all(text.startswith("0.3") for text in found)
    assert inner.invoke("q").text.startswith("0.7")


class TestParts:
    def test_without_models_it_is_the_same_object(self):
        plain = PROMPT | StrOutputParser()
        assert with_models(plain, lambda model: pytest.fail("called")) is plain
        assert list(language_models(RunnableLambda(str))) == list(language_models("text")) == []

    def test_names_and_bindings_are_kept(self):
        tuned = with_models(
            (PROMPT | MODEL.bind(stop=["x"])).with_config(run_name="r"), lambda m: m.model_copy()
        )
        assert tuned.config["run_name"] == "r"
        assert tuned.bound.last.kwargs == {"stop": ["x"]}

    def test_entries(self):
        assert entries(MODEL) == ()
        assert entries(PROMPT | MODEL) == (PROMPT,)
        assert entries(MODEL.with_retry()) == (MODEL,)
        assert entries(RunnableParallel(a=MODEL, b=TEXT)) == (MODEL, TEXT)

    def test_with_entries(self):
        raw = RunnableParallel(raw=MODEL) | StrOutputParser()
        changed = with_entries(raw, lambda entry: "new" if entry is MODEL else entry)
        assert changed.first.steps__["raw"] == "new"

    @pytest.mark.parametrize(
        ("runnable", "takes"),
        [
            (MODEL, True),
            (MODEL.with_retry().bind(stop=["x"]), True),
            (TEXT, True),
            (RunnableParallel(raw=MODEL), True),
            (MODEL.with_fallbacks([TEXT]), True),
            (MODEL.with_fallbacks([RunnableLambda(str)]), False),
            (PROMPT | MODEL, False),
            (TEXT.map(), False),
            (RunnablePassthrough.assign(a=MODEL), False),
            (RunnableLambda(lambda q: MODEL), False),
        ],
    )
    def test_takes_messages(self, runnable, takes):
        assert takes_messages(runnable) is takes

    def test_unbind(self):
        assert unbind(MODEL.bind(a=1).with_config(tags=["x"]).bind(b=2)) == (
            MODEL,
            {"a": 1, "b": 2},
        )

    def test_is_sync_only(self):
        async def afunction(question):
            return question

        assert is_sync_only(MODEL)
        assert is_sync_only(MODEL.bind(a=1))
        assert not is_sync_only(ScriptedChatModel(answers=["a"]))
        assert is_sync_only(RunnableLambda(str))
        assert not is_sync_only(RunnableLambda(afunction))
        assert not is_sync_only(TEXT)
