import numpy as np
import pytest
import torch

from saymask.export.models.evf_sam import EVF_SAM_SPECS
from saymask.export.models.sam_visual import SamVisualModel
from saymask.train.embeddings import embed_scenes
from saymask.train.views import normalized


@pytest.fixture(scope="module")
def visual_model() -> SamVisualModel:
    torch.manual_seed(0)
    return SamVisualModel(EVF_SAM_SPECS["mini"].visual_model)


def test_embeddings_are_the_encoders(visual_model, cache, mini_views, tmp_path):
    path = tmp_path / "new" / "embeddings.npy"
    embeddings = embed_scenes(visual_model, cache, mini_views[0], path)
    assert embeddings.dtype == np.float16
    assert embeddings.shape == (24, 128, 15, 20)
    with torch.no_grad():
        images = normalized(cache.views["sam"][4:6], mini_views[0])
        truth = visual_model.image_encoder.eval()(images).numpy()
    np.testing.assert_allclose(embeddings[4:6], truth, rtol=2e-3, atol=2e-3)
    assert [file.name for file in path.parent.iterdir()] == ["embeddings.npy"]


def test_embeddings_that_are_there_are_not_made_again(visual_model, cache, mini_views, tmp_path):
    kept = np.ones((24, 2), np.float16)
    np.save(tmp_path / "embeddings.npy", kept)
    found = embed_scenes(visual_model, cache, mini_views[0], tmp_path / "embeddings.npy")
    np.testing.assert_array_equal(found, kept)
