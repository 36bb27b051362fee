import pytest
import torch

from saymask.export.models.evf_sam import EVF_SAM_SPECS, VISUAL_MODELS, EvfSam
from saymask.export.models.sam_visual import SamVisualSpec

WORDS = torch.tensor([[0, 7, 9, 2, 1], [0, 11, 5, 6, 2]])


@pytest.mark.parametrize(
    ("variant", "parameters", "tensors"),
    [
        ("efficientvit-l0-beit3-base", 34_792_784 + 220_987_392 + 787_456, 409 + 491 + 4),
        ("efficientvit-xl1-beit3-large", 203_346_128 + 672_702_464 + 1_312_000, 701 + 971 + 4),
        ("sam-h-beit3-large", 1_315_105_072, 1569),
        ("sam-h-beit3-base", 862_865_456, 1089),
        ("efficientsam-s-beit3-large", 700_427_492, 1253),
        ("efficientsam-ti-beit3-base", 231_998_052, 773),
    ],
)
def test_official_sizes(variant, parameters, tensors):
    with torch.device("meta"):
        network = EvfSam(EVF_SAM_SPECS[variant])
    assert sum(each.numel() for each in network.parameters()) == parameters
    state = network.state_dict()
    assert len(state) == tensors
    assert state["mm_extractor.beit3.vision_embed.cls_token"].ndim == 3
    assert state["text_hidden_fcs.0.2.weight"].shape[0] == 256


@pytest.mark.parametrize("variant", EVF_SAM_SPECS)
def test_the_parts_of_a_variant_fit_each_other(variant):
    spec = EVF_SAM_SPECS[variant]
    visual, beit = spec.visual_model, spec.multimodal_encoder
    decoder = visual.mask_decoder
    if isinstance(visual, SamVisualSpec):
        assert visual.image_encoder.out_width == decoder.width
        assert visual.image_encoder.grid_hw == decoder.grid_hw
    assert visual.mask_choice in VISUAL_MODELS[type(visual)].mask_choices
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
    embedding = torch.randn(1, 32, *tiny_spec.visual_model.mask_decoder.grid_hw)
    states = tiny_network.mm_extractor["beit3"](image, WORDS)
    prompt = tiny_network.prompt(image, WORDS)
    assert prompt.shape == (2, 1, 32)
    torch.testing.assert_close(prompt, tiny_network.text_hidden_fcs[0](states[:, :1]))
    logits, iou = tiny_network.visual_model.decode((embedding,), prompt)
    assert logits.shape == (2, 1, 48, 64)
    assert iou.shape == (2, 1)
    torch.testing.assert_close(tiny_network((embedding,), image, WORDS), logits)


@torch.no_grad()
def test_the_single_mask_is_decoded_without_a_mask_prompt(tiny_network, tiny_spec):
    visual_model = tiny_network.visual_model
    embedding = torch.randn(1, 32, *tiny_spec.visual_model.mask_decoder.grid_hw)
    sparse = torch.randn(2, 1, 32)
    prompts = visual_model.prompt_encoder
    every, iou = visual_model.mask_decoder(
        embedding, prompts.dense_positions(), sparse, prompts.no_mask(), slice(0, 4)
    )
    logits, best = visual_model.decode((embedding,), sparse)
    torch.testing.assert_close(logits, every[:, :1])
    torch.testing.assert_close(best, iou[:, :1])
