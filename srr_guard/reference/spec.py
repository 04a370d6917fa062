"""`ModelSpec`: which model to load, and where to. Scorers and local chat models share it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

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
        revision: Branch, tag or commit on the hub.
        device: Where the weights go.
        dtype: Their precision.
        local_files_only: Never ask the hub.
    """

    reference: str | os.PathLike[str] | None = None
    revision: str | None = None
    device: Device = "auto"
    dtype: DType = "auto"
    local_files_only: bool = False
