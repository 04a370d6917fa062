"""Checks at the doors behind which an optional dependency is needed."""

from __future__ import annotations

import sys
from importlib.util import find_spec

from srr_guard.errors import MissingExtraError

_LOCAL = ("torch", "transformers", "safetensors", "huggingface_hub", "numpy")


def require_local(purpose: str, *packages: str) -> None:
    """Refuse to go on without the extra `local`. Imports nothing.

    Args:
        purpose: The subject of the error: what needs the package.
        *packages: Which packages are needed; default: those that run a model.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    require_installed(purpose, *(packages or _LOCAL), extra="local")


def require_installed(purpose: str, *packages: str, extra: str) -> None:
    """Refuse to go on without some packages. Imports nothing.

    Args:
        purpose: The subject of the error: what needs the package.
        *packages: Names to import them by.
        extra: The extra that brings them.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    for package in packages:
        if sys.modules.get(package) is None and find_spec(package) is None:
            raise MissingExtraError(package=package, extra=extra, purpose=purpose)
