"""`SRRScorer`: ranks candidates with a reference LLM and a trained head."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from srr_guard.conversation import Conversation
from srr_guard.decision import PromptAssessment, Ranking, ScoredCandidate
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.protocols import ReadAhead
from srr_guard.reading import valid_unicode
from srr_guard.reference.hub import HubOptions
from srr_guard.reference.source import Named
from srr_guard.reference.spec import Device, DType, ModelSpec
from srr_guard.scorer.bundle import ScorerBundle

if TYPE_CHECKING:
    from srr_guard.scorer.engine import ScoringEngine
    from srr_guard.scorer.explanation import Explanation
    from srr_guard.scorer.running import EarlyCut


class SRRScorer:
    """Ranks candidates with a reference LLM's hidden states and a trained head.

    Making one is cheap: weights are loaded on the first score, on the process's one torch
    thread. Scorers and local chat models of one process share the weights of the same files.

    Attributes:
        bundle: The trained scorer.
        reference: The reference LLM and where it runs.

    Example:
        >>> from srr_guard import SRRScorer
        >>> scorer = SRRScorer.from_pretrained()
        >>> ranking = scorer.score(
        ...     "How do I keep basil alive indoors?",
        ...     ["Give it six hours of light a day.", "I can't help with that."],
        ... )
        >>> ranking.best
        0
    """

    def __init__(
        self,
        *,
        bundle: ScorerBundle,
        reference: str | os.PathLike[str] | None = None,
        reference_file: str | None = None,
        reference_revision: str | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        self.bundle = bundle
        self.reference = ModelSpec(
            reference=None if reference is None else os.fspath(reference),
            file=reference_file,
            hub=HubOptions(
                revision=reference_revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            ),
            named=Named(bundle.info.reference, bundle.info.reference_revision),
            device=device,
            dtype=dtype,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str] | None = None,
        *,
        reference: str | os.PathLike[str] | None = None,
        reference_file: str | None = None,
        reference_revision: str | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> SRRScorer:
        """Find a trained scorer.

        Args:
            name: A shipped bundle's name, a folder, or a hub id; None: the default bundle.
            reference: The reference LLM it was trained for: a folder, GGUF file or hub id;
                None takes `$SRR_GUARD_REFERENCE`, or the one that the bundle names (see
                `resolve_reference`).
            reference_file: Which GGUF file of that folder or repository.
            reference_revision: That repository's branch, tag or commit.
            device: `auto`, or what `torch.device` reads.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            revision: The bundle's branch, tag or commit on the hub.
            token: Access token for the hub.
            cache_dir: The hub cache.
            local_files_only: Never ask the hub.

        Raises:
            BundleNotFoundError: There is no such bundle.
            CorruptBundleError: Its description cannot be read.
        """
        bundle = ScorerBundle.find(
            name,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
        return cls(
            bundle=bundle,
            reference=reference,
            reference_file=reference_file,
            reference_revision=reference_revision,
            device=device,
            dtype=dtype,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the scorer's bundle into a folder, for `from_pretrained`.

        The reference LLM is not part of it.

        Raises:
            ConfigurationError: The folder holds something else.
        """
        self.bundle.copy_to(folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a scorer of srr_guard",
        create_pr: bool = False,
    ) -> str:
        """Upload the scorer's bundle to the Hugging Face hub, for `from_pretrained`.

        Args:
            repo_id: The repository, `owner/name`; made if it does not exist.
            private: Whether a new one is private; None: as the owner's settings say.
            token: Access token; None: `HF_TOKEN` or the one that `hf auth login` stored.
            revision: Branch to upload to.
            commit_message: First line of the commit.
            create_pr: Open a pull request instead.

        Returns:
            Address of the commit.

        Raises:
            OSError: The hub cannot be reached, or refuses (an `HfHubHTTPError`).
        """
        require_local("Uploading a scorer", "huggingface_hub")
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=self.bundle.folder,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
        )
        return str(commit.commit_url)

    def rank(self, conversation: Any, candidates: Sequence[str]) -> tuple[ScoredCandidate, ...]:
        """Score candidates and return them, best first (see `score`).

        Example:
            >>> from srr_guard import SRRScorer
            >>> answers = ["I can't help with that.", "Give it six hours of light a day."]
            >>> ranked = SRRScorer.from_pretrained().rank("How do I keep basil alive?", answers)
            >>> ranked[0].text
            'Give it six hours of light a day.'
        """
        ranking = self.score(conversation, candidates)
        return tuple(
            ScoredCandidate(index=i, text=candidates[i], **ranking.marks(i)) for i in ranking.order
        )

    def score(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Rank candidates (see `ResponseScorer.score`).

        The first call loads the weights, which takes seconds.

        Raises:
            InvalidInputError: The conversation or a candidate cannot be read.
            ReferenceModelError: The reference LLM cannot be found or loaded.
            IncompatibleScorerError: It is not the one this scorer was trained for.
            ScoringError: Scoring failed or gave numbers that must not be used.
            MissingExtraError: The extra `local` is not installed.
        """
        return self.submit(conversation, candidates).result()

    async def ascore(self, conversation: Any, candidates: Sequence[str]) -> Ranking:
        """Like `score`, without blocking the event loop.

        A cancelled call stops waiting; a pass that has begun is finished.
        """
        return await asyncio.wrap_future(self.submit(conversation, candidates))

    def assess(self, conversation: Any) -> PromptAssessment:
        """Assess a prompt, before there are candidates (see `PromptGate`).

        The reference LLM reads the prompt once: its states are kept for the scores of its
        answers.

        Raises:
            InvalidInputError: The conversation cannot be read.
            ConfigurationError: The bundle has no request probe.
            ReferenceModelError: The reference LLM cannot be found or loaded.
            ScoringError: The numbers must not be used.
        """
        return self.engine.assess(Conversation.of(conversation)).result()

    async def aassess(self, conversation: Any) -> PromptAssessment:
        """Like `assess`, without blocking the event loop."""
        return await asyncio.wrap_future(self.engine.assess(Conversation.of(conversation)))

    def read_ahead(self, conversation: Conversation) -> ReadAhead:
        """Start pre-encoding one streamed answer (see `SupportsReadAhead`). Does not block.

        Its states are kept for the next `score` of the same conversation. The scores are the
        same as without.
        """
        return self.engine.read_ahead(conversation)

    def early_cut(self, below: float) -> EarlyCut:
        """A floor for the answers of a local model (see `SupportsEarlyCut`).

        Loads the weights, which blocks.
        """
        return self.engine.early_cut(below)

    def explain(self, conversation: Any, candidate: str) -> Explanation:
        """Take the score of one answer apart: the share of each token, the effect of each sentence.

        The answer is read once more, and without each of its sentences, 16 of them at most. The
        result holds the texts: keep it on your servers.

        Raises:
            InvalidInputError: The conversation or the answer cannot be read, or is blank.
            ConfigurationError: The scorer's design cannot be explained.
            ReferenceModelError: The reference LLM cannot be found or loaded.
        """
        (text,) = _checked([candidate])
        engine, asked = self.engine, Conversation.of(conversation)
        found = engine.explain(asked, text).result()
        return found.with_effects(lambda texts: engine.rank(asked, texts).result().p_safe)

    def warm_up(self) -> None:
        """Load the weights now instead of on the first score.

        Raises:
            ReferenceModelError: The reference LLM cannot be found or loaded.
            ScorerError: The bundle cannot be loaded or does not fit.
            MissingExtraError: The extra `local` is not installed.
        """
        self.engine.load().result()

    def __repr__(self) -> str:
        return f"SRRScorer(bundle={self.bundle.info.name!r})"

    def submit(self, conversation: Any, candidates: Sequence[str]) -> Future[Ranking]:
        """Like `score`, without waiting; a cancelled future is not finished."""
        asked, texts = Conversation.of(conversation), _checked(candidates)
        return self.engine.rank(asked, texts)

    @property
    def engine(self) -> ScoringEngine:
        """The engine that it shares with scorers of the same files; weights load on first use.

        Raises:
            MissingExtraError: The extra `local` is not installed.
        """
        require_local("SRRScorer")
        from srr_guard.scorer.engine import shared_engine

        return shared_engine(self.bundle, self.reference)


def _checked(candidates: Sequence[str]) -> list[str]:
    if isinstance(candidates, str) or not isinstance(candidates, Sequence):
        raise InvalidInputError(
            f"candidates must be a list of texts, got {type(candidates).__name__}"
        )
    if not candidates:
        raise InvalidInputError("there are no candidates to score: give at least one text")
    for i, text in enumerate(candidates):
        if not isinstance(text, str):
            raise InvalidInputError(f"candidates[{i}] is {text!r:.60}: every candidate is a str")
    return [valid_unicode(text) for text in candidates]
