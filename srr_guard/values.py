"""Python values that JSON does not know, opened until it does; nothing is left out in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import ItemsView, KeysView, Mapping, Sequence, Set, Sized, ValuesView
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import FunctionType, SimpleNamespace
from typing import Any
from uuid import UUID

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr

OPAQUE = object()
"""Stands for a value that cannot be opened: it holds no text that can be told."""

_SCALARS = (Decimal, UUID, timedelta, PurePath, complex, BaseException)
_CLOSED = (type, Secret, SecretBytes, SecretStr)
_LISTS = (Sequence, KeysView, ValuesView, ItemsView)


def opened(value: Any) -> Any:
    """The next layer of a value: a dict, a list, a text, a number; or OPAQUE.

    Objects are opened by their own fields, not by how they are printed or dumped, which may leave
    out what the caller gets: fields of subclasses, excluded fields, the middle of a long array.
    Arrays of numbers hold no text and count as None. Iterators are left alone, for they can be
    read once.

    Args:
        value: What is no str, dict, list, tuple, number, bool or None.

    Raises:
        UnicodeDecodeError: It is bytes that are no UTF-8 text.

    Example:
        >>> opened({"b", "a"}), opened(b"text"), opened(iter("ab")) is OPAQUE
        (['a', 'b'], 'text', True)
    """
    match value:
        case _ if isinstance(value, _CLOSED):
            return OPAQUE
        case RootModel():
            return value.root
        case BaseModel():
            computed = type(value).model_computed_fields
            return {**dict(value), **{name: getattr(value, name) for name in computed}}
        case Enum():
            return value.value
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode()
        case Mapping():
            return dict(value)
        case Set() if not isinstance(value, _LISTS):
            return sorted(value, key=str)
        case _ if isinstance(value, _LISTS):
            return list(value)
        case SimpleNamespace():
            return vars(value)
        case date() | time():
            return value.isoformat()
        case _ if dataclasses.is_dataclass(value):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        case _ if hasattr(type(value), "__attrs_attrs__"):
            return {field.name: getattr(value, field.name) for field in value.__attrs_attrs__}
        case _ if isinstance(value, _SCALARS):
            return str(value)
        case _ if hasattr(value, "dtype") and hasattr(value, "tolist"):  # of numpy and its kin
            holds_text = getattr(value.dtype, "kind", "f") in "OSTU" or not value.ndim
            return value.tolist() if holds_text else None
    says = isinstance(getattr(type(value), "__str__", None), FunctionType)
    return str(value) if says and not isinstance(value, Sized) else OPAQUE
