import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam import LayerNorm2d, MaskDecoder, PromptEncoder, SamSpec

OFFICIAL = EVF_SAM_SPECS["efficientvit-l0-beit3-base"].visual_model.mask_decoder
SMALL = SamSpec(
    width=16, heads=4, mlp_width=24, grid_hw=(3, 5), frame_hw=(24, 40), eps=OFFICIAL.eps
)
ALL_MASKS = slice(0, 4)


@pytest.fixture(scope="module")
def prompt_encoder() -> PromptEncoder:
    torch.manual_seed(0)
    return PromptEncoder(SMALL).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mask_decoder() -> MaskDecoder:
    torch.manual_seed(1)
    return MaskDecoder(SMALL).eval().requires_grad_(False)


@pytest.fixture
def embedding() -> torch.Tensor:
    return torch.randn(1, SMALL.width, *SMALL.grid_hw, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def sparse() -> torch.Tensor:
    """Two prompts of three tokens."""
    return torch.randn(2, 3, SMALL.width, generator=torch.Generator().manual_seed(3))


def _fourier(encoder: PromptEncoder, x: float, y: float) -> torch.Tensor:
    """Embed a place in pixels as the paper's appendix says it."""
    height, width = SMALL.frame_hw
    place = torch.tensor([(x + 0.5) / width, (y + 0.5) / height]) * 2 - 1
    phase = 2 * math.pi * place @ encoder.pe_layer.positional_encoding_gaussian_matrix
    return torch.cat([phase.sin(), phase.cos()])


def test_official_size_and_names():
    with torch.device("meta"):
        parts = nn.ModuleDict(
            {"prompt_encoder": PromptEncoder(OFFICIAL), "mask_decoder": MaskDecoder(OFFICIAL)}
        )
    state = parts.state_dict()
    assert sum(each.numel() for each in parts.parameters()) == 4_064_560
    assert len(state) == 137
    cross = "mask_decoder.transformer.layers.1.cross_attn_image_to_token"
    for name, shape in {
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        "prompt_encoder.point_embeddings.3.weight": (1, 256),
        "prompt_encoder.not_a_point_embed.weight": (1, 256),
        "prompt_encoder.no_mask_embed.weight": (1, 256),
        "prompt_encoder.mask_downscaling.6.weight": (256, 16, 1, 1),
        "mask_decoder.iou_token.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
        f"{cross}.q_proj.weight": (128, 256),
        f"{cross}.out_proj.weight": (256, 128),
        "mask_decoder.transformer.layers.0.mlp.lin1.weight": (2048, 256),
        "mask_decoder.transformer.norm_final_attn.weight": (256,),
        "mask_decoder.output_upscaling.0.weight": (256, 64, 2, 2),
        "mask_decoder.output_upscaling.1.weight": (64,),
        "mask_decoder.output_upscaling.3.weight": (64, 32, 2, 2),
        "mask_decoder.output_hypernetworks_mlps.3.layers.2.weight": (32, 256),
        "mask_decoder.iou_prediction_head.layers.2.weight": (4, 256),
    }.items():
        assert state[name].shape == shape, name


def test_token_norms_take_the_specs_epsilon_and_maps_their_own():
    decoder = MaskDecoder(replace(SMALL, eps=1e-5))
    assert {each.eps for each in decoder.modules() if isinstance(each, nn.LayerNorm)} == {1e-5}
    assert {each.eps for each in decoder.modules() if isinstance(each, LayerNorm2d)} == {1e-6}
    assert OFFICIAL.eps == 1e-6


def test_layer_norm_of_maps_is_torchs_over_the_channels():
    torch.manual_seed(0)
    norm = LayerNorm2d(6, eps=0.1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    features = 3 * torch.randn(2, 6, 4, 5) + 1
    last = functional.layer_norm(features.movedim(1, -1), (6,), norm.weight, norm.bias, eps=0.1)
    torch.testing.assert_close(norm(features), last.movedim(-1, 1))


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_a_point_is_the_place_of_its_pixels_middle_and_its_kind(prompt_encoder, label):
    found = prompt_encoder.points(torch.tensor([[[30.0, 7.0]]]), torch.tensor([[label]]))
    kind = prompt_encoder.point_embeddings[label].weight[0]
    torch.testing.assert_close(found[0, 0], _fourier(prompt_encoder, 30, 7) + kind)


def test_no_point_has_no_place(prompt_encoder):
    places = torch.tensor([[[0.0, 0.0], [33.0, 20.0]]])
    found = prompt_encoder.points(places, torch.full((1, 2), -1))
    assert (found[0] == prompt_encoder.not_a_point_embed.weight).all()


def test_a_box_is_its_two_corners(prompt_encoder):
    boxes_xyxy = torch.tensor([[1.0, 2.0, 30.0, 20.0], [5.0, 6.0, 7.0, 8.0]])
    corners = boxes_xyxy.reshape(2, 2, 2)
    expected = prompt_encoder.points(corners, torch.tensor([[2, 3], [2, 3]]))
    assert (prompt_encoder.boxes(boxes_xyxy) == expected).all()


def test_dense_positions_are_the_middles_of_the_cells(prompt_encoder):
    positions = prompt_encoder.dense_positions()
    assert positions.shape == (1, SMALL.width, *SMALL.grid_hw)
    for row, column in ((0, 0), (2, 1), (1, 4)):
        place = _fourier(prompt_encoder, 8 * column + 3.5, 8 * row + 3.5)
        torch.testing.assert_close(positions[0, :, row, column], place, atol=1e-5, rtol=0)


def test_masks_shrink_to_the_grid(prompt_encoder):
    rows, columns = SMALL.grid_hw
    found = prompt_encoder.masks(torch.randn(2, 1, 4 * rows, 4 * columns))
    assert found.shape == (2, SMALL.width, rows, columns)
    assert prompt_encoder.no_mask().shape == (1, SMALL.width, 1, 1)


@pytest.mark.parametrize("index", [0, 1])
def test_the_first_layer_alone_has_no_residual_and_no_positions(mask_decoder, sparse, index):
    layer = mask_decoder.transformer.layers[index]
    cells = torch.randn(2, 15, SMALL.width)
    seen = []
    hook = layer.norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    positions = torch.randn_like(sparse)
    layer(sparse, cells, positions, torch.zeros_like(cells))
    hook.remove()
    if index == 0:
        expected = layer.self_attn(sparse, sparse, sparse)
    else:
        query = sparse + positions
        expected = sparse + layer.self_attn(query, query, sparse)
    torch.testing.assert_close(seen[0], expected)


def test_tokens_keep_their_first_values_as_positions(mask_decoder, sparse):
    transformer, cells = mask_decoder.transformer, torch.randn(2, 15, SMALL.width)
    nowhere = torch.zeros_like(cells)
    tokens, image = sparse, cells
    for layer in transformer.layers:
        tokens, image = layer(tokens, image, sparse, nowhere)
    look = transformer.final_attn_token_to_image(tokens + sparse, image, image)
    found, seen = transformer(cells, nowhere, sparse)
    torch.testing.assert_close(found, transformer.norm_final_attn(tokens + look))
    torch.testing.assert_close(seen, image)


def test_a_slice_of_the_masks_is_that_slice(mask_decoder, prompt_encoder, embedding, sparse):
    def decode(masks: slice) -> tuple[torch.Tensor, torch.Tensor]:
        positions, no_mask = prompt_encoder.dense_positions(), prompt_encoder.no_mask()
        return mask_decoder(embedding, positions, sparse, no_mask, masks)

    every, iou = decode(ALL_MASKS)
    assert every.shape == (2, 4, 12, 20)
    assert iou.shape == (2, 4)
    for masks in (slice(0, 1), slice(1, 4)):
        some, some_iou = decode(masks)
        torch.testing.assert_close(some, every[:, masks])
        torch.testing.assert_close(some_iou, iou[:, masks])


def test_prompts_share_an_image_or_bring_their_own(mask_decoder, prompt_encoder, embedding, sparse):
    positions = prompt_encoder.dense_positions()
    images = torch.cat([embedding, -embedding])
    dense = torch.randn(2, SMALL.width, *SMALL.grid_hw)
    together, _ = mask_decoder(images, positions, sparse, dense, ALL_MASKS)
    shared, _ = mask_decoder(embedding, positions, sparse, dense, ALL_MASKS)
    for row in range(2):
        one = slice(row, row + 1)
        alone, _ = mask_decoder(images[one], positions, sparse[one], dense[one], ALL_MASKS)
        torch.testing.assert_close(together[one], alone)
    torch.testing.assert_close(shared[:1], together[:1])
    assert (shared[1] - together[1]).abs().max() > 1e-3
