"""The seams: what a scorer, a source of candidates and a form of output must offer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, runtime_checkable

from typing_extensions import TypeVar

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision, PromptAssessment, Ranking
from srr_guard.reading import Reading
from srr_guard.recipes import Recipe

if TYPE_CHECKING:
    from langchain_core.messages.ai import UsageMetadata

T = TypeVar("T", default=Any)
T_co = TypeVar("T_co", covariant=True, default=Any)


@runtime_checkable
class ResponseScorer(Protocol):
    """Anything that ranks candidate answers to one conversation.

    `SRRScorer` uses a local reference LLM, `srr_guard.testing.FakeScorer` a function. Both
    methods must be safe to call from several threads and tasks at once.
    """

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidates: At least one text.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ScorerError: The scorer cannot be loaded or its numbers cannot be used.
        """
        ...

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop."""
        ...


@runtime_checkable
class PromptGate(Protocol):
    """Anything that assesses a prompt before there are candidates.

    `SRRScorer` is one, `srr_guard.testing.FakeGate` a function. Both methods must be safe to
    call from several threads and tasks at once.
    """

    def assess(self, conversation: Any) -> PromptAssessment:
        """Assess a prompt.

        Args:
            conversation: Anything that `Conversation.of` reads.

        Raises:
            InvalidInputError: The conversation cannot be read.
            ScorerError: The gate cannot be loaded or its numbers cannot be used.
            ConfigurationError: It was not made for this; no policy bypasses that.
        """
        ...

    async def aassess(self, conversation: Any) -> PromptAssessment:
        """Like `assess`, without blocking the event loop."""
        ...


class ReadAhead(Protocol):
    """Pre-encodes one streamed answer. Each call is given all the text received so far."""

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Take the text so far; `done` marks the last call. Does not block."""
        ...


class AnswerWatch(ReadAhead, Protocol):
    """A `ReadAhead` that also says when the answer is to be cut off."""

    def cut(self, text: str) -> bool:
        """True if the text so far is reason to close the stream; may wait for a score."""
        ...

    async def acut(self, text: str) -> bool:
        """Like `cut`, without blocking the event loop."""
        ...


@dataclass(frozen=True)
class Declined(Generic[T]):
    """What a chain made of an answer that the model, a filter or a guard declined to give.

    Attributes:
        output: Without any of it: blank, or None where the chain failed on it.
    """

    output: T


@dataclass(frozen=True)
class CutOff(Generic[T]):
    """What came of an answer whose stream was closed.

    Attributes:
        output: As far as it came.
    """

    output: T


@runtime_checkable
class SupportsReadAhead(Protocol):
    """A scorer that can pre-encode answers while they are streamed.

    Used for `SamplingPolicy.read_ahead`. It saves time only: `score` and `ascore` decide.
    """

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer. Does not block."""
        ...


@runtime_checkable
class SupportsEarlyCut(Protocol):
    """A scorer that can score answers while a local model writes them.

    Used for `SamplingPolicy.cut_below` without `read_ahead`.
    """

    def early_cut(self, below: float) -> Any:
        """Make what the model's `sample_candidates` takes as `cut`; may block."""
        ...


@runtime_checkable
class CutsCandidates(Protocol):
    """A chat model that cuts answers off itself.

    Its `sample_candidates` takes `cut`, and answers that were cut off have the
    `finish_reason` "cut".
    """

    def cuts_candidates(self) -> bool:
        """True if it does."""
        ...


@runtime_checkable
class SupportsCandidateSampling(Protocol):
    """A chat model that samples several answers to one prompt in one call.

    `SafetyRanker` uses it when `SamplingPolicy.batched` is `auto`. A model may offer
    `asample_candidates` with the same arguments too; without it, async callers run
    `sample_candidates` on a thread.
    """

    def sample_candidates(
        self, messages: list[Any], n: int, *, stop: list[str] | None = None, **kwargs: Any
    ) -> Sequence[Any]:
        """Sample `n` answers to one list of messages, as messages."""
        ...


@runtime_checkable
class SupportsRecipes(Protocol):
    """A chat model that serves recipes itself (see `SamplingPolicy.plan`).

    It may offer `asample_candidates` too, as in `SupportsCandidateSampling`. Its `invoke` and
    `stream` take `recipes` with one recipe as a keyword argument, for models inside chains.
    """

    def serves(self, recipe: Recipe) -> str | None:
        """Say why a recipe cannot be served, in one sentence; None: it can.

        Called when the guard is made. Must be quick: no weights are loaded for it.
        """
        ...

    def sample_candidates(
        self,
        messages: list[Any],
        n: int,
        *,
        recipes: Sequence[Recipe] | None = None,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Sequence[Any]:
        """Sample `n` answers to one list of messages, as messages, in one call.

        Args:
            messages: What a chat model is called with.
            n: How many answers.
            recipes: One for each answer; None: all are plain.
            stop: Texts that end an answer.
            **kwargs: Options for this call.
        """
        ...


class CandidateSource(Protocol[T_co]):
    """Makes the candidates of one request.

    `Guard.decide` calls `sample`, on threads; `Guard.adecide` calls `asample`, as tasks.
    """

    @property
    def batches(self) -> bool:
        """One call makes all candidates of a round; otherwise each has its own call."""
        ...

    def sample(self, indices: Sequence[int]) -> Sequence[T_co]:
        """Make these candidates: those of one call."""
        ...

    async def asample(self, indices: Sequence[int]) -> Sequence[T_co]:
        """Like `sample`, without blocking the event loop."""
        ...


@runtime_checkable
class PlannedSource(Protocol):
    """A `CandidateSource` that follows the recipes of the policies."""

    @property
    def local(self) -> bool:
        """Its model runs on this machine, so that a prompt gate would compete with it."""
        ...

    @property
    def skipped(self) -> tuple[str, ...]:
        """Why recipes are not followed in this request, one sentence each."""
        ...

    def jobs(self, indices: Sequence[int]) -> list[Sequence[int]]:
        """Divide candidates among calls."""
        ...

    def recipe(self, index: int) -> str:
        """Kind of the recipe that a candidate is made by."""
        ...

    def by_gate(self) -> CandidateSource[Any]:
        """The candidates of the same request, those after the first by the gate's plan."""
        ...


class Delivery(Protocol[T]):
    """One form of output: how it is read, refused and handed back."""

    def read(self, output: T) -> Reading:
        """Read an output: its text, and the kinds of its parts that have none.

        Raises:
            InvalidInputError: It has no text form; another attempt would not help.
            SamplingError: It is unusable; another attempt may help.
        """
        ...

    def declined(self, output: T) -> bool:
        """True if the provider took the answer away: without text it is a refusal then."""
        ...

    def refusal(self, text: str, output: T) -> T | None:
        """Give a refusal the form of this output; None if it has no such form."""
        ...

    def usage(self, outputs: Sequence[T]) -> UsageMetadata | None:
        """Sum the tokens of these outputs; None if they do not say."""
        ...

    def finish(self, output: T, decision: Decision[T]) -> T:
        """Attach the decision to the output that the caller gets."""
        ...


@runtime_checkable
class RefusesUnasked(Protocol):
    """A `Delivery` that may know the form of its outputs before there is one."""

    def refusal_unasked(self, text: str) -> Any:
        """Give a refusal to a prompt that no model was asked; None: its form is not known."""
        ...


class ProgressCallback(Protocol):
    """Receives the progress of long-running work."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        """Report `done` of `total` steps of a stage, with figures measured on the way."""
        ...
