from __future__ import annotations

import dataclasses
import inspect

import pytest

from saymask.runtime import spec

SPECS = [each for _, each in inspect.getmembers(spec, dataclasses.is_dataclass)]


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_a_spec_is_complete_and_never_changes(kind: type) -> None:
    assert kind.__dataclass_params__.frozen
    assert "__slots__" in vars(kind)
    for field in dataclasses.fields(kind):
        assert field.kw_only
        assert field.default is dataclasses.MISSING
        assert field.default_factory is dataclasses.MISSING


@pytest.mark.parametrize("kind", SPECS, ids=lambda kind: kind.__name__)
def test_every_field_is_described(kind: type) -> None:
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        _, _, after = source.partition(f"    {field.name}: ")
        assert after.split("\n")[1].strip().startswith('"""'), field.name
