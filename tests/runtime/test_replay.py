from dataclasses import replace

import numpy as np
import pytest

from saymask.runtime.bundle import Bundle
from saymask.runtime.errors import BundleError
from saymask.runtime.replay import (
    NEXT_TOKEN,
    PART,
    TOLERANCES,
    Comparison,
    next_token_logits,
    replay,
)

from . import tiny_chat


@pytest.fixture
def rewritten(tmp_path, tiny_bundle):
    """Writes the tiny bundle anew with other golden arrays or another manifest."""
    source = Bundle.read(tiny_bundle)

    def rewrite(golden=None, **changes) -> Bundle:
        files = {
            name: source.folder / name for name, _ in source.manifest.files if name != "golden.npz"
        }
        manifest = replace(source.manifest, **changes)
        return Bundle.write(tmp_path / "other", manifest, files, golden or source.golden())

    return rewrite


def _rows(bundle: Bundle) -> dict[tuple[str, str], Comparison]:
    return {(row.stage, row.output): row for row in replay(bundle, device="cpu", threads=1)}


def test_unchanged_graphs_agree_with_their_golden_outputs(tiny_bundle):
    rows = _rows(Bundle.read(tiny_bundle))
    assert list(rows) == [
        ("image", "image_embedding"),
        ("prompt", "prompt_embedding"),
        ("mask", "logits"),
        ("mask", "iou"),
        ("all", "logits"),
    ]
    for (_, output), row in rows.items():
        assert row.is_within
        assert row.max_abs < 1e-5
        assert row.relative < 1e-5
        assert row.cosine == pytest.approx(1)
        assert row.mask_iou == (1 if output == "logits" else None)


def test_engines_in_fp16_of_fp32_graphs_may_round(rewritten):
    rows = _rows(rewritten(precision="fp16"))
    assert {row.tolerance for row in rows.values()} == {TOLERANCES["fp16"]}


def test_a_language_model_reads_and_says_what_comes_next(tiny_bundle, tmp_path):
    pytest.importorskip("xllamacpp", reason="llama.cpp is not installed")
    source = Bundle.read(tiny_bundle)
    image, *others = source.manifest.stages
    name = "stages/language.gguf"
    language = replace(image, name="language", file=name, inputs=(), outputs=(), precision="q8_0")
    files = {name: source.folder / name for name, _ in source.manifest.files}
    del files["golden.npz"]
    files[name] = tiny_chat.write(tmp_path / "chat.gguf")
    manifest = replace(source.manifest, stages=(image, language, *others))
    vectors = np.random.default_rng(0).normal(size=(5, tiny_chat.WIDTH)).astype(np.float32)
    parts = [np.arange(40, 50), vectors, np.arange(60, 63)]
    golden = {f"language/{PART}{number}": part for number, part in enumerate(parts)}

    def rows(said: np.ndarray) -> dict[tuple[str, str], Comparison]:
        arrays = source.golden() | golden | {f"language/{NEXT_TOKEN}": said}
        return _rows(Bundle.write(tmp_path / "other", manifest, files, arrays))

    with pytest.raises(BundleError, match="must have 'language/part0'"):
        _rows(Bundle.write(tmp_path / "other", manifest, files, source.golden()))
    blank = np.zeros(len(tiny_chat.vocabulary(tiny_chat.BOX)), np.float32)
    assert not rows(blank)["language", NEXT_TOKEN].is_within
    bundle = Bundle.read(tmp_path / "other")
    said = next_token_logits(bundle, "language", parts, device="cpu", threads=1)
    again = rows(said)
    first, *behind = _rows(source)
    assert list(again) == [first, ("language", NEXT_TOKEN), *behind]
    row = again["language", NEXT_TOKEN]
    assert (row.precision, row.mask_iou, row.is_within) == ("q8_0", None, True)
    assert row.relative < 1e-5
    assert not rows(1.2 * said)["language", NEXT_TOKEN].is_within


def test_one_stage_that_differs_is_the_one_reported(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    golden["prompt/prompt_embedding"] = golden["prompt/prompt_embedding"] * 1.5
    rows = _rows(rewritten(golden))
    assert [key for key, row in rows.items() if not row.is_within] == [
        ("prompt", "prompt_embedding")
    ]
    wrong = rows["prompt", "prompt_embedding"]
    assert wrong.relative == pytest.approx(1 / 3)
    assert wrong.cosine == pytest.approx(1)


def test_masks_are_compared_by_their_overlap(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    whole = golden["mask/logits"]
    threshold = float(np.median(whole))
    left = np.where(np.arange(whole.shape[-1]) < 32, whole, threshold - 1).astype(np.float32)
    golden["mask/logits"] = left
    rows = _rows(rewritten(golden, mask_threshold=threshold))
    for stage in ("mask", "all"):
        overlap = np.sum(left > threshold) / np.sum(whole > threshold)
        assert rows[stage, "logits"].mask_iou == pytest.approx(overlap, abs=0.01)
        assert 0.2 < overlap < 0.8
        assert not rows[stage, "logits"].is_within


def test_the_chain_passes_its_own_results_on(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    golden["mask/image_embedding"] = np.zeros_like(golden["mask/image_embedding"])
    rows = _rows(rewritten(golden))
    assert not rows["mask", "logits"].is_within
    assert rows["all", "logits"].is_within


def test_an_output_that_is_not_finite_never_passes(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    golden["mask/iou"] = np.full_like(golden["mask/iou"], np.nan)
    assert not _rows(rewritten(golden))["mask", "iou"].is_within


def test_nothing_beside_nothing_agrees(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    golden["mask/image_embedding"] = np.zeros_like(golden["mask/image_embedding"])
    golden["mask/logits"] = np.zeros_like(golden["mask/logits"])
    row = _rows(rewritten(golden))["mask", "logits"]
    assert (row.relative, row.mask_iou, row.is_within) == (0, 1, True)


@pytest.mark.parametrize("precision", ["int8-static", "int8-dynamic", "fp16"])
def test_tolerance_follows_the_precision_of_the_stage(tiny_bundle, rewritten, precision):
    stages = [replace(s, precision=precision) for s in Bundle.read(tiny_bundle).manifest.stages]
    rows = _rows(rewritten(stages=tuple(stages), precision="fp8"))
    assert rows["image", "image_embedding"].tolerance == TOLERANCES[precision.partition("-")[0]]
    assert rows["all", "logits"].tolerance == TOLERANCES["fp8"]


def test_a_precision_without_tolerance_is_refused(rewritten):
    with pytest.raises(BundleError, match="must begin with fp32, fp16, int8, fp8, .*; got 'int3'"):
        _rows(rewritten(precision="int3"))


@pytest.mark.parametrize("key", ["mask/prompt_embedding", "mask/logits"])
def test_a_missing_golden_array_is_named(tiny_bundle, rewritten, key):
    golden = Bundle.read(tiny_bundle).golden()
    del golden[key]
    with pytest.raises(BundleError, match=f"must have '{key}'; they have frame, image/image"):
        _rows(rewritten(golden))


def test_a_golden_array_of_another_shape_is_refused(tiny_bundle, rewritten):
    golden = Bundle.read(tiny_bundle).golden()
    golden["mask/iou"] = golden["mask/iou"][:1]
    with pytest.raises(BundleError, match=r"golden shape \(1, 1\); got \(2, 1\)"):
        _rows(rewritten(golden))
