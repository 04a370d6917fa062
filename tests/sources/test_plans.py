"""Plans: recipes in turn, by models that serve them, by any chat model, and by none."""

from __future__ import annotations

import asyncio
import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from pydantic import BaseModel
from rankers import by_word
from recipe_model import RecipeModel

from srr_guard import Guard, SafetyRankedChatModel, SafetyRanker, SamplingPolicy, srr_guard
from srr_guard.errors import ConfigurationError
from srr_guard.policy import Policies
from srr_guard.recipes import Plain, RefusalStart, ReversePrompt, SoftPrompt, Steered
from srr_guard.sources.refusal_start import prefill_for, with_prefill
from srr_guard.testing import FakeScorer, ScriptedChatModel

EVERY = (
    Plain(),
    Plain(temperature=1.0, seed=3),
    RefusalStart(depth=2),
    ReversePrompt(),
    Steered(strength=0.3),
    SoftPrompt(file="prompt.safetensors"),
)
ALL_GOOD = FakeScorer(lambda prompt, answer: 0.9)


def policy(*plan, **options) -> SamplingPolicy:
    return SamplingPolicy(**{"n": max(4, len(plan)), "attempts": 1, "plan": plan, **options})


@pytest.fixture(params=["sync", "async"])
def decide(request):
    def decide(model, sampling, *, prompt="q", face=SafetyRanker, **kwargs):
        guard = model if sampling is None else face(model, scorer=ALL_GOOD, sampling=sampling)
        if request.param == "sync":
            return guard.decide(prompt, **kwargs)
        return asyncio.run(guard.adecide(prompt, **kwargs))

    return decide


def kinds(decision) -> list[str | None]:
    return [candidate.recipe for candidate in decision.candidates]


def texts(decision) -> list[str]:
    return [candidate.text for candidate in decision.candidates]


class TestPolicy:
    def test_taken_in_turn(self):
        sampling = policy(Plain(), RefusalStart(), n=5)
        assert [sampling.recipe(i).kind for i in range(5)] == [
            *("plain", "refusal_start", "plain", "refusal_start", "plain")
        ]

    def test_short_forms_are_plans_of_plain_recipes(self):
        sampling = SamplingPolicy(temperatures=(0.1, 0.9), system_prompts=(None, "a", "b"))
        assert sampling.recipe(4) == Plain(temperature=0.1, system_prompt="a")
        assert SamplingPolicy().recipe(3) == Plain()

    @pytest.mark.parametrize(
        ("bad", "says"),
        [
            ({"plan": ()}, "plan"),
            ({"plan": EVERY, "n": 5}, "6 recipes and n=5 candidates: raise n to 6"),
            ({"temperatures": (0.1,)}, r"temperatures=\(0.1,\) stands beside a plan.*Plain\(temp"),
            ({"system_prompts": ("a",)}, r"system_prompts=\('a',\).*Plain\(system_prompt=...\)"),
            ({"plan": ({"kind": "magic"},)}, "magic"),
            ({"plan": ({"kind": "steered", "strength": 2},)}, "strength|plan.0"),
        ],
    )
    def test_what_makes_no_sense(self, bad, says):
        with pytest.raises(ConfigurationError, match=says):
            SamplingPolicy(**{"plan": (Plain(),), **bad})

    def test_files_keep_plans(self, tmp_path):
        policies = Policies(sampling=policy(*EVERY))
        policies.save(tmp_path / "p.json")
        assert Policies.load(tmp_path / "p.json") == policies
        written = json.loads((tmp_path / "p.json").read_text())["sampling"]["plan"]
        assert written[0] == {"kind": "plain"}
        assert written[2] == {"kind": "refusal_start", "depth": 2}
        whole = SamplingPolicy.model_validate_json(policies.sampling.model_dump_json())
        assert whole == policies.sampling
        assert SamplingPolicy.model_validate_json(SamplingPolicy().model_dump_json()).plan is None


class TestModelsThatServe:
    def test_one_call_for_all(self, decide):
        model = RecipeModel()
        decision = decide(model, policy(*EVERY))
        assert model.seen == [("batch", [recipe.kind for recipe in EVERY])]
        assert kinds(decision) == [recipe.kind for recipe in EVERY]
        # a recipe's temperature is its row's alone
        assert all("T=0.7" in text for text in texts(decision))

    def test_a_plan_of_bare_recipes_names_none(self, decide):
        model = RecipeModel()
        assert kinds(decide(model, policy(Plain(), n=2))) == ["plain", "plain"]
        assert model.seen == [("batch", None)]

    def test_short_forms_share_the_call_too(self, decide):
        model = RecipeModel()
        found = decide(model, SamplingPolicy(n=3, temperatures=(0.1, 0.9)))
        assert model.seen == [("batch", ["plain"] * 3)]
        assert '"temperature":0.9' in texts(found)[1]

    def test_adaptive_rounds_follow_the_plan(self, decide):
        model = RecipeModel()
        scorer = FakeScorer(lambda prompt, answer: 0.1 if answer.startswith("plain") else 0.9)
        guard = SafetyRanker(
            model,
            scorer=scorer,
            sampling=policy(Plain(), RefusalStart(), n=3, accept_at=0.8),
        )
        decision = decide(guard, None)
        assert decision.chosen.recipe == "refusal_start"
        assert model.seen == [("batch", None), ("batch", ["refusal_start", "plain"])]

    @pytest.mark.parametrize("how", [{"batched": "never"}, {"read_ahead": True}])
    def test_calls_of_their_own(self, decide, how):
        model = RecipeModel()
        decision = decide(model, policy(Plain(temperature=0.2), RefusalStart(), n=2, **how))
        assert sorted(model.seen, key=str) == [("single", None), ("single", ["refusal_start"])]
        assert kinds(decision) == ["plain", "refusal_start"]
        assert "T=0.2" in texts(decision)[0]

    def test_traced_candidates_too(self):
        model = RecipeModel()
        guard = SafetyRanker(
            model, scorer=ALL_GOOD, sampling=policy(Steered(), n=1), trace_candidates="redacted"
        )
        assert kinds(guard.decide("q")) == ["steered"]
        assert model.seen == [("single", ["steered"])]

    def test_inside_chains_bindings_and_fallbacks(self, decide):
        model = RecipeModel()
        chain = ChatPromptTemplate.from_template("{q}") | model | StrOutputParser()
        for wrapped in (chain, model.bind(stop=["x"]), model.with_fallbacks([RecipeModel()])):
            prompt = {"q": "x"} if wrapped is chain else "x"
            found = decide(wrapped, policy(Plain(), Steered(), n=2), prompt=prompt)
            assert [text.split()[0] for text in texts(found)] == ["plain", "steered"]

    def test_several_models_take_turns(self, decide):
        found = decide(
            [RecipeModel(), ScriptedChatModel(answers=["scripted"])],
            policy(Steered(), Plain(), n=4),
        )
        assert kinds(found) == ["steered", "plain", "steered", "plain"]
        assert texts(found)[1::2] == ["scripted", "scripted"]

    def test_a_model_that_cannot_serve_one(self):
        with pytest.raises(ConfigurationError, match=r"Steered.*RecipeModel: it has no way to st"):
            SafetyRanker(RecipeModel(cannot=("steered",)), sampling=policy(Plain(), Steered()))

    def test_plain_settings_that_a_serving_model_leaves_to_us(self, decide):
        model = RecipeModel(cannot=("plain",))
        found = decide(model, policy(Plain(), Plain(temperature=0.1), Steered(), n=3))
        assert model.seen[0][0] != model.seen[1][0]
        assert "T=0.1" in texts(found)[1]
        assert ("batch", ["plain", "steered"]) in model.seen

    def test_seeds(self, decide):
        model = RecipeModel()
        found = decide(model, policy(Plain(), Plain(seed=9), n=2, seed=40, batched="never"))
        assert [text.split()[3] for text in texts(found)] == ["seed=40", "seed=9"]


class TestAnyChatModel:
    def test_plain_settings_reach_it(self, decide):
        model = ScriptedChatModel(answers=["good"])
        decide(model, policy(Plain(system_prompt="Be careful."), Plain(), n=2))
        assert sorted(len(messages) for messages in model.seen) == [1, 2]

    @pytest.mark.parametrize("recipe", EVERY[3:], ids=lambda r: r.kind)
    def test_what_needs_the_model_itself(self, recipe):
        model = ScriptedChatModel(answers=["good"])
        says = rf"{type(recipe).__name__}.*ScriptedChatModel: it needs the model itself.*leave it"
        for make in (SafetyRanker, SafetyRankedChatModel):
            with pytest.raises(ConfigurationError, match=says):
                make(model, sampling=policy(Plain(), recipe))

    def test_temperature_that_no_model_has(self):
        model = ScriptedChatModel(answers=["good"])
        with pytest.raises(ConfigurationError, match=r"Plain\(.*temperature=0.5.*reaches no model"):
            SafetyRanker(model, sampling=policy(Plain(), Plain(temperature=0.5)))

    def test_function_follows_no_recipe(self):
        with pytest.raises(ConfigurationError, match=r"RefusalStart.*RunnableLambda"):
            SafetyRanker(lambda q: "x", sampling=policy(RefusalStart()))
        with pytest.raises(ConfigurationError, match=r"system_prompt='a'.*reach no model"):
            SafetyRanker(lambda q: "x", sampling=policy(Plain(system_prompt="a")))


class TestRefusalStartOverAnAPI:
    def test_system_prompt_asks_for_it(self, decide):
        model = ScriptedChatModel(answers=["good"])
        found = decide(model, policy(Plain(), RefusalStart(depth=2), n=2))
        asked = max(model.seen, key=len)
        assert [m.type for m in asked] == ["system", "human"]
        assert asked[0].text == 'Begin your answer with exactly these words: "I can\'t"'
        assert kinds(found) == ["plain", "refusal_start"]

    @pytest.mark.parametrize("recipe", [RefusalStart(strength=0.5), RefusalStart(triggers="t")])
    def test_what_needs_logits(self, recipe):
        with pytest.raises(ConfigurationError, match=r"RefusalStart.*the model's logits"):
            SafetyRanker(ScriptedChatModel(answers=["x"]), sampling=policy(recipe))

    def test_chain_with_a_prompt_of_its_own(self):
        chain = ChatPromptTemplate.from_template("{q}") | ScriptedChatModel(answers=["x"])
        with pytest.raises(ConfigurationError, match=r"RefusalStart.*is no chat model; wrap the"):
            SafetyRanker(chain, sampling=policy(RefusalStart()))

    @pytest.mark.parametrize(
        ("name", "options", "start"),
        [
            ("claude-3-haiku-20240307", {}, "I can't"),
            ("claude-3-7-sonnet-latest", {}, "I can't"),
            ("claude-opus-4-20250514", {}, "I can't"),
            ("claude-sonnet-4-5-20250929", {}, "I can't"),
            ("claude-haiku-4-5", {"thinking": {"type": "enabled", "budget_tokens": 1024}}, None),
            ("claude-haiku-4-5", {"thinking": {"type": "disabled"}}, "I can't"),
            ("claude-opus-4-6", {}, None),
            ("claude-sonnet-5", {}, None),
            ("claude-opus-4-50", {}, None),
        ],
    )
    def test_claude_models_that_take_a_prefill(self, name, options, start):
        anthropic = pytest.importorskip("langchain_anthropic")
        model = anthropic.ChatAnthropic(model=name, api_key="x", **options)
        assert prefill_for(model, RefusalStart(depth=2)) == start
        assert prefill_for(model.bind(stop=["x"]), RefusalStart(depth=2)) == start
        assert prefill_for(model | StrOutputParser(), RefusalStart(depth=2)) is None

    def test_langchain_sends_the_prefill_on(self):
        anthropic = pytest.importorskip("langchain_anthropic")
        model = anthropic.ChatAnthropic(model="claude-haiku-4-5", api_key="x")
        sent = model._get_request_payload(with_prefill("q", "I can't"))["messages"]
        assert sent[-1] == {"role": "assistant", "content": "I can't"}

    @pytest.mark.parametrize(
        ("answer", "whole"),
        [
            (" help with that.", "I can't help with that."),
            ([{"type": "text", "text": " help."}], "I can't help."),
            ([], "I can't"),
        ],
    )
    @pytest.mark.parametrize("streamed", [False, True])
    def test_prefilled_words_are_part_of_the_answer(
        self, decide, monkeypatch, answer, whole, streamed
    ):
        monkeypatch.setattr("srr_guard.sources.plans.prefill_for", lambda model, recipe: "I can't")
        model = ScriptedChatModel(answers=[answer])
        found = decide(model, policy(RefusalStart(depth=2), n=1, read_ahead=streamed))
        assert texts(found) == [whole]
        assert found.output.text == whole
        (asked,) = model.seen
        assert [(m.type, m.text) for m in asked] == [("human", "q"), ("ai", "I can't")]


class TestFormsAskedFor:
    """A forced start is skipped where tools are bound or a schema is asked for."""

    class Answer(BaseModel):
        text: str

    def test_tools(self, decide):
        model = RecipeModel()
        guard = SafetyRanker(
            model, scorer=ALL_GOOD, sampling=policy(Plain(), RefusalStart(), Steered(), n=3)
        )
        found = decide(guard.bind_tools([self.Answer]), None)
        assert kinds(found) == ["plain", "plain", "steered"]
        assert found.skipped == (found.skipped[0],)
        assert "refusal_start" in found.skipped[0]
        assert found.output.response_metadata["srr_guard"]["skipped"] == [*found.skipped]
        assert decide(guard, None).skipped == ()

    def test_schema_and_tools_of_one_call(self, decide):
        schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
        model = ScriptedChatModel(answers=['{"good": 1}'])
        for form in ({"response_format": schema}, {"tools": [{"name": "t", "parameters": {}}]}):
            found = decide(model, policy(Plain(), RefusalStart(), n=2), **form)
            assert kinds(found) == ["plain", "plain"]
            assert found.skipped
        free = decide(model, policy(RefusalStart(), n=1), tools=[{"name": "t"}], tool_choice="none")
        assert free.skipped == ()

    def test_structured_output_behind_both_wrappers(self):
        call = {"name": "Answer", "args": {"text": "yes"}, "id": "1"}
        model = ScriptedChatModel(answers=[AIMessage("", tool_calls=[call])])
        seen = []
        for make in (SafetyRanker, SafetyRankedChatModel):
            guard = make(
                model,
                scorer=ALL_GOOD,
                sampling=policy(Plain(), RefusalStart(), n=2),
                on_decision=seen.append,
            )
            assert guard.with_structured_output(self.Answer).invoke("q") == self.Answer(text="yes")
        assert [kinds(decision) for decision in seen] == [["plain", "plain"]] * 2
        assert all(decision.skipped for decision in seen)

    def test_bound_deep_inside_a_chain(self, decide):
        inner = RecipeModel().bind_tools([self.Answer])
        chain = ChatPromptTemplate.from_template("{q}") | inner
        found = decide(chain, policy(RefusalStart(), n=1), prompt={"q": "x"})
        assert (kinds(found), len(found.skipped)) == (["plain"], 1)

    def test_parser_alone_is_no_form(self, decide):
        found = decide(
            ScriptedChatModel(answers=['{"a": 1}']) | JsonOutputParser(),
            policy(RefusalStart(), n=1),
        )
        assert (kinds(found), found.skipped) == (["refusal_start"], ())


class TestDoors:
    PLAN = policy(Plain(), Plain(), n=2)

    def test_chat_model_face(self):
        seen = []
        guard = SafetyRankedChatModel(
            RecipeModel(), scorer=ALL_GOOD, sampling=policy(*EVERY), on_decision=seen.append
        )
        guard.invoke([HumanMessage("q")])
        next(iter(guard.stream("q")))
        assert [kinds(d) for d in seen] == [[recipe.kind for recipe in EVERY]] * 2

    def test_functions_follow_no_plan(self):
        guard = Guard(scorer=FakeScorer(by_word), sampling=self.PLAN)
        says = r"plan=.*reaches no model here.*leave the plan out"
        with pytest.raises(ConfigurationError, match=says):
            guard.decide("q", lambda _: "good")
        with pytest.raises(ConfigurationError, match=says):
            asyncio.run(guard.adecide("q", ScriptedChatModel(answers=["x"]).ainvoke))
        with pytest.raises(ConfigurationError, match=says):
            srr_guard(sampling=self.PLAN)

        class Source:
            batches = False

        Source.sample = Source.asample = lambda self, indices: ["good"]
        with pytest.raises(ConfigurationError, match=says):
            guard.decide("q", Source())
        assert guard.choose("q", ["good"]).chosen.recipe is None

    def test_the_middleware_and_the_client(self):
        pytest.importorskip("langchain.agents")
        from langchain.agents import create_agent
        from srr_guard_integrations.langchain import SafetyRankerMiddleware
        from srr_guard_integrations.openai_client import guard_openai

        seen = []
        inside = SafetyRankerMiddleware(
            scorer=ALL_GOOD, sampling=policy(Plain(), Steered(), n=2), on_decision=seen.append
        )
        agent = create_agent(model=RecipeModel(), tools=[], middleware=[inside])
        agent.invoke({"messages": [("user", "q")]})
        assert [kinds(d) for d in seen] == [["plain", "steered"]]

        class Client:
            class chat:  # noqa: N801
                class completions:  # noqa: N801
                    create = staticmethod(lambda **_: None)

        with pytest.raises(ConfigurationError, match="plan="):
            guard_openai(Client(), sampling=self.PLAN)
