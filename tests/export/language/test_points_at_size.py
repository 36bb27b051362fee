"""Points in one batch behind a long image, as larger language models read them; random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from saymask.export.language.quantization import quantize
from saymask.runtime.bench.closed_loop import Ratio
from saymask.runtime.bench.questions import QuestionTimes, time_questions
from saymask.runtime.systems import SharedQuestions
from saymask.runtime.table import table

from ...runtime import tiny_gguf
from ...runtime.tiny_gguf import open_on

SHAPES = {
    "100 M": {"width": 1024, "layers": 8, "hidden": 2816},
    "500 M": {"width": 2048, "layers": 12, "hidden": 5632},
}
"""Weights of the layers -> sizes of a model."""
IMAGE_TOKENS = 576
"""Of one tile as LLaVA's tower sees it; released models read five of these."""
WORDS, QUESTION = 90, 10
"""Tokens around the image, and of each point, as SAM4MLLM's protocol spends them."""
COUNTS = (5, 25)
ROUNDS = 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "format"),
    [("100 M", "F32"), ("100 M", "Q8_0"), ("100 M", "Q4_K_M"), ("500 M", "Q8_0")],
)
def test_points_behind_a_long_image(shape, format, tmp_path, capfd):
    width = SHAPES[shape]["width"]
    path = tiny_gguf.write(tmp_path / "f32.gguf", rows=2048, scale=0.02, **SHAPES[shape])
    if format != "F32":
        path = _quantized(path, format)
    rng = np.random.default_rng(0)
    with open_on("llamacpp", path, context_tokens=1024) as engine:
        shared = SharedQuestions(
            engine=engine,
            beginning=(
                rng.integers(300, 390, WORDS // 3).tolist(),
                rng.normal(0, 1, (IMAGE_TOKENS, width)).astype(np.float32),
                rng.integers(300, 390, WORDS - WORDS // 3).tolist(),
            ),
            questions=tuple(map(tuple, rng.integers(300, 390, (COUNTS[-1], QUESTION)).tolist())),
            answers=(20, 21),
        )
        times = time_questions(shared, COUNTS, ROUNDS, step=lambda: None)
    with capfd.disabled():
        print(f"\n{shape} in {format}, {IMAGE_TOKENS + WORDS} tokens before {QUESTION} a point")
        print(table(_HEADER, map(_row, times)))
    if format == "F32":
        assert all(each.is_same and each.max_difference < 1e-4 for each in times)
    whole = next(each for each in times if each.count == 25 and each.way == "each whole")
    # Far below what is measured, so that only a prefix that is read anew can fail it.
    assert whole.times_batch.value > 5


def _quantized(path: Path, format: str) -> Path:
    out = path.with_name(f"{format}.gguf")
    quantize(path, out, format=format)
    path.unlink()
    return out


_HEADER = (
    "points", "asked", "p50 ms", "times one batch", "asking alone ms", "times one batch", "off by",
    "answers",
)  # fmt: skip


def _row(times: QuestionTimes) -> tuple[object, ...]:
    return (
        times.count,
        times.way,
        round(times.spread.p50_ms),
        _ratio(times.times_batch),
        round(times.asking.p50_ms),
        _ratio(times.asking_times_batch),
        f"{times.max_difference:.1e}",
        "same" if times.is_same else "differ",
    )


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"
