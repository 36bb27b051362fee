import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import sentencepiece_model_pb2
from torch import nn

from saymask.export import checkpoint
from saymask.export.checkpoint import CheckpointConfig, open_checkpoint, write_checkpoint
from saymask.export.models.evf_sam import EVF_SAM_SPECS, EvfSam
from saymask.export.systems.evf_sam import load
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
    assert message.endswith("; check what its config.json says")


def test_only_the_first_misfits_are_listed_with_their_count(folder):
    _change(folder, **{f"more.{index}": torch.zeros(1) for index in range(20)})
    with pytest.raises(CheckpointError, match="; 20 do not: ") as caught:
        open_checkpoint(folder).load_into(_network())
    assert str(caught.value).count(" is unknown") == 8


def test_what_is_left_out_is_listed(folder):
    network = _network()
    assert not open_checkpoint(folder).left_out(network)
    _change(folder, **{"text.position_ids": torch.arange(3)})
    opened = open_checkpoint(folder)
    opened.load_into(network)
    assert opened.left_out(network) == ("text.position_ids",)


def test_a_shard_without_its_index_is_no_other_network(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    with pytest.raises(CheckpointError, match=r"their index model\.safetensors\.index\.json; .*"):
        open_checkpoint(folder)


def test_weights_of_another_system_are_recognised(folder):
    _change(folder, **{"model.segmentator_predictor.0.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="they look like SegLLM; check what its config"):
        open_checkpoint(folder).load_into(_network())


def test_an_incomplete_copy_of_the_right_weights_is_no_other_variant(folder, monkeypatch):
    monkeypatch.setattr(checkpoint, "guess", lambda stored: "evf-sam mini")
    _change(folder, **{"2.bias": None})
    with pytest.raises(CheckpointError, match="they look like evf-sam mini; copy them again"):
        open_checkpoint(folder).load_into(_network())


def test_a_network_without_memory_of_its_own_is_filled(folder):
    with torch.device("meta"):
        network = _network()
    open_checkpoint(folder).load_into(network)
    filled = _network()
    open_checkpoint(folder).load_into(filled)
    for name, value in filled.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert network[0].weight.requires_grad
    assert network(torch.ones(2, 3, 4, 4)).isfinite().all()


def test_a_file_is_no_checkpoint_but_is_recognised(tmp_path):
    state = {"image_encoder.pos_embed": torch.zeros(1, 64, 64, 1280)}
    torch.save(state, tmp_path / "sam_vit_h_4b8939.pth")
    with pytest.raises(
        CheckpointError,
        match=r"sam_vit_h_4b8939.pth is a file that looks like SAM ViT-H, a part of EVF-SAM .*; "
        "give the folder of a whole system, or its id on the hub such as YxZhang/evf-sam",
    ):
        open_checkpoint(tmp_path / "sam_vit_h_4b8939.pth")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(CheckpointError, match=r"notes.txt is a file; give the folder"):
        open_checkpoint(tmp_path / "notes.txt")


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


def test_the_hash_covers_all_shards(folder):
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    _shard(folder, whole)
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.bin")):
        digest.update(path.read_bytes())
    before = open_checkpoint(folder).sha256()
    assert before == digest.hexdigest()
    _shard(folder, whole | {"2.bias": torch.ones(2)})
    assert open_checkpoint(folder).sha256() != before


def _shard(folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """Write pytorch_model.bin in two files with their index, as transformers does."""
    names = list(state)
    weight_map = {}
    for number in (1, 2):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in names[number - 1 :: 2]}, folder / file)
        weight_map |= dict.fromkeys(names[number - 1 :: 2], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "sentencepiece.model"])
def test_a_folder_that_lacks_a_file_is_none(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        open_checkpoint(folder)


def test_miniatures_are_found_by_name_and_listed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MINIATURES", tmp_path)
    shutil.copytree(folder, tmp_path / "other")
    assert open_checkpoint("small").folder == folder
    with pytest.raises(
        CheckpointError, match="nothing has no config.json; .*: other, small, or an id"
    ):
        open_checkpoint("nothing")


SAM = "visual_model.mask_decoder.output_upscaling.0.weight"
SAM2 = "visual_model.sam_mask_decoder.output_upscaling.0.weight"
EFFICIENT_SAM = "visual_model.mask_decoder.final_output_upscaling_layers.0.0.weight"
EVF = {
    "architectures": ["EvfSamModel"], "model_type": "evf", "hidden_size": 1024, "out_dim": 256,
    "mm_extractor_scale": "large", "sam_scale": "huge", "pad_token_id": 1,
}  # fmt: skip


@pytest.fixture
def released(tmp_path, tiny_checkpoint):
    """Writes a folder as EVF-SAM's authors release it, with `state` as its weights."""

    def write(state: Mapping[str, torch.Tensor], **config: object) -> Path:
        folder = tmp_path / "released"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(EVF | config))
        vocabulary = tiny_checkpoint / "sentencepiece.model"
        shutil.copy(vocabulary, folder / "sentencepiece.bpe.model")
        torch.save(state, folder / "pytorch_model.bin")
        return folder

    return write


def test_a_released_evf_sam_is_loaded(released, tiny_spec, monkeypatch):
    words = replace(tiny_spec.multimodal_encoder, max_positions=1024)
    spec = replace(tiny_spec, multimodal_encoder=words)
    monkeypatch.setitem(EVF_SAM_SPECS, "sam-h-beit3-large", spec)
    state = EvfSam(spec).state_dict()
    folder = released({f"module.{name}": value for name, value in state.items()})
    (folder / "pytorch_model.bin").unlink()
    leftover = {"text_model.embeddings.position_ids": torch.arange(7)}
    _shard(folder, {f"module.{name}": value.half() for name, value in state.items()} | leftover)
    opened = open_checkpoint(folder)
    assert opened.config == CheckpointConfig(
        system="evf-sam", variant="sam-h-beit3-large", max_tokens=1022, license="Apache-2.0"
    )
    assert opened.vocabulary == folder / "sentencepiece.bpe.model"
    for name, value in load(opened).state_dict().items():
        torch.testing.assert_close(value, state[name].half().to(value.dtype), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("tensor", "scale", "words", "variant"),
    [
        (SAM, "huge", "large", "sam-h-beit3-large"),
        (SAM, "huge", "base", "sam-h-beit3-base"),
        (SAM2, "large", "large", "sam2-l-beit3-large"),
        (SAM2, "tiny", "large", "sam2-t-beit3-large"),
        (EFFICIENT_SAM, "small", "large", "efficientsam-s-beit3-large"),
        (EFFICIENT_SAM, "tiny", "base", "efficientsam-ti-beit3-base"),
    ],
)
def test_the_tensors_tell_what_a_released_config_leaves_open(
    released, tensor, scale, words, variant
):
    config = {"sam_scale": scale, "mm_extractor_scale": words}
    config["hidden_size"] = {"base": 768, "large": 1024}[words]
    folder = released({tensor: torch.zeros(1)}, **config)
    assert open_checkpoint(folder).config.variant == variant


def test_defaults_may_be_left_out_of_a_released_config(released):
    folder = released({SAM: torch.zeros(1)}, mm_extractor_scale="base")
    config = json.loads((folder / "config.json").read_text())
    del config["hidden_size"], config["out_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).config.variant == "sam-h-beit3-base"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"sam_scale": "large"}, "\"sam_scale\" .* must be huge with SAM's .*; got 'large' with"),
        ({"sam_scale": ["huge"]}, "must be huge"),
        ({"mm_extractor_scale": "mini"}, r"must be \('base', 768, 256\) or .*; got \('mini'"),
        ({"hidden_size": 768}, r"got \('large', 768, 256\); take the config.json"),
        ({"out_dim": 128}, r"got \('large', 1024, 128\)"),
        (
            {"model_type": "llava"},
            "\"model_type\" in .*config.json must be one of evf, llava_llama; got 'llava' with "
            "weights that look like none that is known here; give",
        ),
    ],
)
def test_a_released_config_of_another_network_is_refused(released, config, said):
    with pytest.raises(CheckpointError, match=said):
        open_checkpoint(released({SAM: torch.zeros(1)}, **config))


@pytest.mark.parametrize(
    ("card", "spdx"),
    [
        ("---\nlicense: mit\ntags:\n- x\n---\n# EVF", "mit"),
        ("---\r\nlanguage: en\r\nlicense: 'cc-by-nc-4.0'\r\n---\r\n", "cc-by-nc-4.0"),
        ("# EVF\nlicense: mit\n", "Apache-2.0"),
        ("---\ntags: x\n---\nlicense: mit\n", "Apache-2.0"),
    ],
)
def test_the_model_card_names_the_license(released, card, spdx):
    folder = released({SAM: torch.zeros(1)})
    (folder / "README.md").write_bytes(card.encode())
    assert open_checkpoint(folder).config.license == spdx


def test_a_vocabulary_must_be_the_networks(released):
    folder = released({SAM: torch.zeros(1)})
    opened = open_checkpoint(folder)
    opened.check_vocabulary(64, fewest=63)
    with pytest.raises(CheckpointError, match=r"fewer than 63 pieces, .*; it has 63 pieces; take"):
        opened.check_vocabulary(63)
    with pytest.raises(CheckpointError, match=r"of 64 or more, but fewer than 99 .* has 63 pieces"):
        opened.check_vocabulary(99, fewest=64)
    opened.vocabulary.write_text("{}")
    with pytest.raises(CheckpointError, match=r"bpe.model must be a SentencePiece .*; it is none"):
        opened.check_vocabulary(64)


def test_a_vocabulary_must_not_begin_with_words(released):
    """Their ids would be those of <s>, <pad>, </s> and <unk>."""
    opened = open_checkpoint(released({SAM: torch.zeros(1)}))
    model = sentencepiece_model_pb2.ModelProto.FromString(opened.vocabulary.read_bytes())
    pieces = list(model.pieces)
    del model.pieces[:]
    model.pieces.extend([pieces[0], *pieces[3:]])
    opened.vocabulary.write_bytes(model.SerializeToString())
    with pytest.raises(
        CheckpointError, match=r"the first 3 marks .*; it has 61 .* begins with \['"
    ):
        opened.check_vocabulary(64)


def test_released_weights_take_no_vocabulary_of_half_the_size(released):
    """The tiny one stands for LLaMA's, whose ids have rows as well."""
    opened = open_checkpoint(released({SAM: torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="of 57609 or more, but fewer than 64010 pieces"):
        load(opened)
