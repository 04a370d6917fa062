"""Keeps what a model said last inside a candidate, which a parser behind it may hide."""

from __future__ import annotations

from typing import Any, Self, cast

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig

from srr_guard.characters import is_blank
from srr_guard.filters import declines


class LastAnswer(BaseCallbackHandler):
    """The last message of a model in one run.

    Parsers turn a message without text, in which a model refuses or which a filter has emptied,
    into an error or into nothing.
    """

    run_inline = True

    def __init__(self) -> None:
        self._message: BaseMessage | None = None

    @classmethod
    def within(cls, config: RunnableConfig) -> Self:
        """Listen to the run of this config, which must have a callback manager of its own."""
        seen = cls()
        cast("BaseCallbackManager", config.get("callbacks")).add_handler(seen)
        return seen

    @property
    def declined(self) -> bool:
        """True if it says in a field of its own that the model or a guard refuses."""
        return self._message is not None and declines(self._message)

    def hidden_by(self, output: Any) -> bool:
        """True if it declines, and nothing of it is in this output of the run."""
        pieces = output if isinstance(output, list) and output else [output]
        silent = all(p is None or (isinstance(p, str) and is_blank(p)) for p in pieces)
        return silent and self.declined

    @property
    def ignore_chain(self) -> bool:
        """It listens to models only."""
        return True

    def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Forget the message before: this model may fail."""
        self._message = None

    def on_llm_start(self, *args: Any, **kwargs: Any) -> None:
        """Forget the message before."""
        self._message = None

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Keep the message."""
        last = response.generations[-1][-1] if response.generations[-1:] != [[]] else None
        self._message = last.message if isinstance(last, ChatGeneration) else None
