from __future__ import annotations

import pytest

from saymask.runtime.errors import UnknownNameError
from saymask.runtime.tables import module_from_table

PACKAGE = "saymask.runtime"


def test_a_known_name_gives_its_module() -> None:
    module = module_from_table("room", "words", {"words": "prompt"}, PACKAGE)
    assert module.__name__ == f"{PACKAGE}.prompt"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="room must be one of a, b; got 'c'"):
        module_from_table("room", "c", {"b": "prompt", "a": "masks"}, PACKAGE)
