"""Backends offer what an engine asks of them."""

from __future__ import annotations

import importlib
import inspect

import pytest

from saymask.runtime.language.decoder import Decoder, DecoderModule
from saymask.runtime.language.opening import DECODERS


def _methods(owner: type) -> dict[str, list[str]]:
    found = inspect.getmembers(owner, inspect.isfunction)
    return {
        name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"
    }


@pytest.mark.parametrize("name", DECODERS.values())
def test_backends_offer_a_decoder(name):
    module = importlib.import_module(f"saymask.runtime.backends.{name}")
    for function, parameters in _methods(DecoderModule).items():
        assert list(inspect.signature(getattr(module, function)).parameters) == parameters
    (decoder,) = (getattr(module, each) for each in module.__all__ if each.endswith("Decoder"))
    assert _methods(decoder) == _methods(Decoder)
