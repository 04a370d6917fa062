"""A soft prompt under way, in a file, so that an interrupted training goes on."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Checkpoint:
    """What was done so far.

    Args:
        path: The file.
        settings: Digest of all that the result depends on; a file with another is not read.

    Attributes:
        step: Steps of the training that are done.
        tensors: `compliance` once it is measured; the vectors and the optimiser's moments.
    """

    path: Path
    settings: str
    step: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path, settings: str, *, resume: bool) -> Checkpoint:
        """Go on with the file, where there is one with the same settings and it is whole."""
        from safetensors import SafetensorError, safe_open

        found = cls(path, settings)
        if not resume or not path.is_file():
            return found
        try:
            with safe_open(str(path), "pt") as file:
                about = file.metadata() or {}
                if about.get("settings") == settings:
                    found.step = int(about["step"])
                    found.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError):
            return cls(path, settings)
        return found

    def save(self) -> None:
        """Write it, whole or not at all."""
        from safetensors.torch import save_file

        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        about = {"settings": self.settings, "step": str(self.step)}
        tensors = {name: tensor.detach().contiguous() for name, tensor in self.tensors.items()}
        save_file(tensors, str(draft), about)
        draft.replace(self.path)

    def remove(self) -> None:
        """The work is done."""
        self.path.unlink(missing_ok=True)
