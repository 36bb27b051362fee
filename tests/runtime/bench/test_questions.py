"""Questions get the same answers in every way, and what was timed is told."""

from __future__ import annotations

import numpy as np
import pytest

from saymask.runtime.bench.questions import WAYS, time_questions
from saymask.runtime.systems import SharedQuestions

from .. import tiny_gguf
from ..tiny_gguf import open_on


@pytest.mark.parametrize("backend", ["llamacpp", "reference"])
def test_every_way_gives_the_same_answers(tmp_path, backend):
    vectors = np.random.default_rng(0).normal(size=(9, 64)).astype(np.float32)
    steps = []
    with open_on(backend, tiny_gguf.write(tmp_path / "model.gguf")) as engine:
        shared = SharedQuestions(
            engine=engine,
            beginning=([5, 6], vectors, [7]),
            questions=((8, 9), (10, 11, 12), (13,)),
            answers=(20, 21),
        )
        times = time_questions(shared, (1, 3), 2, step=lambda: steps.append(1))
        assert engine._cells.free == engine.context_tokens
    assert len(steps) == 2 * 3
    assert [(each.count, each.way) for each in times] == [(n, way) for n in (1, 3) for way in WAYS]
    for each in times:
        assert each.is_same
        assert each.max_difference < 1e-5
        assert each.spread.count == 2
        has_beginning = each.way != "each whole"
        assert each.asking.p50_ms > 0
        assert (each.asking.p50_ms < each.spread.p50_ms) == has_beginning
    batches = [each for each in times if each.way == "one batch"]
    for each in batches:
        assert each.times_batch.value == each.asking_times_batch.value == 1
        assert each.max_difference == 0
