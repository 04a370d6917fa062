"""A callback handler that writes down every event, and a LangSmith client that sends nothing."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import BaseCallbackHandler

EVENTS = (
    "on_chat_model_start",
    "on_llm_start",
    "on_llm_new_token",
    "on_llm_end",
    "on_llm_error",
    "on_chain_start",
    "on_chain_end",
    "on_chain_error",
    "on_tool_start",
    "on_tool_end",
    "on_tool_error",
    "on_retriever_start",
    "on_retriever_end",
    "on_retry",
    "on_text",
)


class Recorder(BaseCallbackHandler):
    """Keeps (event, arguments, keyword arguments)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for event, args, kwargs in self.events if event == name]

    def text(self) -> str:
        return repr(self.events)


def _recording(name: str) -> Any:
    def record(self: Recorder, *args: Any, **kwargs: Any) -> None:
        self.events.append((name, args, kwargs))

    return record


for _name in EVENTS:
    setattr(Recorder, _name, _recording(_name))


class FakeLangSmith:
    """What LangChainTracer needs of a client; it keeps what would have been sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def create_run(self, *args: Any, **kwargs: Any) -> None:
        self.sent.append((args, kwargs))

    update_run = create_run

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("tracing_mode", "tracing_queue"):
            raise AttributeError(name)
        return None
