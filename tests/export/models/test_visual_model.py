import pytest
import torch

from saymask.export.models.evf_sam import EVF_SAM_SPECS, VISUAL_MODELS
from saymask.export.models.visual_model import VisualModel

KINDS = {type(spec.visual_model): spec.visual_model for spec in EVF_SAM_SPECS.values()}


def test_every_kind_has_a_variant():
    assert KINDS.keys() == VISUAL_MODELS.keys()


@pytest.mark.parametrize("kind", VISUAL_MODELS)
def test_every_kind_keeps_the_contract(kind):
    spec = KINDS[kind]
    with torch.device("meta"):
        model = VISUAL_MODELS[kind](spec).eval()
        features = model.encode(torch.zeros(1, 3, *spec.image_hw))
        logits, iou = model.decode(features, torch.zeros(3, 1, spec.mask_decoder.width))
    assert isinstance(model, VisualModel)
    assert model.mask_choice in model.mask_choices
    assert len(features) == len(model.feature_names)
    rows, columns = spec.mask_decoder.grid_hw
    assert logits.shape == (3, 1, 4 * rows, 4 * columns)
    assert iou.shape == (3, 1)
