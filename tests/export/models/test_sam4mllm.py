import pytest
import torch

from saymask.export.models.efficientvit import EFFICIENTVIT_SPECS
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS, Sam4mllm

OFFICIAL = "efficientvit-xl1-llava-next-8b"


def test_official_sizes():
    with torch.device("meta"):
        network = Sam4mllm(SAM4MLLM_SPECS[OFFICIAL])
    sizes = [
        sum(each.numel() for each in part.parameters())
        for part in (network.visual_model, network.model)
    ]
    assert sizes == [203_346_128, 303_507_456 + 20_979_712 + 4096]
    assert {name.partition(".")[0] for name in network.state_dict()} == {"model", "visual_model"}


@pytest.mark.parametrize(
    ("variant", "size", "choice"), [(OFFICIAL, "xl1", "best"), ("mini", "mini", "single")]
)
def test_each_variant_has_its_sam_and_its_mask(variant, size, choice):
    spec = SAM4MLLM_SPECS[variant].visual_model
    assert spec.mask_choice == choice
    assert spec.image_encoder is EFFICIENTVIT_SPECS[size]
