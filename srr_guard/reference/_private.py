"""Every private name of transformers that srr_guard uses.

`tests/reference/test_private.py` holds each of them against the versions it was written for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def takes_own_attention(model: Any) -> bool:
    """True if a model's attention can be replaced by a registered one."""
    return bool(model._supports_attention_backend)


@contextmanager
def attention(model: Any, name: str) -> Iterator[None]:
    """Have a model use the registered attention of this name, within the block.

    Blocks read the name from the configuration at each pass, so setting it costs nothing.
    """
    text = model.config.get_text_config()
    own = text._attn_implementation
    text._attn_implementation = name
    try:
        yield
    finally:
        text._attn_implementation = own
