"""A language stage is a file of the format that was asked for, and says what that cost."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from saymask.export.language.layout import read_layout
from saymask.export.language.stage import (
    FORMATS,
    LanguageSource,
    is_whole,
    quantized_stage,
    whole_stage,
)
from saymask.runtime.errors import UnknownNameError
from saymask.runtime.language.gguf_file import LanguageFile

from .checkpoints import (
    byte_pair_tokenizer,
    llama_config,
    need_llama_cpp,
    random_weights,
    write_adapter,
    write_folder,
)

CONFIG = llama_config(hidden_size=256, intermediate_size=256)
MODULE = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> LanguageSource:
    folder = tmp_path_factory.mktemp("checkpoints") / "llama"
    write_folder(folder, tokenizer=byte_pair_tokenizer("llama-bpe"), **CONFIG)
    return LanguageSource(folder=folder, layout=None, adapter=None)


def _kind(path, name: str) -> str:
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    return kinds[name]


def test_formats_are_whole_or_not():
    whole = [name for name in FORMATS if is_whole(name)]
    assert whole == ["F32", "F16", "BF16"]
    assert {"Q4_0", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"} == set(FORMATS) - set(whole)


def test_a_whole_stage_is_converted(source, tmp_path):
    spec, (file,) = whole_stage(source, "BF16", tmp_path)
    assert (spec.name, spec.file, spec.precision) == ("language", "stages/language.gguf", "bf16")
    assert (spec.inputs, spec.outputs, spec.is_graph) == ((), (), False)
    assert spec.reason == "bf16 was asked for"
    assert file.parent == tmp_path
    assert _kind(file, "blk.0.ffn_up.weight") == "BF16"


def test_an_adapter_is_merged(source, tmp_path):
    adapter = write_adapter(tmp_path / "adapter", random_weights(CONFIG), modules=(MODULE,))
    layout = read_layout(source.folder)
    changed = LanguageSource(folder=source.folder, layout=layout, adapter=adapter)
    tables = []
    for name, each in (("plain", source), ("merged", changed)):
        (tmp_path / name).mkdir()
        _, (file,) = whole_stage(each, "F32", tmp_path / name)
        tensors = {tensor.name: tensor.data.copy() for tensor in gguf.GGUFReader(file).tensors}
        tables.append(tensors)
    plain, merged = tables
    assert {name for name in plain if not np.array_equal(plain[name], merged[name])} == {
        "blk.0.ffn_up.weight"
    }


def test_few_bits_say_what_they_cost(source, tmp_path):
    need_llama_cpp()
    _, (whole,) = whole_stage(source, "F16", tmp_path)
    vectors = np.random.default_rng(0).normal(size=(3, 256)).astype(np.float32)
    readings = [([5, 6, 7], vectors, [8, 9, 10]), ([11, 12],)]
    folder = tmp_path / "small"
    spec, (file,) = quantized_stage(whole, "Q4_K_M", readings, folder, threads=1)
    assert spec.precision == "q4_k_m"
    ratio = LanguageFile(file).spec.weight_bytes / LanguageFile(whole).spec.weight_bytes
    assert spec.reason.startswith("q4_k_m was asked for; perplexity ")
    assert spec.reason.endswith(f"% of positions, {ratio:.2f} of its size")
    assert _kind(file, "blk.0.ffn_up.weight") == "Q4_K"
    # What it reads decides which weights are rounded best.
    _, (other,) = quantized_stage(whole, "Q4_K_M", [([20, 21, 22],)], tmp_path / "b", threads=1)
    spec, (blind,) = quantized_stage(whole, "Q4_K_M", [], tmp_path / "c", threads=1)
    assert spec.reason == "q4_k_m was asked for"
    assert len({path.read_bytes() for path in (file, other, blind)}) == 3


def test_unknown_formats_are_refused(source, tmp_path):
    with pytest.raises(UnknownNameError, match="format must be one of BF16, F16, F32; got 'Q3_K'"):
        whole_stage(source, "Q3_K", tmp_path)
