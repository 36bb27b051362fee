import numpy as np
import pytest
import torch

from saymask.runtime.geometry import fit
from saymask.train.views import normalized
from saymask.train.world.compose import compose
from saymask.train.world.draw import draw


def test_pixels_are_normalized_channel_by_channel(mini_views):
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = 255, 0, 128
    image = normalized(pixels, mini_views[0])
    assert image.dtype == torch.float32
    assert image.shape == (2, 3, 4, 5)
    by_hand = [(255 - 123.675) / 58.395, (0 - 116.28) / 57.12, (128 - 103.53) / 57.375]
    assert image[1, :, 2, 3].tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize("which", [0, 1])
def test_training_sees_what_the_runtime_shows(cache, cache_recipe, mini_views, which):
    view = mini_views[which]
    scene = compose(cache_recipe.first_seed, cache_recipe.split)
    shown, _ = fit(draw(scene, cache_recipe.frame_hw).image_hwc, view)
    mean, std = (
        np.array(values, np.float32)[:, None, None] for values in (view.mean_rgb, view.std_rgb)
    )
    pixels = (shown[0] * std + mean).clip(0, 255)  # a bicubic view may overshoot, a cached one not
    cached = normalized(cache.views[view.name][:1], view)[0].numpy() * std + mean
    assert np.abs(cached - pixels).max() <= 0.501
