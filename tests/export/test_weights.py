import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saymask.export.weights import find_weight_files, map_tensors
from saymask.runtime.errors import CheckpointError

FIRST, SECOND = {"a": torch.arange(6.0).reshape(2, 3)}, {"b": torch.ones(4), "c": torch.tensor(7)}


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


def _safetensors(folder: Path) -> None:
    save_file(FIRST | SECOND, folder / "model.safetensors")


def _pickle(folder: Path) -> None:
    torch.save(FIRST | SECOND, folder / "pytorch_model.bin")


def _old_pickle(folder: Path) -> None:
    torch.save(FIRST | SECOND, folder / "sam.pth", _use_new_zipfile_serialization=False)


def _wrapped(folder: Path) -> None:
    torch.save({"state_dict": {"model": FIRST | SECOND}, "epoch": 3}, folder / "last.pt")


def _index(folder: Path, name: str, *files: str) -> None:
    shards = dict(zip((*FIRST, *SECOND), files, strict=True))
    (folder / f"{name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def _sharded_safetensors(folder: Path) -> None:
    save_file(FIRST, folder / "model-00001-of-00002.safetensors")
    save_file(SECOND, folder / "model-00002-of-00002.safetensors")
    names = "model-00002-of-00002.safetensors", "model-00002-of-00002.safetensors"
    _index(folder, "model.safetensors", "model-00001-of-00002.safetensors", *names)


def _sharded_pickles(folder: Path) -> None:
    torch.save(FIRST, folder / "pytorch_model-1.bin")
    torch.save(SECOND, folder / "pytorch_model-2.bin")
    torch.save(torch.ones(1), folder / "optimizer.bin")
    _index(folder, "pytorch_model.bin", "pytorch_model-1.bin", *["pytorch_model-2.bin"] * 2)


@pytest.mark.parametrize(
    "write",
    [_safetensors, _pickle, _old_pickle, _wrapped, _sharded_safetensors, _sharded_pickles],
)
def test_tensors_are_found_wherever_they_lie(tmp_path, write):
    write(tmp_path)
    files = find_weight_files(tmp_path)
    assert list(files) == sorted(files)
    found = dict(map_tensors(files))
    assert set(found) == {"a", "b", "c"}
    for name, value in (FIRST | SECOND).items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mappings")
@pytest.mark.parametrize("write", [_safetensors, _pickle])
def test_tensors_are_views_of_the_file_and_never_change_it(tmp_path, write):
    write(tmp_path)
    (file,) = find_weight_files(tmp_path)
    before = file.read_bytes()
    tensor = dict(map_tensors([file]))["a"]
    spans = [line.split()[0].split("-") for line in _mappings() if line.endswith(str(file))]
    assert any(int(low, 16) <= tensor.data_ptr() < int(high, 16) for low, high in spans)
    tensor.add_(1)
    assert file.read_bytes() == before


def _mappings() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def test_safetensors_win_over_pickles_and_a_folder_may_have_none(tmp_path):
    assert find_weight_files(tmp_path) == ()
    _sharded_pickles(tmp_path)
    assert len(find_weight_files(tmp_path)) == 2
    _safetensors(tmp_path)
    assert find_weight_files(tmp_path) == (tmp_path / "model.safetensors",)


def test_a_name_in_two_shards_comes_twice(tmp_path):
    save_file(FIRST, tmp_path / "1.safetensors")
    save_file(FIRST, tmp_path / "2.safetensors")
    names = [name for name, _ in map_tensors(sorted(tmp_path.glob("*")))]
    assert names == ["a", "a"]


def test_files_of_equal_right_are_not_guessed_from(tmp_path):
    _old_pickle(tmp_path)
    _wrapped(tmp_path)
    with pytest.raises(CheckpointError, match=r"have an index; .* has last.pt, sam.pth; name the"):
        find_weight_files(tmp_path)


@pytest.mark.parametrize("copied", [1, 2])
def test_shards_without_their_index_name_it(tmp_path, copied):
    _sharded_safetensors(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name in names[copied:]:
        (tmp_path / name).unlink()
    said = (
        "must lie beside their index model.safetensors.index.json; .* has only "
        f"{', '.join(names[:copied])}; copy the index and all 2 shards"
    )
    with pytest.raises(CheckpointError, match=said):
        find_weight_files(tmp_path)


def test_a_lone_shard_of_a_pickle_names_its_index(tmp_path):
    torch.save(FIRST, tmp_path / "pytorch_model-00003-of-00003.bin")
    with pytest.raises(CheckpointError, match=r"index pytorch_model.bin.index.json; .* all 3"):
        find_weight_files(tmp_path)


def test_one_shard_of_one_is_whole(tmp_path):
    save_file(FIRST, tmp_path / "model-00001-of-00001.safetensors")
    assert len(find_weight_files(tmp_path)) == 1


@pytest.mark.parametrize("write", [_sharded_safetensors, _sharded_pickles])
def test_a_truncated_shard_behind_an_index_is_named(tmp_path, write):
    write(tmp_path)
    shard = find_weight_files(tmp_path)[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=f"{shard.name} must be a whole .*; copy"):
        map_tensors(find_weight_files(tmp_path))


def test_shards_that_are_not_there_are_named(tmp_path):
    _sharded_safetensors(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="all 2 files .* 1 do not: model-00002-.*copy them"):
        find_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"metadata": {}}', "KeyError.'weight_map'"),
        ('{"weight_map": {}}', "it names no files"),
        ('{"weight_map": {"a": "../a.safetensors"}}', "it names ../a.safetensors"),
        ('{"weight_map": {"a": 3}}', "TypeError"),
    ],
)
def test_an_index_that_is_none_is_refused(tmp_path, text, said):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=f'index.json must be .* "weight_map" .*{said}.*copy'):
        find_weight_files(tmp_path)


@pytest.mark.parametrize("cut", [1, 300, 10_000])
@pytest.mark.parametrize(
    ("write", "kind"),
    [(_safetensors, "safetensors file"), (_pickle, "torch.save"), (_old_pickle, "torch.save")],
)
def test_a_truncated_file_is_named(tmp_path, write, kind, cut):
    write(tmp_path)
    (file,) = find_weight_files(tmp_path)
    file.write_bytes(file.read_bytes()[:-cut])
    with pytest.raises(CheckpointError, match=f"{file.name} must be a whole .*{kind}.*; copy"):
        map_tensors([file])


@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_a_pickle_is_named_and_never_runs(tmp_path, monkeypatch, is_zip):
    monkeypatch.chdir(tmp_path)
    content = FIRST | {"optimizer": Code()}
    torch.save(content, "evil.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(CheckpointError, match=r"nothing that runs; it asks for \w+\.mkdir; take"):
        map_tensors([Path("evil.pth")])
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.ones(3), "it holds a Tensor"),
        ({}, "it holds nothing"),
        (FIRST | {"epoch": 3}, "it holds a: Tensor, epoch: int"),
        ({"model": {"epoch": 3}}, "it holds model: dict"),
        ({f"{index}": index for index in range(11)}, "7: int and 3 more"),
    ],
)
def test_a_pickle_of_other_things_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "state.pth")
    with pytest.raises(CheckpointError, match=f"state.pth must hold a state dict.*{said}; save"):
        map_tensors([tmp_path / "state.pth"])
