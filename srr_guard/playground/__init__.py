"""The playground: a local page that shows how answers are ranked and decided (extra `serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srr_guard.playground.app import Playground
    from srr_guard.playground.server import run_playground

_MODULE_OF = {"Playground": "app", "run_playground": "server"}

__all__ = ["Playground", "run_playground"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
