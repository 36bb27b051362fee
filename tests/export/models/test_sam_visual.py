from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.efficientvit import EFFICIENTVIT_SPECS
from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam import LayerNorm2d, SamSpec
from saymask.export.models.sam_visual import SamVisualModel, SamVisualSpec
from saymask.export.models.sam_vit import SAM_VIT_SPECS

OFFICIAL = {"b": (93_735_472, 314), "l": (312_342_832, 482), "h": (641_090_608, 594)}
"""Size -> parameters and tensors of all."""
MINI = SamSpec(width=32, heads=4, mlp_width=48, grid_hw=(10, 10), frame_hw=(160, 160), eps=1e-5)


class _Decode(nn.Module):
    """What becomes the graph of stage "mask"."""

    def __init__(self, visual_model: SamVisualModel) -> None:
        super().__init__()
        self.visual_model = visual_model

    def forward(self, image_embedding: Tensor, sparse: Tensor) -> tuple[Tensor, Tensor]:
        return self.visual_model.decode((image_embedding,), sparse)


def _mini(mask: str) -> SamVisualModel:
    torch.manual_seed(0)
    spec = SamVisualSpec(image_encoder=SAM_VIT_SPECS["mini"], mask_decoder=MINI, mask_choice=mask)
    model = SamVisualModel(spec)
    return model.eval().requires_grad_(False)


@pytest.fixture
def sparse() -> Tensor:
    return torch.randn(9, 1, MINI.width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def features() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return (torch.randn(1, MINI.width, *MINI.grid_hw, generator=generator),)


@pytest.mark.parametrize("size", OFFICIAL)
def test_official_sizes(size):
    with torch.device("meta"):
        model = SamVisualModel(EVF_SAM_SPECS[f"sam-{size}-beit3-large"].visual_model)
    parameters, tensors = OFFICIAL[size]
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert len(model.state_dict()) == tensors
    assert {name.split(".")[0] for name in model.state_dict()} == {
        "image_encoder",
        "prompt_encoder",
        "mask_decoder",
    }


def test_the_encoders_epsilon_is_not_the_decoders():
    model = _mini("single")
    for part, eps in ((model.image_encoder, 1e-6), (model.mask_decoder, 1e-5)):
        assert {each.eps for each in part.modules() if isinstance(each, nn.LayerNorm)} == {eps}
        assert {each.eps for each in part.modules() if isinstance(each, LayerNorm2d)} == {1e-6}


def test_any_encoder_of_one_embedding_will_do(sparse):
    spec = EFFICIENTVIT_SPECS["mini"]
    decoder = replace(MINI, width=spec.out_width, grid_hw=spec.grid_hw)
    whole = SamVisualSpec(image_encoder=spec, mask_decoder=decoder, mask_choice="single")
    model = SamVisualModel(whole).eval()
    with torch.no_grad():
        features = model.encode(torch.randn(1, 3, *spec.image_hw))
        logits, _ = model.decode(features, torch.randn(2, 1, spec.out_width))
    assert len(features) == len(model.feature_names)
    assert logits.shape == (2, 1, 60, 80)


def test_a_frame_becomes_a_mask_per_prompt(sparse):
    model = _mini("single")
    features = model.encode(torch.randn(1, 3, *SAM_VIT_SPECS["mini"].image_hw))
    logits, iou = model.decode(features, sparse)
    assert features[0].shape == (1, MINI.width, *MINI.grid_hw)
    assert logits.shape == (9, 1, 40, 40)
    assert iou.shape == (9, 1)


def _every_mask(model: SamVisualModel, features, sparse) -> tuple[Tensor, Tensor]:
    positions, dense = model.prompt_encoder.dense_positions(), model.prompt_encoder.no_mask()
    return model.mask_decoder(features[0], positions, sparse, dense, slice(0, 4))


@pytest.mark.parametrize(("mask", "among"), [("single", [0]), ("best", [1, 2, 3])])
def test_the_choice_is_the_best_of_its_masks(features, sparse, mask, among):
    model = _mini(mask)
    head = model.mask_decoder.iou_prediction_head.layers[-1]
    head.bias -= _every_mask(model, features, sparse)[1].mean(0)
    every, every_iou = _every_mask(model, features, sparse)
    best = [max(among, key=row.__getitem__) for row in every_iou]
    assert len(set(every_iou.argmax(1).tolist())) > 2, "no mask is the best for every prompt"
    logits, iou = model.decode(features, sparse)
    for row, index in enumerate(best):
        torch.testing.assert_close(logits[row, 0], every[row, index])
        torch.testing.assert_close(iou[row, 0], every_iou[row, index])


def test_the_graph_takes_any_number_of_prompts(features, sparse):
    model = _Decode(_mini("best"))
    stage = Stage(
        name="mask",
        module=model,
        examples={"image_embedding": features[0], "sparse": sparse[:2]},
        outputs=("logits", "iou"),
        varying={"sparse": {0: "phrases"}},
    )
    engine = open_model(trace(stage), threads=1)
    for prompts in (1, 2, 9):
        given = {"image_embedding": features[0].numpy(), "sparse": sparse[:prompts].numpy()}
        found = engine.run(given)
        for name, expected in zip(stage.outputs, model(features[0], sparse[:prompts]), strict=True):
            np.testing.assert_allclose(found[name], expected.numpy(), rtol=0, atol=1e-4)
