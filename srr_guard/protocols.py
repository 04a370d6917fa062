"""The seams: what a scorer, a source of candidates and a form of output must offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from typing_extensions import TypeVar

from srr_guard.conversation import Conversation
from srr_guard.decision import Decision, Ranking
from srr_guard.reading import Reading

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


class ReadAhead(Protocol):
    """Pre-encodes one streamed answer. Each call is given all the text received so far."""

    def __call__(self, text: str, *, done: bool = False) -> None:
        """Take the text so far; `done` marks the last call. Does not block."""
        ...


@runtime_checkable
class SupportsReadAhead(Protocol):
    """A scorer that can pre-encode answers while they are streamed.

    Used for `SamplingPolicy.read_ahead`. It saves time only: `score` and `ascore` decide.
    """

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer. Does not block."""
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


class CandidateSource(Protocol[T_co]):
    """Makes the candidates of one request.

    `Guard.decide` calls `sample`, on threads; `Guard.adecide` calls `asample`, as tasks.
    """

    @property
    def batches(self) -> bool:
        """One call makes all candidates of a round; otherwise each has its own call."""
        ...

    def sample(self, indices: range) -> Sequence[T_co]:
        """Make these candidates: all of a round, or a single one."""
        ...

    async def asample(self, indices: range) -> Sequence[T_co]:
        """Like `sample`, without blocking the event loop."""
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


class ProgressCallback(Protocol):
    """Receives the progress of long-running work."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        """Report `done` of `total` steps of a stage, with figures measured on the way."""
        ...
