from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from saymask.export.graph import Stage, trace
from saymask.export.models.hiera import HIERA_SPECS
from saymask.export.models.sam2 import (
    MASK_CHOICES,
    SAM2_SPECS,
    Answer,
    Sam2Spec,
    Sam2VisualModel,
    is_stable,
)

TENSORS = {"tiny": 311, "small": 359, "base-plus": 455, "large": 743}
SMALL = Sam2Spec(
    image_encoder=replace(
        HIERA_SPECS["mini"], image_hw=(64, 96), width=8, depths=(1, 1, 1, 1), out_width=32
    ),
    mask_decoder=replace(
        SAM2_SPECS["mini"].mask_decoder,
        width=32,
        heads=4,
        mlp_width=24,
        grid_hw=(4, 6),
        frame_hw=(64, 96),
    ),
    mask_choice="best",
)


def _network(choice: str = "best") -> Sam2VisualModel:
    """Build a small SAM-2, always the same, in which no parameter is trivial."""
    torch.manual_seed(0)
    network = Sam2VisualModel(replace(SMALL, mask_choice=choice)).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.fixture(scope="module")
def network() -> Sam2VisualModel:
    return _network()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def features(network, image) -> tuple[torch.Tensor, ...]:
    return network.encode(image)


@pytest.fixture(scope="module")
def sparse() -> torch.Tensor:
    """Four prompts of one token."""
    return 3 * torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(2))


def _answer(iou: list[list[float]], logits: torch.Tensor) -> Answer:
    """Answer with masks float (batch, 4, height, width) as they are, tokens numbering them."""
    batch, masks = logits.shape[:2]
    kernels = torch.eye(masks).expand(batch, -1, -1)
    tokens = torch.arange(4.0).reshape(1, 4, 1).expand(batch, 4, 1)
    return Answer(tokens, kernels, torch.tensor(iou), logits, torch.zeros(batch, 1))


@pytest.mark.parametrize("size", TENSORS)
def test_official_sizes(size):
    with torch.device("meta"):
        network = Sam2VisualModel(SAM2_SPECS[size])
    parts = network.sam_prompt_encoder, network.sam_mask_decoder
    assert [sum(p.numel() for p in part.parameters()) for part in parts] == [6_220, 4_215_109]
    assert len(network.state_dict()) == TENSORS[size]


def test_official_names_and_shapes():
    with torch.device("meta"):
        state = Sam2VisualModel(SAM2_SPECS["large"]).state_dict()
    decoder = "sam_mask_decoder"
    for name, shape in {
        "no_mem_embed": (1, 1, 256),
        "image_encoder.trunk.blocks.0.norm1.weight": (144,),
        "image_encoder.neck.convs.0.conv.bias": (256,),
        "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        f"{decoder}.obj_score_token.weight": (1, 256),
        f"{decoder}.transformer.layers.1.mlp.layers.0.weight": (2048, 256),
        f"{decoder}.pred_obj_score_head.layers.2.weight": (1, 256),
        f"{decoder}.iou_prediction_head.layers.2.weight": (4, 256),
        f"{decoder}.conv_s0.weight": (32, 256, 1, 1),
        f"{decoder}.conv_s1.weight": (64, 256, 1, 1),
    }.items():
        assert state[name].shape == shape, name
    assert not any(".lin1." in name for name in state)


@pytest.mark.parametrize("size", SAM2_SPECS)
def test_the_parts_of_a_size_fit_each_other(size):
    spec = SAM2_SPECS[size]
    image, decoder = spec.image_encoder, spec.mask_decoder
    assert image.out_width == decoder.width
    assert image.image_hw == decoder.frame_hw
    assert decoder.grid_hw == tuple(extent // 16 for extent in image.image_hw)
    assert decoder.eps == 1e-5


def test_a_frame_without_a_past_says_so(network, image, features):
    embedding, *finer = network.look(image)
    assert len(features) == len(network.feature_names)
    assert (network.no_mem_embed != 0).all()
    torch.testing.assert_close(features[0], embedding + network.no_mem_embed.reshape(1, 32, 1, 1))
    for found, expected in zip(features[1:], finer, strict=True):
        torch.testing.assert_close(found, expected)
    assert [tuple(each.shape) for each in features] == [
        (1, 32, 4, 6),
        (1, 8, 8, 12),
        (1, 4, 16, 24),
    ]
    _, stride8, stride4 = network.image_encoder(image)
    torch.testing.assert_close(features[1], network.sam_mask_decoder.conv_s1(stride8))
    torch.testing.assert_close(features[2], network.sam_mask_decoder.conv_s0(stride4))


def test_object_and_iou_tokens_come_before_the_masks(network, features, sparse):
    decoder, seen = network.sam_mask_decoder, []
    hook = decoder.transformer.register_forward_hook(
        lambda _, inputs, out: seen.append((inputs[2], out[0]))
    )
    answer = network.answer(features, sparse)
    hook.remove()
    ((tokens, after),) = seen
    own = decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens
    expected = torch.cat([each.weight for each in own])
    torch.testing.assert_close(tokens[:, :6], expected.expand(4, -1, -1))
    torch.testing.assert_close(tokens[:, 6:], sparse)
    torch.testing.assert_close(answer.object_logit, decoder.pred_obj_score_head(after[:, 0]))
    torch.testing.assert_close(answer.iou, decoder.iou_prediction_head(after[:, 1]).sigmoid())
    torch.testing.assert_close(answer.tokens, after[:, 2:6])


@pytest.mark.parametrize("level", [1, 2])
def test_finer_maps_are_added_before_norm_and_activation(network, features, sparse, level):
    """A constant over a stride-8 map's channels is normed away; over a stride-4 map's it is not."""
    louder = list(features)
    louder[level] = louder[level] + 3
    plain, loud = (network.answer(tuple(f), sparse).pixels for f in (features, louder))
    assert torch.allclose(plain, loud, atol=1e-4) == (level == 1)
    louder[level] = 2 * features[level]
    assert not torch.allclose(plain, network.answer(tuple(louder), sparse).pixels, atol=1e-2)


def test_the_decoder_has_relus_and_no_residual_in_its_first_layer(network):
    layers = network.sam_mask_decoder.transformer.layers
    assert all(isinstance(layer.mlp.activation, nn.ReLU) for layer in layers)
    assert [layer.is_first for layer in layers] == [True, False]


def test_best_never_is_the_single_mask():
    logits = torch.arange(4.0).reshape(1, 4, 1, 1).expand(2, 4, 3, 5) + 1
    found = _answer([[0.9, 0.1, 0.3, 0.2], [0.9, 0.4, 0.3, 0.2]], logits)
    drawn, iou = found.draw("best")
    assert drawn[:, 0, 0, 0].tolist() == [3, 2]
    torch.testing.assert_close(iou, torch.tensor([[0.3], [0.4]]))
    assert found.best().tokens.flatten().tolist() == [2, 1]
    assert found.draw("single")[0].unique().tolist() == [1]


def test_an_unstable_mask_gives_way_phrase_by_phrase():
    logits = torch.full((4, 4, 10, 10), 5.0)
    logits[1, 0, 0, :3] = 0.0  # 97 of 100 pixels stay when the threshold moves up.
    logits[2, 0, 0, :2] = 0.0  # 98 of 100 do, which is just stable.
    logits[3, 0] = -1.0  # No pixel at either threshold.
    logits[:, 2] = 7.0
    drawn, iou = _answer([[0.5, 0.1, 0.8, 0.3]] * 4, logits).draw("stable")
    assert is_stable(logits[:, :1]).flatten().tolist() == [True, False, True, True]
    assert drawn[:, 0, 9, 9].tolist() == [5, 7, 5, -1]
    torch.testing.assert_close(iou, torch.tensor([[0.5], [0.8], [0.5], [0.5]]))


def test_stability_looks_a_twentieth_up_and_down():
    edge = torch.full((1, 4, 1, 2), 1.0)
    edge[..., 1] = torch.tensor([0.04, 0.06, -0.04, -0.06]).reshape(1, 4, 1)
    assert is_stable(edge).tolist() == [[False, True, False, True]]


@torch.no_grad()
@pytest.mark.parametrize("choice", MASK_CHOICES)
def test_phrases_do_not_see_each_other(choice, features, sparse):
    network = _network(choice)
    logits, iou = network.decode(features, sparse)
    assert logits.shape == (4, 1, 16, 24)
    assert iou.shape == (4, 1)
    assert ((iou > 0) & (iou < 1)).all()
    for row in range(4):
        alone, alone_iou = network.decode(features, sparse[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou[row : row + 1], alone_iou)


class Decode(nn.Module):
    """The mask stage as an exporter sees it."""

    def __init__(self, network: Sam2VisualModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_embedding, stride8, stride4, sparse):
        return self.network.decode((image_embedding, stride8, stride4), sparse)


@torch.no_grad()
def test_the_exported_decoder_takes_any_number_of_phrases(features, sparse):
    """The stable choice draws the single and the best mask, so its graph holds all choices."""
    network = _network("stable")
    examples = dict(zip(network.feature_names, features, strict=True)) | {"sparse": sparse[:2]}
    stage = Stage(
        name="mask",
        module=Decode(network),
        examples=examples,
        outputs=("logits", "iou"),
        varying={"sparse": {0: "phrases"}},
    )
    session = onnxruntime.InferenceSession(trace(stage).SerializeToString())
    for phrases in (1, 4):
        feeds = examples | {"sparse": sparse[:phrases]}
        found = session.run(None, {name: each.numpy() for name, each in feeds.items()})
        for each, expected in zip(found, network.decode(features, sparse[:phrases]), strict=True):
            np.testing.assert_allclose(each, expected.numpy(), atol=1e-4, rtol=0)
