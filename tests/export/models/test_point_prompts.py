import numpy as np
import pytest
import torch

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.point_prompts import PointPrompts
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam_visual import SamVisualModel, SamVisualSpec
from saymask.export.models.sam_vit import SAM_VIT_SPECS

SAM = SamSpec(width=32, heads=4, mlp_width=48, grid_hw=(10, 10), frame_hw=(160, 160), eps=1e-5)


def _model(mask: str) -> SamVisualModel:
    torch.manual_seed(0)
    spec = SamVisualSpec(image_encoder=SAM_VIT_SPECS["mini"], mask_decoder=SAM, mask_choice=mask)
    return SamVisualModel(spec).eval().requires_grad_(False)


@pytest.fixture
def embedding() -> torch.Tensor:
    return torch.randn(1, 32, 10, 10, generator=torch.Generator().manual_seed(1))


def _prompts(masks: int, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(masks + points)
    points_xy = 160 * torch.rand(masks, points, 2, generator=generator)
    return points_xy, torch.randint(-1, 4, (masks, points), generator=generator)


@pytest.mark.parametrize(("mask", "choices"), [("single", 1), ("best", 3)])
def test_the_highest_iou_is_what_decode_chooses(embedding, mask, choices):
    model, (points_xy, labels) = _model(mask), _prompts(6, 5)
    logits, iou = PointPrompts(model)(embedding, points_xy, labels)
    assert logits.shape == (6, choices, 40, 40)
    assert iou.shape == (6, choices)
    expected, _ = model.decode((embedding,), model.prompt_encoder.points(points_xy, labels))
    chosen = logits[torch.arange(6), iou.argmax(1)]
    torch.testing.assert_close(chosen, expected[:, 0])


def test_a_box_is_its_two_corners(embedding):
    model = _model("best")
    boxes = torch.tensor([[10.0, 20, 90, 140], [30, 5, 60, 70]])
    points_xy, labels = boxes.view(2, 2, 2), torch.tensor([[2, 3], [2, 3]])
    logits, _ = PointPrompts(model)(embedding, points_xy, labels)
    expected, _ = model.decode((embedding,), model.prompt_encoder.boxes(boxes))
    assert ((logits - expected).abs().amax((2, 3)).min(1).values < 1e-5).all()


def test_no_point_says_nothing_of_its_place(embedding):
    prompts = PointPrompts(_model("best"))
    points_xy = torch.tensor([[[50.0, 60], [0, 0]]])
    labels = torch.tensor([[1, -1]])
    expected, _ = prompts(embedding, points_xy, labels)
    moved, _ = prompts(embedding, points_xy + torch.tensor([[0.0, 0], [9, 9]]), labels)
    torch.testing.assert_close(moved, expected)
    other, _ = prompts(embedding, points_xy, torch.tensor([[1, 0]]))
    assert (other - expected).abs().max() > 1e-3


def test_the_graph_takes_any_number_of_masks_and_points(embedding):
    module = PointPrompts(_model("best"))
    points_xy, labels = _prompts(2, 5)
    axes = {0: "masks", 1: "points"}
    stage = Stage(
        name="mask",
        module=module,
        examples={"image_embedding": embedding, "points_xy": points_xy, "labels": labels},
        outputs=("logits", "iou"),
        varying={"points_xy": axes, "labels": axes},
    )
    engine = open_model(trace(stage), threads=1)
    for masks, points in ((1, 2), (3, 1), (4, 17)):
        points_xy, labels = _prompts(masks, points)
        given = {"points_xy": points_xy.numpy(), "labels": labels.numpy()}
        found = engine.run({"image_embedding": embedding.numpy(), **given})
        for name, expected in zip(stage.outputs, module(embedding, points_xy, labels), strict=True):
            np.testing.assert_allclose(found[name], expected.numpy(), rtol=0, atol=1e-4)
