"""LiteLLM's Generic Guardrail API, in the form its proxy sends."""

from __future__ import annotations

import pytest
from servers import ASK, calls, gateway

from srr_guard import Conversation
from srr_guard.serving.litellm import PATH, Remembered


def tell(http, served, **body):
    sent = {"request_data": {}, "litellm_version": "1.108.7", "texts": [], **body}
    answer = http.post(f"{served.root}{PATH}", json=sent)
    assert answer.status_code == 200, answer.text
    return answer.json()


def before(http, served, call="c1"):
    said = {"structured_messages": ASK, "texts": ["How do magnets work?"]}
    return tell(http, served, input_type="request", litellm_call_id=call, **said)


@pytest.mark.parametrize(
    ("answer", "action"),
    [
        ({"texts": ["a good answer"]}, "NONE"),
        ({"texts": ["a bad answer"]}, "BLOCKED"),
        ({"texts": ["a good answer", "a bad answer"]}, "BLOCKED"),
        ({"texts": ["a good answer", ""]}, "NONE"),
        ({"tool_calls": calls("good_tool", "{}")["tool_calls"]}, "NONE"),
        ({"tool_calls": calls("bad_tool", "{}")["tool_calls"]}, "BLOCKED"),
        ({"texts": ["good"], "images": ["data:image/png;base64,AAAA"]}, "BLOCKED"),
        ({"texts": []}, "NONE"),
    ],
)
def test_an_answer_is_judged_with_its_request(http, served, answer, action):
    assert before(http, served) == {"action": "NONE"}
    said = tell(http, served, input_type="response", litellm_call_id="c1", **answer)
    assert said["action"] == action
    if action == "BLOCKED":
        assert said["blocked_reason"].startswith("I'm sorry")


def test_an_answer_to_an_unknown_request_is_blocked(http, served):
    said = tell(http, served, input_type="response", litellm_call_id="new", texts=["good"])
    assert said["action"] == "BLOCKED"
    assert "pre_call, post_call" in said["blocked_reason"]


def test_answers_are_limited_as_at_every_other_door(http):
    with gateway(limits={"answers": 2}) as served:
        sent = {"input_type": "response", "structured_messages": ASK, "texts": ["good"] * 3}
        answer = http.post(f"{served.root}{PATH}", json=sent)
        assert (answer.status_code, answer.json()["error"]["message"]) == (
            400,
            "3 answers to check are more than 2",
        )
        assert tell(http, served, **{**sent, "texts": ["good", "", "good"]})["action"] == "NONE"


def test_the_key_is_the_one_litellm_sends_and_requests_are_its_own(http):
    keys = [{"name": name, "key": f"secret-{name}"} for name in ("a", "b")]
    with gateway(keys=keys) as served:

        def post(key, **body):
            headers = {"x-api-key": f"secret-{key}"}
            return http.post(f"{served.root}{PATH}", json=body, headers=headers).json()

        said = {"litellm_call_id": "c", "structured_messages": ASK}
        assert post("a", input_type="request", **said) == {"action": "NONE"}
        answer = {"input_type": "response", "litellm_call_id": "c", "texts": ["a good answer"]}
        assert post("b", **answer)["action"] == "BLOCKED"  # not its request
        assert post("a", **answer)["action"] == "NONE"
        assert post("c", **answer)["error"]["code"] == "invalid_api_key"


def test_what_is_remembered_is_bounded():
    now = 0.0
    remembered = Remembered(seconds=10.0, characters=1000, clock=lambda: now)
    for i in range(9):
        remembered.put(("", str(i)), Conversation.of("x" * 100))
    kept = [i for i in range(9) if remembered.get(("", str(i)))]
    assert kept == [6, 7, 8]
    now = 10.0
    assert remembered.get(("", "8")) is not None
    now = 10.5
    assert remembered.get(("", "8")) is None
    remembered.put(("", "9"), Conversation.of("y"))
    assert remembered.get(("", "9")) is not None
