"""SAM-2 as Meta's package `sam2` builds it from its configurations, and ours with its weights."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.sam import SamSpec
from saymask.export.models.sam2_memory import UPSTREAM_NAMES, MemorySpec
from saymask.export.models.sam2_video import SAM2_VIDEO_SPECS, Sam2VideoModel, Sam2VideoSpec

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


def sam2_network(config: str, spec: Sam2VideoSpec | None = None) -> Any:
    """Build the package's network of a configuration, resized to `spec` where it is given."""
    pytest.importorskip("sam2", reason="needs sam2, iopath, hydra-core and omegaconf")
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2 import modeling

    folder = Path(modeling.__file__).parents[1] / "configs" / "sam2"
    file = folder / f"sam2_hiera_{config}.yaml"
    if spec is None:
        return instantiate(OmegaConf.load(file).model)
    return resized_network(file, spec, modeling.__name__)


def resized_network(file: Path, spec: Sam2VideoSpec, modeling: str) -> Any:
    """Build the network of a configuration, resized to `spec`, from the package `modeling`."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    model = OmegaConf.load(file).model
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
    network.sam_prompt_encoder, network.sam_mask_decoder = _sam_heads(
        spec.visual.mask_decoder, modeling
    )
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


def _sam_heads(spec: SamSpec, modeling: str) -> tuple[nn.Module, nn.Module]:
    """Build what the package itself only builds for square frames and 256 channels."""
    prompts, masks, transformers = (
        importlib.import_module(f"{modeling}.sam.{name}")
        for name in ("prompt_encoder", "mask_decoder", "transformer")
    )
    prompt_encoder = prompts.PromptEncoder(
        spec.width, spec.grid_hw, spec.frame_hw, mask_in_chans=16
    )
    mask_decoder = masks.MaskDecoder(
        transformer_dim=spec.width,
        transformer=transformers.TwoWayTransformer(2, spec.width, spec.heads, spec.mlp_width),
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


def state_of(reference: nn.Module) -> dict[str, Tensor]:
    """Return the package's state under EVF-SAM's names."""
    return {UPSTREAM_NAMES.get(name, name): each for name, each in reference.state_dict().items()}


def random_pair(name: str) -> Pair:
    torch.manual_seed(0)
    spec = SPECS[name]
    reference = sam2_network("t", spec).eval().requires_grad_(False)
    for parameter in reference.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    for parameter in (
        reference.sam_mask_decoder.output_hypernetworks_mlps[0].layers[-1].parameters()
    ):
        parameter.mul_(LOUDNESS[name])
    ours = Sam2VideoModel(spec).eval().requires_grad_(False)
    ours.load_state_dict(state_of(reference))
    image = torch.randn(1, 3, *spec.visual.image_encoder.image_hw)
    sparse = 3 * torch.randn(8, 1, spec.visual.mask_decoder.width)
    return Pair(name, reference, ours, image, sparse)


def flat(features: Tensor) -> Tensor:
    """Turn (batch, channels, rows, columns) into the package's (cells, batch, channels)."""
    return features.flatten(2).permute(2, 0, 1)


def frame_arguments(pair: Pair, image: Tensor, objects: int) -> dict[str, Any]:
    """Return the arguments in which the package hands a frame around."""
    features = [each.expand(objects, -1, -1, -1) for each in reversed(pair.ours.look(image))]
    places = pair.reference.image_encoder.neck.position_encoding
    return {
        "current_vision_feats": [flat(each) for each in features],
        "current_vision_pos_embeds": [flat(places(features[-1]))] * 3,
        "feat_sizes": [tuple(each.shape[-2:]) for each in features],
    }
