from dataclasses import replace

import pytest
import torch

from saymask.export.models.qwen_vision import QWEN_VISION_SPECS, QwenVisionSpec, QwenVisionTower

pytestmark = pytest.mark.parity

REFERENCE = "transformers 4.57"
SMALL = QwenVisionSpec(
    image_hw=(24, 24), patch=3, width=32, depth=4, heads=4, mlp_width=40, window=4,
    global_blocks=(1, 3), language_width=20,
)  # fmt: skip
SPECS = {
    "filled windows": SMALL,
    "odd grid": replace(SMALL, image_hw=(30, 42)),
    "one window": replace(SMALL, image_hw=(6, 12)),
    "wide windows": replace(SMALL, image_hw=(66, 18), window=8, width=40, heads=2),
}


def _reference(spec: QwenVisionSpec):
    """The reference's tower with a value of its own in every parameter."""
    transformers = pytest.importorskip("transformers", reason=f"needs {REFERENCE}")
    model = transformers.models.qwen2_5_vl.modeling_qwen2_5_vl
    torch.manual_seed(0)
    config = transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
        depth=spec.depth, hidden_size=spec.width, intermediate_size=spec.mlp_width,
        num_heads=spec.heads, patch_size=spec.patch, window_size=spec.window * spec.patch,
        fullatt_block_indexes=list(spec.global_blocks), out_hidden_size=spec.language_width,
    )  # fmt: skip
    tower = model.Qwen2_5_VisionTransformerPretrainedModel(config)
    for each in tower.parameters():
        each.data += 0.1 * torch.randn_like(each)
    return tower.eval().requires_grad_(False)


def _flattened(pixels: torch.Tensor, patch: int) -> torch.Tensor:
    """Lay patches out as the reference's processor does: square by square, twice in time."""
    cut = pixels.unflatten(3, (-1, 2, patch)).unflatten(2, (-1, 2, patch))
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6)
    return cut.expand(-1, -1, -1, -1, -1, -1, 2, -1, -1).flatten(0, 4).flatten(1)


@pytest.mark.parametrize("size", SPECS)
def test_tokens(size, report_parity):
    spec = SPECS[size]
    reference = _reference(spec)
    ours = QwenVisionTower(spec).eval().requires_grad_(False)
    ours.load_state_dict(reference.state_dict())
    pixels = torch.randn(2, 3, *spec.image_hw)
    grid_thw = torch.tensor([[1, 2 * spec.grid_hw[0], 2 * spec.grid_hw[1]]]).expand(2, -1)
    expected = reference(_flattened(pixels, spec.patch), grid_thw)
    found = ours(pixels)
    assert found.shape == (2, spec.grid_hw[0] * spec.grid_hw[1], spec.language_width)
    max_abs = (found.flatten(0, 1) - expected).abs().max().item()
    report_parity(f"Qwen2.5-VL vision tower, {size}", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


def test_the_official_layout():
    spec = QWEN_VISION_SPECS["7b"]
    with torch.device("meta"):
        reference, ours = _reference(spec).state_dict(), QwenVisionTower(spec).state_dict()
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in reference.items()
    }
