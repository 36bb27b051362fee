"""The tree in the docstring is the tree in the code, and a missing library names its extra."""

from __future__ import annotations

import re

import pytest

from saymask.runtime import errors


def test_the_docstring_draws_the_tree():
    drawn = re.findall(r"^[ |`-]*(\w+Error)\s+exit (\d)", errors.__doc__ or "", re.MULTILINE)
    defined = {
        name: str(value.exit_code)
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.SaymaskError)
    }
    assert dict(drawn) == defined


def test_unknown_names_are_listed():
    error = errors.UnknownNameError("fruit", "stone", {"pear": 1, "apple": 2})
    assert str(error) == "fruit must be one of apple, pear; got 'stone'"


def test_require():
    assert errors.require("json", extra="cpu").loads("1") == 1
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'saymask\[video\]'"):
        errors.require("no_such_library", extra="video")
