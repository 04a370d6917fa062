"""`--local`: the model on this machine answers."""

from __future__ import annotations

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import invalid_tool_call, tool_call
from servers import ASK, calls, gateway

TOOL = {"type": "function", "function": {"name": "good_tool", "parameters": {"type": "object"}}}


class FakeLocal:
    """Stands for `LocalChatModel`: gives copies of one answer, and remembers what it was asked."""

    def __init__(self, answer=None):
        self.answer = answer or AIMessage(
            "a good answer",
            usage_metadata={"input_tokens": 7, "output_tokens": 3, "total_tokens": 10},
            response_metadata={"finish_reason": "stop"},
        )
        self.asked = []

    async def asample_candidates(self, messages, n, **options):
        self.asked.append((messages, n, options))
        return [self.answer] * n


@pytest.fixture
def model():
    return FakeLocal()


@pytest.fixture
def served(model):
    with gateway(model=model, local={"max_new_tokens": 50}) as running:
        yield running


def chat(http, served, **body):
    body = {"model": "srr-guard-local", "messages": ASK, **body}
    return http.post(f"{served.url}/chat/completions", json=body)


def test_all_candidates_in_one_call(http, served, model):
    body = chat(http, served, max_tokens=80, temperature=0.3, top_p=0.9, seed=1, stop="END").json()
    assert body["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "a good answer"},
        "finish_reason": "stop",
        "logprobs": None,
    }
    assert body["usage"] == {"prompt_tokens": 28, "completion_tokens": 12, "total_tokens": 40}
    ((messages, n, options),) = model.asked
    assert (messages, n) == ([HumanMessage(ASK[0]["content"])], 4)
    expected = {"max_new_tokens": 50, "temperature": 0.3, "top_p": 0.9, "seed": 1, "stop": ["END"]}
    assert options == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("logprobs", True),
        ("top_logprobs", 2),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("logit_bias", {"1": 1}),
        ("functions", [TOOL["function"]]),
        ("function_call", {"name": "good_tool"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy"}),
        ("web_search_options", {}),
        ("parallel_tool_calls", False),
        ("reasoning_effort", "high"),
        ("verbosity", "low"),
        ("store", True),
        ("top_k", 5),
        ("include", ["message.output_text.logprobs"]),
        ("truncation", "auto"),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", [1]),
        ("seed", 1.5),
        ("stop", {"a": 1}),
        ("tools", "all"),
    ],
)
def test_what_the_model_cannot_follow_is_refused(http, served, model, field, value):
    for stream in (False, True):
        answer = chat(http, served, **{field: value}, stream=stream)
        assert answer.status_code == 400
        assert field in answer.json()["error"]["message"]
        body = {"model": "m", "input": "q", field: value, "stream": stream}
        assert http.post(f"{served.url}/responses", json=body).status_code == 400
    assert model.asked == []


def test_what_changes_no_answer_is_taken(http, served, model):
    hints = {"user": "u", "metadata": {"a": "b"}, "service_tier": "flex", "safety_identifier": "s"}
    defaults = {"store": False, "parallel_tool_calls": True, "logprobs": False, "logit_bias": {}}
    nothing = {"reasoning_effort": None, "top_k": None, "frequency_penalty": 0.0}
    assert chat(http, served, **hints, **defaults, **nothing).status_code == 200


def test_the_operators_limit_holds_for_the_model(http, model):
    with gateway(model=model, local={"max_new_tokens": 50}, limits={"output_tokens": 9}) as served:
        assert chat(http, served).status_code == 200
        assert chat(http, served, max_tokens=5).status_code == 200
    assert [options["max_new_tokens"] for _, _, options in model.asked] == [9, 5]


def test_temperature_zero_is_one_candidate(http, served, model):
    assert chat(http, served, temperature=0).json()["srr_guard"]["sampled"] == 1
    assert [n for _, n, _ in model.asked] == [1]


def test_tools_and_turns(http, served, model):
    model.answer = AIMessage(
        "",
        tool_calls=[tool_call(name="good_tool", args={"a": 1}, id="call_9")],
        invalid_tool_calls=[invalid_tool_call(name=None, args="{", id=None, error="x")],
    )
    turns = [
        {"role": "system", "content": "Be brief."},
        *ASK,
        calls("good_tool", "{}"),
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    body = chat(http, served, messages=turns, tools=[TOOL], tool_choice="auto").json()
    first, second = body["choices"][0]["message"]["tool_calls"]
    assert first["function"] == {"name": "good_tool", "arguments": '{"a": 1}'}
    assert (second["function"], body["choices"][0]["finish_reason"]) == (
        {"name": "", "arguments": "{"},
        "tool_calls",
    )
    ((messages, _, options),) = model.asked
    kinds = [SystemMessage, HumanMessage, AIMessage, ToolMessage]
    assert [type(message) for message in messages] == kinds
    assert (options["tools"], options["tool_choice"]) == ([TOOL], "auto")


def test_responses(http, served, model):
    flat = {"type": "function", "name": "good_tool", "parameters": {"type": "object"}}
    given = [
        {"role": "user", "content": "q"},
        {"type": "function_call", "call_id": "c", "name": "t", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
    ]
    sent = {"model": "m", "input": given, "tools": [flat], "max_output_tokens": 9}
    body = http.post(f"{served.url}/responses", json=sent).json()
    assert body["output"][0]["content"][0]["text"] == "a good answer"
    assert (body["status"], body["usage"]["total_tokens"]) == ("completed", 40)
    ((messages, _, options),) = model.asked
    assert [type(message) for message in messages] == [HumanMessage, AIMessage, ToolMessage]
    assert (options["max_new_tokens"], options["tools"]) == (9, [TOOL])
    with (
        openai.OpenAI(base_url=served.url, api_key="x", max_retries=0) as client,
        client.responses.stream(model="m", input="q") as stream,
    ):
        assert stream.get_final_response().output_text == "a good answer"


def test_an_answer_that_is_cut_off(http, served, model):
    model.answer = AIMessage("good", response_metadata={"finish_reason": "length"})
    assert chat(http, served).json()["choices"][0]["finish_reason"] == "length"
    body = http.post(f"{served.url}/responses", json={"model": "m", "input": "q"}).json()
    assert (body["status"], body["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"response_format": {"type": "json_object"}}, "cannot be held to a schema"),
        ({"tools": [{"type": "web_search"}]}, "no tool of type 'web_search'"),
        ({"tools": ["x"]}, "no tool of type 'str'"),
    ],
)
def test_what_it_cannot_do(http, served, model, body, said):
    answer = chat(http, served, **body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]
    assert model.asked == []


def test_candidates_that_differ_have_calls_of_their_own(http, model):
    policies = {"default": {"sampling": {"n": 2, "temperatures": [0.2, 0.9], "seed": 5}}}
    with gateway(model=model, local={}, policies=policies) as served:
        assert chat(http, served).status_code == 200
    found = sorted((options["temperature"], options["seed"]) for _, _, options in model.asked)
    assert found == [(0.2, 5), (0.9, 6)]


def test_models(http, served):
    listed = http.get(f"{served.url}/models").json()["data"]
    assert [model["id"] for model in listed] == ["srr-guard-local"]


@pytest.mark.model
def test_the_real_model_and_the_real_scorer(http):
    from srr_guard import SRRScorer

    policies = {"default": {"sampling": {"n": 2}}}
    with gateway(scorer=SRRScorer.from_pretrained(), local={}, policies=policies) as served:
        with openai.OpenAI(base_url=served.url, api_key="x", max_retries=0) as client:
            stream = client.chat.completions.create(
                model="srr-guard-local",
                messages=[{"role": "user", "content": "What is the capital of France?"}],
                max_tokens=6,
                stream=True,
            )
            chunks = list(stream)
        summary = chunks[-1].srr_guard
        # what six sampled tokens say, and how sure they read, is up to the processor's arithmetic
        assert summary["sampled"] == 2
        assert summary["verdict"] in {"pass", "uncertain", "hold"}
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip()
        asked = {"conversation": "How do I keep basil alive?", "answer": "Water it now and then."}
        found = http.post(f"{served.url}/explain", json=asked).json()
        assert found["p_safe"] > 0.5
        assert "".join(token["text"] for token in found["harmless"]["tokens"])
        check = http.post(f"{served.url}/checks", json=asked).json()
        assert check["outcome"] == "pass"
        assert http.get(f"{served.root}/readyz").status_code == 200
