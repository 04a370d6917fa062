"""The gateway: an OpenAI-compatible server whose answers are guarded (extra `serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srr_guard.serving.app import create_app
    from srr_guard.serving.config import GatewayConfig
    from srr_guard.serving.config_file import load_config
    from srr_guard.serving.server import serve

_MODULE_OF = {
    "GatewayConfig": "config",
    "create_app": "app",
    "load_config": "config_file",
    "serve": "server",
}

__all__ = ["GatewayConfig", "create_app", "load_config", "serve"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
