import pytest
import torch

from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam

WORDS = torch.tensor([[0, 7, 9, 2, 1], [0, 11, 5, 6, 2]])


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [
        ("efficientvit-l0-beit3-base", 34_792_784 + 220_987_392 + 787_456, 409 + 491 + 4),
        ("efficientvit-xl1-beit3-large", 203_346_128 + 672_702_464 + 1_312_000, 701 + 971 + 4),
    ],
)
def test_official_sizes(variant, parameters, tensors):
    with torch.device("meta"):
        network = EvfSam(EVF_SAM_SPECS[variant])
    assert sum(each.numel() for each in network.parameters()) == parameters
    state = network.state_dict()
    assert len(state) == tensors
    assert state["visual_model.image_encoder.norm.weight"].shape == (256,)
    assert state["mm_extractor.beit3.vision_embed.cls_token"].ndim == 3
    assert state["text_hidden_fcs.0.2.weight"].shape[0] == 256


@pytest.mark.parametrize("variant", EVF_SAM_SPECS)
def test_the_parts_of_a_variant_fit_each_other(variant):
    spec = EVF_SAM_SPECS[variant]
    image, beit, decoder = spec.image_encoder, spec.multimodal_encoder, spec.mask_decoder
    assert image.out_width == decoder.width
    assert image.grid_hw == decoder.grid_hw
    assert len(image.widths) == len(image.depths) == len(image.blocks) == len(image.expansions)
    assert all(extent % beit.patch == 0 for extent in beit.image_hw)
    assert beit.width % beit.heads == 0
    assert decoder.width // 2 % decoder.heads == 0
    assert decoder.frame_hw[0] * decoder.grid_hw[1] == decoder.frame_hw[1] * decoder.grid_hw[0]
    if variant != "mini":
        assert decoder.frame_hw == (1024, 1024), "SAM's prompts live in 1024 pixels at any size"


@torch.no_grad()
def test_a_phrase_prompts_the_decoder_with_its_class_token(tiny_network, tiny_spec):
    torch.manual_seed(1)
    image = torch.randn(1, 3, *tiny_spec.multimodal_encoder.image_hw)
    embedding = torch.randn(1, 32, *tiny_spec.mask_decoder.grid_hw)
    states = tiny_network.mm_extractor["beit3"](image, WORDS)
    prompt = tiny_network.prompt(image, WORDS)
    assert prompt.shape == (2, 1, 32)
    torch.testing.assert_close(prompt, tiny_network.text_hidden_fcs[0](states[:, :1]))
    logits, iou = tiny_network.visual_model.decode(embedding, prompt)
    assert logits.shape == (2, 1, 48, 64)
    assert iou.shape == (2, 1)
    torch.testing.assert_close(tiny_network(embedding, image, WORDS), logits)


@torch.no_grad()
def test_the_single_mask_is_decoded_without_a_mask_prompt(tiny_network, tiny_spec):
    visual_model = tiny_network.visual_model
    embedding = torch.randn(1, 32, *tiny_spec.mask_decoder.grid_hw)
    sparse = torch.randn(2, 1, 32)
    prompts = visual_model.prompt_encoder
    every, iou = visual_model.mask_decoder(
        embedding, prompts.dense_positions(), sparse, prompts.no_mask(), slice(0, 4)
    )
    logits, best = visual_model.decode(embedding, sparse)
    torch.testing.assert_close(logits, every[:, :1])
    torch.testing.assert_close(best, iou[:, :1])
