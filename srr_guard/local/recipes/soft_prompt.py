"""SoftPrompt: rows under a trained system prompt of vectors (DRO, arXiv 2401.18018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srr_guard.errors import ConfigurationError
from srr_guard.local.recipes.tables import Fits

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class SoftPromptVectors:
    """A system prompt of vectors.

    Attributes:
        fits: The model and template.
        text: The text it was made from; the vectors stand where its tokens would.
        vectors: (tokens of the text, d), float32.
    """

    fits: Fits
    text: str
    vectors: Tensor

    @classmethod
    def read(cls, path: Path) -> SoftPromptVectors:
        """Read it.

        Raises:
            ConfigurationError: There is none, or the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata()
                fits = Fits(about["reference_digest"], about["template_digest"])
                return cls(fits, about["text"], file.get_tensor("vectors"))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigurationError(
                f"{str(path)!r} holds no soft prompt ({error!r}): train one with "
                "`srr-guard soft-prompt train`"
            ) from error

    def write(self, path: Path) -> None:
        """Write it as safetensors."""
        from safetensors.torch import save_file

        about = {
            "reference_digest": self.fits.reference,
            "template_digest": self.fits.template,
            "text": self.text,
        }
        save_file({"vectors": self.vectors.contiguous()}, str(path), about)

    def place(self, ids: Sequence[int], text_ids: Sequence[int], path: Path) -> int:
        """Where the text's tokens stand in a prompt that was made with it.

        Raises:
            ConfigurationError: They are not there as they are by themselves.
        """
        size = len(text_ids)
        if size == len(self.vectors):
            for start in range(len(ids) - size + 1):
                if list(ids[start : start + size]) == list(text_ids):
                    return start
        raise ConfigurationError(
            f"the soft prompt {str(path)!r} does not fit into this conversation: the chat "
            "template or the turns after it change the tokens of its text"
        )
