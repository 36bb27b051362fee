"""Quantizers are measured on the same masks, and the one nearest to FP32 wins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saymask.calibration.comparison import best_quantizer, compare_quantizers, table
from saymask.calibration.gate import OVERALL
from saymask.calibration.plan import plan_nodes
from saymask.calibration.ranges import observe
from saymask.calibration.symmetric import lower_symmetric, symmetric_tensors


@pytest.fixture(scope="module")
def hurt(wound):
    """A network of which INT8 hurts a block, what FP32 made, its judge, and two rivals."""
    subject, judge = wound(first=1, second=3000)
    model, runs = subject.model, subject.runs
    feeds = [run.inputs for run in runs]

    def lower(element: str) -> dict:
        plan = plan_nodes(model)
        names = symmetric_tensors(model, plan, element=element)
        ranges = {name: each.range(100) for name, each in observe(model, feeds, names).items()}
        return {"net": lower_symmetric(model, plan, ranges, element=element)}

    return {"net": runs}, judge, {"int8": lower("int8"), "fp8": lower("fp8")}


@pytest.fixture(scope="module")
def rows(hurt):
    runs, judge, rivals = hurt
    return compare_quantizers(rivals, runs, judge, engine=lambda stage, model: f"{stage} built")


def test_each_stage_and_all_together(rows):
    assert [(row.quantizer, row.stage) for row in rows] == [
        ("int8", "net"),
        ("int8", OVERALL),
        ("fp8", "net"),
        ("fp8", OVERALL),
    ]
    int8, whole, fp8, _ = rows
    assert replace(int8, stage=OVERALL, engine="") == whole
    assert (int8.pairs, int8.left, int8.engine) == (fp8.pairs, fp8.left, "net built")
    assert int8.left == 2, "the stem reads the input, and nothing follows the head"
    assert 0.7 < int8.cosine < fp8.cosine < 0.9999


def test_numbers_with_a_fraction_survive_outliers(rows):
    int8, _, fp8, _ = rows
    assert fp8.apart < int8.apart
    assert best_quantizer(rows) == "fp8"


def test_rows_are_the_same_again(hurt, rows):
    runs, judge, rivals = hurt
    again = compare_quantizers(rivals, runs, judge)
    assert [replace(row, engine="") for row in rows] == list(again)


def test_a_gain_against_the_truth_is_no_merit(rows):
    *_, whole = rows
    lucky = replace(whole, quantizer="lucky", lost=-1.0, apart=5.0)
    true = replace(whole, quantizer="true", lost=0.1, apart=1.0)
    small = replace(true, quantizer="small", weight_bytes=1)
    assert best_quantizer([lucky, true]) == "true"
    assert best_quantizer([true, small]) == "small"


def test_the_table_is_aligned(rows):
    header, *lines, end = table(rows)
    assert header.split() == (
        ["quantizer", "stage", "lost", "apart", "cosine", "pairs", "in", "float", "KiB", "engine"]
    )
    assert end == "fp8 stays nearest to FP32"
    assert lines[0].endswith("net built")
    assert {len(line[: header.index("KiB") + 3].rstrip()) for line in lines} == {
        header.index("KiB") + 3
    }
