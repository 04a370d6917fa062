"""Tells values that fit a schema from those that do not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError


def misfit_of(value: Any, schema: Any, *, lax: bool = False) -> str | None:
    """Say where a JSON value does not fit; None where it does.

    Args:
        value: What `json.loads` gives.
        schema: A type that pydantic can make (its classes, dataclasses, TypedDicts), or a JSON
            Schema; one that cannot be used itself allows anything.
        lax: Take what pydantic converts, such as "3" for an integer, for fitting. A type always
            decides this by itself.
    """
    if isinstance(schema, type):
        try:
            TypeAdapter(schema).validate_json(json.dumps(value))
        except ValidationError as error:
            return f"at {_place(error.errors()[0]['loc'])}"
        return None
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    if not isinstance(schema, Mapping):
        return None
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError:
        return None
    validator = Draft202012Validator(schema)
    found = next(validator.iter_errors(value), None)
    converted: set[tuple[Any, ...]] = set()
    while lax and found is not None:
        for leaf in _leaves(found):
            path = tuple(leaf.absolute_path)
            if path not in converted and (new := _converted(leaf)) is not None:
                converted.add(path)  # once each, so that this ends
                value = _with(value, path, new[0])
                break
        else:
            break
        found = next(validator.iter_errors(value), None)
    if found is None:
        return None
    return f"at {_place(found.absolute_path)}, {found.validator!r}"


def _place(path: Any) -> str:
    return repr(".".join(map(str, path)))


def _leaves(error: Any) -> Iterator[Any]:
    """An error, or those of the alternatives none of which fits."""
    if not error.context:
        yield error
    for inner in error.context or ():
        yield from _leaves(inner)


def _converted(error: Any) -> tuple[Any] | None:
    """The value that pydantic would make of the wrong one; None where it makes none."""
    if error.validator == "uniqueItems":  # a set
        return ([item for i, item in enumerate(error.instance) if item not in error.instance[:i]],)
    if error.validator != "type" or isinstance(error.instance, (dict, list, type(None))):
        return None
    wanted = error.validator_value
    for kind in [wanted] if isinstance(wanted, str) else wanted:
        if (adapter := _adapters().get(kind)) is not None:
            try:
                return (adapter.validate_json(json.dumps(error.instance)),)
            except ValidationError:
                continue
    return None


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    kinds: dict[str, Any] = {"integer": int, "number": float, "boolean": bool}
    return {name: TypeAdapter(kind) for name, kind in kinds.items()}


def _with(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Copy a value with another one at a place in it."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy
