"""The gate and observe mode behind the gateway."""

from __future__ import annotations

import pytest
from servers import ASK, Upstream, gateway, good_is_safe, says

from srr_guard.errors import ConfigurationError
from srr_guard.policy import GatePolicy, Policies, SamplingPolicy
from srr_guard.testing import FakeGate, FakeScorer


class GatedScorer(FakeScorer):
    """A scorer that assesses prompts too, as `SRRScorer` does."""

    def __init__(self, p_harmful: float) -> None:
        super().__init__(good_is_safe)
        self.gate = FakeGate(lambda prompt: p_harmful)

    def assess(self, conversation):
        return self.gate.assess(conversation)

    async def aassess(self, conversation):
        return await self.gate.aassess(conversation)


def ask(http, served, path="chat/completions", **body):
    asked = {"messages": ASK} if path == "chat/completions" else {"input": "How?"}
    return http.post(f"{served.url}/{path}", json={"model": "m", **asked, **body})


def test_a_benign_request_costs_one_candidate(http, upstream: Upstream) -> None:
    upstream.begin_anew(says("a good answer"))
    policies = {"default": {"gating": {"benign_below": 0.2}}}
    with gateway(upstream, scorer=GatedScorer(0.05), policies=policies) as served:
        answer = ask(http, served).json()
    assert answer["choices"][0]["message"]["content"] == "a good answer"
    assert answer["srr_guard"]["sampled"] == 1
    assert answer["srr_guard"]["gate"]["verdict"] == "benign"


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_the_gate_may_refuse(path: str, http, upstream: Upstream) -> None:
    upstream.begin_anew(says("a good answer"))
    policies = {"default": {"gating": {"refuse_above": 0.9}}}
    with gateway(upstream, scorer=GatedScorer(0.99), policies=policies) as served:
        reply = ask(http, served, path)
        (decision,) = served.decisions
    assert decision.reason == "refused_by_gate"
    assert reply.status_code == 200
    assert "a good answer" not in reply.text
    assert reply.json()["srr_guard"]["reason"] == "refused_by_gate"


def test_a_refusal_without_a_form_is_an_error_that_says_why(http, upstream: Upstream) -> None:
    upstream.begin_anew(500)
    policies = {"default": {"sampling": {"attempts": 1}, "gating": {"refuse_above": 0.9}}}
    with gateway(upstream, scorer=GatedScorer(0.99), policies=policies) as served:
        reply = ask(http, served)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "content_filter")
    assert reply.json()["srr_guard"]["reason"] == "refused_by_gate"


def test_a_request_that_changes_its_policy_keeps_the_gate(http, upstream: Upstream) -> None:
    upstream.begin_anew(says("a good answer"))
    policies = {"default": {"gating": {"refuse_above": 0.9}}}
    with gateway(upstream, scorer=GatedScorer(0.99), policies=policies) as served:
        reply = ask(http, served, srr_guard={"n": 2})
    assert reply.json()["srr_guard"]["reason"] == "refused_by_gate"


def test_the_gate_of_a_policy_file_holds(http, upstream: Upstream, tmp_path) -> None:
    file = tmp_path / "policies.json"
    Policies(sampling=SamplingPolicy(n=3), gating=GatePolicy(refuse_above=0.9)).save(file)
    upstream.begin_anew(says("a good answer"))
    policies = {"default": {"file": str(file)}}
    with gateway(upstream, scorer=GatedScorer(0.99), policies=policies) as served:
        assert ask(http, served).json()["srr_guard"]["reason"] == "refused_by_gate"


@pytest.mark.parametrize("stream", [False, True])
def test_observing_lets_the_first_answer_pass(stream: bool, http, upstream: Upstream) -> None:
    upstream.begin_anew(says("a bad answer"))
    policies = {"default": {"decision": {"mode": "observe"}}}
    with gateway(upstream, policies=policies) as served:
        reply = ask(http, served, stream=stream)
        (decision,) = served.decisions
    assert "a bad answer" in reply.text
    assert (decision.reason, decision.would_have.reason) == ("observed", "refused")


def test_an_observed_check_passes_and_says_what_it_would_have_said(http) -> None:
    policies = {"default": {"decision": {"mode": "observe"}}}
    with gateway(policies=policies) as served:
        body = {"conversation": "How?", "answer": "a bad answer"}
        (result,) = http.post(f"{served.url}/checks", json=body).json()["results"]
    assert (result["outcome"], result["reason"]) == ("pass", "observed")
    assert result["would_have"] == "refused"


def test_gating_without_a_gate_is_an_error_at_the_start() -> None:
    policies = {"default": {"gating": {}}}
    with (
        pytest.raises(ConfigurationError, match="'default' has gating"),
        gateway(scorer=FakeScorer(good_is_safe), policies=policies),
    ):
        pass
