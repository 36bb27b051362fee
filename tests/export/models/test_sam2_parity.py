"""SAM-2 against Meta's package `sam2`, built from the configurations that package ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from saymask.export.models.sam2 import MASK_CHOICES, is_stable
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel, drawn

from .sam2_reference import (
    CONFIGS,
    REFERENCE,
    Pair,
    flat,
    frame_arguments,
    random_pair,
    sam2_network,
    state_of,
)

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module", params=["mini", "odd"])
def pair(request) -> Pair:
    return random_pair(request.param)


@pytest.fixture(scope="module")
def square_pair() -> Pair:
    return random_pair("square")


def _difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    pairs = list(zip(found, expected, strict=True))
    assert all(ours.shape == theirs.shape for ours, theirs in pairs)
    return max((ours - theirs).abs().max().item() for ours, theirs in pairs)


def _iou(found: Tensor, expected: Tensor) -> float:
    ours, theirs = found > 0, expected > 0
    assert theirs.any()
    assert not theirs.all()
    return ((ours & theirs).sum() / (ours | theirs).sum()).item()


@pytest.mark.parametrize("size", CONFIGS)
def test_official_layouts(size, monkeypatch):
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        theirs = state_of(sam2_network(CONFIGS[size]))
        ours = Sam2VideoModel(SAM2_VIDEO_SPECS[size]).state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


def test_trunk(pair, report_parity):
    found = pair.ours.image_encoder.trunk(pair.image)
    worst = _difference(found, pair.reference.image_encoder.trunk(pair.image))
    report_parity(f"hiera trunk, {pair.name}", REFERENCE, worst)
    assert worst <= 1e-4


def test_neck(pair, report_parity):
    stages = pair.reference.image_encoder.trunk(pair.image)
    stride4, stride8, stride16, _ = pair.reference.image_encoder.neck(stages)[0]
    worst = _difference(pair.ours.image_encoder.neck(stages), (stride16, stride8, stride4))
    report_parity(f"hiera neck, {pair.name}", REFERENCE, worst)
    assert worst <= 1e-4


def test_encode(pair, report_parity):
    worst = _difference(pair.ours.encode(pair.image), pair.reference_features())
    report_parity(f"sam2 encode, {pair.name}", REFERENCE, worst)
    assert worst <= 1e-4


def _reference_decode(pair: Pair, choice: str) -> tuple[Tensor, Tensor]:
    """Decode as EVF-SAM does: a text token is the only prompt, the best mask is taken by hand."""
    embedding, stride8, stride4 = pair.reference_features()
    decoder, prompts = pair.reference.sam_mask_decoder, pair.reference.sam_prompt_encoder
    _, dense = prompts(points=None, boxes=None, masks=None)
    decoder.dynamic_multimask_via_stability = choice == "stable"
    logits, iou, _, _ = decoder(
        image_embeddings=embedding,
        image_pe=prompts.get_dense_pe(),
        sparse_prompt_embeddings=pair.sparse,
        dense_prompt_embeddings=dense,
        multimask_output=choice == "best",
        repeat_image=True,
        high_res_features=[stride4, stride8],
    )
    index = iou.argmax(1, keepdim=True)
    return torch.take_along_dim(logits, index[..., None, None], 1), iou.gather(1, index)


@pytest.mark.parametrize("choice", MASK_CHOICES)
def test_encode_and_decode(pair, choice, report_parity):
    pair.ours.mask_choice = choice
    features = pair.ours.encode(pair.image)
    found = pair.ours.decode(features, pair.sparse)
    expected = _reference_decode(pair, choice)
    worst, iou = _difference(found, expected), _iou(found[0], expected[0])
    report_parity(f"sam2 encode and decode, {choice}, {pair.name}", REFERENCE, worst, iou)
    assert worst <= 1e-3
    assert iou >= 0.999
    if choice == "stable":
        stable = is_stable(pair.ours.answer(features, pair.sparse).single().logits())
        assert stable.any()
        assert not stable.all()


def test_encode_memory(pair, report_parity):
    embedding, *_ = pair.ours.look(pair.image)
    rows, columns = embedding.shape[-2:]
    logits = 5 * torch.randn(2, 1, 4 * rows, 4 * columns)
    frame = functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
    for is_prompted in (False, True):
        theirs, _ = pair.reference._encode_new_memory(
            [flat(embedding.expand(2, -1, -1, -1))], [(rows, columns)], frame, None, is_prompted
        )
        mask = (drawn(logits) > 0).float() if is_prompted else drawn(logits).sigmoid()
        ours = pair.ours.encode_memory(embedding, mask)
        worst = _difference([ours], [theirs])
        kind = "prompted" if is_prompted else "tracked"
        report_parity(f"sam2 encode memory, {kind}, {pair.name}", REFERENCE, worst)
        assert worst <= 1e-4


def test_attend_memory(pair, report_parity):
    """Frame 8 attends to frames 0, 6 and 7 and also to a pointer of frame 1, among empty slots."""
    embedding, *_ = pair.ours.look(pair.image)
    width, rows, columns = embedding.shape[1:]
    memories = torch.randn(2, 7, pair.ours.maskmem_tpos_enc.shape[-1], rows, columns)
    pointers = torch.randn(2, 6, width)
    places = pair.reference.memory_encoder.position_encoding(memories[:, 0])

    def remembered(slot: int, pointer: int) -> dict[str, Any]:
        return {
            "maskmem_features": memories[:, slot],
            "maskmem_pos_enc": [places],
            "obj_ptr": pointers[:, pointer],
        }

    theirs = pair.reference._prepare_memory_conditioned_features(
        frame_idx=8,
        is_init_cond_frame=False,
        output_dict={
            "cond_frame_outputs": {0: remembered(2, 0)},
            "non_cond_frame_outputs": {
                1: remembered(0, 4),
                6: remembered(5, 2),
                7: remembered(3, 3),
            },
        },
        num_frames=20,
        **{name: each[-1:] for name, each in frame_arguments(pair, pair.image, 2).items()},
    )
    ours = pair.ours.attend_memory(
        embedding,
        memories,
        torch.tensor([[-1, -1, 0, 1, -1, 2, -1]] * 2),
        pointers,
        torch.tensor([[True, False, True, True, True, False]] * 2),
    )
    worst = _difference([ours], [theirs])
    report_parity(f"sam2 attend memory, {pair.name}", REFERENCE, worst)
    assert worst <= 1e-4


def _follow(network: Sam2VideoModel, images: Tensor, prompt: Tensor) -> Iterator[list[Tensor]]:
    """Follow the objects of a prompt; yield masks, pointers and memories of each frame."""
    memories: list[Tensor] = []
    pointers: list[Tensor] = []
    for now, image in enumerate(images.unsqueeze(1)):
        embedding, *finer = network.look(image)
        sparse, conditioned = prompt, network.encode(image)[0]
        if now:
            sparse = network.no_prompt(len(prompt))
            seen = [0, *range(max(1, now - 6), now)]
            conditioned = network.attend_memory(
                embedding,
                torch.stack([memories[frame] for frame in seen], dim=1),
                torch.tensor([[now - frame if frame else 0 for frame in seen]] * len(prompt)),
                torch.stack(pointers, dim=1),
                torch.ones(len(prompt), now, dtype=torch.bool),
            )
        logits, _, pointer, _ = network.track((conditioned, *finer), sparse)
        mask = drawn(logits).sigmoid() if now else (drawn(logits) > 0).float()
        memories.append(network.encode_memory(embedding, mask))
        pointers.append(pointer)
        yield [logits, pointer, memories[-1]]


@pytest.mark.parametrize("is_there", [True, False])
def test_follow_objects(square_pair, is_there, report_parity):
    """Ten frames with two objects, so that memories leave their slots."""
    pair = square_pair
    for network in (pair.reference, pair.ours):
        network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(9 if is_there else -9)
    images = torch.randn(10, 3, 96, 96)
    clicks, labels = torch.tensor([[[20.0, 30.0]], [[70.0, 50.0]]]), torch.ones(2, 1).int()
    encoder = pair.ours.sam_prompt_encoder
    prompt = encoder.points(
        functional.pad(clicks, (0, 0, 0, 1)), functional.pad(labels, (0, 1), value=-1)
    )
    history: dict[str, dict[int, Any]] = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    worst, presence = 0.0, set()
    masks: list[tuple[Tensor, Tensor]] = []
    for now, ours in enumerate(_follow(pair.ours, images, prompt)):
        is_first = now == 0
        theirs = pair.reference.track_step(
            frame_idx=now,
            is_init_cond_frame=is_first,
            point_inputs={"point_coords": clicks, "point_labels": labels} if is_first else None,
            mask_inputs=None,
            output_dict=history,
            num_frames=len(images),
            **frame_arguments(pair, images[now : now + 1], 2),
        )
        history["cond_frame_outputs" if is_first else "non_cond_frame_outputs"][now] = theirs
        presence |= set((theirs["object_score_logits"] > 0).flatten().tolist())
        names = "pred_masks", "obj_ptr", "maskmem_features"
        worst = max(worst, _difference(ours, [theirs[name] for name in names]))
        masks.append((ours[0], theirs["pred_masks"]))
    iou = _iou(*map(torch.cat, zip(*masks, strict=True))) if is_there else None
    where = "in the frame" if is_there else "out of it"
    report_parity(f"sam2 follow 2 objects {where}", REFERENCE, worst, iou)
    assert presence == {is_there}
    assert iou is None or iou >= 0.999
    assert worst <= 1e-3
