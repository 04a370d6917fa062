"""`ReferenceLLM`: any causal LM, cut at depth, as an encoder of candidates."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from srr_guard.conversation import Conversation
from srr_guard.errors import InvalidInputError
from srr_guard.reference.features import Features
from srr_guard.reference.source import resolve_reference
from srr_guard.reference.template import PromptTemplate
from srr_guard.reference.weights import (
    Device,
    DType,
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

DEFAULT_WINDOW = 256
DEFAULT_OVERLAP = 64
DEFAULT_PROMPT_LIMIT = 2048


class ReferenceLLM:
    """A frozen causal LM whose hidden states describe candidates.

    The prompt is encoded once, its keys and values are shared by all windows of all
    candidates. One request at a time uses the model; a lock guards it.

    Attributes:
        name: The model's name: a hub id, folder or file name.
        digest: SHA-256 over its weights and tokenizer.
        template_digest: Digest of its chat template and special tokens.
        dtype: Precision of the weights.
        width: Width d of the hidden states.
        depth: Blocks loaded.
        blocks: Blocks of the whole model.

    Example:
        >>> llm = ReferenceLLM.load(depth=16)
        >>> llm.encode("How do magnets work?", ["By magic."], depths=(8, 16)).mean.shape
        torch.Size([1, 2, 576])
    """

    def __init__(
        self, *, model: nn.Module, tokenizer: Any, name: str, digest: str, blocks: int
    ) -> None:
        config: Any = model.config
        text = config.get_text_config()
        self.name = name
        self.digest = digest
        self.blocks = blocks
        self.width = int(text.hidden_size)
        self._template = PromptTemplate(tokenizer)
        self._model: Any = model
        self._layers = decoder_blocks(model)
        self._context = int(getattr(text, "max_position_embeddings", None) or 2048)
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        reference: str | os.PathLike[str] | ReferenceSource | None = None,
        *,
        depth: int | None = None,
        device: Device = "auto",
        dtype: DType = "auto",
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> ReferenceLLM:
        """Load a reference LLM.

        Args:
            reference: A folder, GGUF file, hub id or resolved source; None takes the first
                that is found (see `resolve_reference`).
            depth: The deepest block needed; None loads all.
            device: `auto`, or what `torch.device` reads.
            dtype: `auto`, `float32`, `bfloat16` or `float16`.
            revision: Branch, tag or commit on the hub.
            local_files_only: Never ask the hub.

        Raises:
            ReferenceNotFoundError: It is nowhere to be found.
            ReferenceLoadError: It cannot be read.
            InvalidInputError: `depth` is outside the model.
        """
        if reference is None or isinstance(reference, (str, os.PathLike)):
            reference = resolve_reference(
                reference, revision=revision, local_files_only=local_files_only
            )
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

    @property
    def depth(self) -> int:
        """Blocks loaded: the deepest depth that `encode` can give."""
        return len(self._layers)

    @property
    def dtype(self) -> str:
        """Precision of the weights, such as `float32`."""
        return str(self._model.dtype).removeprefix("torch.")

    @property
    def template_digest(self) -> str:
        """Digest of all that turns text into token ids."""
        return self._template.digest

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
            prompt_limit: Most tokens of the prompt (see `PromptTemplate.prompt_ids`).
            batch_tokens: Most tokens, prompt included, in one forward pass.

        Raises:
            InvalidInputError: A depth is not loaded, or the windows make no sense.
        """
        self._check(depths, window=window, overlap=overlap)
        window = min(window, self._context // 2)
        overlap = min(overlap, window - 1)
        prompt = self._template.prompt(
            Conversation.of(conversation), limit=min(prompt_limit, self._context - window)
        )
        windows, owner = _windows(
            [self._template.candidate_ids(text) for text in candidates],
            size=window,
            overlap=overlap,
        )
        import torch

        with self._lock, torch.inference_mode():
            states, cache = self._forward([prompt.ids], depths=depths, use_cache=True)
            instruction = states[:, 0, -1].float().cpu()
            request = states[:, 0, list(prompt.request)].float().mean(1).cpu()
            mean, last = self._encode(
                windows, instruction, cache, depths=depths, batch_tokens=batch_tokens
            )
        return Features(
            instruction=instruction,
            request=request,
            mean=mean,
            last=last,
            owner=torch.tensor(owner),
            lengths=torch.tensor([len(w) for w in windows]),
        )

    def encode_many(
        self,
        requests: Sequence[tuple[Any, Sequence[str]]],
        *,
        depths: Sequence[int],
        window: int = DEFAULT_WINDOW,
        overlap: int = DEFAULT_OVERLAP,
        prompt_limit: int = DEFAULT_PROMPT_LIMIT,
        batch_tokens: int = 6144,
    ) -> list[Features]:
        """Encode many conversations in common batches, for data rather than for requests.

        Every window is encoded with its own copy of the prompt, so that windows of different
        conversations fill one forward pass. The features are those of `encode`.

        Args:
            requests: Conversations and the candidates of each.
            depths: See `encode`, as for all that follow.
            window: Tokens in one window of a candidate.
            overlap: Tokens that neighbouring windows share.
            prompt_limit: Most tokens of the prompt.
            batch_tokens: Most tokens, prompts included, in one forward pass.

        Raises:
            InvalidInputError: A depth is not loaded, or the windows make no sense.
        """
        import torch

        self._check(depths, window=window, overlap=overlap)
        window = min(window, self._context // 2)
        overlap = min(overlap, window - 1)
        limit = min(prompt_limit, self._context - window)
        prompts = [
            self._template.prompt(Conversation.of(talk), limit=limit) for talk, _ in requests
        ]
        split = [
            _windows([self._template.candidate_ids(t) for t in texts], size=window, overlap=overlap)
            for _, texts in requests
        ]
        rows = [(k, w) for k, (windows, _) in enumerate(split) for w in windows]
        made = {
            name: torch.zeros(len(rows), len(depths), self.width)
            for name in ("instruction", "request", "mean", "last")
        }
        ids = [prompts[k].ids + w for k, w in rows]
        with self._lock, torch.inference_mode():
            for batch in _batches(ids, prompt=0, budget=batch_tokens):
                states, _ = self._forward([ids[i] for i in batch], depths=depths)
                starts = [len(prompts[rows[i][0]].ids) for i in batch]
                ends = [len(ids[i]) for i in batch]
                asked = [prompts[rows[i][0]].request for i in batch]
                made["instruction"][batch] = _points(states, [s - 1 for s in starts])
                made["last"][batch] = _points(states, [e - 1 for e in ends])
                made["request"][batch] = _span_means(
                    states, [r.start for r in asked], [r.stop for r in asked]
                )
                # an empty window has the instruction's states
                firsts = [min(s, e - 1) for s, e in zip(starts, ends, strict=True)]
                made["mean"][batch] = _span_means(states, firsts, ends)
        return [
            Features(
                instruction=made["instruction"][at.start],
                request=made["request"][at.start],
                mean=made["mean"][at.start : at.stop],
                last=made["last"][at.start : at.stop],
                owner=torch.tensor(owner),
                lengths=torch.tensor([len(w) for w in windows]),
            )
            for (windows, owner), at in zip(split, _spans(split), strict=True)
        ]

    def _check(self, depths: Sequence[int], *, window: int, overlap: int) -> None:
        if not depths or not all(1 <= k <= self.depth for k in depths):
            raise InvalidInputError(
                f"depths={tuple(depths)!r} are not all within the {self.depth} loaded blocks of "
                f"{self.name!r}: load it with depth={max(depths, default=1)!r} or more"
            )
        if window < 1 or not 0 <= overlap < window:
            raise InvalidInputError(
                f"window={window!r} and overlap={overlap!r} make no sense: the overlap must be "
                "shorter than the window"
            )

    def _encode(
        self,
        windows: list[list[int]],
        empty: Tensor,
        cache: Any,
        *,
        depths: Sequence[int],
        batch_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        """Mean and last states of windows after the cached prompt; `empty` where there is none."""
        import torch

        mean = empty.expand(len(windows), -1, -1).clone()
        last = mean.clone()
        for batch in _batches(windows, prompt=cache.get_seq_length(), budget=batch_tokens):
            ids = [windows[i] for i in batch]
            # every batch continues a copy of the prompt's cache
            states, _ = self._forward(ids, depths=depths, cache=copy.deepcopy(cache))
            lengths = torch.tensor([len(w) for w in ids], device=states.device)
            mask = torch.arange(states.shape[2], device=states.device) < lengths[:, None]
            states = states.float()
            sums = (states * mask[None, :, :, None]).sum(2)
            mean[batch] = (sums / lengths[None, :, None]).transpose(0, 1).cpu()
            rows = torch.arange(len(ids), device=states.device)
            last[batch] = states[:, rows, lengths - 1].transpose(0, 1).cpu()
        return mean, last

    def _forward(
        self,
        rows: Sequence[Sequence[int]],
        *,
        depths: Sequence[int],
        cache: Any = None,
        use_cache: bool = False,
    ) -> tuple[Tensor, Any]:
        """Run right-padded rows, after the cached prompt if there is one.

        Padding needs no mask: no token attends to what comes after it.

        Returns:
            States (depths, rows, tokens, width), and the cache of keys and values.
        """
        import torch

        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        if cache is not None:
            cache.batch_repeat_interleave(len(rows))
        with _captured(self._layers, depths) as states:
            output = self._model(
                input_ids=ids.to(self._model.device),
                past_key_values=cache,
                use_cache=use_cache or cache is not None,
            )
        return torch.stack([states[k] for k in depths]), output.past_key_values


@contextmanager
def _captured(layers: nn.ModuleList, depths: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the residual stream after the blocks named, by depth."""
    states: dict[int, Tensor] = {}

    def keep(depth: int) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            states[depth] = output[0] if isinstance(output, tuple) else output

        return hook

    handles = [layers[k - 1].register_forward_hook(keep(k)) for k in depths]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _points(states: Tensor, at: Sequence[int]) -> Tensor:
    """The states of one token of each row: (D, B, T, d) to (B, D, d), float32, on the CPU."""
    import torch

    rows = torch.arange(len(at), device=states.device)
    places = torch.tensor(at, device=states.device)
    return states[:, rows, places].float().transpose(0, 1).cpu()


def _span_means(states: Tensor, first: Sequence[int], last: Sequence[int]) -> Tensor:
    """Means over tokens first..last-1 of each row: (D, B, T, d) to (B, D, d), likewise."""
    import torch

    place = torch.arange(states.shape[2], device=states.device)
    starts = torch.tensor(first, device=states.device)[:, None]
    ends = torch.tensor(last, device=states.device)[:, None]
    shares = ((place >= starts) & (place < ends)).float()
    shares = (shares / shares.sum(1, keepdim=True))[:, None]
    means = [torch.bmm(shares, of_depth.float())[:, 0] for of_depth in states]
    return torch.stack(means, dim=1).cpu()


def _spans(split: Sequence[tuple[list[list[int]], list[int]]]) -> Iterator[range]:
    """Which of all windows, counted through, belong to each request."""
    start = 0
    for windows, _ in split:
        yield range(start, start + len(windows))
        start += len(windows)


def _windows(
    texts: Sequence[list[int]], *, size: int, overlap: int
) -> tuple[list[list[int]], list[int]]:
    """Split each text into overlapping windows; a short text is one window."""
    windows: list[list[int]] = []
    owner: list[int] = []
    for i, ids in enumerate(texts):
        starts = range(0, max(len(ids) - overlap, 1), size - overlap)
        windows += [ids[s : s + size] for s in starts]
        owner += [i] * len(starts)
    return windows, owner


def _batches(windows: Sequence[list[int]], *, prompt: int, budget: int) -> Iterator[list[int]]:
    """Group the non-empty windows by length, each group within the budget of tokens."""
    order = sorted((i for i, w in enumerate(windows) if w), key=lambda i: len(windows[i]))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * (prompt + len(windows[i])) > budget:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
