"""A clip followed by our engines, against the package `sam2` frame by frame."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saymask.calibration.passes import replace_resizes
from saymask.calibration.recording import Recorder
from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.evf_sam import EvfSam
from saymask.export.systems.evf_sam import ImageStage
from saymask.export.systems.evf_sam_memory import memory_stages
from saymask.runtime.engine import Engine
from saymask.runtime.geometry import fit
from saymask.runtime.live.memory_tracking import MemoryTracker
from saymask.runtime.masks import Masks
from saymask.runtime.spec import ViewSpec

from ..models.sam2_reference import REFERENCE, Pair, frame_arguments, random_pair

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SIDE = 96
FRAMES = 20
KEYS = (0, 9)
LABELS = ("left", "right")
VIEW = ViewSpec(
    name="sam",
    size_hw=(SIDE, SIDE),
    fit="stretch",
    interpolation="bilinear",
    is_antialiased=False,
    rounds_to_uint8=True,
    mean_rgb=(123.675, 116.28, 103.53),
    std_rgb=(58.395, 57.12, 57.375),
    canvas_hw=(SIDE, SIDE),
)


@pytest.fixture(scope="module")
def pair() -> Pair:
    pair = random_pair("square")
    for network in (pair.reference, pair.ours):
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(9)
    return pair


@pytest.fixture(scope="module")
def engines(pair) -> dict[str, Engine]:
    """The stages that a followed frame needs, in ONNX Runtime."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    features = dict(zip(pair.ours.feature_names, pair.ours.encode(image), strict=True))
    whole = cast(EvfSam, SimpleNamespace(visual_model=pair.ours))
    look = Stage(
        name="image",
        module=ImageStage(whole),
        examples={"image": image},
        outputs=pair.ours.feature_names,
        varying={},
    )
    stages = (look, *memory_stages(pair.ours, features))
    return {each.name: open_model(replace_resizes(trace(each)), threads=1) for each in stages}


@dataclass
class Reference:
    """The package's network with what its video predictor keeps of two objects."""

    pair: Pair
    keys: dict[int, dict[str, Any]]
    others: dict[int, dict[str, Any]]

    def follow(self, now: int, image: Tensor) -> Tensor:
        """Track a frame without a prompt and remember it; return its logits."""
        out = self._step(now, image, None)
        self.others[now] = out
        return out["pred_masks"]

    def restart(self, now: int, image: Tensor, masks: Tensor) -> None:
        """Prompt a frame by masks; the key before counts as one of the other frames from now."""
        out = self._step(now, image, masks)
        self.others |= self.keys
        self.others.pop(now, None)
        self.keys = {now: out}

    def _step(self, now: int, image: Tensor, masks: Tensor | None) -> dict[str, Any]:
        network, frame = self.pair.reference, frame_arguments(self.pair, image, 2)
        out = network.track_step(
            frame_idx=now,
            is_init_cond_frame=not self.keys,
            point_inputs=None,
            mask_inputs=masks,
            output_dict={
                "cond_frame_outputs": self.keys, "non_cond_frame_outputs": self.others,
            },
            num_frames=FRAMES,
            run_mem_encoder=masks is None,
            **frame,
        )  # fmt: skip
        if masks is not None:  # As the predictor does, for which every prompt is a yes or no.
            memory = network._encode_new_memory(
                frame["current_vision_feats"], frame["feat_sizes"], out["pred_masks_high_res"],
                out["object_score_logits"], is_mask_from_pts=True,
            )  # fmt: skip
            out["maskmem_features"], out["maskmem_pos_enc"] = memory
        return out


def _clip() -> Iterator[np.ndarray]:
    """Twenty frames of noise that drifts."""
    scene = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE + FRAMES, 3), np.uint8)
    for index in range(FRAMES):
        yield np.ascontiguousarray(scene[:, index : index + SIDE])


def _boxes() -> np.ndarray:
    masks = np.zeros((2, SIDE, SIDE), np.bool_)
    masks[0, 20:60, 8:44] = masks[1, 40:90, 50:90] = True
    return masks


@torch.no_grad()
def test_followed_clip(pair, engines, report_parity):
    recorder = Recorder()
    watched = {**engines, "track": recorder.watch(engines["track"])}
    (runs,) = recorder.runs.values()
    tracker = MemoryTracker(watched, VIEW, threshold=0.0)
    reference = Reference(pair, {}, {})
    said, worst, both, either = _boxes(), 0.0, 0, 0
    for now, frame in enumerate(_clip()):
        image = torch.from_numpy(fit(frame, VIEW)[0])
        if now not in KEYS:
            masks = tracker.follow(frame)
        elif now:
            said = (_drawn(reference.follow(now, image)) > 0).numpy()
            masks = tracker.restart(frame, Masks.of(said, np.ones(2, np.float32), LABELS))
        else:
            masks = tracker.restart(frame, Masks.of(said, np.ones(2, np.float32), LABELS))
        if now in KEYS:
            np.testing.assert_array_equal(masks.boolean, said)
            reference.restart(now, image, torch.from_numpy(said[:, None]).float())
            continue
        expected = reference.follow(now, image)
        found = runs[-1].outputs["logits"]
        worst = max(worst, np.abs(found - expected.numpy()).max())
        true = (_drawn(expected) > 0).numpy()
        assert true.any((1, 2)).all()
        iou = (masks.boolean & true).sum() / (masks.boolean | true).sum()
        assert iou >= 0.999, now
        both, either = both + (masks.boolean & true).sum(), either + (masks.boolean | true).sum()
    report_parity(f"sam2 engines follow {FRAMES} frames", REFERENCE, worst, both / either)
    assert worst <= 1e-3
    extents = [run.inputs["memories"].shape[1] for run in runs]
    assert extents == [1, 2, 3, 4, 5, 6, 7, 7, 7, *[6] * 6, *[7] * 4]


def _drawn(logits: Tensor) -> Tensor:
    """Bring logits to the frame's size, (objects, SIDE, SIDE), as the predictor does."""
    return functional.interpolate(logits, (SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
