import weakref
from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from saymask.calibration.gate import (
    OVERALL,
    Judge,
    Loss,
    points_apart,
    points_lost,
    samples_sha256,
    score_samples,
    with_runs,
    with_stages,
)
from saymask.calibration.recording import Recorder
from saymask.calibration.samples import Sample
from saymask.calibration.score import Score
from saymask.runtime.backends.onnxruntime import open_graph
from saymask.runtime.bundle import Bundle
from saymask.runtime.systems import open_system


@pytest.fixture
def system(tiny_bundle):
    with closing(open_system(Bundle.read(tiny_bundle), device="cpu", threads=1)) as system:
        yield system


@pytest.fixture
def sample(frame) -> Sample:
    """Two squares with their true masks; the blue one's truth is all of the frame."""
    red = np.zeros(frame.shape[:2], np.bool_)
    red[20:60, 10:50] = True
    return Sample(
        frame=frame,
        texts=("the red square", "the blue one"),
        tasks=("single", "multi"),
        masks=np.stack([red, np.ones_like(red)]),
    )


class _Inverted:
    """The mask stage with everything but the mask inside."""

    def __init__(self, engine) -> None:
        self.stage, self.device, self._engine = engine.stage, engine.device, engine

    def run(self, inputs):
        outputs = self._engine.run(inputs)
        return outputs | {"logits": -outputs["logits"]}

    def close(self) -> None:
        self._engine.close()


def _inverted(system):
    """Return `system` with its mask stage swapped for an inverting one."""
    engines = {}

    def note(engine):
        engines[engine.stage.name] = engine
        return engine

    system.with_engines(note)
    return with_stages(system, {"mask": _Inverted(engines["mask"])})


def test_masks_are_scored_against_the_truth_by_task(system, sample):
    scores, (masks,) = score_samples(system, [sample])
    assert set(scores) == {"single", "multi", OVERALL}
    assert masks.shape == (2, 90, 120)
    assert scores["single"].giou > 0.8
    assert scores["multi"].giou == pytest.approx(40 * 40 / 90 / 120, rel=0.3)
    both = scores["single"].giou + scores["multi"].giou
    assert scores[OVERALL].giou == pytest.approx(both / 2)
    assert scores[OVERALL].samples == 2


def test_without_truth_or_reference_its_own_masks_are_right(system, sample):
    scores, _ = score_samples(system, [replace(sample, masks=None)])
    assert scores[OVERALL].giou == 1


def test_without_truth_masks_are_held_against_the_reference(system, sample):
    bare = [replace(sample, masks=None)]
    _, reference = score_samples(system, bare)
    same, _ = score_samples(system, bare, reference)
    other, _ = score_samples(_inverted(system), bare, reference)
    assert same[OVERALL].giou == 1
    assert other[OVERALL].giou == 0


def test_truth_goes_before_the_reference(system, sample):
    nothing = [np.zeros((2, 90, 120), np.bool_)]
    assert score_samples(system, [sample], nothing)[0] == score_samples(system, [sample])[0]


def test_points_lost_count_all_phrases_alike():
    fp32 = {OVERALL: Score(samples=4, iou_sum=3.2), "rare": Score(samples=1, iou_sum=1.0)}
    other = {OVERALL: Score(samples=4, iou_sum=3.0), "rare": Score(samples=1, iou_sum=0.8)}
    assert points_lost(fp32, other) == pytest.approx(5)
    assert points_lost(other, fp32) == pytest.approx(-5)


def test_only_the_named_stage_is_swapped(system, sample):
    scores, (masks,) = score_samples(_inverted(system), [sample])
    expected, (own,) = score_samples(system, [sample])
    assert (masks == ~own).all()
    assert points_lost(expected, scores) > 0
    assert score_samples(with_stages(system, {}), [sample])[0] == expected


def test_masks_apart():
    one = np.zeros((2, 4, 4), np.bool_)
    one[0, :2] = True
    other = one.copy()
    other[0, 1] = False
    assert points_apart([one], [one]) == 0
    assert points_apart([one], [other]) == pytest.approx(25)
    assert points_apart([one, one], [other, one]) == pytest.approx(12.5)


def test_the_judge_compares_with_the_truth_and_with_fp32(system, sample, tiny_bundle):
    scores, masks = score_samples(system, [sample])
    judge = Judge(system=system, samples=[sample], scores=scores, masks=masks, threads=1)
    assert judge({}) == Loss(lost=0, apart=0)
    graph = onnx.load(tiny_bundle / "stages" / "mask.onnx")
    for number, node in enumerate(graph.graph.node):
        node.name = f"node_{number}"
    assert judge({"mask": graph}) == Loss(lost=0, apart=0)
    with_other_sign = _negated(graph)
    expected, other = score_samples(_inverted(system), [sample])
    loss = judge({"mask": with_other_sign})
    assert loss.lost == pytest.approx(points_lost(scores, expected))
    assert loss.apart == pytest.approx(points_apart(masks, other)) == pytest.approx(100)


class _Filling:
    """A system whose masks hold all of a frame; it knows how many of them are still there."""

    def __init__(self):
        self.masks, self.most = [], 0

    def with_engines(self, wrap):
        return self

    def segment(self, frame, prompts):
        self.most = max(self.most, sum(each() is not None for each in self.masks))
        mask = np.ones((len(prompts), *frame.shape[:2]), np.bool_)
        self.masks.append(weakref.ref(mask))
        return SimpleNamespace(boolean=mask)


def test_the_judge_keeps_no_masks():
    samples = [Sample(np.zeros((4, 6, 3), np.uint8), ("a", "b"), ("single",) * 2, None)] * 20
    known = [np.ones((2, 4, 6), np.bool_)] * 20
    fp32 = {OVERALL: Score(samples=40, iou_sum=40)}
    system = _Filling()
    judge = Judge(system=system, samples=samples, scores=fp32, masks=known, threads=1)
    assert judge({}) == Loss(lost=0, apart=0)
    assert len(system.masks) == 20
    assert system.most <= 1


def _negated(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that negates the logits."""
    graph = onnx.ModelProto.FromString(graph.SerializeToString())
    for node in graph.graph.node:
        node.output[:] = ["positive" if name == "logits" else name for name in node.output]
    graph.graph.node.append(onnx.helper.make_node("Neg", ["positive"], ["logits"], "negate"))
    return graph


def test_what_was_computed_is_remembered_and_engines_open_for_the_rest(system, sample, tiny_bundle):
    recorder = Recorder()
    scores, masks = score_samples(system.with_engines(recorder.watch), [sample])
    other = replace(sample, frame=sample.frame[::-1].copy(), masks=None)
    expected = score_samples(system, [other])[1][0]
    later = Recorder()

    def reopen(stage):
        graph = tiny_bundle / stage.file
        return later.watch(open_graph(graph, stage, device="cpu", threads=1))

    remembering = with_runs(system, recorder.runs, reopen)
    assert score_samples(remembering, [sample])[0] == scores
    assert not later.runs
    again = score_samples(remembering, [other])[1][0]
    assert (again == expected).all()
    assert {name for name, runs in later.runs.items() if runs} == {"image", "prompt", "mask"}
    remembering.close()
    assert masks[0].any()


def test_samples_are_told_apart(sample):
    known = samples_sha256([sample])
    assert known == samples_sha256([replace(sample)])
    assert sample.masks is not None
    others = [
        replace(sample, masks=None),
        replace(sample, masks=~sample.masks),
        replace(sample, texts=("the red square", "the red one")),
        replace(sample, frame=255 - sample.frame),
    ]
    assert (
        len({known, samples_sha256([sample] * 2), *(samples_sha256([each]) for each in others)})
        == 6
    )
