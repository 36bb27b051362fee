"""A small EVF-SAM2 with random weights goes from its checkpoint to a bundle that follows masks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saymask.export import pipeline
from saymask.export.checkpoint import (
    Checkpoint,
    CheckpointConfig,
    open_checkpoint,
    write_checkpoint,
)
from saymask.export.compile import shape_range
from saymask.export.engine_build import EngineJob, build_engine
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam, EvfSamSpec
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel, Sam2VideoSpec
from saymask.export.recipe import ExportRecipe
from saymask.export.steps import Steps
from saymask.export.systems import evf_sam
from saymask.runtime.bundle import Bundle
from saymask.runtime.engine import open_engine
from saymask.runtime.engine_cache import device_key
from saymask.runtime.errors import CheckpointError
from saymask.runtime.live.memory_tracking import MEMORY_STAGES, MOST_MEMORIES
from saymask.runtime.live.tracking import open_tracker
from saymask.runtime.masks import Masks
from saymask.runtime.segmenter import Segmenter
from saymask.train.vocabulary import learn_sentencepiece

ROWS = 64
MINI = SAM2_VIDEO_SPECS["mini"]
SMALL = Sam2VideoSpec(
    visual=replace(
        MINI.visual,
        image_encoder=replace(
            MINI.visual.image_encoder,
            image_hw=(64, 96),
            width=8,
            depths=(1, 1, 1, 1),
            global_blocks=(),
            out_width=32,
        ),
        mask_decoder=replace(
            MINI.visual.mask_decoder,
            width=32,
            heads=4,
            mlp_width=24,
            grid_hw=(4, 6),
            frame_hw=(64, 96),
        ),
    ),
    memory=replace(MINI.memory, width=8, layers=1, mlp_width=24),
)
WORDS = replace(
    EVF_SAM_SPECS["mini"].multimodal_encoder,
    width=32,
    depth=1,
    heads=2,
    ffn_width=64,
    image_hw=(16, 24),
    vocabulary=ROWS,
)
PHRASES = ("the red mug", "a blue knife")
FOLLOWED = """
import sys
import numpy as np
from saymask.runtime.segmenter import Segmenter
from saymask.runtime.live.tracking import open_tracker

frames = np.load(sys.argv[2])
with Segmenter.open(sys.argv[1], device="cpu", threads=1) as segmenter:
    tracker = open_tracker(segmenter)
    masks = [tracker.restart(frames[0], segmenter.segment(frames[0], sys.argv[4:]))]
    masks += [tracker.follow(frame) for frame in frames[1:]]
np.save(sys.argv[3], [each.boolean for each in masks])
assert not {"torch", "onnx", "cv2"} & sys.modules.keys()
"""


@pytest.fixture(scope="module")
def network() -> Iterator[EvfSam]:
    """A small EVF-SAM2 with its memory in which no parameter is trivial; don't change it."""
    torch.manual_seed(0)
    spec = EvfSamSpec(visual_model=SMALL.visual, multimodal_encoder=WORDS)
    network = EvfSam(spec)
    network.visual_model = Sam2VideoModel(SMALL)
    for parameter in network.eval().requires_grad_(False).parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    network.visual_model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EVF_SAM_SPECS, "sam2-small", spec)
        patch.setitem(SAM2_VIDEO_SPECS, "sam2-small", SMALL)
        yield network


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    """A checkpoint of `network`; read it, don't change it."""
    folder = tmp_path_factory.mktemp("checkpoints") / "small"
    config = CheckpointConfig(
        system="evf-sam", variant="sam2-small", max_tokens=48, license="Apache-2.0"
    )
    write_checkpoint(folder, network, config, learn_sentencepiece(PHRASES, rows=ROWS))
    return folder


@pytest.fixture
def changed(folder, tmp_path):
    """Copies the checkpoint without the tensors whose names have a part."""

    def change(*parts: str) -> Checkpoint:
        copy = tmp_path / "changed"
        copy.mkdir()
        for path in folder.iterdir():
            (copy / path.name).write_bytes(path.read_bytes())
        state = load_file(folder / "model.safetensors")
        kept = {name: each for name, each in state.items() if not any(p in name for p in parts)}
        save_file(kept, copy / "model.safetensors")
        return open_checkpoint(copy)

    return change


@pytest.fixture(scope="module")
def bundle(folder, tmp_path_factory) -> Bundle:
    """The checkpoint's five stages as a bundle without golden arrays."""
    scratch = tmp_path_factory.mktemp("bundles")
    checkpoint = open_checkpoint(folder)
    recipe = ExportRecipe(system="evf-sam", out=scratch / "small")
    manifest, graphs = pipeline._trace(recipe, checkpoint, evf_sam, scratch, Steps(lambda _: None))
    return pipeline._write(recipe.out, manifest, graphs, checkpoint, {})


def test_stages_follow_the_three(network):
    *_, memory, track = evf_sam.stages(network)
    assert (memory.name, track.name) == MEMORY_STAGES
    assert track.varying["memories"] == {0: "phrases", 1: "memories"}
    assert len(network.visual_model.maskmem_tpos_enc) == MOST_MEMORIES


def test_a_memory_is_loaded_where_all_of_it_is(network, folder, changed):
    loaded = evf_sam.load(open_checkpoint(folder))
    assert loaded.state_dict().keys() == network.state_dict().keys()
    assert len(evf_sam.stages(loaded)) == 5


def test_without_attention_or_encoder_every_frame_stands_alone(changed):
    loaded = evf_sam.load(changed("memory_encoder"))
    assert "visual_model.maskmem_tpos_enc" not in loaded.state_dict()
    assert [stage.name for stage in evf_sam.stages(loaded)] == ["image", "prompt", "mask"]


def test_a_memory_with_a_hole_is_refused(changed):
    with pytest.raises(CheckpointError, match="visual_model.no_obj_ptr is missing"):
        evf_sam.load(changed("no_obj_ptr"))


@torch.no_grad()
def test_engines_take_any_number_of_phrases_and_memories(folder, bundle):
    generator = torch.Generator().manual_seed(1)
    for stage in evf_sam.stages(evf_sam.load(open_checkpoint(folder)))[3:]:
        engine = open_engine(bundle, stage.name, device="cpu", threads=1)
        for phrases, memories in ((1, 1), (3, MOST_MEMORIES)):
            extents = {"phrases": phrases, "memories": memories}
            feeds = {}
            for tensor in engine.stage.inputs:
                shape = [extents.get(axis, axis) for axis in tensor.shape]
                feeds[tensor.name] = torch.randn(shape, generator=generator)
            if stage.name == "track":
                ages = torch.tensor([0, 1, 2, 3, 4, 5, 6][:memories]).repeat(phrases, 1)
                ages[-1, 1:] = -1
                feeds |= {"ages": ages, "is_pointer": feeds["pointers"][..., 0] > 0}
            else:
                feeds["masks"] = (feeds["masks"] > 0).float()
            found = engine.run({name: each.numpy() for name, each in feeds.items()})
            for name, expected in zip(stage.outputs, stage.module(*feeds.values()), strict=True):
                np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-4, rtol=1e-4)


def _clip() -> np.ndarray:
    """(9, 48, 72, 3) uint8: a red and a blue square that move over noise."""
    frames = np.random.default_rng(0).integers(90, 160, (9, 48, 72, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[10:26, 4 + 3 * index :][:, :16] = 220, 30, 30
        frame[28:44, 50 - 4 * index :][:, :16] = 30, 30, 220
    return frames


def test_a_clip_is_followed_without_torch(bundle, tmp_path):
    np.save(tmp_path / "frames.npy", _clip())
    paths = [str(bundle.folder), *(str(tmp_path / f"{name}.npy") for name in ("frames", "masks"))]
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", FOLLOWED, *paths, *PHRASES], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.append(np.load(paths[-1]))
    assert found[0].shape == (9, 2, 48, 72)
    assert found[0].any((0, 2, 3)).all()
    np.testing.assert_array_equal(*found)


def test_together_as_alone(bundle):
    frames, boxes = _clip(), np.zeros((2, 48, 72), np.bool_)
    boxes[0, 10:26, 4:20] = boxes[1, 28:44, 50:66] = True
    followed = []
    with Segmenter.open(bundle.folder, device="cpu", threads=1) as segmenter:
        for rows in ([0, 1], [0], [1]):
            tracker = open_tracker(segmenter)
            labels = tuple(PHRASES[row] for row in rows)
            masks = Masks.of(boxes[rows], np.ones(len(rows), np.float32), labels)
            tracker.restart(frames[0], masks)
            followed.append([tracker.follow(frame).boolean for frame in frames[1:]])
    together, *alone = map(np.array, followed)
    assert np.mean(together == np.concatenate(alone, axis=1)) > 0.999


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MEMORY_STAGES)
def test_memories_compile(bundle, name, precision, tmp_path):
    rtx = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    stage = bundle.stage(name)
    most = {"phrases": 2, "memories": MOST_MEMORIES}
    job = EngineJob(
        stage=name,
        graph=bundle.folder / stage.file,
        shapes=tuple(shape_range(tensor, most) for tensor in stage.inputs),
        precision=precision,
        phrases=2,
        key=device_key("tensorrt_rtx", rtx.__version__, (89,)),
        folder=tmp_path,
    )
    report = build_engine(job, lambda: None)
    weighted = {row.precision for row in report.built if row.kind in ("gemm", "deconv")}
    assert weighted == {precision}
