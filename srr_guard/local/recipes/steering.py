"""Steered: rows whose states are moved along the refusal vectors (SCANS, arXiv 2408.11491)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srr_guard.errors import ConfigurationError
from srr_guard.local.decoding.prefill import reading
from srr_guard.local.decoding.tracks import Steering
from srr_guard.local.recipes.tables import Fits

if TYPE_CHECKING:
    from torch import Tensor

_FIRST, _LAST = 0.31, 0.62
"""Depth of the first and the last block that is steered."""


@dataclass(frozen=True, eq=False)
class RefusalVectors:
    """Directions from benign to harmful requests, one for each steered block.

    Attributes:
        fits: The model and template.
        blocks: Index of each block, from 0.
        vectors: (blocks, d), of length 1, float32.
        norms: (blocks,) mean length of the residual stream after benign requests.
    """

    fits: Fits
    blocks: tuple[int, ...]
    vectors: Tensor
    norms: Tensor

    @classmethod
    def between(
        cls, harmful: Tensor, benign: Tensor, *, blocks: Sequence[int], fits: Fits
    ) -> RefusalVectors:
        """Make them from states (requests, blocks, d) of the prompts' last tokens."""
        gap = harmful.mean(0) - benign.mean(0)
        vectors = gap / gap.norm(dim=1, keepdim=True)
        return cls(fits, tuple(blocks), vectors, benign.norm(dim=2).mean(0))

    @classmethod
    def read(cls, path: Path) -> RefusalVectors:
        """Read them.

        Raises:
            ConfigurationError: There are none, or the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata()
                found = cls(
                    Fits(about["reference_digest"], about["template_digest"]),
                    tuple(json.loads(about["blocks"])),
                    file.get_tensor("vectors"),
                    file.get_tensor("norms"),
                )
            if not len(found.blocks) == len(found.vectors) == len(found.norms):
                raise ValueError("its blocks, vectors and norms are not equally many")
            return found
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigurationError(
                f"{str(path)!r} holds no refusal vectors ({error!r}): write them with "
                "`srr-guard vectors`"
            ) from error

    def write(self, path: Path) -> None:
        """Write them as safetensors."""
        from safetensors.torch import save_file

        about = {
            "reference_digest": self.fits.reference,
            "template_digest": self.fits.template,
            "blocks": json.dumps(self.blocks),
        }
        tensors = {"vectors": self.vectors.contiguous(), "norms": self.norms.contiguous()}
        save_file(tensors, str(path), about)

    def steering(self) -> Steering:
        """Vectors as long as the residual stream: a row's strength is the share of it."""
        moved = self.vectors * self.norms[:, None]
        return Steering(dict(zip(self.blocks, moved, strict=True)))


def steered_blocks(count: int) -> range:
    """The blocks of a model that are steered: those at 31 to 62% of its depth."""
    return range(int(_FIRST * count), max(int(_LAST * count), int(_FIRST * count)) + 1)


def last_states(
    model: Any, layers: Any, prompts: Sequence[Sequence[int]], blocks: Sequence[int]
) -> Tensor:
    """States (prompts, blocks, d) of each prompt's last token, float32."""
    import torch

    rows = []
    for ids in prompts:
        found: dict[int, Tensor] = {}

        def take(depth: int, states: Tensor, found: dict[int, Tensor] = found) -> None:
            found[depth] = states[0, -1].float().cpu()

        with torch.inference_mode(), reading(layers, [k + 1 for k in blocks], take):
            model.base_model(input_ids=torch.tensor([list(ids)], device=model.device))
        rows.append(torch.stack([found[k + 1] for k in blocks]))
    return torch.stack(rows)
