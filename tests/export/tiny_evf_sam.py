"""Sizes of an EVF-SAM that is small enough to export in a test."""

from __future__ import annotations

from dataclasses import replace

from saymask.export.models.efficientvit import EFFICIENTVIT_SPECS
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSamSpec
from saymask.export.models.sam import SamSpec
from saymask.export.models.sam_visual import SamVisualSpec

ROWS = 64
MINI = EVF_SAM_SPECS["mini"]
TINY = EvfSamSpec(
    visual_model=SamVisualSpec(
        image_encoder=replace(
            EFFICIENTVIT_SPECS["mini"],
            image_hw=(48, 64),
            grid_hw=(12, 16),
            widths=(8, 16, 32),
            depths=(0, 0, 1),
            blocks=("res", "fmb", "att5"),
            expansions=(1, 2, 2),
            keeps_last_norm_only=(False, False, True),
            head_width=16,
            neck_width=16,
            neck_depth=1,
            out_width=32,
        ),
        mask_decoder=SamSpec(
            width=32, heads=2, mlp_width=32, grid_hw=(12, 16), frame_hw=(48, 64), eps=1e-6
        ),
        mask_choice="single",
    ),
    multimodal_encoder=replace(
        MINI.multimodal_encoder,
        width=32,
        depth=2,
        heads=2,
        ffn_width=64,
        image_hw=(16, 24),
        vocabulary=ROWS,
    ),
)
