import pytest
import torch
from torch import Tensor, nn

from saymask.export.models import sam
from saymask.export.models.efficient_sam import EFFICIENT_SAM_SPECS
from saymask.export.models.efficient_sam_decoder import MLP, MaskDecoder, PromptEncoder

OFFICIAL = EFFICIENT_SAM_SPECS["ti"].mask_decoder
SMALL = sam.SamSpec(
    width=16, heads=4, mlp_width=24, grid_hw=(3, 5), frame_hw=(24, 40), eps=OFFICIAL.eps
)
ALL_MASKS = slice(0, 4)


@pytest.fixture(scope="module")
def decoder() -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(SMALL).eval().requires_grad_(False)


@pytest.fixture
def positions() -> Tensor:
    torch.manual_seed(1)
    return PromptEncoder(SMALL).dense_positions()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(1, SMALL.width, *SMALL.grid_hw, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def sparse() -> Tensor:
    """Two prompts of three tokens."""
    return torch.randn(2, 3, SMALL.width, generator=torch.Generator().manual_seed(3))


def test_official_size_and_names():
    with torch.device("meta"):
        parts = nn.ModuleDict(
            {"prompt_encoder": PromptEncoder(OFFICIAL), "mask_decoder": MaskDecoder(OFFICIAL)}
        )
    state = parts.state_dict()
    assert sum(each.numel() for each in parts["mask_decoder"].parameters()) == 4_058_340
    for name, shape in {
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": (2, 128),
        "prompt_encoder.invalid_points.weight": (1, 256),
        "prompt_encoder.point_embeddings.weight": (1, 256),
        "prompt_encoder.bbox_top_left_embeddings.weight": (1, 256),
        "prompt_encoder.bbox_bottom_right_embeddings.weight": (1, 256),
        "mask_decoder.iou_token.weight": (1, 256),
        "mask_decoder.mask_tokens.weight": (4, 256),
        "mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight": (128, 256),
        "mask_decoder.transformer.layers.0.mlp.layers.0.0.weight": (2048, 256),
        "mask_decoder.transformer.layers.0.mlp.fc.weight": (256, 2048),
        "mask_decoder.transformer.norm_final_attn.weight": (256,),
        "mask_decoder.final_output_upscaling_layers.0.0.weight": (256, 64, 2, 2),
        "mask_decoder.final_output_upscaling_layers.0.1.weight": (64,),
        "mask_decoder.final_output_upscaling_layers.1.0.weight": (64, 32, 2, 2),
        "mask_decoder.output_hypernetworks_mlps.3.layers.1.0.weight": (256, 256),
        "mask_decoder.output_hypernetworks_mlps.3.fc.weight": (32, 256),
        "mask_decoder.iou_prediction_head.layers.0.0.bias": (256,),
        "mask_decoder.iou_prediction_head.fc.weight": (4, 256),
    }.items():
        assert state[name].shape == shape, name


def test_dense_positions_are_sams():
    torch.manual_seed(4)
    ours, theirs = PromptEncoder(SMALL), sam.PromptEncoder(SMALL)
    theirs.pe_layer.load_state_dict(ours.pe_layer.state_dict())
    torch.testing.assert_close(ours.dense_positions(), theirs.dense_positions())


def test_token_norms_take_the_specs_epsilon(decoder):
    norms = [each for each in decoder.modules() if isinstance(each, nn.LayerNorm)]
    assert len(norms) == 9
    assert {norm.eps for norm in norms} == {1e-5}


@pytest.mark.parametrize("index", [0, 1])
def test_tokens_meet_with_a_residual_and_keep_the_second_layers_positions(decoder, sparse, index):
    layer = decoder.transformer.layers[index]
    cells, places, cell_places = torch.randn(2, 15, 16), torch.randn(2, 3, 16), torch.randn(15, 16)
    met = sparse if index == 0 else sparse + places
    tokens = layer.norm1(met + layer.self_attn(met, met, met))
    key = cells + cell_places
    look = layer.cross_attn_token_to_image(tokens + places, key, cells)
    tokens = layer.norm2(tokens + look)
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    look = layer.cross_attn_image_to_token(key, tokens + places, tokens)
    found_tokens, found_cells = layer(sparse, cells, places, cell_places)
    torch.testing.assert_close(found_tokens, tokens)
    torch.testing.assert_close(found_cells, layer.norm4(cells + look))


def test_masks_are_their_tokens_on_the_image_alone(decoder, image, positions, sparse):
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(2, -1, -1)
    tokens, cells = decoder.transformer(
        image.flatten(2).mT.expand(2, -1, -1),
        positions.flatten(2).mT,
        torch.cat([own, sparse], dim=1),
    )
    upscaled = cells.mT.reshape(2, SMALL.width, 3, 5)
    for layer in decoder.final_output_upscaling_layers:
        upscaled = layer(upscaled)
    logits, iou = decoder(image, positions, sparse, ALL_MASKS)
    for index, head in enumerate(decoder.output_hypernetworks_mlps):
        expected = (head(tokens[:, 1 + index])[:, :, None, None] * upscaled).sum(1)
        torch.testing.assert_close(logits[:, index], expected)
    torch.testing.assert_close(iou, decoder.iou_prediction_head(tokens[:, 0]))


def test_the_mlps_have_an_exact_gelu_behind_each_map_but_the_last():
    torch.manual_seed(5)
    mlp, tokens = MLP(4, 6, 3, depth=2), torch.randn(7, 4)
    hidden = tokens
    for linear, _ in mlp.layers:
        hidden = linear(hidden)
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(mlp(tokens), mlp.fc(hidden))


def test_the_upscaling_is_normalised_over_the_whole_map(decoder):
    cells = torch.randn(2, SMALL.width, 3, 5)
    convolution, norm, _ = decoder.final_output_upscaling_layers[0]
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    wide = convolution(cells)
    centered = wide - wide.mean((1, 2, 3), keepdim=True)
    normed = centered / (centered.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    expected = norm.weight[:, None, None] * normed + norm.bias[:, None, None]
    torch.testing.assert_close(norm(wide), expected)


def test_a_slice_of_the_masks_is_that_slice(decoder, image, positions, sparse):
    every, iou = decoder(image, positions, sparse, ALL_MASKS)
    assert every.shape == (2, 4, 12, 20)
    assert iou.shape == (2, 4)
    for masks in (slice(0, 1), slice(1, 4)):
        some, some_iou = decoder(image, positions, sparse, masks)
        torch.testing.assert_close(some, every[:, masks])
        torch.testing.assert_close(some_iou, iou[:, masks])


def test_prompts_share_an_image_or_bring_their_own(decoder, image, positions, sparse):
    images = torch.cat([image, -image])
    together, _ = decoder(images, positions, sparse, ALL_MASKS)
    shared, _ = decoder(image, positions, sparse, ALL_MASKS)
    alone, _ = decoder(-image, positions, sparse[1:], ALL_MASKS)
    torch.testing.assert_close(together, torch.cat([shared[:1], alone]))
    assert (shared[1] - together[1]).abs().max() > 1e-3
