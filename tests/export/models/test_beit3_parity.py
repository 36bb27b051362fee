import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from saymask.export.models.beit3 import BEIT3_SPECS, BEiT3, BEiT3Spec

pytestmark = pytest.mark.parity

REFERENCE = "microsoft/torchscale"
SPECS = {
    "mini": BEIT3_SPECS["mini"],
    "odd": BEiT3Spec(
        width=42, depth=3, heads=3, ffn_width=50, image_hw=(55, 33), patch=11,
        vocabulary=37, max_positions=13, pad_id=1,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def official(references) -> Iterator[ModuleType]:
    """The reference's module of the whole network, taken from its clone.

    None stands in for what it imports of fairscale (a layer's wrappers for training) and of timm
    (the paths dropped in training): nothing here builds with either, and a call of None would fail.
    """
    if not Path(references, "torchscale").is_dir():
        pytest.skip(f"{references} has no clone of {REFERENCE}")
    pytest.importorskip("einops", reason="pip install --no-deps einops")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(references, "torchscale"))
        wrappers = SimpleNamespace(checkpoint_wrapper=None, wrap=None)
        patch.setitem(sys.modules, "fairscale.nn", wrappers)
        patch.setitem(sys.modules, "timm.models.layers", SimpleNamespace(drop_path=None))
        yield importlib.import_module("torchscale.model.BEiT3")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchscale"]:
        del sys.modules[name]


def _build(official: ModuleType, spec: BEiT3Spec) -> nn.Module:
    """Build the reference for a square view of `spec.image_hw[0]`, the only kind it knows."""
    config = importlib.import_module("torchscale.architecture.config")
    return official.BEiT3(
        config.EncoderConfig(
            encoder_embed_dim=spec.width, encoder_layers=spec.depth,
            encoder_attention_heads=spec.heads, encoder_ffn_embed_dim=spec.ffn_width,
            img_size=spec.image_hw[0], patch_size=spec.patch, vocab_size=spec.vocabulary,
            max_source_positions=spec.max_positions, multiway=True, no_output_layer=True,
        )
    )  # fmt: skip


def _reference(official: ModuleType, spec: BEiT3Spec) -> nn.Module:
    """Give the reference the view of `spec`, square or not, and a value in every parameter."""
    torch.manual_seed(0)
    model = _build(official, spec)
    model.vision_embed.img_size = spec.image_hw
    model.encoder.embed_positions.A = official.PositionalEmbedding(
        2 + spec.image_tokens, spec.width
    )
    for each in model.parameters():
        each.data += 0.1 * torch.randn_like(each)
    return model.eval().requires_grad_(False)


def _ours(reference: nn.Module, spec: BEiT3Spec) -> BEiT3:
    model = BEiT3(spec)
    model.load_state_dict(reference.state_dict())
    return model.eval().requires_grad_(False)


def _inputs(spec: BEiT3Spec) -> tuple[Tensor, Tensor]:
    """An image for each of four phrases, from one word to as many as there are positions."""
    longest = spec.max_positions - 2
    lengths = torch.tensor([1, 4, longest - 1, longest])
    token_ids = torch.randint(4, spec.vocabulary, (len(lengths), longest))
    token_ids[torch.arange(longest) >= lengths[:, None]] = spec.pad_id
    return torch.randn(len(lengths), 3, *spec.image_hw), token_ids


def _expected(reference: nn.Module, spec: BEiT3Spec, image: Tensor, token_ids: Tensor) -> Tensor:
    padding = token_ids == spec.pad_id
    states = reference(token_ids, image, text_padding_position=padding)["encoder_out"]
    assert states.std() > 0.1
    return states


@pytest.mark.parametrize("size", ["base", "large"])
def test_official_layouts(official, size):
    with torch.device("meta"):
        reference = _build(official, BEIT3_SPECS[size])
        ours = BEiT3(BEIT3_SPECS[size])
    assert _shapes(ours) == _shapes(reference)
    assert _epsilons(ours) == _epsilons(reference)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: each.shape for name, each in model.state_dict().items()}


def _epsilons(model: nn.Module) -> dict[str, float]:
    return {name: each.eps for name, each in model.named_modules() if hasattr(each, "eps")}


@pytest.mark.parametrize("size", SPECS)
def test_all_states(official, size, report_parity):
    spec = SPECS[size]
    reference = _reference(official, spec)
    image, token_ids = _inputs(spec)
    found = _ours(reference, spec)(image, token_ids)
    max_abs = (found - _expected(reference, spec, image, token_ids)).abs().max().item()
    report_parity(f"BEiT-3 {size}: all states", REFERENCE, max_abs)
    assert max_abs <= 1e-4


@pytest.mark.parametrize("size", SPECS)
def test_class_token(official, size, report_parity):
    spec = SPECS[size]
    reference = _reference(official, spec)
    image, token_ids = _inputs(spec)
    found = _ours(reference, spec).class_token(image, token_ids)
    expected = _expected(reference, spec, image, token_ids)[:, :1]
    max_abs = (found - expected).abs().max().item()
    report_parity(f"BEiT-3 {size}: class token", REFERENCE, max_abs)
    assert expected.std(0).max() > 0.1
    assert max_abs <= 1e-4
