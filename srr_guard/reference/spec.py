"""`ModelSpec`: which model to load, and where to. Scorers and local chat models share it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal

from srr_guard.reference.hub import HubOptions
from srr_guard.reference.source import Named, ReferenceSource, resolve_reference

Device = str
"""`auto`, or what `torch.device` reads."""

DType = Literal["auto", "float32", "bfloat16", "float16"]
"""`auto` takes float32 on a CPU and bfloat16 (or float16) on an accelerator."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Which model to load, and where to.

    Attributes:
        reference: A folder, GGUF file or hub id; None takes the first that is found (see
            `resolve_reference`).
        file: Which GGUF file of a folder or repository.
        hub: How the hub is asked.
        named: The model that a scorer names, taken where `reference` is None.
        device: Where the weights go.
        dtype: Their precision.
    """

    reference: str | os.PathLike[str] | None = None
    file: str | None = None
    hub: HubOptions = field(default_factory=HubOptions)
    named: Named | None = None
    device: Device = "auto"
    dtype: DType = "auto"

    def resolve(self) -> ReferenceSource:
        """Find its files.

        Raises:
            ReferenceNotFoundError: It is nowhere to be found.
            ReferenceLoadError: It is there, but not all of it.
        """
        return resolve_reference(self.reference, file=self.file, options=self.hub, named=self.named)
