"""Base class of everything a user configures."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from srr_guard.errors import ConfigurationError


class Settings(BaseModel):
    """A frozen set of named options. A value that makes no sense raises ConfigurationError."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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
