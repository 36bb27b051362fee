import pytest
import torch
from torch import Tensor

from saymask.export.dialect import guess, match
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam

OFFICIAL = [variant for variant in EVF_SAM_SPECS if "-beit3-" in variant]
TITLES = {
    "efficientsam-s": "EfficientSAM-S",
    "efficientsam-ti": "EfficientSAM-Ti",
    "efficientvit-l0": "EfficientViT-SAM-L0",
    "efficientvit-l1": "EfficientViT-SAM-L1",
    "efficientvit-l2": "EfficientViT-SAM-L2",
    "efficientvit-xl0": "EfficientViT-SAM-XL0",
    "efficientvit-xl1": "EfficientViT-SAM-XL1",
    "sam-b": "SAM ViT-B",
    "sam-h": "SAM ViT-H",
    "sam-l": "SAM ViT-L",
    "sam2-b+": "SAM-2 base+",
    "sam2-l": "SAM-2 large",
    "sam2-s": "SAM-2 small",
    "sam2-t": "SAM-2 tiny",
}
WANTED = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
SCALE = "visual_model.memory_encoder.fuser.layers.0"


def _state(variant: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        return EvfSam(EVF_SAM_SPECS[variant]).state_dict()


def _named(*names: str) -> list[tuple[str, Tensor]]:
    return [(name, torch.zeros(1)) for name in names]


def test_what_fits_is_given_under_the_networks_names():
    stored = [(f"module.{name}", value + 1) for name, value in WANTED.items()]
    found = match(stored, WANTED)
    assert not found.misfits
    assert set(found.tensors) == set(WANTED)
    assert all((value == 1).all() for value in found.tensors.values())


def test_every_kind_of_misfit_is_told():
    stored = [
        ("a.weight", torch.zeros(3, 2)),
        ("module.a.weight", torch.zeros(2, 3)),
        ("b", torch.zeros(1)),
    ]
    assert match(stored, WANTED).misfits == (
        "a.bias is missing",
        "a.weight comes twice, as a.weight and module.a.weight",
        "b is unknown",
        "a.weight is (3, 2), not (2, 3)",
    )


@pytest.mark.parametrize("spelling", ["gamma", "weight"])
def test_sam2s_scale_has_two_names(spelling):
    value = torch.arange(3)
    found = match([(f"module.{SCALE}.{spelling}", value)], {f"{SCALE}.weight": torch.zeros(3)})
    assert not found.misfits
    assert found.tensors[f"{SCALE}.weight"] is value


def test_two_names_of_one_tensor_are_too_many():
    stored = _named(f"{SCALE}.gamma", f"{SCALE}.weight")
    (misfit,) = match(stored, {f"{SCALE}.weight": torch.zeros(1)}).misfits
    assert misfit == f"{SCALE}.weight comes twice, as {SCALE}.gamma and {SCALE}.weight"


@pytest.mark.parametrize(
    "name",
    [
        "vision_model.embeddings.position_ids",
        "model.layers.3.self_attn.rotary_emb.inv_freq",
        "mm_extractor.beit3.vision_embed.mask_token",
        "mlm_head.weight",
        "visual_model.memory_attention.layers.0.norm1.weight",
        f"{SCALE}.gamma",
        "visual_model.maskmem_tpos_enc",
        "module.visual_model.no_obj_ptr",
    ],
)
def test_what_a_network_need_not_have_is_left_over(name):
    found = match(_named(name), {})
    assert not found.misfits
    assert found.leftovers == (name,)
    assert set(match(_named(name), {name: torch.zeros(1)}).tensors) == {name}


@pytest.mark.parametrize(
    "name", ["memory.weight", "visual_model.no_mem_embed", "a.position_ids.weight", "mask_token"]
)
def test_nothing_else_is_left_over(name):
    assert match(_named(name), {}).misfits == (f"{name} is unknown",)


@pytest.mark.parametrize("variant", OFFICIAL)
def test_each_variant_and_its_parts_are_recognised(variant):
    state = _state(variant)
    image, words = variant.split("-beit3-")
    assert guess(list(state.items())) == f"evf-sam {variant}"
    assert guess([(f"module.{name}", value) for name, value in state.items()]).endswith(variant)
    for prefix, title in (
        ("visual_model.", TITLES[image]),
        ("mm_extractor.", f"BEiT-3 {words}"),
    ):
        part = [(name[len(prefix) :], value) for name, value in state.items() if prefix in name]
        assert guess(part).startswith(f"{title}, a part of ")


@pytest.mark.parametrize(
    ("names", "whose"),
    [
        (["model.embed_tokens.weight", "model.segmentator_predictor.0.weight"], "SegLLM"),
        (["model.mm_projector.0.weight", "model.segmentator.hipie.detr.detr.x"], "SegLLM"),
        (
            [
                "model.text_hidden_fcs.0.0.weight",
                "model.visual_model.mask_decoder.compress_vit.0.a",
            ],
            "M2SA",
        ),
        (["model.mm_projector.weight", "model.text_hidden_fcs.0.0.weight"], "LISA, from"),
        (["model.mm_projector.0.weight", "lm_head.weight"], "LLaVA, from which"),
        (["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"], "a LoRA adapter"),
    ],
)
def test_other_systems_are_recognised_by_their_names(names, whose):
    assert guess(_named(*names)).startswith(whose)


def test_what_is_not_known_is_not_guessed():
    assert guess(_named("encoder.weight", "lora.weight")) == ""
    assert guess(list(_state("mini").items())) == ""
