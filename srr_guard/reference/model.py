"""`ReferenceLLM`: any causal LM, cut at depth, as an encoder of candidates."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

from srr_guard.characters import plain_characters
from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError
from srr_guard.extras import require_local
from srr_guard.reference.cache.partial import PartialWindow, PartialWindowCache
from srr_guard.reference.cache.prefixes import PrefixCache
from srr_guard.reference.encoding.backbone import Backbone, Backend
from srr_guard.reference.encoding.packed import Part
from srr_guard.reference.encoding.request import EncodingRequest, cut, shares
from srr_guard.reference.features import (
    DEFAULT_OVERLAP,
    DEFAULT_PROMPT_LIMIT,
    DEFAULT_WINDOW,
    Features,
    FeatureSpec,
)
from srr_guard.reference.hub import HubOptions
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.spec import Device, DType
from srr_guard.reference.template import PromptIds, PromptTemplate
from srr_guard.reference.weights import (
    check_depth,
    decoder_blocks,
    load_blocks,
    load_tokenizer,
    model_folder,
    pick_device,
    pick_dtype,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from srr_guard.reference.source import ReferenceSource

DEFAULT_CACHE_BYTES = 256 * 2**20
"""Most memory for keys and values of prompts; partial answers get half as much."""

_UNSETTLED = 2
"""Tokens at the end of an unfinished text that its next characters may change."""


Ahead = Literal["unfinished", "done"]
"""The state of a text that is pre-encoded: more will come, or it is complete."""


def plain_conversation(conversation: Conversation) -> Conversation:
    """A conversation without disguised characters (see `plain_characters`)."""
    turns = tuple(
        turn.model_copy(update={"text": plain_characters(turn.text)}) for turn in conversation.turns
    )
    return conversation.model_copy(update={"turns": turns})


class ReferenceLLM:
    """A frozen causal LM whose hidden states describe candidates.

    The prompt is encoded once, its keys and values are shared by all windows of all
    candidates (see `PackedRow`), and kept for requests to come within a budget of bytes. A
    lock guards the model.

    Attributes:
        name: The model's name: a hub id, folder or file name.
        digest: SHA-256 over its weights and tokenizer.
        template_digest: Digest of its chat template and special tokens.
        dtype: Precision of the weights.
        width: Width d of the hidden states.
        depth: Blocks loaded.
        backend: The fastest backend that fits the architecture (see `Backbone`).
        blocks: Blocks of the whole model.
        template: Its tokenizer and chat template.
        backbone: The blocks that encode.

    Example:
        >>> llm = ReferenceLLM.load(depth=16)
        >>> llm.encode("How do magnets work?", ["By magic."], depths=(8, 16)).mean.shape
        torch.Size([1, 2, 576])
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        digest: str,
        blocks: int,
        depth: int | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        config: Any = model.config
        text = config.get_text_config()
        self.name = name
        self.digest = digest
        self.blocks = blocks
        self.width = int(text.hidden_size)
        self.template = PromptTemplate(tokenizer)
        self.backbone = Backbone(model, name=name, depth=depth)
        self._context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self._lock = threading.Lock()
        self._cache_bytes = cache_bytes
        self._caches: dict[tuple[int, ...], tuple[PrefixCache, PartialWindowCache]] = {}

    @classmethod
    def load(
        cls,
        reference: str | os.PathLike[str] | ReferenceSource | None = None,
        *,
        depth: int | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        file: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> ReferenceLLM:
        """Load a reference LLM.

        Args:
            reference: A folder, GGUF file, hub id or resolved source; None takes the first
                that is found (see `resolve_reference`).
            depth: The deepest block needed; None loads all.
            device: `auto`, or what `torch.device` reads.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            file: Which GGUF file of a folder or repository.
            revision: Branch, tag or commit on the hub.
            token: Access token for the hub.
            cache_dir: The hub cache.
            local_files_only: Never ask the hub.

        Raises:
            ReferenceNotFoundError: It is nowhere to be found.
            ReferenceLoadError: It cannot be read.
            InvalidInputError: `depth` is outside the model.
            MissingExtraError: The extra `local` is not installed.
        """
        require_local("ReferenceLLM")
        if reference is None or isinstance(reference, (str, os.PathLike)):
            options = HubOptions(
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
            reference = resolve_reference(reference, file=file, options=options)
        folder = model_folder(reference)
        place = pick_device(device)
        model, blocks = load_blocks(
            folder, depth=depth, device=place, dtype=pick_dtype(dtype, place)
        )
        return cls(
            model=model,
            tokenizer=load_tokenizer(folder),
            name=reference.name,
            digest=reference.digest(),
            blocks=blocks,
        )

    @classmethod
    def of(cls, model: Any, tokenizer: Any, *, source: ReferenceSource, depth: int) -> ReferenceLLM:
        """Encode with the blocks of a whole causal LM, which may generate in between.

        Args:
            model: The causal LM.
            tokenizer: Its tokenizer.
            source: Where they came from.
            depth: The deepest block needed.

        Raises:
            InvalidInputError: `depth` is outside the model.
        """
        blocks = len(decoder_blocks(model))
        check_depth(depth, blocks)
        return cls(
            model=model.base_model,
            tokenizer=tokenizer,
            name=source.name,
            digest=source.digest(),
            blocks=blocks,
            depth=depth,
        )

    @property
    def depth(self) -> int:
        """Blocks loaded: the deepest depth that `encode` can give."""
        return len(self.backbone.layers)

    @property
    def backend(self) -> Backend:
        """Its backend: `fused`, `packed` or `plain`."""
        return self.backbone.backend

    def clear_caches(self) -> None:
        """Forget the prompts and partial answers encoded so far."""
        with self._lock:
            self._caches.clear()

    @property
    def device(self) -> str:
        """Where the weights are, such as `cpu`."""
        return str(self.backbone.device)

    @property
    def dtype(self) -> str:
        """Precision of the weights, such as `float32`."""
        return str(self.backbone.dtype).removeprefix("torch.")

    @property
    def pass_tokens(self) -> int:
        """Tokens that suit one forward pass where requests wait for each other."""
        return 1024 if self.backbone.device.type == "cpu" else 16_384

    @property
    def template_digest(self) -> str:
        """Digest of all that turns text into token ids."""
        return self.template.digest

    def encode(
        self,
        conversation: Any,
        candidates: Sequence[str],
        *,
        depths: Sequence[int],
        window: int = DEFAULT_WINDOW,
        overlap: int = DEFAULT_OVERLAP,
        prompt_limit: int = DEFAULT_PROMPT_LIMIT,
        batch_tokens: int = 4096,
    ) -> Features:
        """Encode the candidates of one conversation.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidates: Texts; control tokens in them are text.
            depths: Depths to read, each from 1 to `depth`, ascending.
            window: Tokens in one window of a candidate.
            overlap: Tokens that neighbouring windows share.
            prompt_limit: Most tokens of the prompt (see `PromptTemplate.prompt`).
            batch_tokens: Most tokens in one forward pass.

        Raises:
            InvalidInputError: A depth is not loaded, or the windows make no sense.
        """
        spec = FeatureSpec(tuple(depths), window, overlap, prompt_limit)
        return self.encode_many([(conversation, candidates)], spec, batch_tokens=batch_tokens)[0]

    def encode_many(
        self,
        requests: Sequence[tuple[Any, Sequence[str]]],
        spec: FeatureSpec,
        *,
        batch_tokens: int = 4096,
    ) -> list[Features]:
        """Encode several conversations in common forward passes.

        Args:
            requests: Conversations and the candidates of each.
            spec: Which states are read.
            batch_tokens: Most tokens in one forward pass.

        Raises:
            InvalidInputError: A depth is not loaded.
        """
        encodings = [self.begin(talk, texts, spec) for talk, texts in requests]
        waiting = [e for e in encodings if not e.finished]
        while waiting:
            self.step(waiting, spec, batch_tokens=batch_tokens)
            waiting = [e for e in waiting if not e.finished]
        return [encoding.features() for encoding in encodings]

    def begin(
        self,
        conversation: Any,
        candidates: Sequence[str],
        spec: FeatureSpec,
        *,
        ahead: Ahead | None = None,
    ) -> EncodingRequest:
        """Prepare a request; `step` does the work.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidates: Texts.
            spec: Which states are read.
            ahead: Pre-encode: keep their states for a later request. Of `unfinished` texts the
                last tokens, which may change, are left out.

        Raises:
            InvalidInputError: A depth is not loaded.
        """
        if not spec.depths or not all(1 <= k <= self.depth for k in spec.depths):
            raise InvalidInputError(
                f"depths={spec.depths!r} are not all within the {self.depth} loaded blocks of "
                f"{self.name!r}: load it with depth={max(spec.depths, default=1)!r} or more"
            )
        size = min(spec.window, self._context // 2)
        talk = plain_conversation(Conversation.of(conversation))
        prompt = self.template.prompt(talk, limit=min(spec.prompt_limit, self._context - size))
        texts = [self.template.candidate_ids(plain_characters(text)) for text in candidates]
        if ahead == "unfinished":
            texts = [ids[:-_UNSETTLED] for ids in texts]
        cuts, owner = cut(texts, size=size, overlap=min(spec.overlap, size - 1))
        with self._lock:
            prompts, partials = self._cache(spec)
            prefix = prompts.prefix(prompt)
            windows = [partials.window(prompt, ids) for ids in cuts]
        if ahead and self.backend != "plain":
            for window in filter(len, windows):
                window.partial = PartialWindow(prompt, list(window.ids))
        return EncodingRequest(prefix, windows, owner)

    def token_states(
        self, conversation: Any, candidate: str, spec: FeatureSpec
    ) -> tuple[PromptIds, Tensor, list[Tensor]]:
        """States of every token of one answer, and of its prompt, for explanations.

        Args:
            conversation: Anything that `Conversation.of` reads.
            candidate: The answer.
            spec: Which states are read; they are cut into windows as for scoring.

        Returns:
            The prompt; its states, (D, T, d); the states of each window, (D, T, d). float32 on
            the CPU.
        """
        import torch

        encoding = self.begin(conversation, [candidate], spec)
        prompt = encoding.prefix.prompt
        with self._lock, torch.inference_mode():
            rows = [
                self.backbone.states(
                    torch.tensor([[*prompt.ids, *window.ids]]), depths=spec.depths
                )[:, 0]
                .float()
                .cpu()
                for window in encoding.windows
            ]
        at = len(prompt.ids)
        return prompt, rows[0][:, :at], [row[:, at:] for row in rows]

    def step(
        self, encodings: Sequence[EncodingRequest], spec: FeatureSpec, *, batch_tokens: int = 4096
    ) -> None:
        """Make one forward pass for requests that are not finished (see `shares`).

        Args:
            encodings: Requests of this spec, the one that has waited longest first.
            spec: The one they were begun with.
            batch_tokens: Most tokens of the pass.
        """
        import torch

        given = shares(encodings, batch_tokens)
        parts = [Part(e.prefix, [e.windows[i] for i in windows]) for e, windows in given]
        prompts, partials = self._cache(spec)
        with self._lock, torch.inference_mode():
            try:
                mean, last = self.backbone.encode(parts, spec.depths, batch_tokens=batch_tokens)
            except BaseException:
                for part in parts:
                    part.prefix.reset()
                raise
            for part in parts if self.backend != "plain" else ():
                prompts.keep(part.prefix)
                for window in part.windows:
                    partials.keep(window)
        at = count()
        for encoding, windows in given:
            for i in windows:
                k = next(at)
                encoding.store(i, mean[k], last[k])

    def _cache(self, spec: FeatureSpec) -> tuple[PrefixCache, PartialWindowCache]:
        size = self._cache_bytes
        return self._caches.setdefault(
            spec.depths, (PrefixCache(size), PartialWindowCache(size // 2))
        )
