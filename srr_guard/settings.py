"""Base class of everything a user configures."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from srr_guard.errors import ConfigurationError
from srr_guard.threads import is_async


class Settings(BaseModel):
    """A frozen set of named options. A value that makes no sense raises ConfigurationError."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            details = "; ".join(
                f"{_place(e['loc'])}={e['input']!r}: {e['msg']}" for e in error.errors()
            )
            raise ConfigurationError(f"{type(self).__name__}: {details}") from error


def _place(loc: tuple[int | str, ...]) -> str:
    """Field and position, without the branches of unions that pydantic puts there."""
    parts = [str(part) for i, part in enumerate(loc) if i == 0 or isinstance(part, int)]
    return ".".join(parts) or "options"


def require_function(name: str, value: Any, wanted: str) -> None:
    """Refuse what cannot be called for its result: no function, an async one, a generator.

    Args:
        name: Name of the argument.
        value: The argument; None is fine.
        wanted: What it must be, for the error.

    Raises:
        ConfigurationError: It is something else.
    """
    kind = None
    if value is not None and not callable(value):
        kind = "no function"
    elif value is not None and (is_async(value) or inspect.isasyncgenfunction(value)):
        kind = "async"
    elif inspect.isgeneratorfunction(value):
        kind = "a generator"
    if kind is not None:
        raise ConfigurationError(f"{name}={value!r} cannot be used, it is {kind}: give {wanted}")
