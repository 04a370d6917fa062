"""A playground that is really served, on fakes: scripted answers, scores by words."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field, SkipValidation
from servers import PATIENCE, running

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking
from srr_guard.errors import ScoringError
from srr_guard.playground.app import Playground
from srr_guard.playground.bench import Bench
from srr_guard.playground.server import listen_here, playground_server
from srr_guard.recipes import Recipe
from srr_guard.scorer.explanation import Explanation, ProbeShares, Share, sentences_of

ANSWERS = (
    "Check the soil with a finger before you water. Turn each pot a little every week.",
    "I'm sorry, but I can't help with that.",
    "Pour the poison into the watering can. Nobody will notice.",
    "Wipe the dust off the leaves. They need their light.",
)
P_SAFE = {"poison": 0.06, "sorry": 0.97, "soil": 0.91, "dust": 0.72}


class ByWord:
    """A scorer and gate: `p_safe` by the word that a text holds; the rank depends on the list.

    Args:
        shift: Added to every `p_safe`.
    """

    def __init__(self, *, shift: float = 0.0) -> None:
        self._shift = shift
        self.error: Exception | None = None
        self.lists: list[tuple[str, ...]] = []

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        self.lists.append(tuple(candidates))
        if self.error is not None:
            raise self.error
        p_safe = [self._p_safe(text) for text in candidates]
        p_refusal = [0.95 if "sorry" in text else 0.03 for text in candidates]
        p_help = [0.04 if "sorry" in text else 0.88 for text in candidates]
        # the order turns around where the list is even: like listwise scores, of this list only
        turn = 0.5 if len(candidates) % 2 else 1.0
        scores = [safe + turn * helps for safe, helps in zip(p_safe, p_help, strict=True)]
        return Ranking.from_scores(
            scores=scores,
            p_safe=p_safe,
            p_help=p_help,
            p_refusal=p_refusal,
            bounds=(0.2, 0.8),
            familiarity=0.6,
        )

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        return self.score(conversation, candidates)

    def assess(self, conversation: Any) -> PromptAssessment:
        prompt = Conversation.of(conversation).prompt
        p_harmful = 0.97 if "poison" in prompt else 0.86 if "frighten" in prompt else 0.04
        return PromptAssessment(p_harmful=p_harmful, familiarity=0.6)

    async def aassess(self, conversation: Any) -> PromptAssessment:
        return self.assess(conversation)

    def explain(self, conversation: Any, text: str) -> Explanation:
        shares, place = [], 0
        for sentence in sentences_of(text):
            start = text.index(sentence, place)
            place = start + len(sentence)
            value = -2.1 if "poison" in sentence else 1.3 if start == 0 else 0.4
            shares.append(Share(text=sentence, start=start, end=place, value=value))
        found = ProbeShares(text=text, logit=0.0, intercept=0.0, tokens=(), sentences=tuple(shares))
        return Explanation(p_safe=self._p_safe(text), harmless=found)

    def _p_safe(self, text: str) -> float:
        found = next((p for word, p in P_SAFE.items() if word in text), 0.5)
        return min(1.0, max(0.0, found + self._shift))


class Script:
    """What the model says, and when.

    Attributes:
        answers: By candidate; an exception is raised.
        open: Answers wait for it; set from the start.
        cancelled: Set when a call is cancelled.
        asked: How many calls were made.
    """

    def __init__(self, answers: Sequence[Any] = ANSWERS) -> None:
        self.answers = list(answers)
        self.open = threading.Event()
        self.open.set()
        self.cancelled = threading.Event()
        self.started = threading.Event()
        self.asked = 0


class ScriptedLocal(BaseChatModel):
    """A model that serves recipes, like the local one; one call for each candidate."""

    script: SkipValidation[Any] = Field(exclude=True, repr=False)
    temperature: float = 0.8
    seed: int | None = None

    @property
    def _llm_type(self) -> str:
        return "scripted-local"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise AssertionError("only called async")

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=await self._next())])

    def serves(self, recipe: Recipe) -> str | None:
        return "the script has no hidden states" if recipe.kind == "steered" else None

    def sample_candidates(self, *args: Any, **kwargs: Any) -> Sequence[Any]:
        raise AssertionError("only called async")

    async def asample_candidates(self, messages: Any, n: int, **options: Any) -> Sequence[Any]:
        return [await self._next() for _ in range(n)]

    async def _next(self) -> AIMessage:
        import asyncio

        script = self.script
        answer = script.answers[script.asked % len(script.answers)]
        script.asked += 1
        script.started.set()
        try:
            while not script.open.is_set():
                await asyncio.sleep(0.005)
        except asyncio.CancelledError:
            script.cancelled.set()
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, AIMessage) else AIMessage(answer)


class Served:
    """A playground that is being served.

    Attributes:
        link: What is printed.
        root: Its address.
        script: What the model says.
        first: The first scorer.
        second: The second one.
    """

    def __init__(self, playground: Playground, bench: Bench, **parts: Any) -> None:
        self.link = playground.link
        self.bench = bench
        self.root = self.link.partition("/#")[0]
        self.script: Script = parts["script"]
        self.first: ByWord = parts["first"]
        self.second: ByWord = parts["second"]

    @contextmanager
    def client(self) -> Iterator[httpx2.Client]:
        """A client that has come in by the link."""
        with httpx2.Client(base_url=self.root, timeout=PATIENCE, trust_env=False) as client:
            token = self.link.partition("token=")[2]
            assert client.post("/api/session", json={"token": token}).status_code == 204
            yield client


@contextmanager
def serve_playground(
    *, answers: Sequence[Any] = ANSWERS, model: bool = True, second: bool = True, **more: Any
) -> Iterator[Served]:
    """Serve a playground on fakes."""
    script, first, other = Script(answers), ByWord(), ByWord(shift=-0.25)
    bench = Bench(
        model=more.get("chat", ScriptedLocal(script=script)) if model else None,
        scorer=more.get("scorer", first),
        second=other if second else None,
    )
    bound = listen_here("127.0.0.1", 0)
    playground = Playground(bench, host="127.0.0.1", port=bound.getsockname()[1])
    with running(playground_server(playground, bench), [bound]):
        yield Served(playground, bench, script=script, first=first, second=other)


def events_of(response: httpx2.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a stream."""
    rest = b""  # not `iter_lines`, which parts lines at U+2028 too
    for piece in response.iter_bytes():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            name, data = event.split(b"\n")
            yield name.decode().removeprefix("event: "), json.loads(data.removeprefix(b"data: "))


def run(client: httpx2.Client, **body: Any) -> dict[str, list[dict[str, Any]]]:
    """Run a prompt; the events by name."""
    body = {"prompt": "How do I look after plants?", "columns": [{}], **body}
    found: dict[str, list[dict[str, Any]]] = {}
    with client.stream("POST", "/api/run", json=body) as response:
        assert response.status_code == 200, response.read()
        for name, data in events_of(response):
            found.setdefault(name, []).append(data)
    return found


def failing(scorer: ByWord) -> Callable[[], None]:
    """Make a scorer fail."""
    scorer.error = ScoringError("the scorer is broken on purpose")
    return lambda: setattr(scorer, "error", None)
