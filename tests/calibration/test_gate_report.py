"""The report counts what is executed."""

from __future__ import annotations

import pytest

from saymask.calibration import quantize
from saymask.calibration.gate import OVERALL, Loss
from saymask.calibration.gate_report import TaskRow, gate_report, stage_row
from saymask.calibration.macs import multiply_adds
from saymask.calibration.score import Score
from saymask.calibration.trial import measure


def test_shares_are_of_multiply_adds_that_run(convolutions, images):
    fp32, static = measure(quantize.candidates(convolutions, images), images, threads=1, rounds=3)
    row = stage_row("image", fp32, static, images[0])
    assert (row.stage, row.precision) == ("image", "int8-static")
    assert row.cosine == static.least_cosine
    assert row.speedup == fp32.median_ms / static.median_ms
    assert 0.25 < row.size_ratio < 0.6
    small, plain = row.shares
    counts = multiply_adds(convolutions, images[0])
    assert (small.precision, small.nodes, plain.precision, plain.nodes) == ("int8", 3, "fp32", 3)
    assert small.multiply_adds == counts["wide"] + counts["narrow"] + counts["down"]
    assert small.share == pytest.approx(small.multiply_adds / sum(counts.values()))
    assert small.share + plain.share == pytest.approx(1)


def test_fp32_beside_itself(tokens, sentences):
    [fp32] = measure(quantize.candidates(tokens, sentences)[:1], sentences, threads=1, rounds=1)
    row = stage_row("prompt", fp32, fp32, sentences[0])
    assert row.size_ratio == row.speedup == 1
    assert [(share.nodes, share.share) for share in row.shares] == [(0, 0), (6, 1)]


def test_all_tasks_in_order_and_all_phrases_last():
    fp32 = {"rare": Score(samples=1, iou_sum=1.0), "common": Score(samples=3, iou_sum=2.4)}
    this = {"rare": Score(samples=1, iou_sum=0.5), "common": Score(samples=3, iou_sum=2.4)}
    fp32[OVERALL], this[OVERALL] = (sum(each.values(), Score()) for each in (fp32, this))
    loss = Loss(lost=12.5, apart=13)
    report = gate_report({}, fp32, this, loss, budget=0.5)
    assert (report.budget, report.loss, report.stages) == (0.5, loss, ())
    assert [row.task for row in report.tasks] == ["common", "rare", OVERALL]
    assert report.tasks[1] == TaskRow(task="rare", phrases=1, fp32=1, this=0.5)
    assert report.tasks[2].fp32 - report.tasks[2].this == pytest.approx(0.125)
