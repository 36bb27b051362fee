import hashlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saymask.export import checkpoint
from saymask.export.checkpoint import CheckpointConfig, open_checkpoint, write_checkpoint
from saymask.runtime.errors import CheckpointError

CONFIG = CheckpointConfig(system="evf-sam", variant="mini", max_tokens=48, license="Apache-2.0")


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of `_network`, whose numbers are all third parts."""
    torch.manual_seed(0)
    network = _network()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randint(-9, 9, parameter.shape) / 3)
    write_checkpoint(tmp_path / "small", network, CONFIG, b"words")
    return tmp_path / "small"


def _change(folder, **tensors: torch.Tensor | None) -> None:
    """Replace or add tensors of a checkpoint; None takes one away."""
    path = folder / "model.safetensors"
    state = load_file(path) | tensors
    save_file({name: value for name, value in state.items() if value is not None}, path)


def test_what_was_written_is_read(folder):
    opened = open_checkpoint(str(folder))
    assert (opened.name, opened.config) == ("small", CONFIG)
    assert opened.vocabulary.read_bytes() == b"words"
    weights = (folder / "model.safetensors").read_bytes()
    assert opened.sha256() == hashlib.sha256(weights).hexdigest()
    network = _network()
    opened.load_into(network)
    assert network[0].weight.dtype == torch.float32
    assert (network[0].weight * 3 - (network[0].weight * 3).round()).abs().max() < 1e-2
    assert (network[2].bias * 3 - (network[2].bias * 3).round()).abs().max() < 1e-6


def test_matrices_are_stored_in_half_precision_and_nothing_else(folder):
    dtypes = {name: value.dtype for name, value in load_file(folder / "model.safetensors").items()}
    assert dtypes["0.weight"] == dtypes["2.weight"] == torch.float16
    assert dtypes["1.weight"] == dtypes["1.running_var"] == dtypes["2.bias"] == torch.float32
    assert dtypes["1.num_batches_tracked"] == torch.int64


def test_weights_of_any_layout_in_memory_are_written_alike(folder, tmp_path):
    network = _network()
    open_checkpoint(folder).load_into(network)
    network.to(memory_format=torch.channels_last)
    write_checkpoint(tmp_path / "other", network, CONFIG, b"words")
    assert open_checkpoint(tmp_path / "other").sha256() == open_checkpoint(folder).sha256()


def test_extras_travel_along_and_an_old_checkpoint_goes(folder):
    def extras(scratch):
        (scratch / "note.txt").write_text("hello")

    (folder / "old.txt").touch()
    write_checkpoint(folder, _network(), CONFIG, b"new words", extras=extras)
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "note.txt", "sentencepiece.model",
    }  # fmt: skip


def test_a_writing_that_fails_leaves_the_old_checkpoint(folder):
    def extras(scratch):
        raise RuntimeError("the pictures ran out")

    before = open_checkpoint(folder).sha256()
    with pytest.raises(RuntimeError, match="ran out"):
        write_checkpoint(folder, _network(), CONFIG, b"new words", extras=extras)
    assert open_checkpoint(folder).sha256() == before
    assert [path.name for path in folder.parent.iterdir()] == ["small"]


def test_every_misfit_is_listed(folder):
    _change(
        folder,
        **{"2.bias": None, "3.weight": torch.zeros(1), "2.weight": torch.zeros(4, 2)},
    )
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder).load_into(_network())
    message = str(caught.value)
    assert "3 do not" in message
    assert "2.bias is missing" in message
    assert "3.weight is unknown" in message
    assert "2.weight is (4, 2), not (2, 4)" in message
    assert "evf-sam mini" in message


def test_a_network_that_does_not_fit_stays_as_it_was(folder):
    network = _network()
    before = network[0].weight.clone()
    _change(folder, **{"2.bias": None})
    with pytest.raises(CheckpointError):
        open_checkpoint(folder).load_into(network)
    assert (network[0].weight == before).all()


def test_a_truncated_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"model.safetensors must be a whole .*copy"):
        open_checkpoint(folder).load_into(_network())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "must be a mapping"),
        ('{"system": "evf-sam"}', "'variant', 'max_tokens', and 'license'"),
        (json.dumps({"system": "a", "variant": "b", "max_tokens": "48", "license": ""}), "'48'"),
        (json.dumps({"system": 3, "variant": "b", "max_tokens": 48, "license": ""}), "no str"),
        (
            json.dumps({"system": "a", "variant": "b", "max_tokens": 1, "license": "", "size": 2}),
            "'size'",
        ),
    ],
)
def test_a_bad_config_is_named_with_what_it_must_hold(folder, text, said):
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="system, variant, max_tokens, license") as caught:
        open_checkpoint(folder)
    assert said in str(caught.value)
    assert "config.json" in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sentencepiece.model"])
def test_a_folder_that_lacks_a_file_is_none(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        open_checkpoint(folder)


def test_miniatures_are_found_by_name_and_listed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MINIATURES", tmp_path)
    shutil.copytree(folder, tmp_path / "other")
    assert open_checkpoint("small").folder == folder
    with pytest.raises(CheckpointError, match="nothing has no config.json; .*: other, small"):
        open_checkpoint("nothing")
