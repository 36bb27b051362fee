"""What is counted is what is computed, and rates come from the machine."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from saymask.calibration import ceiling
from saymask.calibration.ceiling import Product, Work, measure_ceiling, work_of

GEMM = """
<ir_version: 9, opset_import: ["" : 20]>
net (float[5,8] x, float[1,4,6,6] z) => (float[5,3] y, float[1,2,12,12] up) {
  [gemm] y = Gemm <transB=1> (x, w)
  [up] up = ConvTranspose <strides=[2,2]> (z, kernel)
}
"""


def test_convolutions_count_as_unfolded(convolutions, images):
    work = work_of(convolutions, images[0])
    assert work.products == Counter({
        Product(256, 27, 16): 1,
        Product(256, 144, 64): 1,
        Product(256, 64, 16): 1,
        Product(64, 144, 32): 1,
        Product(64, 32, 16): 1,
    })  # fmt: skip
    depthwise = 2 * 64 * 32 * 9
    assert work.operations == sum(s.operations for s in work.products) + depthwise


def test_products_of_activations_count_but_have_no_shape(tokens, sentences):
    work = work_of(tokens, sentences[0])
    assert work.products == Counter({Product(40, 32, 32): 4})
    assert work.operations == 4 * 2 * 40 * 32 * 32 + 2 * 2 * 2 * 20 * 20 * 32


def test_turned_matrices(build):
    ones = {"w": np.ones((3, 8), np.float32), "kernel": np.ones((4, 2, 2, 2), np.float32)}
    feed = {"x": np.ones((5, 8), np.float32), "z": np.ones((1, 4, 6, 6), np.float32)}
    work = work_of(build(GEMM, **ones), feed)
    assert set(work.products) == {Product(5, 8, 3), Product(36, 4, 8)}


def test_rates_are_measured(monkeypatch):
    monkeypatch.setattr(ceiling, "_ROUNDS", 3)
    monkeypatch.setattr(ceiling, "_LARGE", (Product(64, 64, 64),))
    many = Counter({Product(5000, 16, 32): 2, Product(40, 16, 16): 1})
    found = measure_ceiling({"image": Work(123, many)}, threads=1)
    (stage,) = found.stages
    assert (stage.stage, stage.operations) == ("image", 123)
    assert 0 < stage.int8_gops <= found.int8_gops
    assert 0 < stage.fp32_gops <= found.fp32_gops


def test_the_shapes_with_most_operations_stand_for_a_stage(monkeypatch):
    monkeypatch.setattr(ceiling, "_MOST_PRODUCTS", 2)
    work = Work(0, Counter({Product(4096, 8, 8): 3, Product(8, 8, 8): 500, Product(64, 8, 8): 1}))
    assert ceiling._most_of(work) == Counter({Product(1024, 8, 8): 12, Product(8, 8, 8): 500})


def test_a_rate_of_several_is_that_of_their_sum():
    counts = {Product(10, 10, 10): 1, Product(10, 10, 20): 2}
    gops = {Product(10, 10, 10): 1.0, Product(10, 10, 20): 4.0}
    assert ceiling._together(counts, gops) == pytest.approx(10_000 / (2000 + 2000))
