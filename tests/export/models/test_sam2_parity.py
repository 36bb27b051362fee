"""SAM-2 against Meta's package `sam2`, built from the configurations that package ships."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from saymask.export.models.sam import SamSpec
from saymask.export.models.sam2 import MASK_CHOICES, is_stable
from saymask.export.models.sam2_memory import UPSTREAM_NAMES, MemorySpec
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel, Sam2VideoSpec

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

REFERENCE = "sam2 1.1.0"
CONFIGS = {"tiny": "t", "small": "s", "base-plus": "b+", "large": "l"}
MINI = SAM2_VIDEO_SPECS["mini"]
ODD = Sam2VideoSpec(
    visual=replace(
        MINI.visual,
        image_encoder=replace(
            MINI.visual.image_encoder,
            image_hw=(96, 160),
            width=16,
            heads=2,
            depths=(1, 2, 3, 1),
            windows=(8, 4, 6, 3),
            global_blocks=(2, 5),
            background_hw=(3, 5),
            out_width=64,
        ),
        mask_decoder=replace(
            MINI.visual.mask_decoder, width=64, grid_hw=(6, 10), frame_hw=(96, 160)
        ),
    ),
    memory=replace(MINI.memory, width=16, mlp_width=48),
)
"""Neither square nor a whole number of windows in its later stages."""
SQUARE = replace(
    ODD,
    visual=replace(
        ODD.visual,
        image_encoder=replace(ODD.visual.image_encoder, image_hw=(96, 96)),
        mask_decoder=replace(ODD.visual.mask_decoder, grid_hw=(6, 6), frame_hw=(96, 96)),
    ),
)
"""The package follows objects in square frames only."""
SPECS = {"mini": MINI, "odd": ODD, "square": SQUARE}
LOUDNESS = {"mini": 1.0, "odd": 5.0, "square": 5.0}
"""What makes some of the random single masks stable and leaves others unstable."""


def _sam2(config: str, spec: Sam2VideoSpec | None = None) -> Any:
    """Build the package's network of a configuration, resized to `spec` where it is given."""
    pytest.importorskip("sam2", reason="needs sam2, iopath, hydra-core and omegaconf")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2 import modeling

    folder = Path(modeling.__file__).parents[1] / "configs" / "sam2"
    model = OmegaConf.load(folder / f"sam2_hiera_{config}.yaml").model
    if spec is None:
        return instantiate(model)
    image, neck = spec.visual.image_encoder, model.image_encoder.neck
    model.image_encoder.trunk.update(
        embed_dim=image.width,
        num_heads=image.heads,
        stages=list(image.depths),
        window_spec=list(image.windows),
        global_att_blocks=list(image.global_blocks),
        window_pos_embed_bkg_spatial_size=list(image.background_hw),
    )
    neck.backbone_channel_list = [image.width << stage for stage in (3, 2, 1, 0)]
    neck.d_model = neck.position_encoding.num_pos_feats = image.out_width
    _resize_memory(model, image.out_width, spec.visual.mask_decoder.grid_hw, spec.memory)
    model.update(image_size=image.image_hw[0], binarize_mask_from_pts_for_mem_enc=True)
    network = instantiate(model)
    network.sam_prompt_encoder, network.sam_mask_decoder = _sam_heads(spec.visual.mask_decoder)
    return network


def _resize_memory(model: Any, width: int, grid_hw: tuple[int, int], spec: MemorySpec) -> None:
    layer, encoder = model.memory_attention.layer, model.memory_encoder
    model.memory_attention.update(d_model=width, num_layers=spec.layers)
    layer.update(d_model=width, dim_feedforward=spec.mlp_width)
    for attention in (layer.self_attention, layer.cross_attention):
        attention.update(embedding_dim=width, feat_sizes=[grid_hw[1], grid_hw[0]])
    layer.cross_attention.kv_in_dim = spec.width
    encoder.update(in_dim=width, out_dim=spec.width)
    encoder.position_encoding.num_pos_feats = spec.width
    encoder.mask_downsampler.embed_dim = encoder.fuser.layer.dim = width


def _sam_heads(spec: SamSpec) -> tuple[nn.Module, nn.Module]:
    """Build what the package itself only builds for square frames and 256 channels."""
    from sam2.modeling.sam.mask_decoder import MaskDecoder
    from sam2.modeling.sam.prompt_encoder import PromptEncoder
    from sam2.modeling.sam.transformer import TwoWayTransformer

    prompt_encoder = PromptEncoder(spec.width, spec.grid_hw, spec.frame_hw, mask_in_chans=16)
    mask_decoder = MaskDecoder(
        transformer_dim=spec.width,
        transformer=TwoWayTransformer(2, spec.width, spec.heads, spec.mlp_width),
        iou_head_hidden_dim=spec.width,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        dynamic_multimask_via_stability=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
        use_multimask_token_for_obj_ptr=True,
    )
    return prompt_encoder, mask_decoder


@dataclass(frozen=True)
class Pair:
    """The package's network with random weights, and ours with the same."""

    name: str
    reference: Any
    ours: Sam2VideoModel
    image: Tensor
    sparse: Tensor

    def reference_features(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return embedding, stride 8 and stride 4 as the package's image predictor has them."""
        stride4, stride8, embedding = self.reference.forward_image(self.image)["backbone_fpn"]
        return embedding + self.reference.no_mem_embed.reshape(1, -1, 1, 1), stride8, stride4


def _state(reference: nn.Module) -> dict[str, Tensor]:
    """Return the package's state under EVF-SAM's names."""
    return {UPSTREAM_NAMES.get(name, name): each for name, each in reference.state_dict().items()}


def _pair(name: str) -> Pair:
    torch.manual_seed(0)
    spec = SPECS[name]
    reference = _sam2("t", spec).eval().requires_grad_(False)
    for parameter in reference.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    for parameter in (
        reference.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters()
    ):
        parameter.mul_(LOUDNESS[name])
    ours = Sam2VideoModel(spec).eval().requires_grad_(False)
    ours.load_state_dict(_state(reference))
    image = torch.randn(1, 3, *spec.visual.image_encoder.image_hw)
    sparse = 3 * torch.randn(8, 1, spec.visual.mask_decoder.width)
    return Pair(name, reference, ours, image, sparse)


@pytest.fixture(scope="module", params=["mini", "odd"])
def pair(request) -> Pair:
    return _pair(request.param)


@pytest.fixture(scope="module")
def square_pair() -> Pair:
    return _pair("square")


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
        theirs = _state(_sam2(CONFIGS[size]))
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


def _flat(features: Tensor) -> Tensor:
    """Turn (batch, channels, rows, columns) into the package's (cells, batch, channels)."""
    return features.flatten(2).permute(2, 0, 1)


def test_encode_memory(pair, report_parity):
    embedding, *_ = pair.ours.look(pair.image)
    rows, columns = embedding.shape[-2:]
    logits = 5 * torch.randn(2, 1, 4 * rows, 4 * columns)
    frame = functional.interpolate(logits, scale_factor=4.0, mode="bilinear", align_corners=False)
    for is_prompted in (False, True):
        theirs, _ = pair.reference._encode_new_memory(
            [_flat(embedding.expand(2, -1, -1, -1))], [(rows, columns)], frame, None, is_prompted
        )
        ours = pair.ours.encode_memory(embedding, logits, torch.full((2, 1), is_prompted))
        worst = _difference([ours], [theirs])
        kind = "prompted" if is_prompted else "tracked"
        report_parity(f"sam2 encode memory, {kind}, {pair.name}", REFERENCE, worst)
        assert worst <= 1e-4


def _frame(pair: Pair, image: Tensor, objects: int) -> dict[str, Any]:
    """Return the arguments in which the package hands a frame around."""
    features = [each.expand(objects, -1, -1, -1) for each in reversed(pair.ours.look(image))]
    places = pair.reference.image_encoder.neck.position_encoding
    return {
        "current_vision_feats": [_flat(each) for each in features],
        "current_vision_pos_embeds": [_flat(places(features[-1]))] * 3,
        "feat_sizes": [tuple(each.shape[-2:]) for each in features],
    }


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
        **{name: each[-1:] for name, each in _frame(pair, pair.image, 2).items()},
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
        is_prompted = torch.full((len(prompt), 1), now == 0)
        memories.append(network.encode_memory(embedding, logits, is_prompted))
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
            **_frame(pair, images[now : now + 1], 2),
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
