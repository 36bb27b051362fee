from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from saymask.calibration.session import open_model
from saymask.export.graph import Stage, trace
from saymask.export.models.clip import ClipVisionSpec
from saymask.export.models.llava import LlavaVision, LlavaVisionSpec
from saymask.export.models.sam4mllm import SAM4MLLM_SPECS

TINY = LlavaVisionSpec(
    vision_tower=ClipVisionSpec(
        image_hw=(12, 20), patch=4, width=12, heads=3, layers=3, mlp_width=20
    ),
    language_width=16,
    has_newline=True,
)
OFFICIAL = SAM4MLLM_SPECS["efficientvit-xl1-llava-next-8b"].vision


def _network(spec: LlavaVisionSpec) -> LlavaVision:
    torch.manual_seed(0)
    return LlavaVision(spec).eval().requires_grad_(False)


def _check_graph(network: nn.Module, image_hw: tuple[int, int], *, traced: int, run: int) -> None:
    stage = Stage(
        name="vision",
        module=network,
        examples={"pixels": torch.zeros(traced, 3, *image_hw)},
        outputs=("image_embeddings",),
        varying={"pixels": {0: "tiles"}},
    )
    pixels = torch.randn(run, 3, *image_hw, generator=torch.Generator().manual_seed(1))
    expected = network(pixels).numpy()
    found = open_model(trace(stage), threads=1).run({"pixels": pixels.numpy()})["image_embeddings"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


def test_official_names():
    with torch.device("meta"):
        state = LlavaVision(OFFICIAL).state_dict()
    for name, shape in {
        "vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight": (577, 1024),
        "vision_tower.vision_tower.vision_model.encoder.layers.23.mlp.fc1.weight": (4096, 1024),
        "mm_projector.0.weight": (4096, 1024),
        "mm_projector.2.bias": (4096,),
        "image_newline": (4096,),
    }.items():
        assert state[name].shape == shape, name
    assert len(state) == 391 + 4 + 1


def test_each_tile_ends_in_the_newline():
    network = _network(TINY)
    tokens = network(torch.randn(3, 3, *TINY.vision_tower.image_hw))
    assert tokens.shape == (3, 3 * 5 + 1, 16)
    assert (tokens[:, -1] == network.image_newline).all()


def test_without_a_newline_there_are_only_patches():
    network = _network(replace(TINY, has_newline=False))
    assert "image_newline" not in network.state_dict()
    pixels = torch.randn(1, 3, *TINY.vision_tower.image_hw)
    tower = network.vision_tower["vision_tower"]
    torch.testing.assert_close(network(pixels), network.mm_projector(tower.features(pixels)))


def test_the_miniatures_graph_takes_any_number_of_tiles():
    vision = SAM4MLLM_SPECS["mini"].vision
    network = _network(replace(vision, has_newline=True))
    _check_graph(network, vision.vision_tower.image_hw, traced=2, run=5)


@pytest.mark.slow
def test_the_official_graph():
    _check_graph(_network(OFFICIAL), (336, 336), traced=2, run=1)
