"""What a user says the weights are is held against the config and against the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saymask.export.checkpoint import CheckpointConfig, open_checkpoint
from saymask.export.variant import config_asked
from saymask.runtime.cli import main
from saymask.runtime.errors import CheckpointError, UnknownNameError

SHAPES = {
    "sam-h": ("image_encoder.pos_embed", (1, 64, 64, 1280)),
    "sam2-l": ("image_encoder.trunk.blocks.47.norm1.weight", (1152,)),
    "efficientvit-l0": (
        "image_encoder.neck.middle.op_list.3.main.point_conv.conv.weight", (256, 256, 1, 1),
    ),
}  # fmt: skip
MARKS = {
    "sam-h": "mask_decoder.output_upscaling.0.weight",
    "sam2-l": "sam_mask_decoder.output_upscaling.0.weight",
    "efficientvit-l0": "mask_decoder.output_upscaling.0.weight",
}
EVF = {"model_type": "evf", "hidden_size": 1024, "mm_extractor_scale": "large"}


@pytest.fixture
def folder(tmp_path, tiny_checkpoint) -> Callable[..., Path]:
    """Writes what tells the weights of `encoder` with BEiT-3-L, and a config if one is given."""

    def write(encoder: str, config: dict[str, object] | None = None) -> Path:
        shutil.copy(tiny_checkpoint / "sentencepiece.model", tmp_path)
        name, shape = SHAPES[encoder]
        state = {name: shape, MARKS[encoder]: (1,)}
        zero = torch.zeros(1)  # Views of it take no place in the file.
        tensors = {f"visual_model.{name}": zero.expand(shape) for name, shape in state.items()}
        tensors["mm_extractor.beit3.text_embed.weight"] = zero.expand(64010, 1024)
        torch.save(tensors, tmp_path / "pytorch_model.bin")
        if config:
            (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.mark.parametrize("encoder", SHAPES)
@pytest.mark.parametrize("suffix", ["", "-beit3-large"])
@pytest.mark.parametrize("config", [None, EVF, EVF | {"sam_scale": "vit"}])
def test_where_no_config_tells_the_name_and_the_weights_do(folder, encoder, suffix, config):
    opened = open_checkpoint(folder(encoder, config), config_asked("evf-sam", encoder + suffix))
    assert opened.config == CheckpointConfig(
        system="evf-sam",
        variant=f"{encoder}-beit3-large",
        max_tokens=1022,
        license="NOASSERTION",
    )


def test_the_card_names_the_license(folder):
    written = folder("sam-h")
    (written / "README.md").write_text("---\nlicense: mit\n---\n")
    assert open_checkpoint(written, config_asked("evf-sam", "sam-h")).config.license == "mit"


@pytest.mark.parametrize("asked", ["sam-h", "sam-h-beit3-large"])
def test_a_config_that_tells_the_same_is_taken(folder, asked):
    written = folder("sam-h", EVF | {"sam_scale": "huge"})
    opened = open_checkpoint(written, config_asked("evf-sam", asked))
    assert opened.config == open_checkpoint(written).config


def test_another_name_than_the_weights_is_an_error(folder):
    with pytest.raises(
        CheckpointError,
        match=r"got 'sam-h', but the weights look like sam2-l-beit3-large; name that or another "
        r"checkpoint; the variants of evf-sam are .*efficientvit-l0, .*sam-h-beit3-base, ",
    ):
        open_checkpoint(folder("sam2-l"), config_asked("evf-sam", "sam-h"))


def test_another_name_than_the_config_is_an_error(folder):
    written = folder("sam-h", EVF | {"sam_scale": "huge"})
    said = r"got 'sam2-l', but .*config.json says sam-h-beit3-large and the weights look like sam-h"
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(written, config_asked("evf-sam", "sam2-l"))
    with pytest.raises(CheckpointError, match="got 'sam-h-beit3-base', but"):
        open_checkpoint(written, config_asked("evf-sam", "sam-h-beit3-base"))


def test_weights_of_nothing_known_need_a_config(tmp_path, tiny_checkpoint):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "bare")
    asked = config_asked("evf-sam", "tiny")
    assert open_checkpoint(folder, asked).config == open_checkpoint(tiny_checkpoint).config
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="but neither .* nor the weights tell one; name"):
        open_checkpoint(folder, asked)
    with pytest.raises(CheckpointError, match="no config.json; .*; or say with --variant what the"):
        open_checkpoint(folder)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"variant of evf-sam must .*sam2-l, .*; got 'sam3'"):
        config_asked("evf-sam", "sam3")
    with pytest.raises(UnknownNameError, match="variant of sam4mllm must .* mini.*; got 'sam-h'"):
        config_asked("sam4mllm", "sam-h")


def test_the_flag_is_an_assertion(tiny_checkpoint, tmp_path, capsys):
    words = ["export", "evf-sam", "--checkpoint", str(tiny_checkpoint), "--out"]
    assert main([*words, str(tmp_path / "out"), "--variant", "sam-h"]) == 1
    assert "got 'sam-h', but" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "out"), "--variant", "huge"]) == 2
    assert "variant of evf-sam must be one of " in capsys.readouterr().err
