"""The base of everything that a user configures."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from srr_guard.errors import ConfigurationError


class Settings(BaseModel):
    """A frozen set of named options; a value that makes no sense is a ConfigurationError."""

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
    """Field and position; what else pydantic puts there names branches of a union."""
    parts = [str(part) for i, part in enumerate(loc) if i == 0 or isinstance(part, int)]
    return ".".join(parts) or "options"
