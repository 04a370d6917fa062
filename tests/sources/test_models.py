"""Several models, temperatures, system prompts, seeds: what each candidate is sampled with."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompt_values import StringPromptValue
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableLambda
from pydantic import BaseModel

from srr_guard import SafetyRankedChatModel, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.errors import AllCandidatesFailedError, ConfigurationError
from srr_guard.testing import FakeScorer, ScriptedChatModel


class Tunable(BaseChatModel):
    """Says what it was sampled with."""

    temperature: float = 0.7
    seed: int | None = None

    @property
    def _llm_type(self):
        return "tunable"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = f"{self.temperature} {self.seed}"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])


class TunableBatches(Tunable):
    def sample_candidates(self, messages, n, *, stop=None, **kwargs):
        return [AIMessage(f"batch of {n} from {self.seed}, {i}") for i in range(n)]


class Echo(BaseChatModel):
    """Says what it was asked."""

    @property
    def _llm_type(self):
        return "echo"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        text = " | ".join(f"{m.type}: {m.content}" for m in messages)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(text))])

    def sample_candidates(self, messages, n, *, stop=None, **kwargs):
        raise AssertionError("each candidate is a call of its own")


def ranker(model, *, scorer=None, **policy) -> SafetyRanker:
    return SafetyRanker(
        model,
        scorer=scorer or FakeScorer(lambda prompt, answer: 0.9),
        sampling=SamplingPolicy(**{"n": 4, "attempts": 1, **policy}),
    )


@pytest.fixture(params=["sync", "async"])
def texts(request):
    """The candidates' texts, by index."""

    def texts(guard, prompt="q"):
        decide = guard.decide if request.param == "sync" else guard.adecide
        decision = decide(prompt)
        decision = asyncio.run(decision) if request.param == "async" else decision
        return [c.text for c in decision.candidates]

    return texts


class TestSeveralModels:
    def test_candidates_go_round(self, texts):
        a, b = (ScriptedChatModel(answers=[name]) for name in ("a", "b"))
        assert texts(ranker([a, b], n=5)) == ["a", "b", "a", "b", "a"]
        assert texts(ranker((a, lambda q: "function"), n=2)) == ["a", "function"]
        assert texts(ranker([a], n=2)) == ["a", "a"]

    def test_more_models_than_candidates(self, texts):
        assert texts(ranker([lambda q: "a", lambda q: "b", lambda q: "c"], n=2)) == ["a", "b"]

    def test_one_model_down(self, texts):
        down = ScriptedChatModel(answers=[ConnectionError("down")])
        assert texts(ranker([down, ScriptedChatModel(answers=["up"])])) == ["up", "up"]

    def test_tools_and_schemas_are_bound_to_each(self):
        class Answer(BaseModel):
            text: str

        call = {"name": "Answer", "args": {"text": "yes"}, "id": "1"}
        models = [ScriptedChatModel(answers=[AIMessage("", tool_calls=[call])]) for _ in "ab"]
        guard = ranker(models, n=2)
        assert guard.with_structured_output(Answer).invoke("q") == Answer(text="yes")
        assert guard.bind_tools([Answer]).invoke("q").tool_calls[0]["name"] == "Answer"
        assert [m.calls for m in models] == [2, 2]
        with pytest.raises(ConfigurationError, match="RunnableLambda has no 'bind_tools'"):
            ranker([models[0], lambda q: "x"]).bind_tools([Answer])

    def test_batches_are_not_for_several_models(self, texts):
        models = [TunableBatches(), TunableBatches(temperature=0.1)]
        assert texts(ranker(models, n=2)) == ["0.7 None", "0.1 None"]

    def test_repr_and_schemas(self):
        guard = ranker([ScriptedChatModel(answers=["secret"]), Tunable().bind(stop=["x"])])
        assert repr(guard) == "SafetyRanker([ScriptedChatModel, Tunable], n=4, threshold=0.5)"
        assert guard.InputType == Tunable().InputType
        assert guard.OutputType == Tunable().OutputType
        assert guard.get_input_schema().model_json_schema()
        assert guard.get_output_schema().model_json_schema()
        assert guard.model.invoke("q").content == "secret"

    @pytest.mark.parametrize("bad", [[], [7], ()])
    def test_bad_lists(self, bad):
        with pytest.raises(ConfigurationError, match="model"):
            ranker(bad)


class TestTemperatures:
    LADDER = (0.1, 0.9, 1.5)

    def test_each_candidate_takes_its_own(self, texts):
        guard = ranker(Tunable(), temperatures=self.LADDER)
        assert texts(guard) == ["0.1 None", "0.9 None", "1.5 None", "0.1 None"]

    def test_inside_chains_bindings_and_fallbacks(self, texts):
        model = Tunable()
        chain = ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()
        for wrapped in (chain, model.bind(stop=["x"]), model.with_fallbacks([Tunable()])):
            prompt = {"q": "x"} if wrapped is chain else "x"
            found = texts(ranker(wrapped, n=2, temperatures=self.LADDER[:2]), prompt)
            assert found == ["0.1 None", "0.9 None"]

    def test_each_is_a_call_of_its_own(self, texts):
        guard = ranker(TunableBatches(), n=2, temperatures=self.LADDER[:2])
        assert texts(guard) == ["0.1 None", "0.9 None"]

    def test_models_without_one_are_left_alone(self, texts):
        models = [ScriptedChatModel(answers=["fixed"]), Tunable()]
        guard = ranker(models, n=2, temperatures=self.LADDER[:2])
        assert texts(guard) == ["fixed", "0.9 None"]

    def test_model_itself_is_not_changed(self, texts):
        model = Tunable()
        texts(ranker(model, temperatures=self.LADDER, seed=3))
        assert (model.temperature, model.seed) == (0.7, None)


class TestSystemPrompts:
    VARIANTS = (None, "Be careful.", "Be kind.")

    def test_candidates_take_them_in_turn(self, texts):
        assert texts(ranker(Echo(), system_prompts=self.VARIANTS)) == [
            "human: q",
            "system: Be careful. | human: q",
            "system: Be kind. | human: q",
            "human: q",
        ]

    @pytest.mark.parametrize(
        "value",
        ["q", [HumanMessage("q")], [("user", "q")], StringPromptValue(text="q")],
        ids=["str", "messages", "tuples", "prompt value"],
    )
    def test_whatever_the_request_is(self, texts, value):
        guard = ranker(Echo(), n=1, system_prompts=("Be careful.",))
        assert texts(guard, value) == ["system: Be careful. | human: q"]

    @pytest.mark.parametrize(
        ("given", "asked"),
        [
            (SystemMessage("Be brief."), "system: Be brief.\n\nBe careful."),
            (ChatMessage("Be brief.", role="developer"), "chat: Be brief.\n\nBe careful."),
            (
                SystemMessage([{"type": "text", "text": "Be brief."}]),
                "system: [{'type': 'text', 'text': 'Be brief.'}, "
                "{'type': 'text', 'text': 'Be careful.'}]",
            ),
        ],
    )
    def test_last_paragraph_of_a_system_turn(self, texts, given, asked):
        before = given.model_copy(deep=True)
        guard = ranker(Echo(), n=1, system_prompts=("Be careful.",))
        assert texts(guard, [given, HumanMessage("q")]) == [f"{asked} | human: q"]
        assert given == before

    def test_scored_against_the_conversation_as_it_came(self, texts):
        seen = []

        class Watching(FakeScorer):
            def _rank(self, conversation, candidates):
                seen.append([turn.text for turn in conversation.turns])
                return super()._rank(conversation, candidates)

        scorer = Watching(lambda prompt, answer: 0.9)
        texts(ranker(Echo(), scorer=scorer, system_prompts=("Be careful.",)))
        assert seen == [["q"]]

    def test_in_bindings_schemas_and_fallbacks(self, texts):
        model = Echo()
        for wrapped in (
            model.bind(stop=["x"]),
            model.with_retry(),
            model.with_fallbacks([Echo()]),
            model | StrOutputParser(),
            model.configurable_alternatives(ConfigurableField(id="model"), other=Echo()),
        ):
            guard = ranker(wrapped, n=2, system_prompts=self.VARIANTS[:2])
            assert texts(guard) == ["human: q", "system: Be careful. | human: q"]

    def test_structured_output(self):
        class Answer(BaseModel):
            text: str

        call = {"name": "Answer", "args": {"text": "yes"}, "id": "1"}
        model = ScriptedChatModel(answers=[AIMessage("", tool_calls=[call])])
        guard = ranker(model, n=2, system_prompts=self.VARIANTS[:2])
        raw = guard.with_structured_output(Answer, include_raw=True).invoke("q")
        assert raw["parsed"] == guard.with_structured_output(Answer).invoke("q")

    def test_what_takes_no_messages_is_left_alone(self, texts):
        guard = ranker([lambda q: f"function: {q}", Echo()], n=2, system_prompts=("Be kind.",))
        assert texts(guard) == ["function: q", "system: Be kind. | human: q"]

    def test_chat_model_face(self):
        guard = SafetyRankedChatModel(
            Echo(),
            scorer=FakeScorer(lambda prompt, answer: 0.9 if "careful" in answer else 0.1),
            sampling=SamplingPolicy(n=2, system_prompts=self.VARIANTS[:2]),
        )
        assert guard.invoke("q").text == "system: Be careful. | human: q"

    def test_input_that_no_chat_model_takes(self):
        guard = ranker(Echo(), n=1, system_prompts=("Be kind.",))
        with pytest.raises(AllCandidatesFailedError, match="ValueError"):
            guard.invoke({"question": "q"})

    def test_chains_with_a_prompt_of_their_own(self):
        chain = ChatPromptTemplate.from_template("{q}") | Echo()
        with pytest.raises(ConfigurationError, match="RunnableSequence is not a chat model"):
            ranker(chain, system_prompts=self.VARIANTS)

    @pytest.mark.parametrize("bad", [(), ("",), "Be kind.", (3,)])
    def test_bad_values(self, bad):
        with pytest.raises(ConfigurationError, match="system_prompts"):
            SamplingPolicy(system_prompts=bad)

    def test_json_round_trip(self):
        policy = SamplingPolicy(system_prompts=self.VARIANTS)
        assert SamplingPolicy.model_validate_json(policy.model_dump_json()) == policy


class TestSeed:
    def test_candidate_i_gets_seed_plus_i(self, texts):
        assert texts(ranker(Tunable(), n=3, seed=40)) == ["0.7 40", "0.7 41", "0.7 42"]

    def test_batches_begin_with_the_seed_of_their_first_candidate(self, texts):
        assert texts(ranker(TunableBatches(), n=2, seed=5)) == [
            "batch of 2 from 5, 0",
            "batch of 2 from 5, 1",
        ]
        adaptive = ranker(TunableBatches(), n=3, seed=5, accept_at=0.99)
        assert texts(adaptive) == [
            "batch of 1 from 5, 0",
            "batch of 2 from 6, 0",
            "batch of 2 from 6, 1",
        ]


OPTIONS = [{"temperatures": (0.5,)}, {"seed": 1}, {"system_prompts": ("Be kind.",)}]


class TestReachesNoModel:
    @pytest.mark.parametrize("option", OPTIONS[:2])
    def test_model_without_the_field(self, option):
        match = rf"{next(iter(option))}=.* reaches no model: ScriptedChatModel"
        with pytest.raises(ConfigurationError, match=match):
            ranker(ScriptedChatModel(answers=["a"]), **option)

    @pytest.mark.parametrize("option", OPTIONS)
    def test_functions(self, option):
        with pytest.raises(ConfigurationError, match=r"reach(es)? no model"):
            ranker(RunnableLambda(lambda q: "a"), **option)
        with pytest.raises(ConfigurationError, match="a function makes its own calls"):
            srr_guard(sampling=SamplingPolicy(**option))
