"""Values that fit a schema, as it stands and with what pydantic converts."""

from __future__ import annotations

import datetime

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from srr_guard.formats.fitting import misfit_of


class Town(BaseModel):
    people: int
    area: float | None = None
    capital: bool = False
    names: set[str] = set()
    nested: list[Town] = []


CONVERTED = [
    {"people": "3"},
    {"people": True},
    {"people": 1, "area": "3.5"},
    {"people": 1, "capital": "yes"},
    {"people": 1, "capital": 1},
    {"people": 1, "names": ["a", "a"]},
    {"people": 1, "nested": [{"people": 2}, {"people": " 3 ", "area": "1e3", "capital": "off"}]},
]
MISFITS = [
    {},
    {"people": "many"},
    {"people": "3.5"},
    {"people": None},
    {"people": [3]},
    {"people": 1, "capital": 2},
    {"people": 1, "names": [1]},
    {"people": 1, "nested": [{"people": {}}]},
    [],
    "3",
    3,
]


@pytest.mark.parametrize("value", CONVERTED)
def test_what_pydantic_converts(value):
    schema = Town.model_json_schema()
    Town.model_validate(value)
    assert misfit_of(value, schema) is not None
    before = repr(value)
    assert misfit_of(value, schema, lax=True) is None
    assert repr(value) == before
    assert misfit_of(value, Town) is None


@pytest.mark.parametrize("value", MISFITS)
def test_what_it_does_not(value):
    for schema in (Town.model_json_schema(), Town):
        assert misfit_of(value, schema, lax=True) is not None


def test_limits_count_after_the_conversion():
    schema = {"type": "integer", "minimum": 5}
    assert misfit_of("7", schema, lax=True) is None
    assert misfit_of("3", schema, lax=True) == "at '', 'minimum'"


def test_alternatives_none_of_which_fits_end():
    schema = {"anyOf": [{"type": "integer", "minimum": 5}, {"type": "boolean", "const": False}]}
    assert misfit_of("1", schema, lax=True) is not None
    assert misfit_of("7", schema, lax=True) is None
    schema = TypeAdapter(int | bool | None).json_schema()
    assert misfit_of("yes", schema, lax=True) is None


def test_a_strict_class_reads_json():
    class Day(BaseModel):
        model_config = ConfigDict(strict=True)
        day: datetime.date

    assert misfit_of({"day": "2026-01-02"}, Day) is None
    assert misfit_of({"day": 5}, Day) == "at 'day'"
