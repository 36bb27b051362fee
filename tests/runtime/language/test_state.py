"""A state is read back as it was written, where it belongs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.errors import EngineError
from saymask.runtime.language.state import Origin, pack, unpack
from saymask.runtime.language.values import Outputs

ORIGIN = Origin(model="0badf00d", backend="reference", cache_dtype="float32")
LAST = Outputs(hidden=np.ones((1, 3), np.float32), logits=np.zeros((1, 5), np.float32))


def test_round_trip():
    tokens, outputs, cache = unpack(pack(ORIGIN, 7, LAST, b"cache" * 100), ORIGIN)
    assert (tokens, cache) == (7, b"cache" * 100)
    np.testing.assert_array_equal(outputs.hidden, LAST.hidden)
    np.testing.assert_array_equal(outputs.logits, LAST.logits)


@pytest.mark.parametrize("name", ["schema", "model", "backend", "cache_dtype"])
def test_another_origin(name):
    state = pack(replace(ORIGIN, **{name: "other"}), 7, LAST, b"cache")
    with pytest.raises(EngineError, match=f"its {name} is 'other' and the engine's"):
        unpack(state, ORIGIN)


def test_damage():
    state = bytearray(pack(ORIGIN, 7, LAST, b"cache" * 100))
    for content in (b"", b"PK", bytes(200), state[:-30], state[50:]):
        with pytest.raises(EngineError, match="must be what save returned; this is not"):
            unpack(bytes(content), ORIGIN)
    state[state.index(b"cachecache") + 7] ^= 1
    with pytest.raises(EngineError, match="must be what save returned"):
        unpack(bytes(state), ORIGIN)
