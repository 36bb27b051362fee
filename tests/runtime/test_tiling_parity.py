"""Tiles and the order of their tokens equal LLaVA-NeXT's own code's and transformers'."""

import ast
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from saymask.runtime.spec import ViewSpec
from saymask.runtime.tiling import TilingSpec, best_grid, cut, token_order

pytestmark = pytest.mark.parity

TRANSFORMERS = "transformers 4.57"
ORIGINAL = "LLaVA-NeXT"
SIDE, PATCH = 28, 7
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
VIEW = ViewSpec(
    name="vision",
    size_hw=(SIDE, SIDE),
    fit="stretch",
    interpolation="bicubic",
    is_antialiased=True,
    rounds_to_uint8=True,
    mean_rgb=tuple(255 * each for each in CLIP_MEAN),
    std_rgb=tuple(255 * each for each in CLIP_STD),
    canvas_hw=(SIDE, SIDE),
)
GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))
"""Rows and columns as the original reads the released config's list, width first."""
SPEC = TilingSpec(view=VIEW, tokens_hw=(SIDE // PATCH, SIDE // PATCH), grids=GRIDS)
TRANSPOSED = replace(SPEC, grids=tuple((along, down) for down, along in GRIDS))
"""As transformers reads the same list, height first."""
PINPOINTS = [[down * SIDE, along * SIDE] for down, along in TRANSPOSED.grids]
NEEDS_OLD_PILLOW = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) >= 13,
    reason="Pillow from 13 on rounds the height first where it shrinks more than the width",
)
SIZES_HW = [
    (47, 91), (53, 53), (17, 23), (29, 200), (61, 85), (26, 11),
    *(pytest.param(each, marks=NEEDS_OLD_PILLOW) for each in [(91, 47), (211, 31), (40, 30)]),
]  # fmt: skip
EVERY_HW = [(height, width) for height in range(9, 150, 4) for width in range(11, 150, 3)]


def _frame(frame_hw: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*frame_hw, 3), np.uint8)


@pytest.fixture(scope="module")
def original(references) -> SimpleNamespace:
    """The original's functions without what its files import."""
    names = {
        "mm_utils.py": {"select_best_resolution", "resize_and_pad_image", "divide_to_patches"},
        "model/llava_arch.py": {"unpad_image"},
    }
    found: dict[str, object] = {"Image": Image, "math": math}
    for file, wanted in names.items():
        tree = ast.parse(Path(references, ORIGINAL, "llava", file).read_text("utf-8"))
        tree.body = [
            each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name in wanted
        ]
        exec(compile(tree, file, "exec"), found)
    return SimpleNamespace(**found)


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason=f"needs {TRANSFORMERS}")


def _numbered(tiles: int) -> torch.Tensor:
    """A number for each token as `token_order` counts them, (tiles, tokens, 1)."""
    tokens = math.prod(SPEC.tokens_hw)
    return (torch.arange(tiles)[:, None] * (tokens + 1) + torch.arange(tokens))[..., None]


@pytest.mark.parametrize("frame_hw", SIZES_HW)
def test_tiles_are_transformers(transformers, frame_hw, report_parity):
    processor = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE}, crop_size=SIDE, image_grid_pinpoints=PINPOINTS,
        image_mean=CLIP_MEAN, image_std=CLIP_STD,
    )  # fmt: skip
    frame = _frame(frame_hw)
    expected = processor(Image.fromarray(frame), return_tensors="np")["pixel_values"][0]
    found = cut(frame, TRANSPOSED)
    assert found.shape == expected.shape
    max_abs = np.abs(found - expected).max()
    report_parity(f"anyres tiles of {frame_hw}", TRANSFORMERS, max_abs)
    assert max_abs <= 1e-5


@pytest.mark.parametrize("frame_hw", SIZES_HW)
def test_tiles_are_the_originals(original, frame_hw, report_parity):
    image = Image.fromarray(_frame(frame_hw))
    pinpoints = [(along * SIDE, down * SIDE) for down, along in GRIDS]
    width, height = original.select_best_resolution(image.size, pinpoints)
    canvas = original.resize_and_pad_image(image, (width, height))
    tiles = [image.resize((SIDE, SIDE)), *original.divide_to_patches(canvas, SIDE)]
    pixels = np.stack([np.asarray(tile) for tile in tiles]).transpose(0, 3, 1, 2) / 255
    mean, std = (np.reshape(each, (3, 1, 1)) for each in (CLIP_MEAN, CLIP_STD))
    found = cut(_frame(frame_hw), SPEC)
    max_abs = np.abs(found - (pixels - mean) / std).max()
    report_parity(f"anyres tiles of {frame_hw}", ORIGINAL, max_abs)
    assert max_abs <= 1e-5


def test_the_order_is_transformers(transformers):
    next_model = transformers.models.llava_next.modeling_llava_next
    config = SimpleNamespace(
        vision_config=SimpleNamespace(image_size=SIDE, patch_size=PATCH),
        image_grid_pinpoints=PINPOINTS,
    )
    differing = 0
    for frame_hw in EVERY_HW:
        grid = next_model.get_anyres_image_grid_shape(frame_hw, PINPOINTS, SIDE)
        assert best_grid(frame_hw, TRANSPOSED) == grid
        (packed,), _ = next_model.LlavaNextModel.pack_image_features(
            SimpleNamespace(config=config), [_numbered(1 + math.prod(grid))], [frame_hw],
            "default", torch.tensor([math.prod(SPEC.tokens_hw)]),
        )  # fmt: skip
        differing += packed[:, 0].tolist() != token_order(frame_hw, TRANSPOSED).tolist()
    assert differing == 0


def test_the_order_is_the_originals(original):
    rows, columns = SPEC.tokens_hw
    pinpoints = [(along * SIDE, down * SIDE) for down, along in GRIDS]
    for height, width in EVERY_HW:
        best = original.select_best_resolution((width, height), pinpoints)
        down, along = best[1] // SIDE, best[0] // SIDE
        assert best_grid((height, width), SPEC) == (down, along)
        whole, *tiles = _numbered(1 + down * along)[..., 0]
        lines = torch.stack(tiles).view(down, along, rows, columns).transpose(1, 2)
        lines = lines.reshape(1, down * rows, along * columns)
        (lines,) = original.unpad_image(lines, (width, height))
        ended = torch.nn.functional.pad(lines, (0, 1), value=rows * columns)
        expected = torch.cat([whole, ended.flatten()]).tolist()
        assert token_order((height, width), SPEC).tolist() == expected
