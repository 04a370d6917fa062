"""`SRRScorer` as a prompt gate, on a tiny random LM."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from srr_guard import Conversation, Guard, SamplingPolicy, SRRScorer
from srr_guard.errors import ConfigurationError, InvalidInputError, ScoringError
from srr_guard.policy import GatePolicy
from srr_guard.protocols import PromptGate
from srr_guard.reference import ReferenceLLM
from srr_guard.scorer import HeadConfig, ScorerBundle
from srr_guard.scorer.fingerprint import Fingerprint
from srr_guard.scorer.head import SRRHead
from srr_guard.testing import FakeScorer

ASKED = [("system", "Be brief."), ("user", "How do tides work?")]


@pytest.fixture(scope="module")
def graded(
    tiny_bundle: ScorerBundle, tiny_llm: ReferenceLLM, tmp_path_factory: pytest.TempPathFactory
) -> ScorerBundle:
    config = HeadConfig(
        width=tiny_llm.width, depths=(2, 3), poolings=("mean",), pointwise=True, graded=True,
        listwise=False, familiar=4,
    )  # fmt: skip
    info = tiny_bundle.info.model_copy(update={"name": "graded", "head": config})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head = SRRHead(config)
    return ScorerBundle.save(
        tmp_path_factory.mktemp("bundle") / "graded",
        info=info,
        head=head,
        card="# graded\n",
        fingerprint=Fingerprint.of(tiny_llm, info.features),
    )


@pytest.fixture
def scorer(graded: ScorerBundle, tiny_folder: Path) -> SRRScorer:
    return SRRScorer.from_pretrained(graded.folder, reference=tiny_folder)


def test_it_is_a_prompt_gate(scorer: SRRScorer) -> None:
    assert isinstance(scorer, PromptGate)


def test_the_numbers_are_those_of_the_request_probe(
    scorer: SRRScorer, tiny_llm: ReferenceLLM
) -> None:
    head = scorer.bundle.load_head()
    features = tiny_llm.encode(ASKED, ["x"], depths=(2, 3))
    inputs = torch.cat([features.instruction.flatten(), features.request.flatten()])
    with torch.inference_mode():
        p_harmful = float(torch.sigmoid(head.harmful_request(inputs)))
        familiarity = float(head.familiarity(inputs))
    for seen in (scorer.assess(ASKED), asyncio.run(scorer.aassess(ASKED))):
        assert seen.p_harmful == pytest.approx(p_harmful, abs=1e-5)
        assert seen.familiarity == familiarity


def test_the_prompt_is_read_once(scorer: SRRScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = "What makes the wind blow?"
    scorer.assess(asked)
    engine: Any = scorer.engine
    llm = engine.encoder()
    encoding = llm.begin(asked, ["The sun."], engine.spec)
    assert encoding.prefix.encoded
    assert encoding.cost(encoding.pending) == encoding.left  # the answer's tokens only
    assert scorer.score(asked, ["The sun."]).familiarity == scorer.assess(asked).familiarity


def test_it_shares_passes_with_scores(scorer: SRRScorer) -> None:
    async def both() -> Any:
        return await asyncio.gather(
            scorer.ascore("Why?", ["Because."]), scorer.aassess("Why?"), scorer.aassess("How?")
        )

    ranking, why, how = asyncio.run(both())
    assert ranking.familiarity == why.familiarity
    assert 0.0 <= how.p_harmful <= 1.0


def test_a_bundle_without_the_probe(tiny_bundle: ScorerBundle, tiny_folder: Path) -> None:
    scorer = SRRScorer.from_pretrained(tiny_bundle.folder, reference=tiny_folder)
    says = r"'tiny' has no request probe.*give another `gate=`"
    with pytest.raises(ConfigurationError, match=says):
        scorer.assess("q")
    guard = Guard(scorer=scorer, gating=GatePolicy())
    with pytest.raises(ConfigurationError, match=says):
        guard.check("q", "x")


def test_numbers_that_must_not_be_used(scorer: SRRScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer.warm_up()
    head = scorer.engine._head
    assert head is not None
    kept = head.harmful_request.linear.bias.detach().clone()
    head.harmful_request.linear.bias.data.fill_(torch.nan)
    try:
        with pytest.raises(ScoringError, match="must not be used"):
            scorer.assess("q")
    finally:
        head.harmful_request.linear.bias.data.copy_(kept)


def test_input_that_cannot_be_read(scorer: SRRScorer) -> None:
    with pytest.raises(InvalidInputError):
        scorer.assess("  ")


def test_another_scorer_with_this_gate(scorer: SRRScorer) -> None:
    guard = Guard(scorer=FakeScorer(lambda prompt, answer: 0.9), gate=scorer)
    decision = guard.check("q", "good")
    assert decision.passed
    assert decision.gate is not None
    assert decision.gate.p_harmful == scorer.assess("q").p_harmful


def test_a_check_of_a_stream_is_a_score_of_the_text_so_far(
    tiny_bundle: ScorerBundle, tiny_folder: Path
) -> None:
    """See `SamplingPolicy.cut_below`."""
    scorer = SRRScorer.from_pretrained(tiny_bundle.folder, reference=tiny_folder)
    asked, text = Conversation.of("q"), "word " * 40
    p_safe = [scorer.score(asked, [text[:end]]).p_safe[0] for end in (100, 165)]
    for floor, cut in ((max(p_safe) + 1e-4, True), (max(p_safe) - 1e-4, False)):
        sampling = SamplingPolicy(read_ahead=True, cut_below=floor)
        watch = Guard(scorer=scorer, sampling=sampling).watch(asked)
        for end in range(0, 170, 5):
            watch(text[:end])
        assert [watch.cut(text[:end]) for end in (95, 100, 160, 165)] == [False, False, False, cut]
