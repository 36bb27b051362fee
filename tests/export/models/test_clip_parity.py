import pytest
import torch

from saymask.export.models.clip import CLIP_SPECS, ClipVisionSpec, ClipVisionTower

pytestmark = pytest.mark.parity

REFERENCE = "transformers 4.57"
SPECS = {
    "even": ClipVisionSpec(image_hw=(32, 32), patch=8, width=32, heads=4, layers=4, mlp_width=64),
    "odd": ClipVisionSpec(image_hw=(37, 37), patch=7, width=30, heads=5, layers=3, mlp_width=70),
}


def _reference(spec: ClipVisionSpec):
    """The reference's tower with a value of its own in every parameter."""
    transformers = pytest.importorskip("transformers", reason=f"needs {REFERENCE}")
    torch.manual_seed(0)
    tower = transformers.CLIPVisionModel(
        transformers.CLIPVisionConfig(
            hidden_size=spec.width,
            intermediate_size=spec.mlp_width,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            image_size=spec.image_hw[0],
            patch_size=spec.patch,
        )
    )
    for each in tower.parameters():
        each.data += 0.1 * torch.randn_like(each)
    return tower.eval().requires_grad_(False)


@pytest.mark.parametrize("size", SPECS)
def test_features(size, report_parity):
    reference = _reference(SPECS[size])
    ours = ClipVisionTower(SPECS[size]).eval().requires_grad_(False)
    ours.load_state_dict(reference.state_dict())
    pixels = torch.randn(3, 3, *SPECS[size].image_hw)
    expected = reference(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    max_abs = (ours.features(pixels) - expected).abs().max().item()
    report_parity(f"CLIP vision tower {size}", REFERENCE, max_abs)
    assert expected.std() > 0.1
    assert max_abs <= 1e-4


def test_the_official_layout():
    with torch.device("meta"):
        reference = _reference(CLIP_SPECS["vit-l/14-336"]).state_dict()
        ours = ClipVisionTower(CLIP_SPECS["vit-l/14-336"]).state_dict()
    assert {name: each.shape for name, each in ours.items()} == {
        name: each.shape for name, each in reference.items()
    }
